"""Names that an answer may give its value: which texts are names, and values that carry them."""

from __future__ import annotations

import re
from dataclasses import replace

from r1pipe.verify.reading.values import Congruence, Grid, Group, Scalar, Spans, Value

NAME = (
    r"(?:\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'*(?:\^\{-1\})?"
    r"(?:\([a-zA-Z0-9, ]{1,12}\))?"
    r"|\\(?:angle|triangle)\s*[A-Z][A-Z0-9_{}'\s]{0,12}|\|[A-Z]{2}\|"
    r"|\\(?:overline|vec|angle|triangle|text|mathrm)\s*\{?\s*[a-zA-Z ]{1,24}\s*\}?"
    r"|\\frac\{(?:d|\\partial )[a-z]\}\{(?:d|\\partial )[a-z]\}|[一-鿿]{1,8})"
)
_DERIVATIVE = re.compile(r"frac(?:d|\\partial)([a-z])(?:d|\\partial)([a-z])")
_NAME = re.compile(NAME)
_BARE_VARIABLE = re.compile(r"\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'*")
_NOT_VARIABLES = re.compile(r"\\(?:pi|infty|emptyset)|pi|i|[a-z]{2,3}")  # xy is a product
TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|mathbf|operatorname|textrm|mbox)\s*\{([^{}]*)\}")


_ARGUMENT = re.compile(r"([a-zA-Z]+'*)(?:\(([a-zA-Z])\)|_([i-n]))")


def is_name(text: str) -> bool:
    """True for what may stand left of an equals sign as a mere name: x, f(x), AB, Area."""
    return _NAME.fullmatch(text) is not None and _NOT_VARIABLES.fullmatch(text) is None


def is_variable(text: str) -> bool:
    """True for a bare variable, which an inequality can be about."""
    is_short = len(text.lstrip("\\")) == 1 or text.startswith("\\") or "_" in text
    return (
        is_short
        and _BARE_VARIABLE.fullmatch(text) is not None
        and _NOT_VARIABLES.fullmatch(text) is None
    )


def clean_name(text: str) -> str:
    """Return a name without braces, spaces and text commands, for comparison."""
    name = re.sub(r"[{}\s]", "", TEXT.sub(r"\1", text)).removeprefix("\\")
    slope = _DERIVATIVE.fullmatch(name)
    if slope is None:
        return name
    return f"{slope[1]}'" if "partial" not in name else f"{slope[1]}_{slope[2]}"


def stem(name: str) -> str:
    """Return a name without its number: x_1 and x_2 are both values of x."""
    return re.sub(r"_?[0-9]+$", "", name)


def same_name(left: str, right: str) -> bool:
    """Return whether two names can be of one thing: x and x_1, f(x) and f(n), a_n and a_k."""
    if left == right or stem(left) == right or left == stem(right):
        return True
    heads = [_ARGUMENT.fullmatch(name) for name in (left, right)]
    return all(heads) and len({head[1] for head in heads if head is not None}) == 1


def argument_of(name: str) -> str:
    """Return the letter that a function or a sequence is named with: x of f(x), n of a_n."""
    match = _ARGUMENT.fullmatch(name)
    return match[2] or match[3] if match is not None else ""


def with_name(value: Value, name: str) -> Value:
    """Return the value with the name it was given."""
    name = clean_name(name)
    if isinstance(value, Scalar | Group | Spans | Congruence | Grid):
        return replace(value, name=name)
    return value
