"""Read YAML 1.2 into a tree in which every value knows where it was written.

Scalars follow the core schema of YAML 1.2: `1e-6` is a float; `no`, `on` and `1_000` are strings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from r1pipe.errors import Mistake
from r1pipe.regular import UnfitError, read_regular
from r1pipe.text import excerpt, visible

MAX_DEPTH = 40
MAX_NODES = 100_000
MAX_BYTES = 2 << 20
"""Bounds on a document: aliases of aliases could otherwise unfold without end."""

STR_TAG = "tag:yaml.org,2002:str"
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Events alone are taken from it: libyaml's where it is installed, some ten times as fast."""
SLOW_PARSER = yaml.SafeLoader
PAIR = re.compile(r"\\u[dD][89abAB]")
"""JSON's escape of a character in two parts: libyaml refuses it, PyYAML's own parser does not."""
INT = re.compile(r"[-+]?[0-9]{1,300}")
BASED = re.compile(r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,240}")
"""Integers that a float can hold; longer ones are texts, and wrong wherever a number is due."""
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

Scalar = None | bool | int | float | str


class Origin(NamedTuple):
    """Where a value was written: a place in a file, in a profile there, or an override."""

    file: str
    line: int
    column: int
    profile: str | None = None
    set_text: str | None = None
    path: str | None = None
    """The keys that lead to it if a stage has it from elsewhere: `defaults.sft.params.seed`."""

    def __str__(self) -> str:
        if self.set_text is not None:
            return f"--set {self.set_text}"
        parts = [f"profile {self.profile}"] if self.profile else []
        parts += [self.path] if self.path else []
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place} ({', '.join(parts)})" if parts else place

    def mistake(self, message: str) -> Mistake:
        """Return the report of a mistake at this place."""
        if self.set_text is not None:
            return Mistake(visible(f"--set {excerpt(self.set_text, 200)}: {message}"))
        return Mistake(visible(message), self.file, self.line, self.column)


class Value(NamedTuple):
    """A YAML value; `key_origin` is the place of the key in front of it, inside a mapping."""

    data: Scalar | list[Value] | dict[str, Value]
    origin: Origin
    key_origin: Origin | None = None

    def entries(self) -> Mapping[str, Value]:
        """Return the entries of a mapping; nothing for any other value."""
        return self.data if isinstance(self.data, dict) else {}

    def get(self, *path: str) -> Value | None:
        """Return the value at a path of keys, or None."""
        found: Value | None = self
        for name in path:
            found = found.entries().get(name) if found else None
        return found

    def label(self, usual: str) -> str:
        """Return the path at which this was written: `usual` unless it comes from elsewhere."""
        return self.origin.path or usual

    def plain(self) -> Any:
        """Return the value as plain JSON-like Python."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Value]]:
        """Yield every value below this one with its dotted path."""
        if isinstance(self.data, dict):
            entries = list(self.data.items())
        elif isinstance(self.data, list):
            entries = [(str(index), value) for index, value in enumerate(self.data)]
        else:
            return
        for key, value in entries:
            path = f"{prefix}.{key}" if prefix else key
            yield path, value
            yield from value.walk(path)


def read_yaml(path: Path, mistakes: list[Mistake]) -> Value | None:
    """Return the document of a file, or None if it cannot be read at all."""
    start = Origin(str(path), 1, 1)
    try:
        data = read_regular(path, MAX_BYTES)
        return parse_yaml(data.decode("utf-8-sig"), start, mistakes)
    except FileNotFoundError:
        mistakes.append(Mistake(f"{path}: no such manifest"))
    except IsADirectoryError:
        names = ", ".join(sorted(file.name for file in path.glob("*.yaml"))) or "no .yaml file"
        mistakes.append(Mistake(f"{path}: a folder, not a manifest; it holds {names}"))
    except OSError as error:
        mistakes.append(Mistake(f"{path}: cannot be read: {error.strerror}"))
    except UnfitError as error:
        mistakes.append(Mistake(f"{path}: cannot be read as a manifest: {error}"))
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        mistakes.append(start._replace(line=line, column=column).mistake(message))
    return None


def parse_yaml(text: str, start: Origin, mistakes: list[Mistake]) -> Value | None:
    """Return the one document in `text`; places are counted in `start`'s file."""
    reader = _Reader(start, mistakes)
    try:
        return reader.document(text, SLOW_PARSER if PAIR.search(text) else PARSER)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        is_tab = mark is not None and _char_at(text, mark.line, mark.column) == "\t"
        what = "a tab, where YAML is indented by spaces" if is_tab else ", ".join(parts)
        mistakes.append(reader.place(mark).mistake(f"not YAML: {what}"))
    except _TooLargeError as error:
        mistakes.append(error.origin.mistake("the document is too large or nested too deeply"))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        place = start._replace(line=line) if start.set_text is None else start
        mistakes.append(place.mistake(f"not YAML: {str(error).splitlines()[0]}"))
    return None


def _char_at(text: str, line: int, column: int) -> str:
    """Return the character at a place counted from 0; nothing where there is none."""
    lines = text.split("\n")
    return lines[line][column : column + 1] if line < len(lines) else ""


