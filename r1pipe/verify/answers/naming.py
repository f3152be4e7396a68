"""Names that an answer may give its value: which texts are names, and values that carry them."""

from __future__ import annotations

import re

from r1pipe.verify.answers.values import Group, Scalar, Spans, Value

NAME = (
    r"(?:\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'*(?:\^\{-1\})?"
    r"(?:\([a-zA-Z0-9, ]{1,12}\))?"
    r"|\|[A-Z]{2}\||\\(?:overline|vec|angle|triangle|text|mathrm)\s*\{?\s*[a-zA-Z ]{1,24}\s*\}?"
    r"|\\frac\{d[a-z]\}\{d[a-z]\}|[一-鿿]{1,8})"
)
_NAME = re.compile(NAME)
_BARE_VARIABLE = re.compile(r"\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'*")
_NOT_VARIABLES = re.compile(r"\\(?:pi|infty|emptyset)|pi|e|i|[a-z]{2,3}")  # xy is a product
TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|mathbf|operatorname|textrm|mbox)\s*\{([^{}]*)\}")


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
    return re.sub(r"[{}\s]", "", TEXT.sub(r"\1", text))


def with_name(value: Value, name: str) -> Value:
    """Return the value with the name it was given."""
    name = clean_name(name)
    if isinstance(value, Scalar):
        return Scalar(value.value, value.unit, value.is_percent, name, value.base, value.digits)
    if isinstance(value, Group):
        return Group(value.kind, value.items, name)
    if isinstance(value, Spans):
        return Spans(value.parts, name)
    return value
