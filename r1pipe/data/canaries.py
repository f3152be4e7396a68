"""Planted canaries: disguised copies of held-out texts that decontamination must find.

Every disguise is drawn from a seed and the text, and put between two sentences that no held-out
text has. Controls are held-out words in another order: finding one is a false alarm.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from r1pipe.data.overlap import MIN_WORDS, NGRAM, OverlapIndex, words

BEFORE = "Here is a task that somebody posted yesterday: "
AFTER = " -- please explain each step and check the result twice!"
MAX_DIGITS = 300
"""Of a number that takes another's place; Python refuses to write out more than 4,300."""

Disguise = Callable[[str, random.Random], str | None]


def verbatim(text: str, rng: random.Random) -> str | None:
    """Return the text as it is."""
    return text


def restyled(text: str, rng: random.Random) -> str | None:
    """Return the text in capitals of full width, with other punctuation."""
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    return re.sub(r"[,.;:!?，。；：！？]", " ...", text).upper().translate(wide)


def excerpt(text: str, rng: random.Random) -> str | None:
    """Return two thirds of the text from a random place on; none where that is under ten words."""
    glue = " " if " " in text.strip() else ""
    pieces = text.split() if glue else list(text)
    size = 2 * len(pieces) // 3
    start = rng.randrange(len(pieces) - size + 1)
    part = glue.join(pieces[start : start + size])
    return part if len(words(part)) >= NGRAM else None


def rewrapped(text: str, rng: random.Random) -> str | None:
    """Return the text quoted in short lines that break words, numbers in LaTeX, blanks doubled."""
    pieces = [_broken(piece, rng) for piece in re.findall(r"\S+", text)]
    lines: list[str] = []
    start = 0
    while start < len(pieces):
        size = rng.randrange(2, 6)
        lines.append("\u200b  ".join(pieces[start : start + size]))
        start += size
    return "\n".join(lines).replace("\n", "\n> ")


def _broken(piece: str, rng: random.Random) -> str:
    """Return a word with a line end inside, or a number in LaTeX; anything else as it is."""
    if re.fullmatch(r"\d+", piece):
        return rf"$\mathrm{{{piece}}}$"
    is_word = re.fullmatch(r"[a-zA-Z]{6,}[,.;?!]?", piece) is not None
    if not is_word and piece.isascii():
        return piece
    place = rng.randrange(1, len(piece) - 1) if len(piece) > 2 else len(piece)
    hyphen = "-" if is_word else ""
    return f"{piece[:place]}{hyphen}\n{piece[place:]}" if rng.random() < 0.5 else piece


def renumbered(text: str, rng: random.Random) -> str | None:
    """Return the text with every number replaced by another one; without numbers none."""

    def other(found: re.Match[str]) -> str:
        number = rng.randrange(2, 10 ** min(len(found[0]) + 1, MAX_DIGITS))
        return str(number if str(number) != found[0] else number + 1)

    return re.sub(r"\d+", other, text) if re.search(r"\d", text) else None


def shuffled(text: str, rng: random.Random) -> str | None:
    """Return the words in a random order; none where there are under twenty."""
    tokens = words(text)
    rng.shuffle(tokens)
    return " ".join(tokens) if len(tokens) >= 2 * NGRAM else None


DISGUISES: dict[str, Disguise] = {
    "verbatim": verbatim,
    "restyled": restyled,
    "excerpt": excerpt,
    "rewrapped": rewrapped,
    "renumbered": renumbered,
}
CONTROL: Disguise = shuffled


def measured(
    index: OverlapIndex, held_out: Sequence[str], num_canaries: int, seed: int
) -> dict[str, dict[str, object]]:
    """Return, per disguise, how many were planted and found, the recall, and by which variant.

    A canary is found when the text that it was made of is among its matches. `control` counts
    false alarms as found.
    """
    usable = [number for number, text in enumerate(held_out) if len(words(text)) >= MIN_WORDS]
    chosen = sorted(
        random.Random(f"canaries:{seed}").sample(usable, min(num_canaries, len(usable)))
    )
    report: dict[str, dict[str, object]] = {}
    for name, disguise in [*DISGUISES.items(), ("control", CONTROL)]:
        planted = found = 0
        variants: dict[str, int] = dict.fromkeys(index.variants, 0)
        for number in chosen:
            rng = random.Random(f"canary:{seed}:{name}:{number}")
            text = disguise(held_out[number], rng)
            if text is None:
                continue
            planted += 1
            own = {held_out[number]}
            hits = index.matches(BEFORE + text + AFTER)
            seen = [hit for hit in hits if name == "control" or held_out[hit.held_out_index] in own]
            found += bool(seen)
            if seen:
                variants[seen[0].variant] += 1
        recall = found / planted if planted else None
        report[name] = {"planted": planted, "found": found, "recall": recall, "by": variants}
    return report
