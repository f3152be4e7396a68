"""The project of docs/plugins.md in a temporary folder."""

from __future__ import annotations

import re
from pathlib import Path

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
