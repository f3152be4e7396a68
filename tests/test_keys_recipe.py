"""Every field of every kind in the recipe: `params` decide the key, `run` does not."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError
from test_keys import keys

from r1pipe.keys import canonical_json
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.manifest.defaults import params_without_defaults
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.recipe import recipe_root

ROOT = recipe_root()
assert ROOT is not None, "the tests run in a checkout"
R1 = ROOT / "manifests" / "r1.yaml"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(R1)


def others(annotation: Any, value: Any) -> Iterator[Any]:
    """Yield JSON values of a type that differ from `value`, the likeliest to be valid first."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from others(arguments[0], value)
    elif origin is Literal:
        yield from (choice for choice in arguments if choice != value)
    elif origin in (typing.Union, types.UnionType):
        for each in arguments:
            yield from others(each, value)
        if type(None) in arguments and value is not None:
            yield None
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        yield from (choice.value for choice in annotation if choice != value)
    elif annotation is bool:
        yield not value
    elif annotation in (int, float):
        number = value if isinstance(value, int | float) else 1
        yield from (number + 1, number * 2, number - 1, number / 2 if annotation is float else 0)
    elif annotation is str:
        yield from (f"{value or ''}x", "cuda", "en")
    elif origin in (list, tuple, frozenset, set):
        items = list(value or ())
        yield from ([*items, one] for one in others(arguments[0], items[-1] if items else None))
        yield from (items[:-1], [])
    elif origin is dict:
        table = dict(value or {})
        if table:
            first = next(iter(table))
            yield from (table | {first: one} for one in others(arguments[1], table[first]))
        yield from (
            {**table, name: one}
            for name in ("x", "arithmetic")
            for one in others(arguments[1], None)
        )
    elif _is_model(annotation) and not isinstance(value, dict):
        yield from ({}, *filled(annotation))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def filled(model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Yield values for a model's required fields."""
    needed = {name: f for name, f in model.model_fields.items() if f.is_required()}
    for index in range(4):
        values = {}
        for name, field in needed.items():
            choices = list(others(field.annotation, None)) or [None]
            values[name] = choices[min(index, len(choices) - 1)]
        yield values


def changes(model: type[BaseModel], values: dict[str, Any], path: str = "") -> Iterator[Any]:
    """Yield (path, candidate values of the whole model) for every field, nested ones too."""
    for name, field in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        nested = [
            each
            for each in (field.annotation, *typing.get_args(field.annotation))
            if _is_model(each)
        ]
        if nested and isinstance(values[name], dict):
            for deeper, candidates in changes(nested[0], values[name], here):
                yield deeper, [values | {name: one} for one in candidates]
        else:
            yield here, [values | {name: one} for one in others(field.annotation, values[name])]


def valid_changes(instance: BaseModel) -> Iterator[tuple[str, BaseModel | None]]:
    """Yield, for every field, a valid instance in which it differs (None where none was found)."""
    model = type(instance)
    values = instance.model_dump(mode="json")
    for path, candidates in changes(model, values):
        found = None
        for candidate in candidates:
            try:
                other = model.model_validate_json(json.dumps(candidate))
            except ValidationError:
                continue
            if other != instance:
                found = other
                break
        yield path, found


def test_every_params_field_of_the_recipe_changes_the_key(manifest: Manifest) -> None:
    count, untried = 0, []
    for node in manifest.stages.values():
        plain = canonical_json(node.key_params())
        for path, changed in valid_changes(node.params):
            count += 1
            if changed is None:
                untried.append(f"{node.kind.kind}: {path}")
                continue
            text = canonical_json(params_without_defaults(changed))
            assert text != plain, f"{node.name}: params.{path} is not in the key"
    assert count > 100
    assert untried == []


def test_no_run_field_of_the_recipe_changes_a_key(manifest: Manifest) -> None:
    overrides, count = [], 0
    for node in manifest.stages.values():
        for path, changed in valid_changes(node.run):
            assert changed is not None, f"{node.kind.kind}: run.{path}"
            value: Any = changed.model_dump(mode="json")
            for name in path.split("."):
                value = value[name]
            overrides.append(f"stages.{node.name}.run.{path}={json.dumps(value)}")
            count += 1
    changed_manifest = load_manifest(R1, overrides=overrides)
    assert count > 10
    assert keys(changed_manifest) == keys(manifest)


@pytest.mark.parametrize("kind", sorted(load_kinds(R1)))
def test_the_models_of_every_kind_are_frozen_strict_and_closed(kind: str) -> None:
    found = load_kinds(R1)[kind]
    assert found.version >= 1
    for model in (found.params, found.run_model):
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["strict"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: Path(path).stem
)
def test_every_manifest_resolves_in_every_profile(path: Path) -> None:
    from r1pipe.manifest.layers import resolve_layers

    mistakes: list[Any] = []
    layers = resolve_layers(path, None, (), mistakes)
    assert layers is not None, mistakes
    profiles = layers.tree.get("profiles")
    for profile in (None, *(profiles.entries() if profiles else ())):
        assert load_manifest(path, profile=profile).stages
