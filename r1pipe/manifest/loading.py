"""Load a manifest: YAML in, frozen and checked stages in topological order out.

Every mistake is reported at once, with its place, what is wrong and the nearest valid name. What a
profile or an override hides, and the profiles that were not chosen, are checked as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import ManifestError, Mistake, sorted_mistakes
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.layers import resolve_layers
from r1pipe.manifest.names import path_fault
from r1pipe.manifest.nodes import SourceNode, StageNode
from r1pipe.manifest.notes import notes_of
from r1pipe.manifest.plugin_files import read_plugins, reading_with
from r1pipe.manifest.reading import TreeReader
from r1pipe.manifest.recipe import find_manifest, nearest_manifest
from r1pipe.manifest.schema import AblationsSpec
from r1pipe.plugins.tables import NONE, Plugins
from r1pipe.stage import StageKind
from r1pipe.text import excerpt

MAX_PATH_CHARS = 200


@dataclass(frozen=True)
class Manifest:
    """A resolved manifest; `stages` is in topological order, ties in the order of the file."""

    path: Path
    name: str
    profile: str | None
    stages: Mapping[str, StageNode]
    sources: Mapping[str, SourceNode]
    overrides: tuple[str, ...] = ()
    """The `--set` texts that it was resolved with."""
    plugins: Plugins = NONE
    ablations: AblationsSpec | None = None
    ablation: str | None = None
    """What is left out of it; its name says so too."""
    notes: tuple[str, ...] = ()
    """What may not be as it is meant, each with its place; `plan` and `run` say it."""


def load_manifest(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    kinds: Mapping[str, StageKind] | None = None,
    ablation: str | None = None,
) -> Manifest:
    """Read, resolve and check a manifest, or raise one ManifestError with all its mistakes."""
    path = _existing(path)
    mistakes: list[Mistake] = []
    kinds = load_kinds(path) if kinds is None else kinds
    resolution = resolve_layers(path, profile, overrides, kinds, mistakes, ablation)
    if resolution is None:
        raise ManifestError(*sorted_mistakes(mistakes))
    reader = TreeReader(kinds, mistakes)
    plugins = read_plugins(resolution.chosen.tree, mistakes)
    with reading_with(plugins):
        nodes = reader.read(resolution.chosen)
        for variant in resolution.variants:
            reader.read(variant, is_partial=True)
        reader.check_defaults(resolution.defaults)
    if mistakes or nodes is None:
        raise ManifestError(*sorted_mistakes(mistakes))
    spec, sources, stages = nodes
    return Manifest(
        path,
        spec.name if ablation is None else f"{spec.name}-without-{ablation}",
        resolution.profile,
        stages,
        sources,
        tuple(overrides),
        plugins,
        spec.ablations,
        ablation,
        notes_of(
            resolution.defaults, [kinds[name] for name in sorted(reader.used)], [*stages.values()]
        ),
    )


def _existing(path: Path) -> Path:
    """Return the path of a manifest that is there, or raise a ManifestError."""
    fault = path_fault(str(path))
    try:
        if fault is None and (path := find_manifest(path)).exists():
            path.resolve(strict=True)
            return path
    except (OSError, RuntimeError) as error:
        fault = getattr(error, "strerror", None) or str(error)
    if fault is not None:
        raise ManifestError(f"{excerpt(str(path), MAX_PATH_CHARS)}: cannot be read: {fault}")
    raise ManifestError(f"{path}: no such manifest{nearest_manifest(path)}")
