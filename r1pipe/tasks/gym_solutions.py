"""Written solutions of some tasks of reasoning-gym, from the numbers that an item was made of.

They are the cold start of a small model: short steps, each of which it can check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from r1pipe.keys import JsonObject


def running_sums(metadata: JsonObject, gold: str) -> str:
    """Add the terms of a chain one after the other: `4 - 1 = 3, 3 - 7 = -4.`"""
    first, *rest = metadata["expression"].split()
    value, steps = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        before, value = value, value + int(term) * (1 if sign == "+" else -1)
        steps.append(f"{before} {sign} {term} = {value}")
    return ", ".join(steps) + "."


def running_products(metadata: JsonObject, gold: str) -> str:
    """Multiply the factors one after the other: `3 * 4 = 12, 12 * 2 = 24.`"""
    first, *rest = metadata["expression"].split()[::2]
    value, steps = int(first), []
    for factor in rest:
        before, value = value, value * int(factor)
        steps.append(f"{before} * {factor} = {value}")
    return ", ".join(steps) + "."


def counted_legs(metadata: JsonObject, gold: str) -> str:
    """Multiply and add: `3 dogs: 3 * 4 = 12. 2 birds: 2 * 2 = 4. 12 + 4 = 16.`"""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    parts = [
        (f"{count} {animal}{'s' if count > 1 else ''}", count, ANIMALS[animal])
        for animal, count in metadata["animals"].items()
    ]
    steps = [f"{name}: {count} * {legs} = {count * legs}." for name, count, legs in parts]
    if len(parts) > 1:
        steps.append(f"{' + '.join(str(count * legs) for _, count, legs in parts)} = {gold}.")
    return " ".join(steps)


def counted_letters(metadata: JsonObject, gold: str) -> str:
    """Count in each word: `hundred: 1, thousand: 0. 1 + 0 = 1.`"""
    letter = metadata["target_letter"]
    counts = [(word, word.lower().count(letter)) for word in metadata["span"]]
    total = " + ".join(str(count) for _, count in counts)
    return f"{', '.join(f'{word}: {count}' for word, count in counts)}. {total} = {gold}."


def worked_answer(metadata: JsonObject, gold: str) -> str:
    """Return the working that the item brings, without its last line `#### gold`."""
    text: str = metadata["answer_cot"]
    return text.rpartition("####")[0].strip()


SOLUTIONS: Mapping[str, Callable[[JsonObject, str], str]] = {
    "chain_sum": running_sums,
    "gsm_symbolic": worked_answer,
    "leg_counting": counted_legs,
    "letter_counting": counted_letters,
    "products": running_products,
}
"""The library's name of a task -> its author: from an item's metadata and answer to a text."""
