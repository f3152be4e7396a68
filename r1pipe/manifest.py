"""A manifest: YAML in, frozen and checked stages in topological order out.

Every mistake is reported at once, with its place, what is wrong and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.defaults import params_without_defaults
from r1pipe.errors import ManifestError, Problem
from r1pipe.graph import topological_order
from r1pipe.kinds import load_kinds
from r1pipe.layers import Layers, nearest, resolve_layers
from r1pipe.recipe import find_manifest, nearest_manifest
from r1pipe.references import Outputs, Ref, read_inputs
from r1pipe.schema import ManifestSpec, SourceSpec
from r1pipe.stage import StageKind, StageModel
from r1pipe.validation import validate
from r1pipe.yaml_source import Mistake, Origin, Value

__all__ = ["Manifest", "Origin", "Ref", "SourceNode", "StageNode", "load_manifest"]


@dataclass(frozen=True)
class SourceNode:
    """Something from outside the store: a local file or folder, or a hub repository."""

    name: str
    path: Path | None
    hf: str | None
    revision: str | None
    type: str
    origin: Origin


@dataclass(frozen=True)
class StageNode:
    """One stage of a manifest, checked against its kind."""

    name: str
    kind: StageKind
    inputs: Mapping[str, Ref | Mapping[str, Ref]]
    params: StageModel
    run: StageModel
    origins: Mapping[str, Origin]
    """Dotted path such as `params.lr` or `inputs.model` -> where its value was written."""

    def key_params(self) -> dict[str, Any]:
        """Return the parameters that differ from their frozen default, as JSON values."""
        return params_without_defaults(self.params)


@dataclass(frozen=True)
class Manifest:
    """A resolved manifest; `stages` is in topological order, ties in the order of the file."""

    path: Path
    name: str
    profile: str | None
    stages: Mapping[str, StageNode]
    sources: Mapping[str, SourceNode]
    overrides: tuple[str, ...] = ()
    """The `--set` texts that it was resolved with."""


def load_manifest(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    kinds: Mapping[str, StageKind] | None = None,
) -> Manifest:
    """Read, resolve and check a manifest, or raise one ManifestError with all its mistakes."""
    path = find_manifest(path)
    if not path.exists():
        raise ManifestError(f"{path}: no such manifest{nearest_manifest(path)}")
    mistakes: list[Mistake] = []
    layers = resolve_layers(path, profile, overrides, mistakes)
    if layers is None:
        raise _error(mistakes)
    kinds = load_kinds(path) if kinds is None else kinds
    spec = validate(ManifestSpec, layers.tree, "", mistakes, _Hint(layers.tree, kinds))
    sources = _read_sources(layers.tree)
    stages = _read_stages(layers, kinds, sources, mistakes)
    if mistakes or spec is None:
        raise _error(mistakes)
    return Manifest(path, spec.name, layers.profile, stages, sources, tuple(overrides))


def _error(mistakes: Sequence[Mistake]) -> ManifestError:
    """Return the error for all mistakes: those with a place in order, then overrides."""
    placed = sorted({item for item in mistakes if isinstance(item, Problem)})
    return ManifestError(*placed, *dict.fromkeys(m for m in mistakes if isinstance(m, str)))


class _Hint:
    """Says where an unknown key of a manifest belongs."""

    def __init__(self, tree: Value, kinds: Mapping[str, StageKind]) -> None:
        self.tree = tree
        self.kinds = kinds

    def __call__(self, path: Sequence[str]) -> str | None:
        if len(path) != 3 or path[0] != "stages":
            return None
        kind = _kind_of(self.tree.get(*path[:2]), self.kinds, [])
        return _home(kind, path[2]) if kind else None


def _home(kind: StageKind, name: str) -> str | None:
    """Say which section of a stage takes a name, or None."""
    sections = {
        "params": kind.params.model_fields,
        "run": kind.run_model.model_fields,
        "inputs": kind.inputs,
    }
    homes = [section for section, names in sections.items() if name in names]
    return f"; it belongs under '{homes[0]}'" if homes else None


def _read_sources(tree: Value) -> dict[str, SourceNode]:
    """Return the well-formed sources; the others have been reported by the schema."""
    nodes = {}
    section = tree.get("sources")
    for name, value in (section.entries() if section else {}).items():
        spec = validate(SourceSpec, value, f"sources.{name}", [])
        if spec is None:
            continue
        origin = value.key_origin or value.origin
        path = None if spec.path is None else _source_path(spec.path, value.get("path"))
        nodes[name] = SourceNode(name, path, spec.hf, spec.revision, spec.as_, origin)
    return nodes


def _source_path(text: str, value: Value | None) -> Path:
    """Return a source's path: relative to the file that says so, or here for an override."""
    path = Path(text).expanduser()
    is_override = value is None or value.origin.set_text is not None
    return path if is_override or value is None else Path(value.origin.file).parent / path


