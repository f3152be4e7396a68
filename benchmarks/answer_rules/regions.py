"""Rules on intervals, inequalities and matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from random import Random

from answer_rules.groups import changed, differ, off, respelled
from answer_rules.keys import relation_of, rows_of
from answer_rules.rule import Rule

_FLIP = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_STRICT = {"<": r"\le", ">": r"\ge", r"\le": "<", r"\ge": ">"}
_WIDE = {r"\le": r"\leq", r"\ge": r"\geq", "<": r"\lt", ">": r"\gt", r"\ne": r"\neq"}


def _pieces(core: str) -> list[tuple[str, str, str, str]]:
    """Return (bracket, low, high, bracket) of each interval of a union."""
    found = []
    for piece in re.split(r"\\cup", core):
        low, _, high = piece.strip()[1:-1].partition(",")
        found.append((piece.strip()[0], low.strip(), high.strip(), piece.strip()[-1]))
    return found


def _interval(piece: tuple[str, str, str, str]) -> str:
    return f"{piece[0]}{piece[1]}, {piece[2]}{piece[3]}"


def _inequality(piece: tuple[str, str, str, str], name: str = "x") -> str:
    left, low, high, right = piece
    below, above = ("<" if left == "(" else r"\le"), ("<" if right == ")" else r"\le")
    if r"\infty" in low:
        return f"{name} {above} {high}"
    if r"\infty" in high:
        return f"{name} {'>' if left == '(' else chr(92) + 'ge'} {low}"
    return f"{low} {below} {name} {above} {high}"


def _is_everything(core: str) -> bool:
    return any(r"\infty" in p[1] and r"\infty" in p[2] for p in _pieces(core))


def sized_interval(core: str, rng: Random) -> str | None:
    r"""\left( and spaces."""
    pieces = [f"\\left{p[0]}{p[1]},{p[2]}\\right{p[3]}" for p in _pieces(core)]
    return r" \cup ".join(pieces)


def as_inequality(core: str, rng: Random) -> str | None:
    """The condition for x to be in it."""
    if _is_everything(core):
        return None
    return rng.choice((r" \text{ or } ", " or ")).join(map(_inequality, _pieces(core)))


def as_membership(core: str, rng: Random) -> str | None:
    r"""x \in the interval."""
    return rf"x \in {core}"


def as_builder(core: str, rng: Random) -> str | None:
    """The set of the x that fulfil the condition."""
    pieces = _pieces(core)
    is_one = len(pieces) == 1 and not _is_everything(core)
    return rf"\{{x \mid {_inequality(pieces[0])}\}}" if is_one else None


def union_reordered(core: str, rng: Random) -> str | None:
    """A union has no order."""
    pieces = _pieces(core)
    return r" \cup ".join(map(_interval, reversed(pieces))) if len(pieces) > 1 else None


def signed_infinity(core: str, rng: Random) -> str | None:
    r"""+\infty is \infty."""
    text = re.sub(r", ?\\infty", r", +\\infty", core)
    return text if text != core else None


def end_flipped(core: str, rng: Random) -> str | None:
    """A finite end open for closed: it is in the set or not."""
    pieces = _pieces(core)
    spots = [(i, 0) for i, p in enumerate(pieces) if r"\infty" not in p[1]]
    spots += [(i, 3) for i, p in enumerate(pieces) if r"\infty" not in p[2]]
    if not spots or len(pieces) > 1:
        return None
    index, side = rng.choice(spots)
    piece = list(pieces[index])
    piece[side] = {"(": "[", "[": "(", ")": "]", "]": ")"}[piece[side]]
    return _interval((piece[0], piece[1], piece[2], piece[3]))


def end_moved(core: str, rng: Random) -> str | None:
    """The last finite end moved by a half outwards."""
    pieces = _pieces(core)
    left, low, high, right = pieces[-1]
    if r"\infty" not in high:
        pieces[-1] = (left, low, f"{high}+0.5", right)
    elif r"\infty" not in low and len(pieces) == 1:
        pieces[-1] = (left, f"{low}-0.5", high, right)
    else:
        return None
    return r" \cup ".join(map(_interval, pieces))


def piece_missing(core: str, rng: Random) -> str | None:
    """Without one interval of a union of separate ones."""
    pieces = _pieces(core)
    return r" \cup ".join(map(_interval, pieces[:-1])) if len(pieces) > 1 else None


def intersected(core: str, rng: Random) -> str | None:
    """The intersection of separate intervals is empty."""
    return core.replace(r"\cup", r"\cap") if r"\cup" in core else None


def _parts(core: str) -> tuple[str, str, list[tuple[str, str]]]:
    found = relation_of(core)
    assert found is not None, "an inequality was read as one before"
    return found


def read_from_the_right(core: str, rng: Random) -> str | None:
    """b > x is x < b."""
    name, low, bounds = _parts(core)
    if low:
        (left, _), (right, high) = bounds
        return f"{high} {_FLIP[right]} {name} {_FLIP[left]} {low}"
    sign, bound = bounds[0]
    return f"{bound} {_FLIP[sign]} {name}"


def other_commands(core: str, rng: Random) -> str | None:
    r"""\leq for \le, \lt for <, and their characters."""
    table = _WIDE if rng.random() < 0.5 else {r"\le": "≤", r"\ge": "≥", r"\ne": "≠"}
    text = re.sub(r"\\[lgn]e(?![a-z])|[<>]", lambda m: f" {table.get(m[0], m[0])} ", core)
    return text if text.replace(" ", "") != core.replace(" ", "") else None


def as_interval(core: str, rng: Random) -> str | None:
    """The interval that it describes."""
    _, low, bounds = _parts(core)
    if low:
        (left, _), (right, high) = bounds
        return f"{'(' if left == '<' else '['}{low}, {high}{')' if right == '<' else ']'}"
    sign, bound = bounds[0]
    if sign == r"\ne":
        return rf"(-\infty, {bound}) \cup ({bound}, \infty)"
    if sign in ("<", r"\le"):
        return rf"(-\infty, {bound}{')' if sign == '<' else ']'}"
    return rf"{'(' if sign == '>' else '['}{bound}, \infty)"


def inequality_builder(core: str, rng: Random) -> str | None:
    """The set of what fulfils it."""
    name, _, bounds = _parts(core)
    return rf"\{{{name} \mid {core}\}}" if bounds[0][0] != r"\ne" else None


def strictness(core: str, rng: Random) -> str | None:
    """With its bound or without."""
    name, low, bounds = _parts(core)
    sign, bound = bounds[0]
    return f"{name} {_STRICT[sign]} {bound}" if not low and sign in _STRICT else None


def direction(core: str, rng: Random) -> str | None:
    """More for less."""
    name, low, bounds = _parts(core)
    sign, bound = bounds[0]
    return f"{name} {_FLIP[sign]} {bound}" if not low and sign in _STRICT else None


def bound_off(core: str, rng: Random) -> str | None:
    """Another bound."""
    name, low, bounds = _parts(core)
    if low:
        (left, _), (right, high) = bounds
        return f"{low} {left} {name} {right} {high} + 1"
    return f"{name} {bounds[0][0]} {off(bounds[0][1], rng)}"


def equality(core: str, rng: Random) -> str | None:
    """An equation for an inequality."""
    name, _, bounds = _parts(core)
    return f"{name} = {bounds[-1][1]}"


def _matrix(rows: Sequence[Sequence[str]], kind: str) -> str:
    body = r" \\ ".join(" & ".join(row) for row in rows)
    if kind == "array":
        return rf"\left[\begin{{array}}{{{'c' * len(rows[0])}}} {body} \end{{array}}\right]"
    return rf"\begin{{{kind}}} {body} \end{{{kind}}}"


def other_brackets(core: str, rng: Random) -> str | None:
    """Round or square brackets, an array or a matrix."""
    return _matrix(rows_of(core), rng.choice(("pmatrix", "bmatrix", "array")))


def matrix_lines(core: str, rng: Random) -> str | None:
    r"""A row on each line, with \\ after the last."""
    rows = [" & ".join(row) for row in rows_of(core)]
    return "\\begin{pmatrix}\n" + "\\\\\n".join(rows) + "\\\\\n\\end{pmatrix}"


def matrix_respelled(core: str, rng: Random) -> str | None:
    """Each entry written otherwise."""
    return _matrix([[respelled(c, rng).strip() for c in row] for row in rows_of(core)], "pmatrix")


def transposed(core: str, rng: Random) -> str | None:
    """The transpose of what is not symmetric, and no vector."""
    rows = rows_of(core)
    if min(len(rows), len(rows[0])) == 1:
        return None
    turned = [list(column) for column in zip(*rows, strict=True)]
    return _matrix(turned, "pmatrix") if turned != rows and _all_differ(rows, turned) else None


def _all_differ(rows: list[list[str]], others: list[list[str]]) -> bool:
    if (len(rows), len(rows[0])) != (len(others), len(others[0])):
        return True
    pairs = zip(chain(*rows), chain(*others), strict=True)
    return any(differ(left, right) for left, right in pairs)


def rows_swapped(core: str, rng: Random) -> str | None:
    """Two rows that differ changed over."""
    rows = rows_of(core)
    swapped = [*rows[1:2], rows[0], *rows[2:]]
    return _matrix(swapped, "pmatrix") if len(rows) > 1 and _all_differ(rows, swapped) else None


def entry_off(core: str, rng: Random) -> str | None:
    """Another entry."""
    rows = rows_of(core)
    index = rng.randrange(len(rows))
    rows[index] = changed(rows[index], rng)
    return _matrix(rows, rng.choice(("pmatrix", "bmatrix")))


def row_missing(core: str, rng: Random) -> str | None:
    """A row less."""
    rows = rows_of(core)
    return _matrix(rows[:-1], "pmatrix") if len(rows) > 1 else None


KEEPS: dict[str, tuple[Rule, ...]] = {
    "interval": (
        *(sized_interval, as_inequality, as_membership, as_builder, union_reordered),
        signed_infinity,
    ),
    "inequality": (read_from_the_right, other_commands, as_interval, inequality_builder),
    "matrix": (other_brackets, matrix_lines, matrix_respelled),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "interval": (end_flipped, end_moved, piece_missing, intersected),
    "inequality": (strictness, direction, bound_off, equality),
    "matrix": (transposed, rows_swapped, entry_off, row_missing),
}
