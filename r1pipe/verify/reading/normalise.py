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

_WRITTEN = r"""
∞\infty π\pi 𝜋\pi θ\theta ×\times ·\cdot ⋅\cdot ∙\cdot •\cdot ∗* ÷\div ⁄/ ∕/ −- –- —- ‐-
‑- ﹣- ≤\le ≦\le ⩽\le ≥\ge ≧\ge ⩾\ge ≠\ne ≈\approx ∪\cup ∩\cap ∈\in ∉\notin ∅\emptyset
⌀\emptyset ±\pm ∓\mp °^\circ ˚^\circ º^\circ ℃^\circ\text{C} ℉^\circ\text{F} ℝ\mathbb{R}
ℤ\mathbb{Z} ℕ\mathbb{N} ℚ\mathbb{Q} ℂ\mathbb{C} ，, 、, 。. ．. 【[ 】] 〔( 〕) ′' ″'' “" ”" ‘' ’'
"""
_SYMBOLS = {
    sign[0]: sign[1:] + " " * (sign[-1].isalpha() and sign[1] in "\\^") for sign in _WRITTEN.split()
}
_CIRCLED = re.compile("([\u2460-\u2473])")
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)

_THIN = r"(?:\\[,;:!> ]|\\thinspace(?![a-zA-Z])|\{,\}|\{\\,\}|(?<=\d),\\!\s?|')"
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
    r"|LARGE|huge|Huge|bf|it|sf|checkmark)(?![a-zA-Z])|text\s*\{[\s.,;!]*\}"
    r"|(?:hspace\*?|[hv]?phantom|label|tag\*?)\{[^{}]{0,40}\})|(?<!\\)~"
)
_COLOR = re.compile(
    r"\\color\s*(?:\[[a-zA-Z]{1,12}\])?\s*\{[^{}]{0,20}\}|\\textcolor\s*\{[^{}]{0,20}\}"
)
_BARE_NUMBER = re.compile(
    r"[+-]?[0-9][0-9,]*(?:(?<!,)\.[0-9]+|/[0-9]+)?(?<!,)|-?\\d?frac\{-?[0-9]+\}\{[0-9]+\}"
)
_NUMBERS = re.compile(
    r"(?:(?<=\\in)|(?<=\\in )|^)\s*\\(?:mathbf|mathrm|Bbb|mathbb)\s*\{?\s*([RZNQ])\s*\}?"
    r"(?=[^a-zA-Z]|$)"
)
_WRAPPER = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathbin|mathord|mathopen|mathclose|underline|mathit|mathsf|ensuremath"
    r"|textcolor|boxed|fbox|mathnormal|displaylines)(?![a-zA-Z])\s*(?=\{)(?!\{[a-zA-Z]\}_)"
)
_TEXT_QUANTITY = re.compile(r"\\text\s*\{\s*([+-]?[0-9][0-9.,/]*)\s+([^{}]+)\}")
_OVER = re.compile(r"\{([^{}]{1,100})\\over(?![a-zA-Z])([^{}]{1,100})\}")
_CHOOSE = re.compile(r"\{([^{}]{1,40})\\choose(?![a-zA-Z])([^{}]{1,40})\}")
_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime(?![a-zA-Z])\s*){1,4})\}?")
_LINES = re.compile(r"(?<!\\)\\\\(?![a-zA-Z\\](?!\s*=))(?:\[[^\]]{0,8}\])?\s*(?!\\end)")
_ROWS = re.compile(
    r"(\\\{)?\s*\\begin\s*\{(aligned|align\*?|gathered|split|cases|array|equation\*?)\}"
    r"(?:\{[clr| ]{1,12}\})?(.*)\\end\s*\{\2\}",
    re.DOTALL,
)
_ALIGNED = re.compile(r"&\s*(?==|<|>|\\(?:le|ge|ne|approx|in)(?![a-z]))|(?<=[=<>])\s*&")
_RELATION_START = ("=", "<", ">", r"\le", r"\ge", r"\approx")
_RELATION_SIGNS = (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), (":=", "="), ("==", "="))
_SIGNS = (("+/-", r"\pm "), ("正负", r"\pm "))
_LINE_ENDS = ("\\", r"\noindent", r"\newline")
_SET_BUILDER = re.compile(r"\{\s*[a-zA-Z]\s*\|")
_LABEL_END = re.compile(r"(?i)\bsolutions?\s*:$")
_QUOTED = re.compile(r"(['\"_])([^'\"_]+)\1")
_TEXT_CIRCLED = re.compile(r"\\(?:textcircled|circled)\s*\{\s*(1?[1-9]|10|20)\s*\}")
_TEXT_NUMBER = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathsf|mbox|operatorname)\s*\{\s*([+-]?[0-9][0-9.,/]*)\s*\}"
)
_MODULE = re.compile(r"\b(?:np|math|numpy|sp|sympy)\.(?=[a-zA-Z])")
_CODE_SET = re.compile(r"set\(\[(.*)\]\)")
_EMPHASIS = re.compile(r"^(?:\*\*|`)?([^*`]*)(?:\*\*|`)$")
_SAME_COMMAND = """
frac: dfrac tfrac cfrac; le: leqslant leq leqq; ge: geqslant geq geqq; ne: neq; vec: overrightarrow
emptyset: varnothing oslash O; to: rightarrow; pi: textpi; infty: propto; {: lbrace; }: rbrace
ldots: dots ddots cdots dotsb dotsc dotsm dotsi dotso ldotsb ldotsc ldotsm ldotsi ldotso
$: textdollar
"""
_SAME_SIGN = """
[: lbrack; ]: rbrack; (: lparen; ): rparen; |: lvert rvert vert mid; ^\\circ: degree textdegree
£: pounds textsterling; €: euro texteuro
"""
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_COMMANDS = {
    f"{name}": before + sign
    for before, table in (("\\", _SAME_COMMAND), ("", _SAME_SIGN))
    for line in re.split("[;\n]", table.strip())
    for sign, _, names in (line.strip().rpartition(": "),)
    for name in names.split()
} | {"colon": ":"}
"""Commands that are written for a shorter one, or for a sign."""
_SYNONYMS = (
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"_\{\s*\\(?:text|mathrm|textrm)\s*\{\s*([a-zA-Z0-9]+)\s*\}\s*\}"), r"_{\1}"),
    (re.compile(r"\\mathrm\s*\{\s*([eid])\s*\}"), r"\1"),
)
_LEAD = re.compile(
    r"(?:\\text\s*\{[^{}]{0,60}(?:is|are|:|=|equals|为|是)\s*\}|(?:the )?(?:final )?answers?"
    r"(?: is|:|=)|答案[是为:]?|解[是为:得]|解集[是为:]?"
    r"|\\therefore|\\implies|\\Rightarrow|\\approx|="
    r"|(?:only )?when |if )\s*",
    re.IGNORECASE,
)
_CASE_LEAD = re.compile(r"[^,;]{1,60}=[^,;]{1,40}\bwhen\b\s*(?=[a-z]\s*=)")
_CHINESE_LEAD = re.compile(
    r"(?:[^\W\d_a-zA-Z不非没约近超多少至未]{1,8}(?:是|为|有|等于)|等于|[一总]?共有?|合计|答:)"
    r"(?=[0-9$\\-])"
)


