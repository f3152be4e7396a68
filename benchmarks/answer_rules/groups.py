"""Rules on tuples, lists, sets and named solutions.

Where an item is perturbed, it is a constant that the second reading knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from answer_rules.keys import items_of
from answer_rules.rule import Rule
from answer_rules.values import same_value, value_of


def respelled(item: str, rng: Random) -> str:
    """Write a constant otherwise: zeros after the point, another fraction command, brackets."""
    if re.fullmatch(r"-?\d+", item):
        return rng.choice((item, f"{item}.0", f" {item} "))
    return item.replace(r"\frac", r"\dfrac") if r"\frac" in item else item


def off(item: str, rng: Random) -> str:
    """Return another constant: one more, or for an integer one less or more."""
    return str(int(item) + rng.choice((1, -1))) if re.fullmatch(r"-?\d+", item) else f"{item}+1"


def differ(left: str, right: str) -> bool:
    """Return whether two constants are known to differ."""
    values = value_of(left), value_of(right)
    return values[0] is not None and values[1] is not None and not same_value(*values)


def changed(items: Sequence[str], rng: Random) -> list[str]:
    """Return the items with one of them another constant."""
    index = rng.randrange(len(items))
    return [off(item, rng) if i == index else item for i, item in enumerate(items)]


# tuples


def _inside(core: str) -> list[str]:
    return items_of(core.strip()[1:-1])


def sized_brackets(core: str, rng: Random) -> str | None:
    r"""\left( and \right), \bigl( and the like only set the size."""
    left, right = rng.choice(((r"\left(", r"\right)"), (r"\bigl(", r"\bigr)"), ("(", ")")))
    return left + rng.choice((", ", ",", r",\,")).join(_inside(core)) + right


def respelled_items(core: str, rng: Random) -> str | None:
    """Each component written otherwise."""
    return f"({', '.join(respelled(item, rng) for item in _inside(core))})"


def named_tuple(core: str, rng: Random) -> str | None:
    """(x, y) = (a, b) names the components and says the same."""
    items = _inside(core)
    names = {2: "(x, y)", 3: "(x, y, z)"}.get(len(items))
    return f"{names} = ({', '.join(items)})" if names else None


def tuple_swapped(core: str, rng: Random) -> str | None:
    """Two components that differ changed over."""
    items = _inside(core)
    return f"({', '.join([items[1], items[0], *items[2:]])})" if differ(*items[:2]) else None


def tuple_off(core: str, rng: Random) -> str | None:
    """Another component."""
    return f"({', '.join(changed(_inside(core), rng))})"


def tuple_longer(core: str, rng: Random) -> str | None:
    """One component more."""
    return f"({', '.join([*_inside(core), '0'])})"


def tuple_first(core: str, rng: Random) -> str | None:
    """One component alone."""
    return _inside(core)[0]


# lists and sets


def joined_by_and(core: str, rng: Random) -> str | None:
    """A list of two with "and" for the comma."""
    items = items_of(core)
    return (
        rng.choice((r"%s \text{ and } %s", "%s and %s")) % tuple(items) if len(items) == 2 else None
    )


def list_spaced(core: str, rng: Random) -> str | None:
    """Other spaces after the commas."""
    return rng.choice((r",\ ", r",\quad ", ",  ", ", ")).join(items_of(core))


def list_respelled(core: str, rng: Random) -> str | None:
    """Each item written otherwise."""
    return ", ".join(respelled(item, rng).strip() for item in items_of(core))


def list_shorter(core: str, rng: Random) -> str | None:
    """Without an item that no other equals."""
    items = items_of(core)
    is_other = all(differ(items[-1], item) for item in items[:-1])
    return ", ".join(items[:-1]) if is_other else None


def list_off(core: str, rng: Random) -> str | None:
    """An item raised beyond all others."""
    items = items_of(core)
    return ", ".join([*items[:-1], f"{items[-1]} + 1000"]) if len(items) > 1 else None


def list_longer(core: str, rng: Random) -> str | None:
    """One item more, which no other equals."""
    return ", ".join([*items_of(core), "12345"])


def _elements(core: str) -> list[str]:
    return items_of(core.strip()[2:-2])


def set_reordered(core: str, rng: Random) -> str | None:
    """A set has no order."""
    items = _elements(core)
    return rf"\{{{', '.join([*items[1:], items[0]])}\}}"


def set_sized(core: str, rng: Random) -> str | None:
    r"""\left\{ only sets the size."""
    return rf"\left\{{ {', '.join(_elements(core))} \right\}}"


def set_respelled(core: str, rng: Random) -> str | None:
    """Each element written otherwise."""
    return rf"\{{{', '.join(respelled(item, rng) for item in _elements(core))}\}}"


def set_shorter(core: str, rng: Random) -> str | None:
    """Without an element."""
    inner = list_shorter(", ".join(_elements(core)), rng)
    return rf"\{{{inner}\}}" if inner else None


def set_off(core: str, rng: Random) -> str | None:
    """Another element."""
    inner = list_off(", ".join(_elements(core)), rng)
    return rf"\{{{inner}\}}" if inner else None


def set_longer(core: str, rng: Random) -> str | None:
    """An element more."""
    return rf"\{{{', '.join([*_elements(core), '12345'])}\}}"


# x = a, x = a or x = b


def _solutions(core: str) -> tuple[str, list[str]]:
    name, _, rest = core.partition("=")
    items = [re.sub(rf"^{re.escape(name.strip())} ?= ?", "", item) for item in items_of(rest)]
    return name.strip(), items


def without_name(core: str, rng: Random) -> str | None:
    """The value alone: the question says what it is of."""
    return ", ".join(_solutions(core)[1])


def value_first(core: str, rng: Random) -> str | None:
    """5 = x."""
    name, items = _solutions(core)
    return f"{items[0]} = {name}" if len(items) == 1 else None


def name_for_each(core: str, rng: Random) -> str | None:
    """x = a or x = b, for solutions of one name in any order."""
    name, items = _solutions(core)
    word = rng.choice((r" \text{ or } ", " or ", ", "))
    return word.join(f"{name} = {item}" for item in reversed(items)) if len(items) > 1 else None


def in_a_set(core: str, rng: Random) -> str | None:
    r"""x \in \{a, b\}."""
    name, items = _solutions(core)
    return rf"{name} \in \{{{', '.join(items)}\}}" if len(items) > 1 else None


def solution_off(core: str, rng: Random) -> str | None:
    """Another value of the same name."""
    name, items = _solutions(core)
    return f"{name} = {', '.join([*items[:-1], f'{items[-1]} + 1000'])}"


def solution_less(core: str, rng: Random) -> str | None:
    """One of several solutions is missing."""
    name, items = _solutions(core)
    short = list_shorter(", ".join(items), rng) if len(items) > 1 else None
    return f"{name} = {short}" if short else None


def unequal(core: str, rng: Random) -> str | None:
    """x is not a, or more than a."""
    name, items = _solutions(core)
    return (
        rf"{name} {rng.choice((chr(92) + 'ne', '>', '<'))} {items[0]}" if len(items) == 1 else None
    )


KEEPS: dict[str, tuple[Rule, ...]] = {
    "tuple": (sized_brackets, respelled_items, named_tuple),
    "list": (joined_by_and, list_spaced, list_respelled),
    "set": (set_reordered, set_sized, set_respelled),
    "named": (without_name, value_first),
    "named-list": (without_name, name_for_each, in_a_set),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "tuple": (tuple_swapped, tuple_off, tuple_longer, tuple_first),
    "list": (list_shorter, list_off, list_longer),
    "set": (set_shorter, set_off, set_longer),
    "named": (solution_off, unequal),
    "named-list": (solution_off, solution_less),
}
