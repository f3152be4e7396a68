"""Find the manifests and stage files that come with r1pipe.

An installed wheel carries them inside the package, a checkout beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from r1pipe.text import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
STORE_NAME = "artifacts"
MANIFESTS = "manifests"


def recipe_root() -> Path | None:
    """Return the folder that holds r1pipe's own `stages/` and `manifests/`, if there is one."""
    for root in (PACKAGE / "_recipe", PACKAGE.parent):
        if (root / "stages").is_dir() and (root / "manifests").is_dir():
            return root
    return None


def path_in(file: Path, path: Path) -> Path:
    """Return a path that a manifest names: it counts from the manifest's folder.

    In an installed copy, in which nobody can put anything, from the `manifests/` of this folder.
    """
    installed = PACKAGE / "_recipe" / MANIFESTS
    if path.is_absolute() or not (where := file.resolve()).is_relative_to(installed):
        return without_detour(file.parent / path)
    here = Path(MANIFESTS) / where.relative_to(installed).parent
    return Path(os.path.normpath(here / path))


def without_detour(path: Path) -> Path:
    """Return `data/a` for `manifests/../data/a`, unless `manifests` is a link to elsewhere."""
    short = Path(os.path.normpath(path))
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def find_manifest(path: Path) -> Path:
    """Return `path`, or r1pipe's own copy if `path` is `manifests/X` and does not exist."""
    root, folder = recipe_root(), _manifests_folder(path)
    if path.exists() or root is None or folder is None:
        return path
    own = root / MANIFESTS / path.relative_to(folder)
    return own if own.is_file() else path


def nearest_manifest(path: Path) -> str:
    """Return the end of a message about a manifest that does not exist: which ones there are."""
    root = recipe_root()
    folders = [path.parent, *([root / "manifests"] if root else [])]
    names = sorted({found.name for folder in folders for found in folder.glob("*.yaml")})

    def place(name: str) -> str:
        beside = path.with_name(name)
        is_elsewhere = root is not None and not beside.exists()
        return str(Path(MANIFESTS) / name if is_elsewhere else beside)

    return f"; {did_you_mean(path.name, names, shown=place)}" if names else ""


def stage_folders(manifest: Path) -> list[Path]:
    """Return where a manifest's kinds of stage are looked for, in that order."""
    manifest = manifest.resolve()
    beside = (_manifests_folder(manifest) or manifest.parent).parent / "stages"
    root = recipe_root()
    folders = [beside, root / "stages"] if root else [beside]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def project_root(manifest: Path) -> Path:
    """Return the folder above a manifest's `manifests/` folder; else the current one.

    One that is not here, so that r1pipe's own copy is read, belongs to the current folder.
    """
    folder = _manifests_folder(manifest.resolve())
    return folder.parent if folder is not None and manifest.is_file() else Path()


def _manifests_folder(manifest: Path) -> Path | None:
    """Return the nearest folder named `manifests/` above a manifest, if there is one."""
    return next((folder for folder in manifest.parents if folder.name == MANIFESTS), None)


def default_store(manifest: Path) -> Path:
    """Return the default store of a manifest."""
    return project_root(manifest) / STORE_NAME
