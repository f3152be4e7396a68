"""The sources of an artifact: what each one is, and its licence."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import SourceError
from r1pipe.manifest import Manifest, SourceNode
from r1pipe.manifest.sources import VIEWS, path_here
from r1pipe.regular import UnfitError, read_regular
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

MAX_CARD_BYTES = 4 << 20
LICENCE = re.compile(rb"\A---\r?\n(?:(?!---).*\n)*?license:[ \t]*([\w.+-]+)")
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Origin:
    """A source that an artifact comes from."""

    name: str
    place: str
    """Hub name and revision, or the name of a local file without its folder."""
    digest: str
    licence: str
    type: str = ""
    hub_name: str | None = None


def origins(manifest: Manifest, store: Store, records: list[ActionRecord]) -> list[Origin]:
    """Return the sources that these records read, and the parts of mixes that name their own."""
    found: dict[str, Origin] = {}
    for record in records:
        for _, link in record.links():
            if (name := link.get("source")) is not None:
                node = manifest.sources.get(name)
                found.setdefault(name, _origin(str(name), str(link["id"]), node, store))
        card = record.preimage["params"].get("card") or {}
        for part in sorted({*card.get("sources", {}), *card.get("licences", {})}):
            place = str(card.get("sources", {}).get(part, NOT_STATED))
            licence = str(card.get("licences", {}).get(part, NOT_STATED))
            name = f"{record.stage_name}, part {part}"
            found.setdefault(name, Origin(name, place, "", licence))
    return list(found.values())


def _origin(name: str, digest: str, node: SourceNode | None, store: Store) -> Origin:
    if node is None:
        return Origin(name, "not in this manifest", digest, NOT_STATED)
    licence = node.licence or _stated_licence(node, store) or NOT_STATED
    if node.hf is None:
        return Origin(name, "" if node.path is None else node.path.name, digest, licence, node.type)
    parts = [node.hf, f"revision {node.revision}", *(f"{n} {v}" for n, v in node.part.items())]
    return Origin(name, ", ".join(parts), digest, licence, node.type, node.hf)


def _stated_licence(node: SourceNode, store: Store) -> str | None:
    """Return the licence in the card of a source's folder, if it is on this machine."""
    with suppress(SourceError, OSError, UnfitError):
        folder = path_here(node, store.sources / VIEWS)
        if folder is not None and folder.is_dir():
            return _licence_in(folder / "README.md")
    return None


def _licence_in(card: Path) -> str | None:
    found = LICENCE.match(read_regular(card, MAX_CARD_BYTES))
    return found[1].decode() if found else None
