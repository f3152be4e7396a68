"""Compare answers whose letters may be called otherwise: parameters, constants, arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import permutations

import sympy as sp

from r1pipe.verify.comparing.comparer import Comparer
from r1pipe.verify.reading.families import parameters
from r1pipe.verify.reading.naming import argument_of, with_name
from r1pipe.verify.reading.values import Group, Leaf, Scalar, Value, mapped

_MAX_LETTERS, _MAX_RESIDUES = 3, 60
_CONSTANT = re.compile(r"[cC](?:_?[0-9])?")


def same_renamed(
    golds: Sequence[Value], answers: Sequence[Value], texts: tuple[str, str], comparer: Comparer
) -> bool:
    """Return whether some reading of the answer is the gold's under other names of its letters.

    Letters that a qualifier declares (k of `k \\in \\mathbb{Z}`), the argument of a named function,
    and constants of integration may be called otherwise. `texts` are gold answer and answer.
    """
    declared = parameters(texts[0]), parameters(texts[1])
    for gold in golds:
        for answer in answers:
            for renamed, letters in _renamings(gold, answer, declared):
                if comparer.same(gold, renamed):
                    return True
                is_whole = any("Z" in one.values() for one in declared)
                if is_whole and len(letters) == 1 and same_progressions(gold, renamed, letters[0]):
                    return True
    return False


def _renamings(
    gold: Value, answer: Value, declared: tuple[dict[str, str], dict[str, str]]
) -> Iterator[tuple[Value, tuple[str, ...]]]:
    """Yield the answer with its letters renamed, and the letters of the gold that they became."""
    own, theirs = _letters(gold), _letters(answer)
    named = argument_of(getattr(gold, "name", "")), argument_of(getattr(answer, "name", ""))
    if all(named) and named[0] != named[1]:
        change = {named[1]: named[0], named[0]: named[0] + "'"}
        renamed = with_name(_renamed(answer, change), getattr(gold, "name", ""))
        yield renamed, ()
        return
    left = sorted(declared[0].keys() & own or (own - theirs if _is_free(own - theirs) else ()))
    right = sorted(declared[1].keys() & theirs or theirs - own)
    if not left or len(left) != len(right) or len(left) > _MAX_LETTERS:
        return
    for order in permutations(left):
        pairs = list(zip(right, order, strict=True))
        is_free = any(declared) or all(
            _CONSTANT.fullmatch(new) and old.lower() == new.lower() for old, new in pairs
        )
        if is_free:
            yield _renamed(answer, dict(pairs)), order


def _is_free(letters: set[str]) -> bool:
    """Return whether letters that nothing declares look like parameters or constants."""
    return all(letter in "kmnt" or _CONSTANT.fullmatch(letter) for letter in letters)


def _letters(value: Value) -> set[str]:
    found: set[str] = set()

    def note(leaf: Leaf) -> Leaf:
        found.update(symbol.name for symbol in getattr(leaf, "free_symbols", ()))
        return leaf

    mapped(value, note)
    return found


def _renamed(value: Value, names: dict[str, str]) -> Value:
    symbols = {sp.Symbol(old): sp.Symbol(new) for old, new in names.items()}
    return mapped(value, lambda leaf: sp.sympify(leaf).xreplace(symbols))


def same_progressions(gold: Value, answer: Value, letter: str) -> bool:
    """Return whether values a + b k give the same numbers over all integers k."""
    left, right = _progressions(gold, letter), _progressions(answer, letter)
    if not left or not right:
        return False
    unit = left[0][1]
    steps = [sp.nsimplify(sp.simplify(step / unit)) for _, step in (*left, *right)]
    if not all(step.is_Rational for step in steps):
        return False
    period = unit * sp.ilcm(*(step.p for step in steps)) / sp.igcd(*(step.q for step in steps))
    residues = [_residues(family, period) for family in (left, right)]
    if not all(residues):
        return False
    return all(
        any(sp.simplify((one - other) / period).is_Integer for other in others)
        for ones, others in (residues, residues[::-1])
        for one in ones
    )


def _progressions(value: Value, letter: str) -> list[tuple[sp.Expr, sp.Expr]]:
    """Return (a, b) of each value a + b k, or nothing where one is of another form."""
    items = value.items if isinstance(value, Group) else (value,)
    if isinstance(value, Group) and value.kind not in ("list", "set", "either"):
        return []
    symbol = sp.Symbol(letter)
    found = []
    for item in items:
        if isinstance(item, Group):
            found += _progressions(item, letter)
            continue
        if not isinstance(item, Scalar):
            return []
        value_there = sp.sympify(item.value)
        start = value_there.subs(symbol, 0)
        step = sp.simplify((value_there - start) / symbol)
        if step == 0 or step.free_symbols or not step.is_real:
            return []
        found.append((start, step))
    return found


def _residues(family: list[tuple[sp.Expr, sp.Expr]], period: sp.Expr) -> list[sp.Expr]:
    """Return every start within one period, or nothing where they are too many."""
    found = []
    for start, step in family:
        count = abs(sp.simplify(period / step))
        if not count.is_Integer or count > _MAX_RESIDUES:
            return []
        found += [start + step * index for index in range(int(count))]
    return found
