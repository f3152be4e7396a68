"""Gold answers of public problem sets, and the form that each is written in.

A file is any that `r1pipe` reads. Its gold answers are in the first of `COLUMNS` that is filled: a
text, a number, a list of one; behind `####` or `A: `, or in the last box of a solution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from answer_rules.values import same_value, value_of
from r1pipe.errors import R1PipeError
from r1pipe.files import records
from r1pipe.verify.reading.extract import boxes

COLUMNS = (
    *("gold", "final_answer", "answer", "golden", "Answer", "ground_truth", "correct", "target"),
    *("label", "solution"),
)
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz")
N = r"-?\s*\d+(?:\.\d+)?"
"""A number as keys write one."""
UNITS = {
    "mm": "millimeters", "cm": "centimeters", "m": "meters", "km": "kilometers",
    "g": "grams", "kg": "kilograms", "s": "seconds", "h": "hours", "N": "newtons", "J": "joules",
    "W": "watts", "V": "volts", "A": "amperes", "Hz": "hertz", "K": "kelvins", "mg": "milligrams",
    "ft": "feet", "in": "inches", "Pa": "pascals", "lb": "pounds", "min": "minutes",
}  # fmt: skip
_TAIL = re.compile(r"(?:\\\\|\\noindent|\\hline|\s)+$")
_TRANSLATE = {r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne", r"\lt": "<", r"\gt": ">"}
_RELATION = r"(?:<|>|\\le(?![a-z])|\\ge(?![a-z]))"
_ARBITRARY = re.compile(r"(?<![a-zA-Z\\])[Cck](?![a-zA-Z])")
"""Letters of arbitrary constants: what adds to one, or turns its sign, changes no answer."""
_PROSE = re.compile(
    r"(?<![a-zA-Z\\])[a-zA-Z]{3,}|[\d})] ?(?:cm|mm|km|kg|ft|mi|lb|in|hr|th|st|nd|rd)(?![a-zA-Z])"
    r"|^-? ?[\d.]+ [a-zA-Z]$|\d +\.?\d|^No$"
)
"""Words, letters that may be units (`3 m`), and numbers in a row."""
_NAME = r"(?:[a-zA-Z](?:_\{?\w\}?)?|\\theta|\\alpha|\\lambda)"


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer as its key writes it, without dollars and the like, and its form."""

    raw: str
    core: str
    form: str
    source: str


def keys(path: Path, column: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield (file, gold answer) of a file, or of all data files below a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if is_data(p))
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        try:
            for record in records(file):
                gold = gold_of(record.values, column)
                if gold:
                    yield name, gold
        except R1PipeError as error:
            print(f"left out: {error}")


def is_data(path: Path) -> bool:
    """Return whether a path looks like a file of rows."""
    return path.is_file() and path.name.endswith(DATA_SUFFIXES)


def gold_of(row: dict[str, object], column: str | None) -> str:
    """Return a row's gold answer, or nothing."""
    for name in (column,) if column else COLUMNS:
        value = row.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        text = str(value).strip()
        if "####" in text:
            text = text.rpartition("####")[2].strip()
        elif "\nA: " in text:
            text = text.rpartition("\nA: ")[2].strip()
        if name == "solution":
            text = boxes(text)[-1] if boxes(text) else ""
        if text:
            return text
    return ""


def core_of(raw: str) -> str:
    """Return a gold answer without what only typesets it: dollars, `\\left`, a trailing `\\\\`."""
    core = _TAIL.sub("", raw.strip())
    if core.count("$") == 2 and core[0] == core[-1] == "$":
        core = core[1:-1]
    core = re.sub(r"\\(?:left|right|displaystyle)(?![a-zA-Z])\s*", "", core)
    core = re.sub(r"\\(?:leq|geq|neq|lt|gt)(?![a-zA-Z])", lambda m: _TRANSLATE[m.group()], core)
    core = re.sub(r"(?<!\\)\\[,;!: ]|~", " ", core).strip()
    return re.sub(r"\s+", " ", core).rstrip(".").strip() if core.count(".") < 2 else core


