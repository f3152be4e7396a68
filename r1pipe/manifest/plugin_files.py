"""Load the plugins that a manifest names, or report at their place what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from r1pipe.errors import ManifestError, Mistake
from r1pipe.manifest.names import path_fault
from r1pipe.manifest.recipe import without_detour
from r1pipe.manifest.yaml_source import Value
from r1pipe.plugins.files import UserCodeError
from r1pipe.plugins.tables import NONE, Plugins, load_plugins, using
from r1pipe.text import excerpt


def read_plugins(tree: Value, mistakes: list[Mistake]) -> Plugins:
    """Return the plugins under `plugins:`; their paths are relative to the file that says so."""
    section = tree.get("plugins")
    if section is None or not isinstance(section.data, list):
        return NONE
    paths, before = [], len(mistakes)
    for item in section.data:
        if not isinstance(item.data, str):
            continue  # reported by the schema
        if (fault := path_fault(item.data)) is not None:
            mistakes.append(item.origin.mistake(f"plugin '{excerpt(item.data, 80)}': {fault}"))
            continue
        path = without_detour(Path(item.origin.file).parent / Path(item.data).expanduser())
        if path.is_file():
            paths.append(path)
        else:
            text = f"no plugin {path}; a path is relative to this file's folder"
            mistakes.append(item.origin.mistake(text))
    try:
        plugins = load_plugins(paths)
    except UserCodeError as error:
        mistakes.append(Mistake(error.message, *error.place))
        plugins = NONE
    return replace(plugins, is_partial=len(mistakes) > before)


@contextmanager
def reading_with(plugins: Plugins) -> Iterator[None]:
    """Set the plugins for a block that checks a manifest by them."""
    try:
        with using(plugins):
            yield
    except UserCodeError as error:
        raise ManifestError(Mistake(error.message, *error.place)) from error
