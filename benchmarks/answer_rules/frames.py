"""How models write an answer down: frames around it, in boxes, Markdown and Chinese.

A frame changes no label: it states the answer once, as the final one. The frames of `SPOILED` make
a wrong completion out of the right answer: it is taken back, one of two, a condition, or only
thought of.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

THOUGHTS = (
    "Let me see. First 12 and 7, so 19 so far. Then x = 3, and the rest follows.",
    "We try \\boxed{17} first, but that is too large. So go on.",
    "The answer is not 4, since 4 is even. Hmm, so what else? Let me compute again.",
    "先看条件，得到 3 和 8。再检验一次。",
)
PLAIN: dict[str, str] = {
    "box": r"\boxed{@}",
    "sentence-box": r"So the answer is $\boxed{@}$.",
    "display-box": "Adding both sides gives the result.\n\n\\[\n\\boxed{@}\n\\]",
    "markdown-box": "**Step 1.** Compute.\n\n**Final Answer:** $\\boxed{@}$",
    "heading-box": "### Solution\n\nWe simplify both terms.\n\n"
    "### Final Answer\n\n$$\\boxed{@}$$\n",
    "bracket-box": r"Therefore, the value is \(\boxed{@}\), as required.",
    "thought-box": "<think>\n{thought}\n</think>\n\nHence $\\boxed{@}$.",
    "thought-tag": "<think>\n{thought}\n</think>\n<answer>@</answer>",
    "earlier-box": "First we find $\\boxed{23456}$ for the smaller case, which is only a step on"
    " the way to the full problem. In the full case the value is $\\boxed{@}$.",
    "hashes": "Compute both and add.\n#### @",
    "chinese-box": r"综上所述，答案是 $\boxed{@}$。",
    "chinese-thought-box": "<think>\n{thought}\n</think>\n\n因此，最后的结果为 $\\boxed{@}$。",
}
"""By name; `@` is the answer."""
MATHEMATICS: dict[str, str] = {
    "final-phrase": r"The final answer is $@$.",
    "answer-line": r"**Answer:** $@$",
    "bracket-phrase": r"We conclude that the answer is \(@\).",
    "chinese-phrase": r"故答案为：$@$",
}
"""Frames with an answer in mathematics that no box marks."""
WORDS: dict[str, str] = {
    "final-phrase": "The final answer is @.",
    "answer-line": "**Answer: @**",
    "bold-phrase": "The correct answer is **@**.",
    "chinese-phrase": "故答案为：@",
}
"""The same for choices and words."""

Spoiled = Callable[[str, str], str]
SPOILED: dict[str, Spoiled] = {
    "taken-back": lambda right, other: (
        f"The answer is ${right}$. Wait, that double counts one case, so it has to be corrected by"
        f" what was counted twice. So the final answer is $\\boxed{{{other}}}$."
    ),
    "one-of-two": lambda right, other: (
        f"The answer is $\\boxed{{{right}}}$ or $\\boxed{{{other}}}$."
    ),
    "denied": lambda right, other: f"The answer is not ${right}$.",
    "only-thought": lambda right, other: (
        f"<think>\nMaybe it is $\\boxed{{{right}}}$. No.\n</think>\n\n"
        f"The answer is $\\boxed{{{other}}}$."
    ),
    "unfinished-thought": lambda right, other: (
        f"<think>\nSo the answer could be $\\boxed{{{right}}}$. Let me check once more: if"
    ),
    "or-in-box": lambda right, other: rf"\boxed{{{right} \text{{ or }} {other}}}",
    "no-answer": lambda right, other: f"We need to find out whether {right} can be reached at all.",
    "by-cases": lambda right, other: (
        f"The answer is ${right}$ if $n$ is even, and ${other}$ if $n$ is odd."
    ),
}
"""Completions that do not answer with the right value, by name, from it and another one.

They are applied to single numbers only, of which no alternative is ever right.
"""


def framed(answer: str, form: str, rng: Random) -> tuple[str, str]:
    """Return (name of a frame, the answer in it); every other answer is just in a box."""
    if rng.random() < 0.4:
        return "box", PLAIN["box"].replace("@", answer)
    bare = WORDS if form in ("choice", "text") else MATHEMATICS
    frames = PLAIN | (bare if "text" not in answer else {})
    if "\n" in answer:
        frames = {name: frame for name, frame in PLAIN.items() if "box" in name}
    name = rng.choice(sorted(frames))
    text = frames[name].replace("{thought}", rng.choice(THOUGHTS))
    return name, text.replace("@", answer)
