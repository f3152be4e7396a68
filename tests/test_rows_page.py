"""docs/data.md, "Rows to train on": every example is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from chat_templates import tokenizer_of
from test_import_rows import imported
from tiny import ROOT, save_policy

from r1pipe.data.shapes import SHAPES, detect
from r1pipe.data.training_rows import training_sequences
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.looking import look_at_sources
from r1pipe.records import Row
from r1pipe.train.conversations import TurnEncoder

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Rows to train on")[2]
EXAMPLES: dict[str, list[Row]] = {
    name: [json.loads(line) for line in block.splitlines()]
    for name, block in re.findall(r"^`([\w-]+)`[^\n]*\n```json\n(.*?)```", PAGE, re.M | re.S)
}
PREFERENCES = ("pairs", "labels")


def test_every_shape_has_an_example_and_a_line_in_the_table() -> None:
    known = [shape.name for shape in SHAPES]
    assert sorted(EXAMPLES) == sorted(known)
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M) == known


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_of_its_shape_and_goes_where_the_table_says(
    tmp_path: Path, name: str
) -> None:
    rows = EXAMPLES[name]
    assert {shape.name for row in rows if (shape := detect(row)) is not None} == {name}
    kind = "import-preferences" if name in PREFERENCES else "import-rows"
    for row in rows:
        assert len(imported(tmp_path, [row], kind)[0]) == 1
    if name not in PREFERENCES:
        encoder = TurnEncoder(tokenizer_of("chatml"))
        found, _ = training_sequences(tmp_path / "given.jsonl", encoder, 1000)
        assert len(found) == len(rows)


def test_the_manifest_on_the_page_is_planned(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "m.yaml").write_text(block)
    save_policy(tmp_path / "model")
    write = {"chats.jsonl": "messages", "answers/a.jsonl": "openr1", "pairs.jsonl": "pairs"}
    for file, name in write.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(EXAMPLES[name][0]) + "\n")
    looks = look_at_sources(load_manifest(tmp_path / "m.yaml"), ["rows", "chat", "preferred"])
    assert [look.source for look in looks] == ["answers", "chats", "pairs"]
    assert "conversations, trained at the turns of the assistant" in looks[1].found
