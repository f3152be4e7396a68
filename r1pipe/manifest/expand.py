"""`defaults`, `each`, stars and `targets`: what a manifest says of several stages at once.

`defaults` and `each` are written out layer by layer (`layers.py`); stars and `targets` come last,
when all layers are laid. Every value keeps the place where it was written, and its path there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from r1pipe.errors import ManifestError, Mistake
from r1pipe.manifest.names import NAME_PATTERN, nearest
from r1pipe.manifest.yaml_source import Value, at_path
from r1pipe.stage import StageKind

SECTIONS = ("inputs", "params", "run")
ANY_KIND = "*"
STAR = re.compile(r"(?P<group>[^.*]+)\.\*(?P<output>(\..+)?)")


class Defaults:
    """The `defaults` of one layer."""

    def __init__(self, value: Value, kinds: Mapping[str, StageKind]) -> None:
        self.value = at_path(value, "defaults")
        self.kinds = kinds
        self._by_kind: dict[str, Value | None] = {}

    def of(self, kind: str) -> Value | None:
        """Return what they say of a kind: of `"*"` the fields that it has, then its own."""
        if kind not in self._by_kind:
            parts = [self.fitting(kind), _sections(self.value.get(kind))]
            found = [part for part in parts if part is not None and part.entries()]
            self._by_kind[kind] = laid_over(*found) if found else None
        return self._by_kind[kind]

    def fitting(self, kind: str) -> Value | None:
        """Return what `"*"` says of fields that a kind has; None if the kind cannot be loaded."""
        part = _sections(self.value.get(ANY_KIND))
        try:
            fields = fields_of(self.kinds[kind])
        except (KeyError, ManifestError):
            return None  # reported where a stage names it
        if part is None:
            return None
        sections = {
            name: section._replace(data=chosen)
            for name, section in part.entries().items()
            if (chosen := {f: v for f, v in section.entries().items() if f in fields[name]})
        }
        return part._replace(data=sections)


def fields_of(kind: StageKind) -> dict[str, Collection[str]]:
    """Return what each section of a stage of this kind may hold."""
    params, run = kind.params.model_fields, kind.run_model.model_fields
    return {"inputs": kind.inputs, "params": params, "run": run}


def _sections(value: Value | None) -> Value | None:
    """Return the well-formed sections; the others are reported by the schema."""
    if value is None:
        return None
    entries = value.entries().items()
    parts = {name: part for name, part in entries if name in SECTIONS and part.entries()}
    return value._replace(data=parts)


def laid_over(*values: Value) -> Value:
    """Return values laid over one another, lowest first: mappings key by key, others whole."""
    below, *others = values
    for over in others:
        if are_merged(below, over):
            entries = dict(below.entries())
            for name, value in over.entries().items():
                entries[name] = laid_over(entries[name], value) if name in entries else value
            below = below._replace(data=entries)
        else:
            below = over
    return below


def are_merged(below: Value, over: Value) -> bool:
    """Return whether a value goes into the one below it: both are mappings, of one `backend`."""
    if not (isinstance(below.data, dict) and isinstance(over.data, dict)):
        return False
    old, new = below.get("backend"), over.get("backend")
    return old is None or new is None or old.data == new.data


def placed_at(stage: Value, own: Value) -> Value:
    """Return a stage from `defaults` or a template whose place is that of a stage's own words.

    What it lacks is then reported there. An input that it takes away is left out.
    """
    here = own.origin._replace(path=None)
    entries = dict(stage.entries())
    for name in SECTIONS:
        if (part := entries.get(name)) is None or not isinstance(part.data, dict):
            continue
        at = own.get(name)
        place = (at.origin._replace(path=None), at.key_origin) if at else (here, own.key_origin)
        is_input = name == "inputs"
        kept = {k: v for k, v in part.data.items() if not (is_input and v.data is None)}
        entries[name] = Value(kept, *place)
    return Value(entries, here, own.key_origin)


def without_absent(default: Value, stage: Value) -> Value:
    """Return `default` without the inputs that it would take away from a stage that lacks them."""
    inputs, present = default.get("inputs"), stage.get("inputs")
    if inputs is None or all(value.data is not None for value in inputs.entries().values()):
        return default
    own = present.entries() if present else {}
    kept = {k: v for k, v in inputs.entries().items() if v.data is not None or k in own}
    return default._replace(data={**default.entries(), "inputs": inputs._replace(data=kept)})


class Group(NamedTuple):
    """A stage with `each`: the entries' labels, and the template that an entry is laid over."""

    template: Value
    labels: tuple[str, ...] = ()


