"""Check values against a model and say in plain words, at the value's place, what is wrong."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from r1pipe.backends import UNKNOWN, Backends
from r1pipe.errors import Mistake
from r1pipe.manifest.names import PARAM_REF, nearest
from r1pipe.manifest.yaml_source import Origin, Value

ModelT = TypeVar("ModelT", bound=BaseModel)
Loc = tuple[int | str, ...]
Hint = Callable[[Sequence[str]], str | None]
"""Given the path of an unknown key, returns where it belongs, or None."""

NEEDS_ALL = ("missing", "value_error", "assertion_error", "union_tag_not_found")
"""Errors that another value may mend."""
CHOICE = re.compile(r"'([^']*)'")
"""A name in pydantic's list of what a key may be."""
MAX_SHOWN_CHARS = 60
EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "union_tag_invalid": "a mapping whose {discriminator} is one of {expected_tags}",
    "union_tag_not_found": "a mapping with {discriminator}",
}


def validate(
    model: type[ModelT],
    value: Value,
    label: str,
    mistakes: list[Mistake],
    hint: Hint = lambda path: None,
    is_partial: bool = False,
) -> ModelT | None:
    """Return the model made of a tree, or None after reporting all that is wrong with it.

    JSON rules apply: a list will do for a tuple and text for an enum, but text never for a number.
    In a partial tree nothing is missing, and values are not checked against one another.
    """
    try:
        return model.model_validate_json(json.dumps(value.plain()))
    except ValidationError as error:
        report = _Report(model, value, label, hint, is_partial)
        for item in error.errors(include_url=False):
            if not (is_partial and item["type"] in NEEDS_ALL):
                report.add(item)
        mistakes.extend(report.mistakes())
        return None


