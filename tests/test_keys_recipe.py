"""Every field of every kind: `params` decide the key, `run` does not."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import fake_trackers
import pytest
from pydantic import BaseModel, ValidationError
from test_keys import keys

from r1pipe.backends import Backends
from r1pipe.keys import canonical_json
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.nodes import params_without_defaults
from r1pipe.manifest.recipe import recipe_root

ROOT = recipe_root()
assert ROOT is not None, "the tests run in a checkout"
R1 = ROOT / "manifests" / "r1.yaml"
OPENING: tuple[dict[str, Any], ...] = (
    {"generator": {"backend": "openai", "url": "http://localhost:1"}},
    {"generator": {"backend": "vllm"}},
    {"generator": {"backend": "vllm", "cluster": "ray"}},
    {"engine": {"backend": "deepspeed", "num_processes": 2, "zero_stage": 3}},
    {"temperature": 1.0},
    {"format": {"think": ["<t>", "</t>"], "answer": "boxed"}},
    {"objective": "pairwise"},
    {"sampler_truncation": 2.0, "kl_in": "loss"},
    {"advantage": "group", "ratio": "token", "kl_in": "loss", "process": None},
    {"preference": None, "adaback": None, "r3": None, "dynamic_sampling": None},
    {"shares": {"x": 1.0}, "reasoning_rows": None, "general_rows": None},
    {"shares": {}, "num_rows": None, "reasoning_rows": 5, "general_rows": 5},
)
"""Values that other fields need before they can be changed."""
ONE_VALUE = {"top_p", "columns.rules", "add_tags", "adapter.dropout"}
"""Fields that have no second value: what a stage does not do, how it reads, a former name."""
ONE_VALUE_OF = {"PpoParams": {"dynamic_sampling"}}
"""Those of single models."""


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(R1)


def others(annotation: Any, value: Any) -> Iterator[Any]:  # noqa: C901 - one case for each type
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
        half = number / 2 if annotation is float else 0
        yield from (number + 1, number * 2, number - 1, half, number + 2)
    elif annotation is str:
        yield from (f"{value or ''}x", "cuda", "en", "judge")
    elif origin in (list, tuple, frozenset, set):
        items = list(value or ())
        if arguments == (float, float):  # a range
            yield [max(items, default=0) + number for number in range(1, 1 + len(arguments))]
        yield from ([*items, one] for one in others(arguments[0], items[-1] if items else None))
        yield from (items[:-1], [])
    elif origin is dict:
        table = dict(value or {})
        if table:
            first = next(iter(table))
            yield from (table | {first: one} for one in others(arguments[1], table[first]))
        is_given = typing.get_origin(arguments[0]) is Literal
        names = typing.get_args(arguments[0])[:2] if is_given else ("x", "arithmetic")
        yield from ({**table, name: one} for name in names for one in others(arguments[1], None))
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
        tables = [each for each in field.metadata if isinstance(each, Backends)]
        if tables:  # of which class the settings are, their backend says
            nested = [tables[0].settings(values[name]["backend"])]
            yield f"{here}.backend", [values | {name: {"backend": b}} for b in tables[0].table]
        if nested and isinstance(values[name], dict):
            for deeper, candidates in changes(nested[0], values[name], here):
                if not (tables and deeper.endswith(".backend")):
                    yield deeper, [values | {name: one} for one in candidates]
        else:
            yield here, [values | {name: one} for one in others(field.annotation, values[name])]


def valid_changes(instance: BaseModel) -> Iterator[tuple[str, BaseModel, BaseModel]]:
    """Yield, for every field that has two valid values, two instances that differ in it alone."""
    model = type(instance)
    missing = {path for path, _ in changes(model, plain(instance))}
    opened = (valid(model, plain(instance) | values) for values in OPENING)
    for base in (instance, *(each for each in opened if each is not None)):
        for path, candidates in changes(model, plain(base)):
            found = [each for one in candidates if (each := valid(model, one)) not in (None, base)]
            if path in missing and found:
                missing.discard(path)
                yield path, base, found[0]
    one_value = ONE_VALUE | ONE_VALUE_OF.get(model.__name__, set())
    assert missing <= one_value, f"no valid change was found for {sorted(missing)} of {model}"


def plain(instance: BaseModel) -> dict[str, Any]:
    return instance.model_dump(mode="json")


def valid(model: type[BaseModel], values: dict[str, Any]) -> BaseModel | None:
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError:
        return None


def instance_of(model: type[BaseModel]) -> BaseModel:
    """Return some valid instance."""
    tried = (valid(model, values) for values in filled(model))
    return next(each for each in tried if each is not None)


def params_of_every_kind() -> Iterator[tuple[str, BaseModel]]:
    """Yield the params of every stage of every manifest, and of the kinds that none of them has."""
    seen = set()
    for path in sorted(R1.parent.rglob("*.yaml")):
        for node in load_manifest(path).stages.values():
            seen.add(node.kind.kind)
            yield node.kind.kind, node.params
    for kind, found in load_kinds(R1).items():
        if kind not in seen:
            yield kind, instance_of(found.params)


def test_every_params_field_of_every_kind_changes_the_key() -> None:
    seen, tried = set[str](), set[bytes]()
    for kind, params in params_of_every_kind():
        seen.add(kind)
        if (asked := canonical_json([kind, plain(params)])) in tried:
            continue
        tried.add(asked)
        for path, base, changed in valid_changes(params):
            before, after = params_without_defaults(base), params_without_defaults(changed)
            assert canonical_json(before) != canonical_json(after), f"{kind}: params.{path}"
    assert seen == set(load_kinds(R1))


def test_no_run_field_of_the_recipe_changes_a_key(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trackers.install(monkeypatch)
    overrides: dict[str, list[str]] = {}
    for node in manifest.stages.values():
        for path, _, changed in valid_changes(node.run):
            beside = getattr(changed, "incompatible_with", None)  # what the manifest refuses
            if beside is not None and beside(node.params) is not None:
                continue
            was = plain(node.run)
            for name, value in plain(changed).items():
                if value != was[name]:
                    text = f"stages.{node.name}.run.{name}={json.dumps(value)}"
                    overrides.setdefault(path, []).append(text)
    assert len(overrides) > 10
    in_bfloat16 = [
        f"stages.{node.name}.params.precision=bfloat16"
        for node in manifest.stages.values()
        if "precision" in type(node.params).model_fields
    ]
    flash = overrides.pop("engine.attention")  # which computes in no other precision
    in_flash = load_manifest(R1, overrides=[*in_bfloat16, *flash])
    assert keys(in_flash) == keys(load_manifest(R1, overrides=in_bfloat16))
    before = keys(manifest)
    for path, texts in overrides.items():
        assert keys(load_manifest(R1, overrides=texts)) == before, f"run.{path}"


@pytest.mark.parametrize("kind", sorted(load_kinds(R1)))
def test_the_models_of_every_kind_are_frozen_strict_and_closed(kind: str) -> None:
    found = load_kinds(R1)[kind]
    assert found.version >= 1
    for model in (found.params, found.run_model):
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["strict"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "manifests").rglob("*.yaml")), ids=lambda path: Path(path).stem
)
def test_every_manifest_resolves_in_every_profile(path: Path) -> None:
    from r1pipe.manifest.layers import resolve_layers

    mistakes: list[Any] = []
    resolution = resolve_layers(path, None, (), load_kinds(path), mistakes)
    assert resolution is not None, mistakes
    profiles = resolution.chosen.tree.get("profiles")
    for profile in (None, *(profiles.entries() if profiles else ())):
        assert load_manifest(path, profile=profile).stages
