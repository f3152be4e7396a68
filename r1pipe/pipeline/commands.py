"""The commands that messages tell users to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from r1pipe.manifest import Manifest
from r1pipe.manifest.recipe import default_store
from r1pipe.store.store import Store


def run_command(
    manifest: Manifest,
    store: Store,
    to: str | None = None,
    rebuild: Iterable[str] = (),
    keep_going: bool = False,
) -> str:
    """Return the command that runs a manifest as it is resolved now."""
    if manifest.ablation is not None:
        words = ["r1pipe", "ablate", str(manifest.path), "--only", manifest.ablation]
        return shlex.join([*words, *(["--at", to] if to else []), *_options(manifest, store)])
    words = ["r1pipe", "run", str(manifest.path), *_options(manifest, store)]
    words += ["--to", to] if to else []
    for name in sorted(rebuild):
        words += ["--rebuild", name]
    words += ["--keep-going"] if keep_going else []
    return shlex.join(words)


def stage_command(manifest: Manifest, store: Store, name: str) -> str:
    """Return the command that runs one stage."""
    words = ["r1pipe", "stage", name, "--manifest", str(manifest.path), *_options(manifest, store)]
    return shlex.join(words)


def try_command(manifest: Manifest, store: Store, name: str) -> str:
    """Return the command that builds what a stage reads and then tries it."""
    words = ["r1pipe", "try", name, "--before", "--manifest", str(manifest.path)]
    return shlex.join([*words, *_options(manifest, store)])


def _options(manifest: Manifest, store: Store) -> list[str]:
    words = ["--profile", manifest.profile] if manifest.profile else []
    for text in manifest.overrides:
        words += ["--set", text]
    if store.root.resolve() != default_store(manifest.path).resolve():
        words += ["--store", str(store.root)]
    return words
