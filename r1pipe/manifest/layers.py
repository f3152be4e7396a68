"""Lay a manifest, what it extends, its profile and the overrides over one another.

Precedence: extended manifest < manifest < profile < ablation < `--set`, and in each of these
`defaults` below what is said of a stage. Stars, `targets` and `$params` are resolved when all
layers are laid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from r1pipe.errors import Mistake
from r1pipe.manifest.documents import read_manifest, read_overrides
from r1pipe.manifest.expand import Defaults, Groups, only_targets, with_stars
from r1pipe.manifest.merging import LAYERED, Below, Layer, StageMerger
from r1pipe.manifest.names import PARAM_REF, nearest
from r1pipe.manifest.yaml_source import Value, in_profile
from r1pipe.stage import StageKind
from r1pipe.text import visible

PROFILED = (*LAYERED, "targets")
"""Sections that a profile lays over a manifest, beside its defaults."""


@dataclass(frozen=True)
class Resolved:
    """A tree with all layers laid, and the entries of its stages with `each`."""

    tree: Value
    groups: Groups = field(default_factory=dict)


class Resolution(NamedTuple):
    """The tree of a manifest and a profile, and what else is to be checked."""

    chosen: Resolved
    profile: str | None
    variants: list[Resolved]
    """The tree before profile and overrides, as each profile that was not chosen has it, and, where
    no ablation was chosen, as each of them has it."""
    defaults: list[Defaults]
    """Those of all layers."""


@dataclass
class Layers:
    """Layers laid over one another."""

    tree: Value
    below: Below
    kinds: Mapping[str, StageKind]
    outdated: dict[str, frozenset[str]] = field(default_factory=dict)
    """Stages that a manifest gave another kind -> the files below it. What profiles in those files
    say of them was said of the kind before, and does not hold any more."""

    def kinds_of_stages(self) -> dict[str, object]:
        """Return the kind of each stage that has one."""
        section = self.tree.get("stages")
        stages = section.entries() if section else {}
        return {name: kind.data for name in stages if (kind := stages[name].get("kind"))}

    def copy(self) -> Layers:
        """Return a copy that may differ from here on."""
        return replace(self, below=self.below.copy())

    def lay(self, layer: Layer) -> None:
        """Lay another layer over these."""
        tree, said = self.tree, layer.tree.get("stages")
        if layer.defaults is not None:
            self.below.defaults.append(layer.defaults)
        missing = {name: Value({}, tree.origin) for name in LAYERED if tree.get(name) is None}
        others = {name: part for name, part in layer.tree.entries().items() if name != "stages"}
        base = tree if layer.may_add else tree._replace(data={**tree.entries(), **missing})
        tree = self.below.merged(base, layer.tree._replace(data=others), (), layer.may_add)
        if said is not None or layer.defaults is not None:
            stages = self._stages(tree.get("stages"), said, layer)
            tree = tree._replace(data={**tree.entries(), **stages})
        self.tree = tree

    def _stages(self, below: Value | None, said: Value | None, layer: Layer) -> dict[str, Value]:
        """Return the section with a layer over it; one that is no mapping is left to the schema."""
        if said is not None and not isinstance(said.data, dict):
            return {"stages": said}
        merger = StageMerger(self.below, layer, below.entries() if below else {})
        entries = merger.lay(said.entries() if said else {})
        is_mapping = below is not None and isinstance(below.data, dict)
        section = below if is_mapping else said
        return {} if section is None else {"stages": section._replace(data=entries)}

    def finished(self) -> Resolved:
        """Return the tree with stars, `targets` and `$params` resolved."""
        section = self.tree.get("stages")
        stages = section.entries() if section else {}
        groups = {
            name: {each: entry for each in group.labels if (entry := f"{name}-{each}") in stages}
            for name, group in self.below.groups.items()
        }
        tree = with_stars(self.tree, groups, self.kinds, self.below.mistakes)
        tree = only_targets(tree, groups, self.below.mistakes)
        return Resolved(_filled(tree, self.below.mistakes), groups)


def resolve_layers(
    path: Path,
    profile: str | None,
    overrides: Sequence[str],
    kinds: Mapping[str, StageKind],
    mistakes: list[Mistake],
    ablation: str | None = None,
) -> Resolution | None:
    """Return a manifest's tree with all layers laid on and references filled in."""
    documents = read_manifest(path, mistakes)
    if documents is None:
        return None
    layers = Layers(Value({}, documents[0].origin), Below(mistakes), kinds)
    for number, document in enumerate(documents):
        before = layers.kinds_of_stages()
        layers.lay(_layer(document, kinds, may_add=True))
        for name, kind in layers.kinds_of_stages().items():
            if before.get(name, kind) != kind:
                layers.outdated[name] = frozenset(each.origin.file for each in documents[:number])
    profile = _chosen_profile(layers.tree, profile, mistakes)
    variants = _lay_profiles(layers, profile) + _lay_ablations(layers, ablation)
    if (override := read_overrides(overrides, mistakes)) is not None:
        layers.lay(_layer(override, kinds))
    chosen, *others = [each.finished() for each in (layers, *variants)]
    defaults = dict.fromkeys(each for one in (layers, *variants) for each in one.below.defaults)
    return Resolution(chosen, profile, others, list(defaults))


def _layer(tree: Value, kinds: Mapping[str, StageKind], may_add: bool = False) -> Layer:
    defaults = tree.get("defaults")
    return Layer(tree, Defaults(defaults, kinds) if defaults else None, may_add)


