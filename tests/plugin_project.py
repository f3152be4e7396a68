"""The project of docs/plugins.md in a temporary folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import Run

from r1pipe.errors import ManifestError
from r1pipe.manifest import load_manifest
from r1pipe.records import Problem

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)


def make_project(root: Path) -> Path:
    """Write every file that the page shows below `root`; return the path of its manifest."""
    for name, text in BLOCK.findall(PAGE.read_text()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "manifests" / "mine.yaml"


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that is once in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} in {path}"
    path.write_text(text.replace(old, new))


def statuses(r1pipe: Run, manifest: Path) -> dict[str, str]:
    """Return what `plan` says of each stage."""
    code, out, err = r1pipe("plan", str(manifest), "--json")
    assert code == 0, err
    return {stage["name"]: stage["status"] for stage in json.loads(out)["stages"]}


def mistakes(manifest: Path) -> str:
    """Return why a manifest is refused."""
    with pytest.raises(ManifestError) as error:
        load_manifest(manifest)
    return str(error.value)


def near_problem(**meta: str) -> Problem:
    """Return a problem that the page's own checker decides."""
    return Problem("p", "doubling", "twice 2", "4", checker="near", meta=meta)
