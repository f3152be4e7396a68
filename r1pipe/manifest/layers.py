"""Lay a manifest, what it extends, its profile and the overrides over one another.

Precedence: extended manifest < manifest < profile < `--set`. Mappings merge key by key; any other
value replaces what lies below it, and so does a stage of another kind. `null` takes away a stage, a
source or an input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from r1pipe.manifest.recipe import find_manifest
from r1pipe.manifest.yaml_source import Mistake, Origin, Value, parse_yaml, read_yaml, tagged
from r1pipe.text import visible

FORMAT = 1
"""The manifest format that this version reads: `r1pipe: 1`."""
LAYERED = ("params", "sources", "stages")
"""What profiles and overrides may change."""
PARAM_REF = "$params."


@dataclass
class Layers:
    """A manifest being resolved: its tree, what `null` took away, and all mistakes found."""

    tree: Value
    mistakes: list[Mistake]
    removed: set[tuple[str, ...]] = field(default_factory=set)
    profile: str | None = None
    variants: list[Value] = field(default_factory=list)
    """The tree before profile and overrides, and as each profile that was not chosen has it."""

    def lay(self, over: Value, is_new_allowed: bool) -> None:
        """Lay another tree over this one."""
        self.tree = self._merged(self.tree, over, (), is_new_allowed)

    def _merged(self, base: Value, over: Value, path: tuple[str, ...], is_new: bool) -> Value:
        if not (isinstance(base.data, dict) and isinstance(over.data, dict)):
            return replace(over, key_origin=over.key_origin or base.key_origin)
        entries = dict(base.data)
        if not is_new and not path:
            entries = {section: Value({}, over.origin) for section in LAYERED} | entries
        for name, value in over.data.items():
            here = (*path, name)
            if here in self.removed and not is_new:
                continue
            if value.data is None and _is_removable(here):
                self._remove(entries, here, value)
            elif name in entries and not _is_other_kind(here, entries[name], value):
                entries[name] = self._merged(entries[name], value, here, is_new)
            elif not is_new and _is_named(here) and name not in entries:
                self.mistakes.append(_unknown_name(here, value, entries))
            else:
                self.removed.discard(here)
                entries[name] = value
        return Value(entries, base.origin, base.key_origin)

    def _remove(self, entries: dict[str, Value], path: tuple[str, ...], value: Value) -> None:
        if entries.pop(path[-1], None) is None:
            self.mistakes.append(_unknown_name(path, value, entries))
        self.removed.add(path)


def resolve_layers(
    path: Path, profile: str | None, overrides: Sequence[str], mistakes: list[Mistake]
) -> Layers | None:
    """Return a manifest's tree with profile and overrides laid on and `$params` filled in."""
    tree = _read_manifest(path, mistakes, ())
    if tree is None:
        return None
    layers = Layers(Value({}, tree[0].origin), mistakes)
    for layer in tree:
        layers.lay(layer, is_new_allowed=True)
    _lay_profiles(layers, profile)
    for text in overrides:
        if (override := _parse_override(text, mistakes)) is not None:
            layers.lay(override, is_new_allowed=False)
    layers.tree = _filled(layers.tree, mistakes)
    layers.variants = [_filled(variant, mistakes) for variant in layers.variants]
    return layers


