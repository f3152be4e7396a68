"""Read the layers of a manifest: its file, those that it extends, and `--set` texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r1pipe.errors import Mistake
from r1pipe.manifest.expand import laid_over
from r1pipe.manifest.names import path_fault
from r1pipe.manifest.recipe import find_manifest, without_detour
from r1pipe.manifest.yaml_source import Origin, Value, parse_yaml, read_yaml
from r1pipe.text import excerpt, without_passwords

FORMAT = 1
"""The manifest format that this version reads: `r1pipe: 1`."""
MAX_EXTENDED = 40
"""Manifests below one another."""
SETTABLE = ("params", "sources", "defaults", "stages")
"""What `--set` may change."""


def read_manifest(path: Path, mistakes: list[Mistake]) -> list[Value] | None:
    """Return the trees of a manifest and of all that it extends, lowest first."""
    trees: list[Value] = []
    seen: list[Path] = []
    while True:
        tree = read_yaml(path, mistakes)
        if tree is None:
            return None
        if not isinstance(tree.data, dict):
            mistakes.append(tree.origin.mistake("a manifest is a mapping that begins 'r1pipe: 1'"))
            return None
        if not _is_format_known(tree, mistakes):
            return None
        trees.insert(0, tree)
        extends = tree.get("extends")
        if extends is None or not isinstance(extends.data, str):
            return trees
        seen.append(path.resolve())
        base = _base(path, extends, mistakes)
        if base is None:
            return None
        if base.resolve() in seen:
            mistake = f"'{extends.data}' extends itself; leave one out"
        elif len(seen) > MAX_EXTENDED:
            mistake = f"more than {MAX_EXTENDED} manifests extend one another; put some together"
        else:
            path = base
            continue
        mistakes.append(extends.origin.mistake(mistake))
        return trees


def _base(path: Path, extends: Value, mistakes: list[Mistake]) -> Path | None:
    """Return the file that a manifest extends, or None after reporting that there is none."""
    text = str(extends.data)
    fault = path_fault(text)
    try:
        base = None if fault else find_manifest(without_detour(path.parent / text))
        if base is not None and base.exists():
            return base
    except OSError as error:
        fault = error.strerror
    missing = path.parent / text if fault else without_detour(path.parent / text)
    name = excerpt(str(missing), 200)
    message = f"no manifest {name}; a path is relative to this file's folder"
    mistakes.append(extends.origin.mistake(f"{message} ({fault})" if fault else message))
    return None


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


def read_overrides(texts: Sequence[str], mistakes: list[Mistake]) -> Value | None:
    """Return all `--set` texts as one tree, later ones over earlier ones; None if there is none."""
    trees = [tree for text in texts if (tree := _read_override(text, mistakes)) is not None]
    return laid_over(*trees) if trees else None


def _read_override(text: str, mistakes: list[Mistake]) -> Value | None:
    """Return `stages.X.params.lr=2e-5` as a tree with one leaf."""
    path, equals, value_text = text.partition("=")
    names = path.strip().split(".")
    origin = Origin("--set", 1, 1, set_text=without_passwords(text))
    if not equals or names[0] not in SETTABLE or len(names) < 2 or not all(names):
        mistakes.append(
            origin.mistake(
                "write it as stages.STAGE.params.NAME=VALUE, defaults.KIND.params.NAME=VALUE,"
                " params.NAME=VALUE or sources.NAME.path=VALUE"
            )
        )
        return None
    value = parse_yaml(value_text, origin, mistakes) if value_text.strip() else Value("", origin)
    if value is None:
        return None
    for name in reversed(names):
        value = Value({name: value._replace(key_origin=origin)}, origin)
    return value