def form_of(core: str) -> str:
    """Return the form of a gold answer, or nothing where it is of none that has rules."""
    for form, pattern in _PATTERNS.items():
        if pattern.fullmatch(core):
            return form
    grid = re.fullmatch(
        r"\\begin\{([pb]matrix|array)\}(?:\{[clr|]+\})?(.+)\\end\{\1\}"
        r"|\[\\begin\{(array)\}\{[clr|]+\}(.+)\\end\{array\}\]",
        core,
    )
    if grid:
        return "matrix" if rows_of(core) else ""
    if re.search(r"\\pm", core):
        return "plus-minus" if core.count(r"\pm") == 1 and constant(both(core)[0]) else ""
    if re.fullmatch(
        r"[(\[][^()\[\]]*,[^()\[\]]*[)\]](?: ?\\cup ?[(\[][^()\[\]]*,[^()\[\]]*[)\]])*", core
    ):
        return _bracketed(core)
    return _composed(core)


def _composed(core: str) -> str:
    """Tell sets, inequalities, equations, lists and expressions."""
    if core.startswith(r"\{") and core.endswith(r"\}") and core.count(r"\{") == 1:
        return "set" if _constants(core[2:-2]) else ""
    if re.search(_RELATION, core) or r"\ne" in core:
        return "inequality" if relation_of(core) else ""
    if "=" in core:
        return _equation(core)
    if re.fullmatch(r"\d{1,3}(?:, \d{3})+", core):
        return ""  # a list, or one long number
    if "," in core or " and " in core or r"\text{ and }" in core:
        return "list" if _constants(core) else ""
    return _expression(core)


_PATTERNS = {
    "integer": re.compile(r"-? ?\d{1,15}"),
    "grouped": re.compile(r"-?\d{1,3}(?:,\d{3})+"),
    "decimal": re.compile(r"-? ?\d+\.\d{1,10}"),
    "fraction": re.compile(
        r"-? ?(?:\\[dt]?frac ?\{ ?-?\d+ ?\} ?\{ ?\d+ ?\}|\\[dt]?frac\d\d|\d+ ?/ ?\d+)"
    ),
    "mixed": re.compile(r"\d+ ?(?:\\[dt]?frac ?\{ ?\d+ ?\} ?\{ ?\d+ ?\}|\\[dt]?frac\d\d)"),
    "percent": re.compile(r"\d+(?:\.\d+)? ?\\?%"),
    "money": re.compile(r"\\\$ ?\d{1,3}(?:,?\d{3})*(?:\.\d\d)?"),
    "scientific": re.compile(
        r"-?\d(?:\.\d+)? ?\\times ?10 ?\^ ?\{ ?-?\d{1,2} ?\}|-?\d(?:\.\d+)?e-?\d{1,2}"
    ),
    "degree": re.compile(rf"{N} ?\^ ?(?:\\circ|\{{ ?\\circ ?\}})"),
    "unit": re.compile(rf"{N} ?\\(?:mathrm|text) ?\{{ ?(?:{'|'.join(UNITS)}) ?\}}"),
    "counted": re.compile(r"\d+(?:\.\d+)? \((?:[a-z][a-z. ]{1,30}|g|m)\)"),
    "base": re.compile(r"[0-9]{2,}_ ?(?:\{ ?[2-9] ?\}|[2-9])"),
    "ratio": re.compile(r"\d{1,3} ?: ?\d{1,3}"),
    "choice": re.compile(r"\(?[A-E]\)?"),
    "text": re.compile(
        r"(?:No|[A-Z]?[a-z]{2,}|\\text ?\{ ?[A-Za-z][a-z]+(?: [a-z]+)? ?\})(?: [a-z]{2,})?"
    ),
}  # fmt: skip