def nearest(name: str, choices: Iterable[str], what: str) -> str:
    """Return the end of a message about an unknown name: the nearest choice, or all of them."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; {what}: {', '.join(names)}" if names else f"; there are no {what}"


def _is_named(path: tuple[str, ...]) -> bool:
    """True for the place of a stage, a source or a shared parameter."""
    return len(path) == 2 and path[0] in LAYERED


def _is_other_kind(path: tuple[str, ...], base: Value, over: Value) -> bool:
    """True where a layer gives a stage another kind: it then replaces the stage whole."""
    if len(path) != 2 or path[0] != "stages":
        return False
    kind, new = base.get("kind"), over.get("kind")
    return kind is not None and new is not None and kind.data != new.data


def _is_removable(path: tuple[str, ...]) -> bool:
    is_input = path[0] == "stages" and path[2:3] == ("inputs",) and len(path) in (4, 5)
    return is_input or (len(path) == 2 and path[0] in ("stages", "sources"))


def _unknown_name(path: tuple[str, ...], value: Value, entries: Iterable[str]) -> Mistake:
    what = {"stages": "stage", "sources": "source", "params": "parameter"}[path[0]]
    what = "input" if len(path) > 2 else what
    place = value.key_origin or value.origin
    return place.mistake(f"unknown {what} '{path[-1]}'{nearest(path[-1], entries, what + 's')}")


def _read_manifest(
    path: Path, mistakes: list[Mistake], above: tuple[Path, ...]
) -> list[Value] | None:
    """Return the trees of a manifest and of all that it extends, lowest first."""
    tree = read_yaml(path, mistakes)
    if tree is None:
        return None
    if not isinstance(tree.data, dict):
        mistakes.append(tree.origin.mistake("a manifest is a mapping that begins 'r1pipe: 1'"))
        return None
    if not _is_format_known(tree, mistakes):
        return None
    extends = tree.get("extends")
    if extends is None or not isinstance(extends.data, str):
        return [tree]
    base = find_manifest(path.parent / extends.data)
    if base.resolve() in (seen := (*above, path.resolve())):
        mistakes.append(extends.origin.mistake(f"'{extends.data}' extends itself; leave one out"))
        return [tree]
    if not base.is_file():
        mistakes.append(
            extends.origin.mistake(f"no manifest {base}; a path is relative to this file's folder")
        )
        return None
    below = _read_manifest(base, mistakes, seen)
    return None if below is None else [*below, tree]


def _is_format_known(tree: Value, mistakes: list[Mistake]) -> bool:
    version = tree.get("r1pipe")
    if version is None:
        mistakes.append(tree.origin.mistake("the format is missing; begin with 'r1pipe: 1'"))
        return True
    if type(version.data) is int and version.data > FORMAT:
        mistakes.append(
            version.origin.mistake(
                f"manifest format {version.data} needs an r1pipe that reads it; this one reads"
                f" up to {FORMAT}: upgrade r1pipe"
            )
        )
        return False
    if type(version.data) is not int or version.data < 1:
        mistakes.append(version.origin.mistake("the format must be the number 1: 'r1pipe: 1'"))
    return True


def _lay_profiles(layers: Layers, profile: str | None) -> None:
    """Lay the chosen profile, and before it those that it extends, over the tree."""
    asked, default = profile, layers.tree.get("profile")
    if asked is None and default is not None and isinstance(default.data, str):
        profile = default.data
    profiles = layers.tree.get("profiles")
    known = profiles.entries() if profiles else {}
    if profile is not None and profile not in known:
        message = f"unknown profile '{profile}'{nearest(profile, known, 'profiles')}"
        if asked is None and default is not None:
            layers.mistakes.append(default.origin.mistake(message))
        else:
            layers.mistakes.append(visible(f"--profile {profile}: {message}"))
    layers.profile = profile
    bare = replace(layers, removed=set(layers.removed))
    layers.variants.append(bare.tree)
    for name in known:
        is_chosen = name == profile
        target = layers if is_chosen else replace(bare, removed=set(bare.removed))
        for step in _profile_chain(name, known, layers.mistakes):
            target.lay(tagged(_only_layered(known[step]), step), is_new_allowed=False)
        if not is_chosen:
            layers.variants.append(target.tree)


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


def _only_layered(profile: Value) -> Value:
    entries = {key: value for key, value in profile.entries().items() if key in LAYERED}
    return replace(profile, data=entries)


def _parse_override(text: str, mistakes: list[Mistake]) -> Value | None:
    """Return `stages.X.params.lr=2e-5` as a tree with one leaf."""
    path, equals, value_text = text.partition("=")
    names = path.strip().split(".")
    origin = Origin("--set", 1, 1, set_text=text)
    if not equals or names[0] not in LAYERED or len(names) < 2 or not all(names):
        mistakes.append(
            origin.mistake(
                "write it as stages.STAGE.params.NAME=VALUE, params.NAME=VALUE or"
                " sources.NAME.path=VALUE"
            )
        )
        return None
    value = parse_yaml(value_text, origin, mistakes) if value_text.strip() else Value("", origin)
    if value is None:
        return None
    for name in reversed(names):
        value = Value({name: replace(value, key_origin=origin)}, origin)
    return value


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
            return value if is_same else replace(value, data=entries)
        if isinstance(data, list):
            items = [fill(item) for item in data]
            is_same = all(new is old for new, old in zip(items, data, strict=True))
            return value if is_same else replace(value, data=items)
        if isinstance(data, str) and data.startswith(PARAM_REF):
            return _param(params, value, data, mistakes)
        return value

    filled = {name: fill(part) for name in ("sources", "stages") if (part := tree.get(name))}
    return replace(tree, data={**tree.entries(), **filled})


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
    return replace(found, key_origin=value.key_origin)
