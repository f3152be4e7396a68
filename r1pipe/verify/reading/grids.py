"""Matrices as they are written: environments, arrays in brackets, rows as in code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from r1pipe.verify.reading import scan
from r1pipe.verify.reading.values import Leaf, UnreadableError

MAX_DETERMINANT = 4

_KINDS = r"(?P<kind>[pbBvV]?matrix|array|smallmatrix)"
_GRID = re.compile(
    r"(?P<factor>[^&]{0,40}?)\s*(?P<open>[(\[|]?)\s*\\begin\s*\{"
    + _KINDS
    + r"\}(?:\{[clr| ]{1,12}\})?"
    r"(?P<body>.*)\\end\s*\{(?P=kind)\}\s*(?P<close>[)\]|]?)",
    re.DOTALL,
)
_BREAK = re.compile(r"\\\\(?:\[[^\]]{0,8}\])?")
_CLOSED = {"": "", "(": ")", "[": "]", "|": "|"}


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a matrix as text, row by row, what it is multiplied by, and whether bars make it
    a determinant."""

    rows: list[list[str]]
    factor: str = ""
    is_determinant: bool = False


def read_cells(text: str) -> Cells | None:
    """Return the cells of a text that is one matrix, else None."""
    match = _GRID.fullmatch(text) if r"\begin" in text else None
    if match is not None and _CLOSED[match["open"]] == match["close"]:
        rows = [scan.split_at(row, "&") for row in _BREAK.split(match["body"]) if row.strip()]
        is_determinant = match["kind"] == "vmatrix" or match["open"] == "|"
        return Cells(rows, match["factor"], is_determinant)
    outer = scan.outer_brackets(text)
    if outer is None or outer[0] != "[":
        return None
    if scan.first_at_top(outer[1], ";"):
        lines = [line for line in scan.split_at(outer[1], ";") if line]
        rows = [scan.split_at(line, ",") for line in lines]
        return Cells(rows) if len(rows[0]) > 1 or len(rows) > 2 else None
    inner = [scan.outer_brackets(part) for part in scan.split_at(outer[1], ",")]
    if any(row is None or row[0] != "[" for row in inner):
        return None
    return Cells([scan.split_at(row[1], ",") for row in inner if row is not None])


def determinant(rows: Sequence[Sequence[Leaf]]) -> Leaf:
    """Return the determinant of a square matrix of at most four rows, by its first row."""
    if len(rows) != len(rows[0]) or len(rows) > MAX_DETERMINANT:
        raise UnreadableError("no determinant, or one too big")
    if len(rows) == 1:
        return rows[0][0]
    minors = (
        determinant([[*row[:place], *row[place + 1 :]] for row in rows[1:]])
        for place in range(len(rows))
    )
    terms = [cell * minor for cell, minor in zip(rows[0], minors, strict=True)]
    return sum(terms[2::2], terms[0]) - sum(terms[3::2], terms[1])
