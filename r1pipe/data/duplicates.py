"""The row kept for each near-duplicate, written beside a mix's rows for `show --why-not`.

`near-duplicates.json`: {part: {position: [part, position]}}; positions count the rows of the parts
as they were read, from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.data.survey import Survey

NAME = "near-duplicates.json"


def write_duplicates(folder: Path, survey: Survey, pairs: Iterable[tuple[int, int]]) -> None:
    """Write pairs of (near-duplicate, row kept), given by their numbers."""
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for dropped, kept in pairs:
        part, position = survey.place_of(dropped)
        found.setdefault(part, {})[str(position)] = survey.place_of(kept)
    text = json.dumps(found, separators=(",", ":"))
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def duplicate_of(folder: Path, part: str, position: int) -> tuple[str, int] | None:
    """Return the part and position of the row kept in a row's place; None if there is none."""
    path = folder / NAME
    if not path.exists():
        return None
    found = json.loads(path.read_text("utf-8")).get(part, {}).get(str(position))
    return None if found is None else (str(found[0]), int(found[1]))
