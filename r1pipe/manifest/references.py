"""Read a stage's inputs: plain references `stage`, `stage.output` or `source`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from r1pipe.errors import Mistake
from r1pipe.manifest.expand import STAR, Groups
from r1pipe.manifest.names import nearest
from r1pipe.manifest.yaml_source import Origin, Value
from r1pipe.stage import Input, StageKind


class Ref(NamedTuple):
    """What an input reads: a source, or one output of a stage."""

    name: str
    output: str | None
    is_source: bool

    def __str__(self) -> str:
        return f"{self.name}.{self.output}" if self.output else self.name


class Outputs(NamedTuple):
    """The stages and sources that references can name."""

    stages: Mapping[str, StageKind | None]
    """Stage name -> its kind; None if the kind is unknown, which has been reported."""
    sources: Mapping[str, str]
    """Source name -> its type."""
    malformed: frozenset[str]
    """Sources that exist but are written wrongly, which has been reported."""
    groups: Groups
    """Stages with `each`, which stand for their entries."""


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
            mistakes.append(unknown_input(name, value, kind, label))
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


def unknown_input(name: str, value: Value, kind: StageKind, label: str) -> Mistake:
    """Return the mistake of an input that a kind does not have."""
    where = value.label(f"{label}.inputs.{name}").removesuffix(f".inputs.{name}")
    end = nearest(name, kind.inputs, "inputs")
    place = value.key_origin or value.origin
    return place.mistake(f"unknown input '{name}' in {where}{end}")


def _read_input(
    value: Value, wanted: Input, label: str, outputs: Outputs, mistakes: list[Mistake]
) -> Ref | Mapping[str, Ref] | None:
    label = value.label(label)
    if isinstance(value.data, str) and STAR.fullmatch(value.data):
        return None  # reported when stars were written out
    if not wanted.many and isinstance(value.data, dict):
        mistakes.append(value.origin.mistake(f"{label} takes one reference, not a mapping"))
        return None
    if not wanted.many:
        return _read_ref(value, wanted, label, outputs, mistakes)
    if not value.entries():
        message = f"{label} takes many: write it as {{label: reference, ...}}"
        mistakes.append(value.origin.mistake(message))
        return None
    refs: dict[str, Ref] = {}
    reported: set[Origin] = set()
    for name, item in value.entries().items():
        wrong: list[Mistake] = []
        ref = _read_ref(item, wanted, f"{label}.{name}", outputs, wrong)
        if wrong and item.origin not in reported:  # once for all that a star stands for
            mistakes.extend(wrong)
            reported.add(item.origin)
        if ref is not None:
            refs[name] = ref
    return refs


def _read_ref(
    value: Value, wanted: Input, label: str, outputs: Outputs, mistakes: list[Mistake]
) -> Ref | None:
    """Return a checked reference, or None after reporting what is wrong with it."""
    if not isinstance(value.data, str):
        return None  # reported by the schema
    label = value.label(label)
    name, _, output = value.data.partition(".")
    if name in outputs.malformed:
        return None
    if name in outputs.groups and name not in outputs.stages:
        mistakes.append(
            value.origin.mistake(_several(value.data, name, outputs.groups[name], label))
        )
        return None
    if name in outputs.sources:
        ref, type_ = Ref(name, None, is_source=True), outputs.sources[name]
        wrong = f"'{name}' is a source and has no outputs" if output else None
    elif name in outputs.stages:
        kind = outputs.stages[name]
        if kind is None:
            return None
        ref, type_, wrong = _stage_output(name, output, kind)
    else:
        names = [*outputs.stages, *outputs.sources]
        wrong = f"{label}: no stage or source '{name}'{nearest(name, names, 'names')}"
        mistakes.append(value.origin.mistake(wrong))
        return None
    fits = type_ in ((wanted.type,) if isinstance(wanted.type, str) else wanted.type)
    if wrong is None and not fits:
        wrong = f"'{value.data}' is of type {type_}, but {label} takes {_types(wanted)}"
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


def _several(text: str, name: str, entries: Mapping[str, str], label: str) -> str:
    """Return the message about a reference to a stage with `each`."""
    if "*" in text:
        return f"{label}: '{text}' stands for all references; write it in place of the mapping"
    names = ", ".join(entries.values()) or "none is left"
    return f"{label}: '{name}' stands for several stages; name one of them: {names}"


def _types(wanted: Input) -> str:
    return wanted.type if isinstance(wanted.type, str) else " or ".join(wanted.type)