def show_value(value: object) -> str:
    """Return a value as it would be written, cut to a line."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


class _Report:
    """Collects pydantic's errors; those of a union's branches at one place become one."""

    def __init__(
        self, model: type[BaseModel], value: Value, label: str, hint: Hint, is_partial: bool
    ) -> None:
        self.model = model
        self.value = value
        self.label = label
        self.hint = hint
        self.is_partial = is_partial
        self.expected: dict[tuple[str, ...], tuple[Value, list[str]]] = {}
        self.others: list[Mistake] = []

    def add(self, error: Mapping[str, Any]) -> None:
        found, path, rest = self._locate(error["loc"])
        kind = error["type"]
        if kind == "missing":
            self._missing(found, path, str(rest[-1]) if rest else "")
        elif kind == "extra_forbidden":
            self._unknown_key(found, path, error["loc"])
        elif kind == UNKNOWN:
            self._unknown_backend(found, path, error["loc"])
        elif rest[-1:] == ("[key]",):
            self._wrong_key(found, path, error)
        elif kind in EXPECTED:
            wanted = EXPECTED[kind].format(**error.get("ctx", {}))
            self.expected.setdefault(path, (found, []))[1].append(wanted)
        elif kind in ("value_error", "assertion_error"):
            text = str(error["ctx"]["error"])
            self._add_other(found.origin, f"{self._label(found, path)}: {text}")
        else:
            text = error["msg"][:1].lower() + error["msg"][1:]
            shown = show_value(found.plain())
            self._add_other(found.origin, f"{self._label(found, path)} is {shown}: {text}")

    def mistakes(self) -> list[Mistake]:
        wrong = []
        for path, (found, wanted) in self.expected.items():
            data = found.plain()
            is_filled = bool(self.label) or path[:1] in (("sources",), ("stages",))
            if is_filled and isinstance(data, str) and data.startswith(PARAM_REF):
                continue  # it names no parameter, which has been reported
            text = " or ".join(dict.fromkeys(wanted))
            message = f"{self._label(found, path)} should be {text}, not {show_value(data)}"
            wrong.append(found.origin.mistake(message + _advice(wanted, data)))
        return [*wrong, *dict.fromkeys(self.others)]

    def _locate(self, loc: Loc) -> tuple[Value, tuple[str, ...], Loc]:
        """Follow a location as far as the tree goes; names of union branches are passed over."""
        found, path = self.value, list[str]()
        rest: list[int | str] = []
        for step in loc:
            data = found.data
            if isinstance(data, dict) and str(step) in data:
                found = data[str(step)]
            elif isinstance(data, list) and isinstance(step, int) and step < len(data):
                found = data[step]
            else:
                rest.append(step)
                continue
            path.append(str(step))
        return found, tuple(path), tuple(rest)

    def _dotted(self, found: Value, path: Sequence[str]) -> str:
        return found.label(".".join([self.label, *path] if self.label else path))

    def _label(self, found: Value, path: Sequence[str]) -> str:
        return self._dotted(found, path) or "the manifest"

    def _around(self, found: Value, path: Sequence[str]) -> str:
        """Return what holds a key."""
        return self._dotted(found, path).removesuffix(path[-1]).rstrip(".") or "the manifest"

    def _add_other(self, place: Origin, message: str) -> None:
        self.others.append(place.mistake(message))

    def _missing(self, found: Value, path: tuple[str, ...], name: str) -> None:
        place = found.key_origin or found.origin
        label = ".".join(filter(None, (self._dotted(found, path), name)))
        self._add_other(place, f"{label} is missing and has no default")

    def _wrong_key(self, found: Value, path: tuple[str, ...], error: Mapping[str, Any]) -> None:
        """Report a name of the wrong form, or one that is none of those that a mapping takes."""
        place, key = found.key_origin or found.origin, path[-1]
        choices = CHOICE.findall(str(error.get("ctx", {}).get("expected", "")))
        if not choices:
            self._add_other(place, f"the name '{key}' may hold letters, digits, - and _ only")
            return
        field = path[-2] if len(path) > 1 else ""
        what = field.removesuffix("s") if field.endswith("s") else "key"
        end = nearest(key, choices, f"{what}s")
        self._add_other(place, f"unknown {what} '{key}' in {self._around(found, path)}{end}")

    def _unknown_key(self, found: Value, path: tuple[str, ...], loc: Loc) -> None:
        place = found.key_origin or found.origin
        where = self._around(found, path)
        table = _table_at(self.model, loc[:-2])
        owners = table.owners(path[-1]) if table else []
        if table and owners:
            settings = self.value.get(*path[:-1])
            assert settings is not None, "an unknown key is a key of a mapping"
            if not (self.is_partial and settings.get("backend") is None):
                self._add_other(place, f"{where}: {_of_another(table, path[-1], owners, loc[-2])}")
            return
        belongs = self.hint(path)
        if belongs is None:
            models = _models_at(self.model, loc[:-1])
            if table:
                models = [table.settings(str(loc[-2]))]
            names = [name for model in models for name in _names(model)]
            belongs = nearest(path[-1], names, "keys")
        self._add_other(place, f"unknown key '{path[-1]}' in {where}{belongs}")

    def _unknown_backend(self, found: Value, path: tuple[str, ...], loc: Loc) -> None:
        table = _table_at(self.model, loc)
        assert table is not None, "only a table says so"
        named = found.get("backend")
        if named is None:
            text = (
                f"{self._dotted(found, path)} should be a mapping, not {show_value(found.plain())}"
            )
            self._add_other(found.origin, text)
        else:
            choices = nearest(str(named.data), table.table, "backends")
            where, shown = self._dotted(found, path), show_value(named.plain())
            text = f"unknown backend {shown} in {where}{choices}"
            self._add_other(named.origin, text)


def _of_another(table: Backends[Any], option: str, owners: Sequence[str], tag: int | str) -> str:
    """Say which backends have an option that was given to another one."""
    whose = " and ".join(owners)
    choices = " or ".join(f"set backend: {owner}" for owner in owners)
    return (
        f"{option} is an option of backend {whose}; this {table.role} is {tag}."
        f" Leave it out, or {choices}"
    )


def _advice(wanted: Sequence[str], data: Any) -> str:
    """Say how to write what was probably meant."""
    is_number = any(text in ("a whole number", "a number") for text in wanted)
    if is_number and isinstance(data, str):
        try:
            return f"; write {json.dumps(json.loads(data.replace('_', '').replace(',', '')))}"
        except ValueError:
            return ""
    if is_number and isinstance(data, float) and data == int(data):
        return f"; write {int(data)}"
    if "true or false" in wanted and data in ("yes", "no", "on", "off"):
        return "; in YAML 1.2 that is text"
    return ""


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_at(model: type[BaseModel], loc: Loc) -> list[type[BaseModel]]:
    """Return the models that may be at a location inside a model."""
    models = [model]
    for step in loc:
        below = [
            inner
            for outer in models
            for name, field in outer.model_fields.items()
            if step in (name, field.alias)
            for inner in _models_in(field.annotation)
        ]
        models = below or models
    return models


def _table_at(model: type[BaseModel], loc: Loc) -> Backends[Any] | None:
    """Return the table of backends of the field at a location inside a model."""
    if not loc:
        return None
    fields = [outer.model_fields.get(str(loc[-1])) for outer in _models_at(model, loc[:-1])]
    metadata = [item for field in fields if field for item in field.metadata]
    return next((item for item in metadata if isinstance(item, Backends)), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
