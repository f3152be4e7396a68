"""Find the answer in a completion, in time linear in its length.

Order: after the last closed thought (an unclosed thought has no answer), the last non-empty
`\\boxed{}`, else the last `<answer>` pair, else the last `####` line, else an anchor phrase
("answer is", "answer:", and their Chinese forms). Boxes joined by a comma or "and" are one list;
boxes joined by "or" are a hedge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from r1pipe.chat import ANSWER_CLOSE, ANSWER_OPEN, split_completion
from r1pipe.verify.reading.anchors import find_phrase
from r1pipe.verify.reading.units import parse_unit
from r1pipe.verify.reading.words import letters

Prefer = Literal["box", "tag"]

# Every pattern below has bounded repetition, so that a scan stays linear on hostile text.
_BRACE = re.compile(r"\\(?:boxed|fbox|framebox)[ \t\n]{0,8}\{|\\.|[{}]", re.DOTALL)
_BOX_START = re.compile(r"\\(?:boxed|fbox|framebox)[ \t\n]{0,8}\{")
_HOLLOW = re.compile(r"(?:[\s$~{}.]|\\[,;:! ()\[\]]|\\(?:text|mathrm|quad)(?![a-zA-Z]))*+")
_GLUE = re.compile(r"(?:[\s$*]|\\[,;:! ()\[\]]|\\(?:text|mathrm|quad|qquad)(?![a-zA-Z])|[{}])+")
_HASH = re.compile(r"(?<!#)####(?!#)[ \t]{0,8}([^\n]{0,2000})")
_LAST_LINE = re.compile(r"A[:：][ \t]{0,8}(.{1,300})")
_OPTION_LINE = re.compile(r"^\s{0,8}[B-E][:：]", re.MULTILINE)
_BARE_BOX = re.compile(r"\\boxed[ \t]{1,4}([0-9a-zA-Z+-][^\s{}$\\]{0,40})")
_OR = {"or", "或", "或者", ",or", "还是"}
_AND = {",", "and", ",and", "和", "与", "、", "以及", ";", "&"}
_PLAIN = str.maketrans({"，": ",", "；": ";", "（": "(", "）": ")", "：": ":"})
_NAME_LABEL = r"[a-z](?:_?[0-9a-z])?="
_PART_LABEL = r"(?:part)?\([a-h1-9]\):?|[2-9]\.|part[b-h2-9]:?"
_LABEL = re.compile(rf"[,;.]?(?:and)?((?:{_NAME_LABEL})|(?:{_PART_LABEL}))")
_LABEL_AT_END = re.compile(
    r"((?<![a-zA-Z0-9\\])[a-zA-Z](?:_\{?[0-9a-z]\}?)?\s*=|\([a-h1-9]\)|(?<![0-9])1\.|[Pp]art [a1])"
    r"\s*:?\s*[$\s]*$"
)
_UNIT_AFTER = re.compile(
    r"[\s$]{0,4}(?:\\\))?[ ]{0,4}(?:(\\(?:text|mathrm)\s*\{[^{}]{1,20}\}(?:\^\{?[0-9]\}?)?)"
    r"|([a-zA-Z]{1,8})(?=[\s.,;!)*]*(?:\n|$)))"
)
_MAX_GLUE_CHARS = 40
_MAX_JOINED = 64


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found, where (`box`, `tag`, `hash`, `phrase`, `none`), and whether it hedges."""

    answer: str | None
    method: str
    is_hedge: bool = False


@dataclass(frozen=True, slots=True)
class _Box:
    start: int  # of the command
    end: int  # after the closing brace
    content: str


def extract_answer(text: str, *, prefer: Prefer = "box") -> str | None:
    """Return the answer of a completion, or None where it gives none.

    >>> extract_answer(r"<think>1+1=3</think> so \\boxed{2}")
    '2'
    """
    return find_answer(text, prefer=prefer).answer


def find_answer(text: str, *, prefer: Prefer = "box") -> Extraction:
    """Return the answer with how it was found; `prefer` says which of box and tag comes first."""
    part = split_completion(text).answer_part
    if part is None:
        return Extraction(None, "none")
    steps = (_from_boxes, _from_tag) if prefer == "box" else (_from_tag, _from_boxes)
    for step in (*steps, _from_hash, _from_phrase, _from_last_line):
        found = step(part)
        if found is not None:
            return found
    return Extraction(None, "none")


def boxes(text: str) -> list[str]:
    """Return the contents of the non-empty boxes of a text, outermost ones only, in order."""
    return [_unwrap(box.content) for box in _outer_boxes(text) if not _is_hollow(box.content)]


def _from_boxes(text: str) -> Extraction | None:
    found = [box for box in _outer_boxes(text) if not _is_hollow(box.content)]
    if not found:
        bare = list(_BARE_BOX.finditer(text)) if "box" in text else []
        return Extraction(bare[-1][1], "box") if bare else None
    joined, labels = [found[-1]], [""]
    is_hedge = False
    for box in reversed(found[-_MAX_JOINED:-1]):
        glue = _glue(text[box.end : joined[-1].start])
        label = _LABEL.fullmatch(glue)
        if glue in _OR:
            is_hedge = True
        elif label is not None:
            labels[-1] = label[1] or label[0]
        elif glue not in _AND:
            break
        joined.append(box)
        labels.append("")
    if len(joined) > 1 and labels[0]:
        labels[-1] = _label_before(text[: joined[-1].start])
    contents = [_unwrap(box.content) for box in reversed(joined)]
    return _joined(contents, labels[::-1], is_hedge, text[found[-1].end :])


