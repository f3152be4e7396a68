"""Lay one layer over others: mappings key by key, stages with their defaults and entries.

Any value that is no mapping replaces what is below it, and so do a stage of another kind and an
engine or generator of another backend.
`null` takes away a stage, a source, an input or an entry of `each`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from r1pipe.errors import Mistake
from r1pipe.manifest.expand import (
    Defaults,
    Group,
    are_merged,
    laid_over,
    placed_at,
    split_each,
    without_absent,
)
from r1pipe.manifest.names import nearest
from r1pipe.manifest.yaml_source import Value

LAYERED = ("params", "sources", "stages")
"""Sections whose names only a manifest may add to."""
Path = tuple[str, ...]


class Layer(NamedTuple):
    """One tree to be laid; only a manifest may add stages, sources and parameters."""

    tree: Value
    defaults: Defaults | None
    may_add: bool


@dataclass
class Below:
    """What lower layers leave beside their tree: names taken away, groups, defaults, mistakes."""

    mistakes: list[Mistake]
    removed: set[Path] = field(default_factory=set)
    groups: dict[str, Group] = field(default_factory=dict)
    defaults: list[Defaults] = field(default_factory=list)

    def copy(self) -> Below:
        """Return a copy, for layers that differ from here on."""
        return Below(self.mistakes, set(self.removed), dict(self.groups), list(self.defaults))

    def merged(self, base: Value, over: Value, path: Path, may_add: bool) -> Value:
        """Return a tree with another one over it; `path` leads to it."""
        if not are_merged(base, over):
            if self._takes_from_star(base, over, path):
                return base
            return over._replace(key_origin=over.key_origin or base.key_origin)
        entries = dict(base.entries())
        for name, value in over.entries().items():
            here = (*path, name)
            if here in self.removed and not may_add:
                continue
            if value.data is None and _is_removable(here):
                self.remove(entries, here, value)
            elif name in entries:
                entries[name] = self.merged(entries[name], value, here, may_add)
            elif not may_add and len(here) == 2 and here[0] in LAYERED:
                self.mistakes.append(unknown_name(here, value, entries))
            else:
                self.removed.discard(here)
                entries[name] = value
        if base.origin.path is None or base.origin.path == over.origin.path:
            return Value(entries, base.origin, base.key_origin)
        # no longer only what is at that path: what it lacks is a matter of the words over it
        place = over.key_origin or base.key_origin
        return Value(entries, over.origin._replace(path=None), place)

    def remove(self, entries: dict[str, Value], path: Path, value: Value) -> None:
        """Take away what `null` names."""
        if entries.pop(path[-1], None) is None:
            self.mistakes.append(unknown_name(path, value, [*entries, *self.groups]))
        self.removed.add(path)

    def _takes_from_star(self, base: Value, over: Value, path: Path) -> bool:
        """Report `null` for labels of a star, which is written out when all layers are laid."""
        gone = [label for label, value in over.entries().items() if value.data is None]
        if not (gone and isinstance(base.data, str) and ".*" in base.data and "inputs" in path):
            return False
        group = base.data.partition(".")[0]
        entries = ", ".join(f"{label}: null" for label in gone)
        message = (
            f"{'.'.join(path)} is '{base.data}'; take entries of '{group}' away instead:"
            f" stages: {{{group}: {{each: {{{entries}}}}}}}"
        )
        self.mistakes.append((over.key_origin or over.origin).mistake(message))
        return True


@dataclass
class Words:
    """What a layer says of one stage, lowest first; a new entry of `each` begins as `template`."""

    values: list[Value] = field(default_factory=list)
    template: Value | None = None


class StageMerger:
    """Lays what one layer says of stages over those below."""

    def __init__(self, below: Below, layer: Layer, stages: Mapping[str, Value]) -> None:
        self.below = below
        self.layer = layer
        self.stages = dict(stages)
        self.words: dict[str, Words] = {}

    def lay(self, said: Mapping[str, Value]) -> dict[str, Value]:
        """Return all stages with the layer over them: its defaults, then what it says of each."""
        groups = self.below.groups
        for name, group in groups.items():
            if name not in said:
                groups[name] = group._replace(template=self._laid(group.template, [], name))
        plain = [n for n in said if n not in groups and said[n].get("each") is None]
        for name, value in said.items():
            if name in plain:
                self.words.setdefault(name, Words())
            else:
                self._read_group(name, value, plain)
        for name in plain:
            self.words[name].values.append(said[name])
        for name in dict.fromkeys([*self.stages, *self.words]):
            self._lay_stage(name, self.words.get(name) or Words())
        return self.stages

    def _lay_stage(self, name: str, words: Words) -> None:
        path, base = ("stages", name), self.stages.get(name)
        if self._is_gone(path):
            return
        if words.values and words.values[-1].data is None:
            self.below.remove(self.stages, path, words.values[-1])
        elif words.template is not None:
            self.stages[name] = self._laid(words.template, words.values, name, is_new=True)
        elif base is None and not self.layer.may_add:
            self._unknown(path, words.values[-1])
        elif words.values or self.layer.defaults is not None:
            self.below.removed.discard(path)
            self.stages[name] = self._laid(base, words.values, name)

    def _laid(
        self, base: Value | None, values: Sequence[Value], name: str, is_new: bool = False
    ) -> Value:
        """Return a stage with the layer's defaults and then the layer's words over it.

        One without a kind so far, or of another kind, begins with the defaults of all layers; a new
        entry has this layer's from its template.
        """
        path, old = ("stages", name), _kind_of(base)
        kind = next((kind for value in reversed(values) if (kind := _kind_of(value))), old)
        own = self.layer.defaults
        if values and (base is None or kind != old):
            if base is not None and old is None:
                values = [base, *values]
            parts = [part for each in self.below.defaults if kind and (part := each.of(kind))]
            start = laid_over(*parts) if parts else Value({}, values[-1].origin)
            base = placed_at(start, values[-1])
        elif base is not None and own and not is_new and kind and (part := own.of(kind)):
            base = self.below.merged(base, without_absent(part, base), path, False)
        assert base is not None, f"stage {name} is neither below nor in this layer"
        for value in values:
            base = self.below.merged(base, value, path, self.layer.may_add)
        return base

    def _read_group(self, name: str, value: Value, plain: Sequence[str]) -> None:
        """Take what the layer says of a stage with `each` as words of its entries."""
        path, groups = ("stages", name), self.below.groups
        if self._is_gone(path):
            return
        if value.data is None:
            entries = [f"{name}-{label}" for label in groups.pop(name).labels]
            self.words |= {entry: Words([value]) for entry in entries if entry in self.stages}
            self.below.removed.add(path)
            return
        rest, given = split_each(name, value, self.below.mistakes)
        group = groups.get(name)
        below = group.template if group else self.stages.pop(name, None)
        if below is None and not self.layer.may_add:
            self._unknown(path, value)
            return
        template = self._laid(below, [rest], name)
        group = Group(template, group.labels if group else ())
        for label in group.labels:
            if (entry := f"{name}-{label}") in self.stages and rest.entries():
                self.words.setdefault(entry, Words()).values.append(rest)
        for label, words in given.items():
            self._read_entry(name, group, label, words, plain)
        groups[name] = group._replace(labels=tuple(dict.fromkeys([*group.labels, *given])))

    def _read_entry(
        self, name: str, group: Group, label: str, value: Value, plain: Sequence[str]
    ) -> None:
        """Take what the layer says of one entry, new or not, as words of the stage that it is."""
        entry, place = f"{name}-{label}", value.key_origin or value.origin
        is_known = label in group.labels and entry in self.stages
        if self._is_gone(("stages", entry)):
            return
        if entry in plain:
            message = f"'{entry}' is the entry '{label}' of '{name}' too; keep one of the two"
            self.below.mistakes.append(place.mistake(message))
        elif is_known:
            self.words.setdefault(entry, Words()).values.append(value)
        elif value.data is None:
            end = nearest(label, group.labels, "entries")
            message = f"stages.{name}.each has no entry '{label}' to take away{end}"
            self.below.mistakes.append(place.mistake(message))
        elif entry in self.stages or entry in self.words:
            message = f"stages.{name}.each.{label} would be the stage '{entry}', which is there"
            self.below.mistakes.append(place.mistake(f"{message} already; rename one of the two"))
        else:
            self.words[entry] = Words([value], placed_at(group.template, value))

    def _is_gone(self, path: Path) -> bool:
        """True for what a manifest took away and a profile or an override still names."""
        return path in self.below.removed and not self.layer.may_add

    def _unknown(self, path: Path, value: Value) -> None:
        names = [*self.stages, *self.below.groups]
        self.below.mistakes.append(unknown_name(path, value, names))


def unknown_name(path: Path, value: Value, choices: Iterable[str]) -> Mistake:
    """Return the mistake of a stage, source, parameter or input that is not there."""
    what = {"stages": "stage", "sources": "source", "params": "parameter"}[path[0]]
    what = "input" if len(path) > 2 else what
    place = value.key_origin or value.origin
    return place.mistake(f"unknown {what} '{path[-1]}'{nearest(path[-1], choices, what + 's')}")


def _kind_of(stage: Value | None) -> str | None:
    kind = stage.get("kind") if stage else None
    return kind.data if kind is not None and isinstance(kind.data, str) else None


def _is_removable(path: Path) -> bool:
    is_input = path[0] == "stages" and path[2:3] == ("inputs",) and len(path) in (4, 5)
    return is_input or (len(path) == 2 and path[0] in ("stages", "sources"))
