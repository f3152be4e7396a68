"""Read a stage's inputs: plain references `stage`, `stage.output` or `source`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from r1pipe.manifest.layers import nearest
from r1pipe.manifest.yaml_source import Mistake, Value
from r1pipe.stage import Input, StageKind


@dataclass(frozen=True)
class Ref:
    """What an input reads: a source, or one output of a stage."""

    name: str
    output: str | None
    is_source: bool

    def __str__(self) -> str:
        return f"{self.name}.{self.output}" if self.output else self.name


@dataclass(frozen=True)
class Outputs:
    """Everything that can be referred to."""

    stages: Mapping[str, StageKind | None]
    """Stage name -> its kind; None where the kind is unknown, which has been reported."""
    sources: Mapping[str, str]
    """Source name -> its type."""
    malformed: frozenset[str]
    """Sources that exist but are written wrongly, which has been reported."""


def read_inputs(
    stage: Value,
    kind: StageKind,
    label: str,
    outputs: Outputs,
    mistakes: list[Mistake],
    is_partial: bool = False,
) -> dict[str, Ref | Mapping[str, Ref]]:
    """Return a stage's references by input name; report what is missing, unknown or unfit."""
    section = stage.get("inputs")
    given = section.entries() if section else {}
    refs: dict[str, Ref | Mapping[str, Ref]] = {}
    for name, value in given.items():
        if name not in kind.inputs:
            place = value.key_origin or value.origin
            end = nearest(name, kind.inputs, "inputs")
            mistakes.append(place.mistake(f"unknown input '{name}' in {label}{end}"))
            continue
        ref = _read_input(value, kind.inputs[name], f"{label}.inputs.{name}", outputs, mistakes)
        if ref is not None:
            refs[name] = ref
    for name, wanted in kind.inputs.items():
        if name not in given and not wanted.optional and not is_partial:
            place = (section and section.key_origin) or stage.key_origin or stage.origin
            message = f"{label} needs the input '{name}' ({_types(wanted)}); add it under 'inputs'"
            mistakes.append(place.mistake(message))
    return refs


def _read_input(
    value: Value, wanted: Input, label: str, outputs: Outputs, mistakes: list[Mistake]
) -> Ref | Mapping[str, Ref] | None:
    if wanted.many:
        if not value.entries():
            message = f"{label} takes many: write it as {{label: reference, ...}}"
            mistakes.append(value.origin.mistake(message))
            return None
        refs = {
            name: _read_ref(item, wanted, f"{label}.{name}", outputs, mistakes)
            for name, item in value.entries().items()
        }
        return {name: ref for name, ref in refs.items() if ref is not None}
    if isinstance(value.data, dict):
        mistakes.append(value.origin.mistake(f"{label} takes one reference, not a mapping"))
        return None
    return _read_ref(value, wanted, label, outputs, mistakes)


def _read_ref(
    value: Value, wanted: Input, label: str, outputs: Outputs, mistakes: list[Mistake]
) -> Ref | None:
    """Return a checked reference, or None after reporting what is wrong with it."""
    if not isinstance(value.data, str):
        return None  # reported by the schema
    name, _, output = value.data.partition(".")
    if name in outputs.malformed:
        return None
    if name in outputs.sources:
        ref, found = Ref(name, None, is_source=True), outputs.sources[name]
        wrong = f"'{name}' is a source and has no outputs" if output else None
    elif name in outputs.stages:
        kind = outputs.stages[name]
        if kind is None:
            return None
        ref, found, wrong = _stage_output(name, output, kind)
    else:
        names = [*outputs.stages, *outputs.sources]
        wrong = f"{label}: no stage or source '{name}'{nearest(name, names, 'names')}"
        mistakes.append(value.origin.mistake(wrong))
        return None
    fits = found in ((wanted.type,) if isinstance(wanted.type, str) else wanted.type)
    if wrong is None and not fits:
        wrong = f"'{value.data}' is of type {found}, but {label} takes {_types(wanted)}"
    if wrong is not None:
        mistakes.append(value.origin.mistake(wrong))
        return None
    return ref


def _stage_output(name: str, output: str, kind: StageKind) -> tuple[Ref, str, str | None]:
    """Return the reference, the type of what it names, and what is wrong with it."""
    if not output and len(kind.outputs) > 1:
        choices = ", ".join(f"'{name}.{each}'" for each in kind.outputs)
        return Ref(name, None, False), "", f"'{name}' has several outputs; choose one: {choices}"
    output = output or next(iter(kind.outputs))
    if output not in kind.outputs:
        end = nearest(output, kind.outputs, "outputs")
        return Ref(name, output, False), "", f"'{name}' has no output '{output}'{end}"
    return Ref(name, output, is_source=False), kind.outputs[output], None


def _types(wanted: Input) -> str:
    return wanted.type if isinstance(wanted.type, str) else " or ".join(wanted.type)