def constant(text: str) -> bool:
    """Return whether a text is a number that the second reading knows."""
    value = value_of(text.strip(), True)
    return value is not None and not value.free_symbols and bool(value.is_finite is not False)


def items_of(text: str) -> list[str]:
    """Split at commas and "and"."""
    return [
        part.strip()
        for part in re.split(r",|\\text ?\{ ?and ?\}| and |\\text ?\{ ?or ?\}| or ", text)
    ]


def both(core: str) -> tuple[str, str]:
    """Return an expression with a plus-minus sign by its two branches."""
    return core.replace(r"\pm", "+"), core.replace(r"\pm", "-")


def rows_of(core: str) -> list[list[str]]:
    """Return the cells of a matrix of constants by rows, or nothing."""
    body = re.sub(r"\\begin\{\w+\}(?:\{[clr|]+\})?|\\end\{\w+\}", "", core).strip("[] ")
    rows = [[cell.strip() for cell in row.split("&")] for row in body.split(r"\\") if row.strip()]
    is_whole = len({len(row) for row in rows}) == 1 and len(rows) * len(rows[0]) > 1
    return rows if is_whole and all(constant(cell) for row in rows for cell in row) else []


def relation_of(core: str) -> tuple[str, str, list[tuple[str, str]]] | None:
    """Return (name, before, [(sign, bound), ...]) of `x < b`, `a < x < b` or `x \\ne a`."""
    single = re.fullmatch(rf"({_NAME}) ?({_RELATION}|\\ne) ?(.+)", core)
    if single and constant(single.group(3)):
        return single.group(1), "", [(single.group(2), single.group(3).strip())]
    double = re.fullmatch(rf"([^<>]+?) ?(<|\\le) ?({_NAME}) ?(<|\\le) ?([^<>]+)", core)
    if double and constant(double.group(1)) and constant(double.group(5)):
        low, left, name, right, high = (part.strip() for part in double.groups())
        return name, low, [(left, low), (right, high)]
    return None


def _constants(text: str) -> bool:
    items = items_of(text)
    if any(_PROSE.search(item) for item in items):
        return False
    return 2 <= len(items) <= 6 and all(
        constant(item) and "i" not in item.replace("pi", "") for item in items
    )


def _bracketed(core: str) -> str:
    """Tell intervals from tuples: infinities and unequal brackets are of intervals only."""
    ends = [end.strip("()[] ") for end in re.split(r",|\\cup", core)]
    finite = [end for end in ends if r"\infty" not in end]
    if not all(constant(end) for end in finite):
        return ""
    is_interval = r"\cup" in core or r"\infty" in core or (core[0] == "(") != (core[-1] == ")")
    if is_interval:
        return "interval" if len(ends) % 2 == 0 else ""
    return "tuple" if core[0] == "(" and len(ends) <= 4 else ""


def _equation(core: str) -> str:
    left, _, right = core.partition("=")
    if "=" in right:
        return ""
    if re.fullmatch(_NAME, left.strip()):
        if constant(right):
            return "named"
        if ("," in right or " or " in right) and _constants(re.sub(rf"{_NAME} ?=", "", right)):
            return "named-list"
    first, second = value_of(left), value_of(right)
    if "," in core or _ARBITRARY.search(core) or _PROSE.search(core):
        return ""
    if first is None or second is None or same_value(first, second):
        return ""  # of an identity every other one is as true
    is_renaming = second.is_Symbol
    return "equation" if first.free_symbols and not is_renaming else ""


def _expression(core: str) -> str:
    if re.search(r"(?<![a-zA-Z\\])i(?![a-zA-Z])", core) and constant(core):
        value = value_of(core, True)
        return "complex" if value is not None and not value.is_real else ""
    value = value_of(core)
    if value is None or _PROSE.search(core):
        return ""
    if value.free_symbols:
        return "" if _ARBITRARY.search(core) else "algebra"
    if r"\pi" in core:
        return "pi"
    return "surd" if r"\sqrt" in core else "constant"
