"""Links between records: the maker of each input, and the readers of each output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from r1pipe.keys import JsonObject
from r1pipe.text import short_id, visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record

Node: TypeAlias = "Record | JsonObject"
"""A record, or the bare link to what is not in the store: a source, or a result that is gone."""


Edge: TypeAlias = "tuple[str, Node]"
"""An input's name, and the node at the other end."""


class Lineage:
    """Links between records: the maker of each input, and the readers of each output."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.makers: dict[str, Record] = {}
        self.readers: dict[str, list[tuple[str, Record]]] = {}
        for record in sorted(records, key=lambda record: record.created):
            self.makers[record.artifact_id] = record
            for name, link in record.links():
                if "artifact" in link:
                    self.readers.setdefault(link["artifact"], []).append((name, record))

    def above(self, record: Record) -> list[Edge]:
        """Return the inputs of a record: the maker of each, or the link to a source."""
        return [
            (name, self.makers.get(link.get("artifact", ""), link)) for name, link in record.links()
        ]

    def below(self, record: Record) -> list[Edge]:
        """Return the records that read any output of this one."""
        return list(self.readers.get(record.artifact_id, []))


def link_text(link: JsonObject) -> str:
    """Return a link as text: a source, or a stage whose record is gone."""
    if "source" in link:
        return f"source {visible(str(link['source']))} {short_id(link['id'])}"
    return f"{link['stage']} {short_id(link.get('artifact'))}"
