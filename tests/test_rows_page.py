"""docs/data.md, "Rows to train on": the table, and the manifest, which is planned."""

from __future__ import annotations

import json
import re
from pathlib import Path

from test_your_data import examples
from tiny import ROOT, save_policy

from r1pipe.data.shapes import SHAPES, detect
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.looking import look_at_sources
from r1pipe.records import Row

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Rows to train on")[2]


def test_every_shape_has_a_line_in_the_table_and_an_example_on_the_page() -> None:
    known = [shape.name for shape in SHAPES]
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M) == known
    found = [shape.name for row in examples().values() if (shape := detect(row)) is not None]
    assert set(found) == set(known)


def example(name: str) -> Row:
    """Return the first example of a shape."""
    rows = examples().values()
    return next(row for row in rows if (found := detect(row)) is not None and found.name == name)


def test_the_manifest_on_the_page_is_planned(tmp_path: Path) -> None:
    block = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0]
    (tmp_path / "m.yaml").write_text(block)
    save_policy(tmp_path / "model")
    write = {"chats.jsonl": "messages", "answers/a.jsonl": "openr1", "pairs.jsonl": "pairs"}
    for file, name in write.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(example(name)) + "\n")
    looks = look_at_sources(load_manifest(tmp_path / "m.yaml"), ["rows", "chat", "preferred"])
    assert [look.source for look in looks] == ["answers", "chats", "pairs"]
    assert "conversations, trained at the turns of the assistant" in looks[1].found