def _kind_of(
    value: Value | None, kinds: Mapping[str, StageKind], mistakes: list[Mistake]
) -> StageKind | None:
    """Return the kind a stage names, or None after reporting that there is none."""
    named = value.get("kind") if value else None
    if named is None or not isinstance(named.data, str):
        return None
    if named.data not in kinds:
        message = f"unknown kind '{named.data}'{nearest(named.data, kinds, 'kinds')}"
        mistakes.append(named.origin.mistake(message))
        return None
    try:
        return kinds[named.data]
    except ManifestError as error:
        mistakes.extend(error.problems)
        return None


def _read_stages(
    layers: Layers,
    kinds: Mapping[str, StageKind],
    sources: Mapping[str, SourceNode],
    mistakes: list[Mistake],
) -> dict[str, StageNode]:
    section = layers.tree.get("stages")
    values = section.entries() if section else {}
    if not values:
        place = section or layers.tree
        mistakes.append(place.origin.mistake("there are no stages; add some under 'stages:'"))
    for name in sources.keys() & values.keys():
        origin = values[name].key_origin or values[name].origin
        mistakes.append(origin.mistake(f"'{name}' is a source too; rename one of the two"))
    found = {name: _kind_of(value, kinds, mistakes) for name, value in values.items()}
    _check_profile_fields(layers, found, mistakes)
    inputs = _read_all_inputs(layers.tree, values, found, sources, mistakes)
    nodes = {
        name: _read_stage(name, values[name], kind, inputs[name], mistakes)
        for name, kind in found.items()
        if kind is not None
    }
    order = topological_order(inputs)
    if order.cycle:
        origin = _origin_of_edge(values[order.cycle[0]], order.cycle[1])
        path = " -> ".join(order.cycle)
        mistakes.append(origin.mistake(f"each stage of this cycle needs the next one: {path}"))
    return {name: node for name in order.names if (node := nodes.get(name)) is not None}


def _read_all_inputs(
    tree: Value,
    values: Mapping[str, Value],
    kinds: Mapping[str, StageKind | None],
    sources: Mapping[str, SourceNode],
    mistakes: list[Mistake],
) -> dict[str, dict[str, Ref | Mapping[str, Ref]]]:
    declared = tree.get("sources")
    outputs = Outputs(
        stages=kinds,
        sources={name: source.type for name, source in sources.items()},
        malformed=frozenset(declared.entries() if declared else ()) - sources.keys(),
    )
    return {
        name: read_inputs(values[name], kind, f"stages.{name}", outputs, mistakes)
        for name, kind in kinds.items()
        if kind is not None
    }


def _read_stage(
    name: str,
    value: Value,
    kind: StageKind,
    inputs: Mapping[str, Ref | Mapping[str, Ref]],
    mistakes: list[Mistake],
) -> StageNode | None:
    def hint(path: Sequence[str]) -> str | None:
        return _home(kind, path[0]) if len(path) == 1 else None

    models = []
    for section, model in (("params", kind.params), ("run", kind.run_model)):
        part = value.get(section) or Value({}, value.origin, value.key_origin)
        if not isinstance(part.data, dict):
            return None  # reported by the schema
        models.append(validate(model, part, f"stages.{name}.{section}", mistakes, hint))
    params, run = models
    if params is None or run is None:
        return None
    origins = {path: item.origin for path, item in value.walk()}
    return StageNode(name, kind, inputs, params, run, origins)


def _origin_of_edge(stage: Value, upstream: str) -> Origin:
    """Return where a stage names another one as its input."""
    for path, value in stage.walk():
        is_name = isinstance(value.data, str) and value.data.partition(".")[0] == upstream
        if path.startswith("inputs.") and is_name:
            return value.origin
    raise AssertionError(f"no input reads {upstream}")


def _check_profile_fields(
    layers: Layers, kinds: Mapping[str, StageKind | None], mistakes: list[Mistake]
) -> None:
    """Report names that no kind has, in the profiles that were not chosen."""
    profiles = layers.tree.get("profiles")
    for profile_name, profile in (profiles.entries() if profiles else {}).items():
        stages = profile.get("stages")
        if profile_name == layers.profile or stages is None:
            continue
        for name, value in stages.entries().items():
            kind = kinds.get(name)
            if kind is not None:
                label = f"profiles.{profile_name}.stages.{name}"
                mistakes.extend(_unknown_fields(value, kind, label))


def _unknown_fields(value: Value, kind: StageKind, label: str) -> Iterator[Mistake]:
    known: dict[str, Any] = {
        "params": kind.params.model_fields,
        "run": kind.run_model.model_fields,
        "inputs": kind.inputs,
        "kind": {},
    }
    for section, item in value.entries().items():
        place = item.key_origin or item.origin
        if section not in known:
            end = _home(kind, section) or nearest(section, known, "keys")
            yield place.mistake(f"unknown key '{section}' in {label}{end}")
            continue
        for name, field in item.entries().items():
            if name not in known[section]:
                end = _home(kind, name) or nearest(name, known[section], section)
                place = field.key_origin or field.origin
                yield place.mistake(f"unknown key '{name}' in {label}.{section}{end}")
