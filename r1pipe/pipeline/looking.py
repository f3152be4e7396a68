"""What a plan sees in the first rows of sources: before time is spent on what cannot work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import SourceError, StageError
from r1pipe.manifest import Manifest, Ref, SourceNode, StageNode
from r1pipe.manifest.sources import path_here
from r1pipe.stage import Inputs


@dataclass(frozen=True)
class Look:
    """What one stage finds in one source, in a line."""

    source: str
    stage: str
    found: str


def look_at_sources(manifest: Manifest, names: Iterable[str]) -> list[Look]:
    """Return what stages find in those of their sources that are on this machine.

    Raises SourceError with all that is wrong with them. Writes nothing.
    """
    looking = [name for name in names if manifest.stages[name].kind.look is not None]
    if not looking:
        return []
    from tempfile import TemporaryDirectory

    looks: list[Look] = []
    wrong: dict[str, None] = {}
    with TemporaryDirectory(prefix="r1pipe-look-") as folder:
        for name in looking:
            try:
                looks += _look(manifest, manifest.stages[name], Path(folder))
            except SourceError as error:
                wrong[str(error)] = None
    if wrong:
        raise SourceError("\n".join(wrong))
    return looks


def _look(manifest: Manifest, node: StageNode, views: Path) -> list[Look]:
    if node.kind.look is None:
        return []
    sources = {
        name: manifest.sources[ref.name]
        for name, ref in node.inputs.items()
        if isinstance(ref, Ref) and ref.is_source
    }
    here = {
        name: path
        for name, source in sources.items()
        if (path := path_here(source, views)) is not None and not _is_partly_here(source)
    }
    try:
        found = node.kind.look(node.params, Inputs(here)) if here else {}
    except (SourceError, StageError) as error:
        names = ", ".join(f"source '{sources[name].name}'" for name in here)
        origin = sources[next(iter(here))].origin
        raise SourceError(f"{origin}: {names}, for {node.name}: {error}") from error
    return [Look(sources[name].name, node.name, text) for name, text in found.items()]


def _is_partly_here(source: SourceNode) -> bool:
    """Return whether a source may lack files: a model of the Hub, before the stage fetches it."""
    return source.type == "model" and source.hf is not None