def split_each(name: str, stage: Value, mistakes: list[Mistake]) -> tuple[Value, dict[str, Value]]:
    """Return a stage without `each`, and the entries of its `each` by label."""
    label = f"stages.{name}"
    rest = {key: value for key, value in stage.entries().items() if key != "each"}
    each = stage.get("each")
    entries: dict[str, Value] = {}
    if not isinstance(stage.data, dict):
        mistakes.append(stage.origin.mistake(f"{label} should be a mapping"))
    elif each is not None and not each.entries():
        message = f"{label}.each has no entries; write it as {{LABEL: {{...}}, ...}}"
        mistakes.append(each.origin.mistake(message))
    for key, value in each.entries().items() if each else ():
        place = value.key_origin or value.origin
        if not re.match(NAME_PATTERN, key):
            mistakes.append(
                place.mistake(f"the name '{key}' may hold letters, digits, - and _ only")
            )
        elif value.data is not None and not isinstance(value.data, dict):
            mistakes.append(value.origin.mistake(f"{label}.each.{key} should be a mapping or null"))
        else:
            entries[key] = at_path(value, f"{label}.each.{key}")
    return at_path(stage._replace(data=rest), label), entries


Groups = Mapping[str, Mapping[str, str]]
"""Stage with `each` -> {label of an entry: the stage that it is}."""


def with_stars(
    tree: Value, groups: Groups, kinds: Mapping[str, StageKind], mistakes: list[Mistake]
) -> Value:
    """Write every input `NAME.*.OUTPUT` out as {LABEL: NAME-LABEL.OUTPUT}."""
    section = tree.get("stages")
    stages = dict(section.entries()) if section else {}
    if section is None or not stages:
        return tree
    for name, stage in stages.items():
        inputs = stage.get("inputs")
        entries = dict(inputs.entries()) if inputs else {}
        stars = {
            key: star
            for key, value in entries.items()
            if isinstance(value.data, str) and (star := STAR.fullmatch(value.data))
        }
        if not stars or inputs is None:
            continue
        for key, star in stars.items():
            wrong = _wrong_star(star, groups) or _wrong_taker(stage, key, star, kinds)
            if wrong is not None:
                where = entries[key].origin.path or f"stages.{name}.inputs.{key}"
                mistakes.append(entries[key].origin.mistake(f"{where}: {wrong}"))
                continue
            value = entries[key]
            written = {
                label: value._replace(data=f"{entry}{star['output']}")
                for label, entry in groups[star["group"]].items()
            }
            entries[key] = value._replace(data=written)
        read = inputs._replace(data=entries)
        stages[name] = stage._replace(data={**stage.entries(), "inputs": read})
    return tree._replace(data={**tree.entries(), "stages": section._replace(data=stages)})


def _wrong_star(star: re.Match[str], groups: Groups) -> str | None:
    name = star["group"]
    if name not in groups:
        end = nearest(name, groups, "stages with 'each'")
        return f"no stage '{name}' with 'each', as '{star.string}' says{end}"
    if not groups[name]:
        return f"'{star.string}' names nothing: every entry of '{name}' was taken away"
    return None


def _wrong_taker(
    stage: Value, key: str, star: re.Match[str], kinds: Mapping[str, StageKind]
) -> str | None:
    """Say that an input takes one reference, if it does; what is unknown is reported elsewhere."""
    named = stage.get("kind")
    try:
        taken = kinds[str(named.data if named else None)].inputs.get(key)
    except (KeyError, ManifestError):
        return None
    if taken is None or taken.many:
        return None
    return f"takes one reference, and '{star.string}' stands for several; name one stage"


def only_targets(tree: Value, groups: Groups, mistakes: list[Mistake]) -> Value:
    """Leave out the stages that no stage of `targets` needs; a name with `each` is all entries."""
    targets, section = tree.get("targets"), tree.get("stages")
    if targets is None or section is None or not isinstance(targets.data, list):
        return tree
    stages = section.entries()
    names: list[str] = []
    for target in targets.data:
        if not isinstance(target.data, str):
            return tree  # reported by the schema
        if target.data in groups:
            names.extend(groups[target.data].values())
        elif target.data in stages:
            names.append(target.data)
        else:
            end = nearest(target.data, [*stages, *groups], "stages")
            mistakes.append(target.origin.mistake(f"no stage '{target.data}' to be a target{end}"))
            return tree
    if not names:
        mistakes.append(targets.origin.mistake("'targets' is empty; name a stage or leave it out"))
        return tree
    needed: set[str] = set()
    while names:
        if (name := names.pop()) in stages and name not in needed:
            needed.add(name)
            names.extend(_read_by(stages[name]))
    kept = {name: stage for name, stage in stages.items() if name in needed}
    return tree._replace(data={**tree.entries(), "stages": section._replace(data=kept)})


def _read_by(stage: Value) -> Iterable[str]:
    inputs = stage.get("inputs")
    for _, value in inputs.walk() if inputs else ():
        if isinstance(value.data, str):
            yield value.data.partition(".")[0]