def plain(answer: str) -> str:
    """Return the answer in its plain spelling; cost is linear in its length.

    >>> plain("$x² ≤ １，０００$")
    'x^{2} \\\\le 1,000'
    """
    if _BARE_NUMBER.fullmatch(answer):
        return answer.replace("dfrac", "frac")
    return strip_dress(_without_line_ends(to_ascii(answer)))


def _without_line_ends(text: str) -> str:
    """Drop `\\\\` and `\\noindent` around an answer, where a key was cut out of a document."""
    end = len(text)
    while (command := next((c for c in _LINE_ENDS if text.endswith(c, 0, end)), "")) != "":
        end -= len(command)
        while end and text[end - 1].isspace():
            end -= 1
    start = 0
    while text.startswith(r"\\", start, end) and not text[start + 2 : start + 3].isalpha():
        start += 2
    text = text[start:end].strip()
    return _LABEL_END.sub("", text).rstrip()


def _unfold(text: str) -> str:
    """Write the rows of `aligned`, `cases` and the like beside each other, with commas.

    A row that begins with a relation goes on with the row before. Pieces of a function with their
    conditions, and arrays without a brace, which are matrices, stay as they are.
    """
    match = _ROWS.fullmatch(text.strip())
    if match is None or (match[2] == "array" and match[1] is None):
        return text
    rows = [_ALIGNED.sub("", row).strip() for row in re.split(r"\\\\", match[3]) if row.strip()]
    if any("&" in row for row in rows):
        return text
    joined = ""
    for row in rows:
        row = row.strip(" ,")
        joined += row if row.startswith(_RELATION_START) or not joined else ", " + row
    return joined


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
    if any(mark in text for mark in "\\$~{'"):
        text = text.replace(r"\$", r"\textdollar ")
        text = _THIN_GROUP.sub("", text)
        text = _BRACED_COMMA.sub(",", text)
        text = _COLOR.sub("", text)
        text = _DELIMITERS.sub(" ", text)
        text = _SIZE.sub("", text)
        text = _NUMBERS.sub(r" \\mathbb{\1}", _SPACING.sub(" ", text).strip())
        text = _OVER.sub(r"\\frac{\1}{\2}", _WRAPPER.sub("", text))
        text = _TEXT_QUANTITY.sub(r"\1\\text{ \2}", _TEXT_NUMBER.sub(r"\1", text))
        text = _TEXT_CIRCLED.sub(lambda m: chr(0x245F + int(m[1])), text)
        text = _COMMAND.sub(lambda m: _COMMANDS.get(m[1], m[0]), text)
        for pattern, replacement in _SYNONYMS:
            text = pattern.sub(replacement, text)
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
        text = _PRIMES.sub(lambda m: "'" * m[1].count("p"), text)
        if r"\\" in text:
            text = _LINES.sub(", ", _unfold(text)) if r"\begin" not in text else _unfold(text)
        elif r"\begin" in text:
            text = _unfold(text)
    text = _CODE_SET.sub(r"\\{\1\\}", _MODULE.sub("", text))
    for written, sign in (*_RELATION_SIGNS, *_SIGNS):
        text = text.replace(written, sign)
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
        if _SET_BUILDER.match(text):
            return rf"\{{{text[1:-1]}\}}"
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
    """Drop "the answer is" and a leading approximation sign."""
    text = text.strip()
    lead = _CASE_LEAD.match(text) or _LEAD.match(text) or _CHINESE_LEAD.match(text)
    if lead is not None and lead.end() < len(text):
        text = text[lead.end() :]
    return text.strip()
