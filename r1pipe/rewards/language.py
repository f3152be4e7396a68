"""The language-consistency reward: target-language words of the thought / all of its words
(arXiv:2501.12948v1, section 2.3.2; v2, equation 7).

What counts: a run of two or more letters of a script is one word (of Greek three, since two are a
product), and each Chinese or Japanese character is one word. Thai, and scripts that are the target
of no language here, count one word for every six letters at least: many put no spaces. Digits,
symbols, single letters (variables), names of functions, code and LaTeX do not count. `_SCRIPTS` has
the languages that are told by script; English is any Latin word, and other languages in Latin
script need the `lingua` package. A span of code or LaTeX that holds prose counts as prose, so that
text cannot hide there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from r1pipe.chat import split_completion
from r1pipe.errors import StageError
from r1pipe.records import Problem

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_CYRILLIC = "\u0400-\u052f"
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_HEBREW = "\u0591-\u05bd\u05bf-\u05c7\u05d0-\u05f2\ufb1d-\ufb4f"
_ARABIC = (
    "\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff"
)
_ARABIC_FORMS = "\ufb50-\ufdff\ufe70-\ufefc"
_DEVANAGARI = "\u0900-\u0963\u0971-\u097f"
_THAI = "\u0e01-\u0e3a\u0e40-\u0e4e"
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_KNOWN = f"{_HAN}{_KANA}{_HANGUL}{_CYRILLIC}{_GREEK}{_HEBREW}{_ARABIC}{_DEVANAGARI}{_THAI}{_LATIN}"
_SIGNS = (
    "\u00aa-\u00be\u0250-\u036f\u1d00-\u1eff\u2000-\u33ff\ua700-\ua7ff\uab30-\uab6f\uf900-\uffff"
    "\U0001d400-\U0001d7ff\U0001f100-\U0001f1ff\U00020000-\U0003ffff"
)
"""What passes for a letter and is none of another script: superscripts, letters of mathematics,
phonetic and rare Latin ones, forms of width, rare Chinese characters."""
_SCRIPT_WORDS = {
    "han": re.compile(f"[{_HAN}]"),
    "kana": re.compile(f"[{_KANA}]"),
    "hangul": re.compile(f"[{_HANGUL}]+"),
    "cyrillic": re.compile(f"[{_CYRILLIC}]{{2,}}"),
    "greek": re.compile(f"[{_GREEK}]{{3,}}"),
    "hebrew": re.compile(f"[{_HEBREW}]{{2,}}"),
    "arabic": re.compile(f"[{_ARABIC}{_ARABIC_FORMS}]{{2,}}"),
    "devanagari": re.compile(f"[{_DEVANAGARI}]{{2,}}"),
    "thai": re.compile(f"[{_THAI}]{{2,6}}"),
    "other": re.compile(f"[^\\W\\d_{_KNOWN}{_SIGNS}]{{1,6}}"),
    "latin": re.compile(f"[{_LATIN}]{{2,}}(?:['’][{_LATIN}]+)*"),
}
_WORD = re.compile("|".join(f"(?P<{name}>{w.pattern})" for name, w in _SCRIPT_WORDS.items()))
_SCRIPTS = {
    "zh": {"han"},
    "ja": {"han", "kana"},
    "ko": {"hangul"},
    "ru": {"cyrillic"},
    "el": {"greek"},
    "he": {"hebrew"},
    "ar": {"arabic"},
    "hi": {"devanagari"},
    "th": {"thai"},
    "en": {"latin"},
}
_SPANS = (
    ("```", "```", None),
    ("`", "`", re.compile(r"[`\n]")),
    ("$$", "$$", None),
    ("$", "$", re.compile(r"[$\n]")),
    ("\\[", "\\]", None),
    ("\\(", "\\)", None),
)
"""What opens and closes a span of code or LaTeX, and what ends the search for it on its line. Of
those that open at one place the first that closes counts."""
_OPENING = re.compile(r"`|\$|\\[\[(]")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z*]{1,20}\}|\\[a-zA-Z]+")
_PROSE = re.compile(
    f"[{_HAN}{_KANA}]{{2}}|[{_HANGUL}{_CYRILLIC}{_HEBREW}{_ARABIC}{_DEVANAGARI}{_THAI}]{{2}}"
    f"|[{_GREEK}]{{3}}"
    rf"|(?<![\w\\])[{_LATIN}]{{2,}},? [{_LATIN}]{{2,}},? [{_LATIN}]{{2,}}"
)
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"}
    | {"ln", "log", "exp", "lim", "max", "min", "gcd", "lcm", "mod", "det", "sqrt", "frac"}
    | {"cm", "mm", "km", "kg", "ml"}
)


def language(problem: Problem, text: str) -> float:
    """Return the share of the thought's words that are in the problem's language.

    No closed thought gives 0.0 (nothing to measure must not pay); a thought without words of any
    script, such as bare arithmetic, gives 1.0.
    """
    thought = split_completion(text).thought
    if thought is None:
        return 0.0
    share = language_share(thought, problem.language)
    return 1.0 if share is None else share


def language_share(thought: str, language: str) -> float | None:
    """Return target-language words / all words of a thought, or None if it has no words.

    >>> language_share("so 3+4=7, 所以", "en")
    0.3333333333333333
    """
    text = thought
    if any(sign in text for sign in "`$\\"):  # else there is no code, and no LaTeX
        text = _COMMAND.sub(" ", _drop_hidden(text))
    scripts = _SCRIPTS.get(language)
    if scripts is None:
        words = [match for match in _WORD.finditer(text) if not _is_symbol(match)]
        return _share_by_detector(text, words, language) if words else None
    if text.isascii():  # all of its words are Latin: one of them says what the share is
        is_prose = any(not _is_symbol(word) for word in _SCRIPT_WORDS["latin"].finditer(text))
        return float("latin" in scripts) if is_prose else None
    counts = _words_by_script(text)
    total = sum(counts.values())
    return sum(counts[script] for script in scripts) / total if total else None


def _words_by_script(text: str) -> dict[str, int]:
    """Count words; no character belongs to two scripts, so each can be looked for by itself."""
    found = {script: words.findall(text) for script, words in _SCRIPT_WORDS.items()}
    counts = {script: len(words) for script, words in found.items()}
    counts["latin"] -= sum(map(_FUNCTIONS.__contains__, map(str.lower, found["latin"])))
    return counts


def _is_symbol(word: re.Match[str]) -> bool:
    return word.group().lower() in _FUNCTIONS


def _drop_hidden(text: str) -> str:
    """Blank out code and LaTeX; a span that holds prose stays."""
    kept, place = [], 0
    for start, end in _hidden_spans(text):
        if not _PROSE.search(text[start:end]):
            kept += [text[place:start], " "]
            place = end
    return "".join([*kept, text[place:]]) if kept else text


def _hidden_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of spans of code and LaTeX, from the left, in time linear in the text.

    A search that found no end finds none further on either, so there is one such for each kind.
    """
    place, endless = 0, set[str]()
    while opening := _OPENING.search(text, place):
        start = opening.start()
        place = start + 1
        for opener, closer, on_line in _SPANS:
            if closer in endless or not text.startswith(opener, start):
                continue
            if on_line is None:
                end = text.find(closer, start + len(opener))
                if end < 0:
                    endless.add(closer)
                    continue
            else:
                found = on_line.search(text, place)
                if found is None:
                    endless.add(closer)
                    continue
                if found[0] != closer:
                    continue
                end = found.start()
            place = end + len(closer)
            yield start, place
            break


