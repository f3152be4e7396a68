"""Functions that read text of a model, and units of text that a careless one reads again and again.

A text is one unit repeated, bare or where a completion has its answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from r1pipe import chat, text
from r1pipe.candidates.filters import longest_paragraph, repeats_beyond
from r1pipe.candidates.judge_form import without_verdicts
from r1pipe.candidates.judge_reply import read_reply
from r1pipe.data import canaries, near, overlap
from r1pipe.data.messages import answer_of, conversation_of, with_thought
from r1pipe.evaluation.votes import votes
from r1pipe.records import FinishReason, Problem
from r1pipe.rewards.format import format_own, format_zero
from r1pipe.rewards.language import language, language_share
from r1pipe.sandbox import outputs
from r1pipe.verify import code, countdown, phrases
from r1pipe.verify.checkers import check_number
from r1pipe.verify.equivalence import decide, read_gold
from r1pipe.verify.reading.extract import boxes, find_answer
from r1pipe.verify.reading.recast import recast
from r1pipe.verify.reasons import example_lines, reason_of

NUM_CHARS = 131_072
UNITS = (
    # what opens and closes code and LaTeX
    *("\\[ ", "\\]", "\\(", "\\) ", "$", "$ ", "$$", "$$$ ", "`", "``", "```", "```\n",),
    *("```python\n", "$a\n", "`a\n", "\\[a\\]", "\\", "\\\\", "\\ ", "{", "}", "{}", "{{ ",),
    *("}{", "(", ")", "()", "[",),
    # tags, boxes, final phrases
    *("<think>", "</think>", "<think>\n", "<answer>", "</answer>", "<answer></answer>", "<",),
    *("</", "\\boxed{", "\\boxed{}", "\\boxed ", "\\boxed{1}", "\\fbox{", "\\boxed{\\boxed{",),
    *("####", "#### 5\n", "Answer: ", "The answer is ", "the final answer is 5. ", "A: 5\n",),
    *("A:", "B: x\n", "\\text{", "answer", "Answer:\n", "\u7b54\u6848\u662f", "**", "*", "_",),
    *("'", '"', "\u201c", "or ", "and ", "either ",),
    # numbers and algebra
    *("1", "1,", "1, ", "1.", "1e", "9^", "9^{", "2+", "(1+", "-", "--", "+", "=", "x=",),
    *("\\frac{", "\\frac", "\\sqrt{", "\\left(", "\\begin{pmatrix}", "&", "\\\\ ", "_{", "^",),
    *("|", "1/", "\u00b2", "\u2460", "%", "5 m ", "\\in ", "\\cup ", "<=", "\\le ", ";", ":",),
    *("1:", "!", ".", ". ", ",", "...", "\\pm ",),
    # words and scripts
    *("a", "ab ", "a ", "no ", "A ", "(A) ", "I cannot ", "\u6240", "\u6240\u4ee5 ", "\u0e01",),
    *("\u1100", "don't ", "\u00e9", "e\u0301", "\uff21", "\U0001d44e", "\u200b", "\u202e",),
    *("\U0001f600", "\u017f", "\ufb01",),
    # blanks, lines, JSON, markup
    *(" ", "\n", "\n\n", " \n", "\t", "\r\n", "\u3000", "\0", '{"', '{"a":', '{"a": "',),
    *('"correctness"', "[[", '{"correctness": "correct"}', '"correctness ', "correctness ",),
    *("{'", "\\u0063", "&amp;", "<b ", "<b>", "-\n",),
)  # fmt: skip
NESTED = (
    ("\\boxed{", "}"), ("{", "}"), ("(", ")"), ("[", "]"), ("\\frac{", "}{1}"), ("\\sqrt{", "}"),
    ("\\left(", "\\right)"), ("\\text{", "}"), ("\\[", "\\]"), ("\\(", "\\)"), ("`", "`"),
    ("<think>", "</think>"), ("<answer>", "</answer>"), ("\\begin{cases}", "\\end{cases}"),
    ("**", "**"), ('{"a":', "}"),
)  # fmt: skip
"""What opens, so many times, and then what closes, as often."""
PLACES: dict[str, str] = {
    "bare": "{}",
    "in the answer": "<think>a</think>{}",
    "in a box": "<think>a</think>\\boxed{{{}}}",
    "in a tag": "<think>a</think> <answer>{}</answer>",
    "in the thought": "<think>{}</think>\\boxed{{1}}",
}

_OWN = chat.Format(think=("<reason>", "</reason>"), answer="last-line")
_HELD_OUT = [" ".join(f"word{i}" for i in range(40)), "one two three four five"]
_INDEX = overlap.OverlapIndex(_HELD_OUT)
_CHOICE = Problem(
    "c", "c", "?", "A", checker="choice", meta={"options": ["a", "the b", "1", "{}", "no"]}
)
_WORD = Problem(
    "w", "w", "?", "odd", checker="word", meta={"accept": ["an odd"], "reject": ["even"]}
)
_REFUSAL = Problem("r", "r", "?", "no", checker="refusal", meta={"refusal": ["I cannot"]})
_COUNTDOWN = Problem("d", "d", "?", "7", checker="countdown", meta={"numbers": [3, 4], "target": 7})
_NUMBER = Problem("n", "n", "?", "1/2", checker="number")
GOLDS = (
    "1/2",
    "(1, 2]",
    "\\{1, 2\\}",
    "x = 3",
    "Paris",
    "5 m",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
)


def _math(given: str) -> None:
    """Read and compare as the math checker does before it asks a worker."""
    answer = find_answer(given).answer
    for gold in GOLDS:
        if answer is not None:
            decide(gold, answer)


def _votes(given: str) -> None:
    rows = [{"checker": "math", "extracted": given + end, "verdict": "wrong"} for end in ("", "1")]
    votes(rows)


def _overlap(given: str) -> None:
    _INDEX.matches(given)
    overlap.letters(given)
    list(overlap.windows(given))
    overlap.masked(overlap.words(given))


def _near(given: str) -> None:
    found = near.NearDuplicates()
    for end in ("", "1"):
        found.add({"prompt": "a", "completion": given + end})
    found._flush()


def _canaries(given: str) -> None:
    for disguise in (*canaries.DISGUISES.values(), canaries.CONTROL):
        disguise(given or "a", random.Random(1))


def _messages(given: str) -> None:
    if not given.strip():
        return
    with_thought(given, given)
    answer_of(given, "a")
    answer_of([{"role": "assistant", "content": [{"type": "text", "text": given}]}], "a")
    asked = {"role": "user", "content": given}
    conversation_of([asked, {"role": "assistant", "content": given, "thought": given}], "a")


def _shown(given: str) -> None:
    text.visible(given)
    text.excerpt(given, 80)
    text.display_width(given)
    example_lines(given, given, "wrong")
    reason_of(given, "5", "wrong", "stop")


def _format(given: str) -> None:
    format_zero(_NUMBER, given)
    for fmt in (chat.CHAT, _OWN, replace(chat.CHAT, answer="tag")):
        format_own(_NUMBER, given, fmt)


def _recast(given: str) -> None:
    for fmt in (
        _OWN,
        replace(_OWN, answer="tag"),
        replace(chat.CHAT, think=None, answer="last-line"),
    ):
        recast(given, fmt)
    chat.split_completion(given)


FUNCTIONS: Mapping[str, Callable[[str], object]] = {
    "language reward": lambda given: language(_NUMBER, given),
    "language share": lambda given: language_share(given, "en"),
    "format rewards": _format,
    "recast": _recast,
    "extraction": lambda given: (
        find_answer(given),
        find_answer(given, prefer="tag"),
        boxes(given),
    ),
    "number": lambda given: check_number(_NUMBER, given),
    "math, exact": _math,
    "gold": read_gold,
    "countdown": lambda given: countdown.check(_COUNTDOWN, given),
    "choice": lambda given: phrases.check_choice(_CHOICE, given),
    "word": lambda given: phrases.check_word(_WORD, given),
    "contains": lambda given: phrases.check_contains(_WORD, given),
    "refusal": lambda given: phrases.check_refusal(_REFUSAL, given),
    "judge, checker": lambda given: phrases.check_judge(_NUMBER, given),
    "program": code.extract_program,
    "output": outputs.lines_of,
    "paragraphs": longest_paragraph,
    "repetitions": lambda given: repeats_beyond(given, 4),
    "judge, reply": lambda given: read_reply(given, FinishReason.STOP),
    "judge, values": without_verdicts,
    "votes": _votes,
    "overlap": _overlap,
    "near-duplicates": _near,
    "canaries": _canaries,
    "messages": _messages,
    "terminal": _shown,
}


def texts(num_chars: int, places: Iterable[str] = PLACES) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of about so many characters, of every unit at some places, and nested."""
    for place in places:
        for unit in UNITS:
            yield f"{unit!r} {place}", PLACES[place].format(unit * (num_chars // len(unit)))
        for opener, closer in NESTED:
            times = num_chars // len(opener + closer)
            yield (
                f"{opener} ... {closer} {place}",
                PLACES[place].format(opener * times + closer * times),
            )


def seconds(function: Callable[[str], object], given: str, times: int = 1) -> float:
    """Return the CPU seconds of one call, the least of some."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        function(given)
        spent.append(time.process_time() - began)
    return min(spent)
