"""JSON that a stranger wrote: a program, a model, a server. Its size and its depth are bounded."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.keys import Json

MAX_DEPTH = 100
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


class UntrustedError(ValueError):
    """The text is not JSON, or too long or nested too deep to be read."""


def read_json(text: str, max_chars: int = 1 << 20, max_depth: int = MAX_DEPTH) -> Json:
    """Read a JSON value in time linear in its length; nothing but UntrustedError is raised."""
    if len(text) > max_chars:
        raise UntrustedError(f"{len(text)} characters, more than {max_chars}")
    depth = 0
    for match in _TOKEN.finditer(text):
        first = text[match.start()]
        if first != '"':
            depth += 1 if first in "[{" else -1
            if depth > max_depth:
                raise UntrustedError(f"nested more than {max_depth} deep")
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise UntrustedError(str(error)) from None
    return value
