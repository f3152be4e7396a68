"""Bring answers to one plain spelling: Unicode to LaTeX, no dress, no thousands separators.

Nothing here decides whether two answers are equal; it only removes ways of writing that no answer
depends on.
"""

from __future__ import annotations

import re
import unicodedata

_ZERO_WIDTH = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202c\u2060-\u2064\ufeff]")
_SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\t\r\n]")
_SUPER = {c: unicodedata.normalize("NFKC", c) for c in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ"} | {"⁻": "-"}
_SUB = {c: unicodedata.normalize("NFKC", c) for c in "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"} | {"₋": "-"}
_SUPER_RUN = re.compile(f"[{''.join(_SUPER)}]+")
_SUB_RUN = re.compile(f"[{''.join(_SUB)}]+")
_ROOT = re.compile(r"([√∛∜])\s*(?:\(([^()]{1,80})\)|\{([^{}]{1,80})\}|(\d+(?:\.\d+)?|[a-zA-Z]))")
_ROOT_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}

_SYMBOLS = {
    "∞": r"\infty ",
    "π": r"\pi ",
    "𝜋": r"\pi ",
    "θ": r"\theta ",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "•": r"\cdot ",
    "∗": "*",
    "÷": r"\div ",
    "⁄": "/",
    "∕": "/",
    "−": "-",
    "–": "-",
    "—": "-",
    "‐": "-",
    "‑": "-",
    "﹣": "-",
    "≤": r"\le ",
    "≦": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "≧": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "∅": r"\emptyset ",
    "⌀": r"\emptyset ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "°": r"^\circ ",
    "˚": r"^\circ ",
    "º": r"^\circ ",
    "℃": r"^\circ\text{C}",
    "℉": r"^\circ\text{F}",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "，": ",",
    "、": ",",
    "。": ".",
    "．": ".",
    "【": "[",
    "】": "]",
    "〔": "(",
    "〕": ")",
    "′": "'",
    "″": "''",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
_CIRCLED = re.compile("([\u2460-\u2473])")
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)

_THIN = r"(?:\\[,;:!> ]|\\thinspace(?![a-zA-Z])|\{,\}|\{\\,\}|(?<=\d),\\!)"
_THIN_GROUP = re.compile(rf"(?<=\d){_THIN}(?=\d{{3}}(?!\d))")
_BRACED_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_SIZE = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|biggl|biggr|Bigl|Bigr|Biggl|Biggr|big|Big|bigg|Bigg)"
    r"(?![a-zA-Z])\s*\.?(?=[\s()\[\]{}|\\./<>]|$)"
)
_DELIMITERS = re.compile(r"\$\$?|(?<!\\)\\[()\[\]]")
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:!> ]|(?:quad|qquad|thinspace|enspace|displaystyle|textstyle|limits"
    r"|scriptstyle|nolimits|mathstrut|strut|hfill|tiny|small|normalsize|large|Large"
    r"|LARGE|huge|Huge|bf|it|sf|checkmark)(?![a-zA-Z])|text\s*\{\s*\}"
    r"|(?:hspace\*?|[hv]?phantom|label|tag\*?)\{[^{}]{0,40}\})|(?<!\\)~"
)
_COLOR = re.compile(
    r"\\color\s*(?:\[[a-zA-Z]{1,12}\])?\s*\{[^{}]{0,20}\}|\\textcolor\s*\{[^{}]{0,20}\}"
)
_WRAPPER = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathbin|mathord|mathopen|mathclose|underline|mathit|mathsf|ensuremath"
    r"|textcolor|boxed|fbox|mathnormal|displaylines)(?![a-zA-Z])\s*(?=\{)"
)
_TEXT_QUANTITY = re.compile(r"\\text\s*\{\s*([+-]?[0-9][0-9.,/]*)\s+([^{}]+)\}")
_OVER = re.compile(r"\{([^{}]{1,100})\\over(?![a-zA-Z])([^{}]{1,100})\}")
_QUOTED = re.compile(r"(['\"_])([^'\"_]+)\1")
_TEXT_CIRCLED = re.compile(r"\\(?:textcircled|circled)\s*\{\s*(1?[1-9]|10|20)\s*\}")
_TEXT_NUMBER = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathsf|mbox|operatorname)\s*\{\s*([+-]?[0-9][0-9.,/]*)\s*\}"
)
_MODULE = re.compile(r"\b(?:np|math|numpy)\.(?=[a-z])")
_EMPHASIS = re.compile(r"^(?:\*\*|`)?([^*`]*)(?:\*\*|`)$")
_SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:lbrace|\{)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![a-zA-Z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![a-zA-Z])"), "]"),
    (re.compile(r"\\(?:lparen)(?![a-zA-Z])"), "("),
    (re.compile(r"\\(?:rparen)(?![a-zA-Z])"), ")"),
    (re.compile(r"\\(?:leqslant|leq|leqq)(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\(?:geqslant|geq|geqq)(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne"),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\(?:degree|textdegree)(?![a-zA-Z])"), r"^\\circ"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\textpi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"\\mathrm\s*\{\s*([eid])\s*\}"), r"\1"),
    (re.compile(r"\\(?:pounds|textsterling)(?![a-zA-Z])"), "£"),
    (re.compile(r"\\(?:euro|texteuro)(?![a-zA-Z])"), "€"),
    (re.compile(r"\\textdollar(?![a-zA-Z])"), r"\\$"),
)
_LEAD = re.compile(
    r"(?:\\text\s*\{[^{}]{0,60}(?:is|are|:|=|equals|为|是)\s*\}|(?:the )?(?:final )?answers?"
    r"(?: is|:|=)|答案[是为:]?|解[是为:得]|解集[是为:]?"
    r"|\\therefore|\\implies|\\Rightarrow|\\approx|="
    r"|(?:only )?when |if )\s*",
    re.IGNORECASE,
)
_INTEGER_TAIL = re.compile(
    r",?\s*\(?\s*[a-zA-Z]\s*\\in\s*\\mathbb\s*\{?\s*[ZN]\s*\}?\s*\)?\s*$|\s*\(\s*[a-z]\s*\\in .*\)$"
)
_CHINESE_LEAD = re.compile(
    r"(?:[^\W\d_a-zA-Z不非没约近超大小多少至未]{1,8}(?:是|为|有)|[一总]?共有?|合计)(?=[0-9])"
)


