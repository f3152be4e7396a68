"""The commands that messages tell users to run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from r1pipe.manifest import Manifest


def run_command(manifest: Manifest, to: str | None = None, rebuild: Iterable[str] = ()) -> str:
    """Return the command that runs a manifest as it is resolved now."""
    words = ["r1pipe", "run", str(manifest.path), *_options(manifest)]
    words += ["--to", to] if to else []
    for name in sorted(rebuild):
        words += ["--rebuild", name]
    return shlex.join(words)


def stage_command(manifest: Manifest, name: str) -> str:
    """Return the command that runs one stage."""
    words = ["r1pipe", "stage", name, "--manifest", str(manifest.path), *_options(manifest)]
    return shlex.join(words)


def _options(manifest: Manifest) -> list[str]:
    words = ["--profile", manifest.profile] if manifest.profile else []
    for text in manifest.overrides:
        words += ["--set", text]
    return words
