"""Cases by kind of answer, each gold answer with right answers and their wrong neighbours.

A file of `answer_tables/` is one kind. Its lines: `g` a gold answer, `+` an answer that is right,
`-` one that is wrong, `+>` and `->` whole completions; other answers stand in a box. `<nl>` is a
line break, `#` begins a remark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "answer_tables"


@dataclass(frozen=True, slots=True)
class Case:
    """A completion for a gold answer, and whether it is right."""

    place: str
    gold: str
    completion: str
    is_right: bool


def kinds() -> list[str]:
    """Return the kinds, by name of file."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def cases_of(kind: str) -> Iterator[Case]:
    """Yield the cases of a kind in order."""
    gold = ""
    lines = (FOLDER / f"{kind}.txt").read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        mark, _, said = line.partition(" ")
        said = said.replace("<nl>", "\n")
        if mark == "g":
            gold = said
        elif mark in ("+", "-", "+>", "->"):
            text = said if mark.endswith(">") else f"\\boxed{{{said}}}"
            yield Case(f"{kind}.txt:{number}", gold, text, mark.startswith("+"))
        elif not line.startswith("#"):
            raise ValueError(f"{kind}.txt:{number}: a line begins with g, +, -, +>, -> or #")