def plain(answer: str) -> str:
    """Return the answer in its plain spelling; cost is linear in its length.

    >>> plain("$x² ≤ １，０００$")
    'x^{2} \\\\le 1,000'
    """
    return strip_dress(to_ascii(answer))


def to_ascii(text: str) -> str:
    """Return the text with Unicode mathematics written as LaTeX and full-width forms as ASCII."""
    if text.isascii():
        return _SPACES.sub(" ", text).strip()
    text = _SPACES.sub(" ", _ZERO_WIDTH.sub("", text))
    text = _ROOT.sub(_latex_root, text)
    text = _SUPER_RUN.sub(lambda m: "^{" + "".join(_SUPER[c] for c in m.group()) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + "".join(_SUB[c] for c in m.group()) + "}", text)
    text = "".join(_vulgar(char) for char in text).translate(_SYMBOL_TABLE)
    parts = _CIRCLED.split(text)  # a circled 1 names a statement; it is not the number 1
    parts[0::2] = [unicodedata.normalize("NFKC", part) for part in parts[0::2]]
    return "".join(parts).translate(_SYMBOL_TABLE).strip()


def strip_dress(text: str) -> str:
    """Remove what is only looks: math delimiters, sizes, colours, spacing, a final period."""
    if any(mark in text for mark in "\\$~{"):
        text = text.replace(r"\$", r"\textdollar ")
        text = _THIN_GROUP.sub("", text)
        text = _BRACED_COMMA.sub(",", text)
        text = _COLOR.sub("", text)
        text = _DELIMITERS.sub(" ", text)
        text = _SIZE.sub("", text)
        text = _SPACING.sub(" ", text)
        text = _OVER.sub(r"\\frac{\1}{\2}", _WRAPPER.sub("", text))
        text = _TEXT_QUANTITY.sub(r"\1\\text{ \2}", _TEXT_NUMBER.sub(r"\1", text))
        text = _TEXT_CIRCLED.sub(lambda m: chr(0x245F + int(m[1])), text)
        for pattern, replacement in _SYNONYMS:
            text = pattern.sub(replacement, text)
    text = _MODULE.sub("", text)
    text = _EMPHASIS.sub(r"\1", re.sub(r" {2,}", " ", text).strip()).strip()
    quoted = _QUOTED.fullmatch(text)
    text = quoted[2].strip() if quoted is not None else text
    return _unbrace(_without_final_period(text))


def _without_final_period(text: str) -> str:
    end = len(text)  # one cut: each would copy the whole text
    while end and text[end - 1] in ".,;" and not text.endswith("..", 0, end):
        end -= 1
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _unbrace(text: str) -> str:
    """Take off braces around the whole text, at most eight deep."""
    for _ in range(8):
        if not (text.startswith("{") and text.endswith("}") and _closes_at_end(text)):
            break
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for index, char in enumerate(text):
        if char in "{}" and (index == 0 or text[index - 1] != "\\"):
            depth += 1 if char == "{" else -1
            if depth == 0:
                return index == len(text) - 1
    return False


def _latex_root(match: re.Match[str]) -> str:
    inside = match.group(2) or match.group(3) or match.group(4)
    return rf"\sqrt{_ROOT_INDEX[match.group(1)]}{{{inside}}}"


def _vulgar(char: str) -> str:
    """Return one half as a LaTeX fraction, so that 3 1/2 in one glyph stays a mixed number."""
    if char.isascii() or not unicodedata.decomposition(char).startswith("<fraction>"):
        return char
    top, _, bottom = unicodedata.normalize("NFKC", char).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}" if bottom else char


def strip_lead(text: str) -> str:
    """Drop "the answer is", a leading approximation sign, and `, k in Z` at the end."""
    text = text.strip()
    lead = _LEAD.match(text) or _CHINESE_LEAD.match(text)
    if lead is not None and lead.end() < len(text):
        text = text[lead.end() :]
    return _INTEGER_TAIL.sub("", text).strip()