def _joined(contents: list[str], labels: list[str], is_hedge: bool, after: str) -> Extraction:
    """Return the boxes as one answer: parts in order, named values, a hedge, or a list."""
    if is_hedge:
        return Extraction(r" \text{ or } ".join(contents), "box", is_hedge=True)
    if len(contents) > 1 and all(labels):
        if all(label.endswith("=") for label in labels):
            pairs = zip(labels, contents, strict=True)
            return Extraction(", ".join(label + content for label, content in pairs), "box")
        parts = enumerate(contents, start=1)
        return Extraction("; ".join(f"({number}) {content}" for number, content in parts), "box")
    answer = ", ".join(dict.fromkeys(contents))
    unit = _UNIT_AFTER.match(after) if len(contents) == 1 else None
    if unit is not None and answer[-1:].isdigit() and parse_unit(unit[1] or rf"\text{{{unit[2]}}}"):
        answer += unit[1] or rf"\text{{ {unit[2]}}}"
    return Extraction(answer, "box")


def _label_before(text: str) -> str:
    """Return the label right before the first of several boxes."""
    match = _LABEL_AT_END.search(text[-_MAX_GLUE_CHARS:].replace("（", "(").replace("）", ")"))
    return match[1] if match is not None else ""


def _glue(between: str) -> str:
    """Return what joins two boxes, without spaces, dollars and empty commands."""
    if len(between) > _MAX_GLUE_CHARS:
        return "text"
    return _GLUE.sub("", between.translate(_PLAIN)).lower()


def _outer_boxes(text: str) -> list[_Box]:
    """Return the closed boxes that are in no other closed box, in one pass over the braces."""
    if "box" not in text:
        return []
    open_braces: list[tuple[int, int] | None] = []  # (command start, content start) of a box
    closed: list[tuple[int, int, int, int]] = []  # start and end of a box, and of its content
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((opened[0], match.end(), opened[1], match.start()))
        elif len(token) > 2:
            open_braces.append((match.start(), match.end()))
    return [_Box(start, end, text[first:last]) for start, end, first, last in closed]


def _unwrap(content: str) -> str:
    """Take off boxes around the whole content."""
    content = content.strip()
    for _ in range(8):
        inner = _outer_boxes(content)
        if len(inner) != 1 or inner[0].start != 0 or inner[0].end != len(content):
            break
        content = inner[0].content.strip()
    return content


def _is_hollow(content: str) -> bool:
    return _HOLLOW.fullmatch(_BOX_START.sub("{", content)) is not None


def _from_tag(text: str) -> Extraction | None:
    end = len(text)
    while (close := text.rfind(ANSWER_CLOSE, 0, end)) >= 0:
        start = text.rfind(ANSWER_OPEN, 0, close)
        if start < 0:
            return None
        content = text[start + len(ANSWER_OPEN) : close].strip()
        if content and not _is_hollow(content):
            return _inside_tag(content)
        end = start
    return None


def _inside_tag(content: str) -> Extraction:
    inner = _from_boxes(content) or _from_phrase(content)
    if inner is None:
        return Extraction(content, "tag")
    return Extraction(inner.answer, "tag", inner.is_hedge)


def _from_hash(text: str) -> Extraction | None:
    """Take the last `####` line that is not a heading of words."""
    last_line_start = text.rstrip().rfind("\n") + 1
    for match in reversed(list(_HASH.finditer(text))):
        content = match.group(1).strip().strip("*").strip()
        if not content:
            continue
        is_heading = re.match(r"[a-zA-Z]{3,}", content) is not None
        if not is_heading or (match.start() >= last_line_start and " " not in content):
            return Extraction(content, "hash")
    return None


def _from_phrase(text: str) -> Extraction | None:
    said = find_phrase(text)
    if said is None or _is_hollow(said.content):
        return None
    return Extraction(said.content, "phrase", is_hedge=said.is_hedge)


def find_choice(text: str) -> Extraction | None:
    """Return the letter that a phrase after the last box names: `... \\boxed{12}. Answer: (B)`."""
    part = split_completion(text).answer_part or ""
    found = _outer_boxes(part)
    said = find_phrase(part[found[-1].end :]) if found else None
    if said is None or not letters(said.content):
        return None
    return Extraction(said.content, "phrase", is_hedge=said.is_hedge)


def _from_last_line(text: str) -> Extraction | None:
    """Take a last line `A: 18`, the style of GSM8K's model solutions; not a list of options."""
    stripped = text.rstrip()
    line = stripped[stripped.rfind("\n") + 1 :].strip()
    match = _LAST_LINE.fullmatch(line)
    if match is None or _OPTION_LINE.search(text):
        return None
    return Extraction(match.group(1).strip(), "phrase")