def in_profile(value: Value, profile: str) -> Value:
    """Return `value` with every place in it marked as written in a profile."""

    def mark(origin: Origin | None) -> Origin | None:
        return origin and origin._replace(profile=profile)

    data = value.data
    if isinstance(data, dict):
        data = {key: in_profile(item, profile) for key, item in data.items()}
    elif isinstance(data, list):
        data = [in_profile(item, profile) for item in data]
    origin = value.origin._replace(profile=profile)
    return Value(data, origin, mark(value.key_origin))


def at_path(value: Value, path: str) -> Value:
    """Return `value` with every place in it marked with the keys that lead there."""
    data = value.data
    if isinstance(data, dict):
        data = {key: at_path(item, f"{path}.{key}") for key, item in data.items()}
    elif isinstance(data, list):
        data = [at_path(item, f"{path}.{index}") for index, item in enumerate(data)]
    key_origin = value.key_origin and value.key_origin._replace(path=path)
    return Value(data, value.origin._replace(path=path), key_origin)


class _Reader:
    """Composes parser events into values, and reports what YAML itself lets pass."""

    def __init__(self, start: Origin, mistakes: list[Mistake]) -> None:
        self.start = start
        self.mistakes = mistakes
        self.anchors: dict[str, tuple[Value, int, int]] = {}
        """Value, nodes and levels of each."""
        self.num_nodes = 0
        self.height = 0
        """Levels of the value that was composed last."""

    def place(self, mark: Any) -> Origin:
        if self.start.set_text is not None or mark is None:
            return self.start
        return Origin(self.start.file, mark.line + 1, mark.column + 1)

    def document(self, text: str, parser: type[yaml.SafeLoader]) -> Value | None:
        self.events = iter(yaml.parse(text, Loader=parser))
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), StreamEndEvent):
            self.mistakes.append(
                self.start.mistake("the document is empty; begin with 'r1pipe: 1'")
            )
            return None
        value = self.value(next(self.events), 0)
        next(self.events)  # the end of the document
        extra = next(self.events)
        if not isinstance(extra, StreamEndEvent):
            message = "a second document; a manifest is one document"
            self.mistakes.append(self.place(extra.start_mark).mistake(message))
        return value

    def value(self, event: Any, depth: int) -> Value:
        origin = self.place(event.start_mark)
        if isinstance(event, AliasEvent):
            return self.alias(event, depth, origin)
        before = self.num_nodes
        self.count(1, depth, origin)
        data: Any
        if isinstance(event, MappingStartEvent):
            data = self.mapping(depth)
        elif isinstance(event, SequenceStartEvent):
            data = self.sequence(depth)
        else:
            data, self.height = self.scalar(event, origin), 0
        value = Value(data, origin)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.num_nodes - before, self.height
        return value

    def alias(self, event: Any, depth: int, origin: Origin) -> Value:
        if event.anchor not in self.anchors:
            self.mistakes.append(origin.mistake(f"*{event.anchor} names no anchor before it"))
            self.height = 0
            return Value(None, origin)
        value, size, self.height = self.anchors[event.anchor]
        self.count(size, depth + self.height, origin)
        return value

    def count(self, nodes: int, depth: int, origin: Origin) -> None:
        """Stop at a document whose aliases or nesting would unfold without end."""
        self.num_nodes += nodes
        if depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            raise _TooLargeError(origin)

    def sequence(self, depth: int) -> list[Value]:
        items, height = [], 0
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.value(event, depth + 1))
            height = max(height, self.height)
        self.height = height + 1
        return items

    def mapping(self, depth: int) -> dict[str, Value]:
        entries: dict[str, Value] = {}
        height = 0
        while not isinstance(event := next(self.events), MappingEndEvent):
            place = self.place(event.start_mark)
            key = self.key(event, depth)
            value = self.value(next(self.events), depth + 1)
            height = max(height, self.height)
            if key is None:
                self.mistakes.append(place.mistake("a key must be plain text"))
            elif key in entries:
                first = entries[key].key_origin
                message = f"duplicate key '{key}', first given at {first}; keep one of the two"
                self.mistakes.append(place.mistake(message))
            else:
                entries[key] = value._replace(key_origin=place)
        self.height = height + 1
        return entries

    def key(self, event: Any, depth: int) -> str | None:
        if isinstance(event, ScalarEvent):
            return joined_pairs(str(event.value))
        self.value(event, depth + 1)
        return None

    def scalar(self, event: Any, origin: Origin) -> Scalar:
        text = str(event.value)
        if not text.isascii():
            text = joined_pairs(text)
        if event.tag not in (None, "!", STR_TAG):
            self.mistakes.append(
                origin.mistake(f"the tag {event.tag} is not supported; leave it out")
            )
        if event.tag is not None or event.style:
            return text
        if NOT_FINITE.fullmatch(text):
            self.mistakes.append(
                origin.mistake(f"{text} is not a finite number; give a finite one")
            )
            return None
        return plain_scalar(text)


class _TooLargeError(Exception):
    """A document past the bounds; caught in `parse_yaml`."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin


def joined_pairs(text: str) -> str:
    """Return a text in which two escapes of a UTF-16 pair, as JSON has them, are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def plain_scalar(text: str) -> Scalar:
    """Return what an unquoted scalar stands for in the core schema.

    >>> [plain_scalar(text) for text in ("1e-6", "17", "no", "true", "~", "1_000", "0x1F")]
    [1e-06, 17, 'no', True, None, '1_000', 31]
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INT.fullmatch(text):
        return int(text)
    if BASED.fullmatch(text):
        return int(text, 0)
    if FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text