def _share_by_detector(text: str, words: list[re.Match[str]], language: str) -> float:
    """Tell a language in Latin script from English, segment by segment."""
    detect = _detector(language)
    latin = [word for word in words if word.lastgroup == "latin"]
    spans = sorted(detect(text)) if latin else []
    starts = [start for start, _ in spans]
    found = [bisect_right(starts, word.start()) - 1 for word in latin]
    inside = sum(n >= 0 and w.start() < spans[n][1] for n, w in zip(found, latin, strict=True))
    return inside / len(words)


@lru_cache(maxsize=8)
def _detector(language: str) -> Callable[[str], list[tuple[int, int]]]:
    """Return a function from text to the spans in `language` (ISO 639-1)."""
    try:
        import lingua
    except ImportError:
        raise StageError(
            f"language reward: {language!r} shares its script with English, and telling them apart"
            f" needs the package lingua-language-detector; install it, or use {', '.join(_SCRIPTS)}"
        ) from None
    codes: Any = lingua.IsoCode639_1
    target = getattr(codes, language.upper(), None)
    if target is None:
        raise StageError(
            f"language reward: {language!r} is not an ISO 639-1 code, such as de or fr"
        )
    builder = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(codes.EN, target)
    detector = builder.build()

    def spans(text: str) -> list[tuple[int, int]]:
        found = detector.detect_multiple_languages_of(text)
        return [(s.start_index, s.end_index) for s in found if s.language.iso_code_639_1 == target]

    return spans
