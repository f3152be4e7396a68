"""The manifest that a command means where none is named."""

from __future__ import annotations

from pathlib import Path

from r1pipe.errors import ManifestError
from r1pipe.text import visible

RECIPE = Path("manifests/r1.yaml")


def default_manifest() -> Path:
    """Return the only manifest in `manifests/` of the current folder; else the recipe's.

    So a project made by `r1pipe init` needs no name as long as it has one manifest.
    """
    found = _manifests()
    return found[0] if len(found) == 1 else RECIPE


def meant_manifest() -> Path:
    """Return the default manifest where no other can be meant.

    Raises ManifestError for a folder with several, none of which is the recipe: r1pipe's own would
    run in their place.
    """
    found = _manifests()
    if len(found) > 1 and RECIPE not in found:
        names = ", ".join(visible(path.name) for path in found)
        first = visible(str(found[0]))
        raise ManifestError(
            f"{RECIPE.parent}/ has several manifests ({names}); say which one: {first}"
        )
    return default_manifest()


def _manifests() -> list[Path]:
    """Return the manifests in `manifests/` of the current folder, by name."""
    return sorted(p for p in RECIPE.parent.glob("*.y*ml") if p.suffix in (".yaml", ".yml"))