def _chosen_profile(tree: Value, asked: str | None, mistakes: list[Mistake]) -> str | None:
    """Return the profile that was asked for, or the manifest's own."""
    default = tree.get("profile")
    profile, profiles = asked, tree.get("profiles")
    if asked is None and default is not None and isinstance(default.data, str):
        profile = default.data
    known = profiles.entries() if profiles else {}
    if profile is not None and profile not in known:
        message = f"unknown profile '{profile}'{nearest(profile, known, 'profiles')}"
        if asked is None and default is not None:
            mistakes.append(default.origin.mistake(message))
        else:
            mistakes.append(Mistake(visible(f"--profile {profile}: {message}")))
    return profile


def _lay_profiles(layers: Layers, profile: str | None) -> list[Layers]:
    """Lay the chosen profile, after those that it extends; return the layers of the others."""
    profiles = layers.tree.get("profiles")
    known = profiles.entries() if profiles else {}
    steps = {name: _profile_layer(name, known[name], layers) for name in known}
    bare = layers.copy()
    variants = [bare.copy()]
    for name in known:
        target = layers if name == profile else bare.copy()
        for step in _profile_chain(name, known, layers.below.mistakes):
            target.lay(steps[step])
        if target is not layers:
            variants.append(target)
    return variants


def _lay_ablations(layers: Layers, chosen: str | None) -> list[Layers]:
    """Lay the ablation that is chosen; if none is, return the layers of each, to be checked."""
    section = layers.tree.get("ablations", "without")
    known = section.entries() if section else {}
    if chosen is not None:
        if chosen not in known:
            message = f"unknown ablation '{chosen}'{nearest(chosen, known, 'ablations')}"
            layers.below.mistakes.append(Mistake(visible(message)))
        else:
            layers.lay(_layer_over(known[chosen], layers))
        return []
    variants = []
    for value in known.values():
        variants.append(layers.copy())
        variants[-1].lay(_layer_over(value, layers))
    return variants


def _profile_layer(name: str, profile: Value, layers: Layers) -> Layer:
    """Return a profile as a layer; the schema checks the shape of its defaults in the profile."""
    return _layer_over(in_profile(profile, name), layers)


def _layer_over(tree: Value, layers: Layers) -> Layer:
    """Return a profile or an ablation as a layer, without what holds no more of a stage."""
    entries = {key: value for key, value in tree.entries().items() if key in PROFILED}
    if (stages := entries.get("stages")) is not None and isinstance(stages.data, dict):
        said = {
            stage: words
            for stage, value in stages.data.items()
            if (words := _still_said(value, layers.outdated.get(stage, frozenset()))) is not None
        }
        entries["stages"] = stages._replace(data=said)
    return _layer(tree, layers.kinds)._replace(tree=tree._replace(data=entries))


def _still_said(stage: Value, outdated: Collection[str]) -> Value | None:
    """Return what a profile says of a stage without the words of outdated files; None for nothing.

    Words that give it a kind themselves hold.
    """
    if not outdated or stage.get("kind") is not None or stage.data is None:
        return stage

    def rest(value: Value) -> Value | None:
        if not isinstance(value.data, dict):
            return None if value.origin.file in outdated else value
        kept = {key: new for key, item in value.data.items() if (new := rest(item)) is not None}
        return value._replace(data=kept) if kept else None

    return rest(stage)


def _profile_chain(name: str, known: Mapping[str, Value], mistakes: list[Mistake]) -> list[str]:
    """Return a profile and those that it extends, lowest first."""
    chain = [name]
    while (extends := known[chain[0]].get("extends")) is not None:
        base = extends.data
        if not isinstance(base, str):
            break
        if base not in known:
            message = f"unknown profile '{base}'{nearest(base, known, 'profiles')}"
            mistakes.append(extends.origin.mistake(message))
            break
        if base in chain:
            mistakes.append(extends.origin.mistake(f"profile '{base}' extends itself"))
            break
        chain.insert(0, base)
    return chain


def _filled(tree: Value, mistakes: list[Mistake]) -> Value:
    """Replace each whole value `$params.x` in stages and sources by the parameter.

    A part without such a value stays the same object, so that it need not be checked again.
    """
    params = tree.get("params") or Value({}, tree.origin)

    def fill(value: Value) -> Value:
        data = value.data
        if isinstance(data, dict):
            entries = {key: fill(item) for key, item in data.items()}
            is_same = all(entries[key] is data[key] for key in data)
            return value if is_same else value._replace(data=entries)
        if isinstance(data, list):
            items = [fill(item) for item in data]
            is_same = all(new is old for new, old in zip(items, data, strict=True))
            return value if is_same else value._replace(data=items)
        if isinstance(data, str) and data.startswith(PARAM_REF):
            return _param(params, value, data, mistakes)
        return value

    filled = {name: fill(part) for name in ("sources", "stages") if (part := tree.get(name))}
    return tree._replace(data={**tree.entries(), **filled})


def _param(params: Value, value: Value, text: str, mistakes: list[Mistake]) -> Value:
    """Return the parameter that a value refers to, or the value after reporting that it is not."""
    name = text.removeprefix(PARAM_REF)
    found = params.get(*name.split("."))
    if found is None:
        message = f"unknown parameter '{text}'{nearest(name, params.entries(), 'params')}"
        mistakes.append(value.origin.mistake(message))
        return value
    if isinstance(found.data, str) and found.data.startswith(PARAM_REF):
        message = f"'{text}' is '{found.data}', which refers further; give its value"
        mistakes.append(found.origin.mistake(message))
    return found._replace(key_origin=value.key_origin)
