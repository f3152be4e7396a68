"""What `plan` says of training rows from outside, and what it costs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_forms import lines, parquet
from data_forms import place as put
from test_import_rows import source
from tiny import FakeContext, save_policy, stage, tokenizer

from r1pipe.costs.estimate import make_estimator
from r1pipe.costs.sources import source_info
from r1pipe.costs.work import DatasetInfo, RowsInfo
from r1pipe.errors import ArtifactError, SourceError, StageError
from r1pipe.manifest import Manifest, Origin, SourceNode, load_manifest
from r1pipe.pipeline.looking import look_at_sources
from r1pipe.records import Message, Row
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs
from r1pipe.store.store import Store
from r1pipe.supervision.reward_model import encode_scored

ASK, SAY = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = {"prompt": [SYSTEM, ASK], "chosen": [SAY], "rejected": [SAY | {"content": "6"}]}
OPTIMIZER = "optimizer: {lr: 1e-3}"
SFT = f"{{seed: 1, num_epochs: 1, batch_size: 2, max_tokens: 99, {OPTIMIZER}}}"
STAGES = f"""
  sft: {{kind: sft, inputs: {{model: base, rows: given}}, params: {SFT}}}
  import: {{kind: import-rows, inputs: {{source: data}}}}
  preferences: {{kind: import-preferences, inputs: {{source: data}}}}
  mix: {{kind: mix, inputs: {{reasoning: given, general: given}},
    params: {{seed: 1, reasoning_rows: 5, general_rows: 5}}}}
  clean: {{kind: decontaminate, inputs: {{rows: given, held_out: {{x: given}}}}}}
  rm: {{kind: reward-model, inputs: {{model: base, rows: given}}, params: {{seed: 1, num_epochs: 1,
    batch_size: 2, objective: pairwise, reads: completion, {OPTIMIZER}}}}}
"""


def manifest(tmp_path: Path, rows: list[Row] | None) -> Manifest:
    """Return a manifest of stages that read a file of rows (or a folder of r1pipe's own)."""
    path = source(tmp_path, rows) if rows is not None else tmp_path / "own"
    (tmp_path / "m.yaml").write_text(
        f"r1pipe: 1\nname: m\nsources:\n  given: {{path: {path}, as: rows}}\n"
        f"  data: {{path: {path}, as: dataset}}\n  base: {{path: {tmp_path}/base, as: model}}\n"
        f"stages:{STAGES}"
    )
    return load_manifest(tmp_path / "m.yaml")


def found(tmp_path: Path, rows: list[Row] | None, name: str) -> str:
    """Return what one stage finds in its source."""
    return look_at_sources(manifest(tmp_path, rows), [name])[0].found


@pytest.mark.parametrize("name", ["sft", "import"])
def test_plan_names_the_shape_and_what_is_made_of_it(tmp_path: Path, name: str) -> None:
    rows: list[Row] = [{"messages": [ASK, SAY]}, {"messages": None}]
    assert found(tmp_path, rows, name) == (
        "given.jsonl (JSON lines): conversations, trained at the turns of the assistant; of the"
        " first 2 rows 1 are usable: 1 x messages is null, not a list of messages (first at"
        " given.jsonl:2)"
    )


def test_plan_names_pairs(tmp_path: Path) -> None:
    assert found(tmp_path, [PAIR], "preferences") == (
        "given.jsonl (JSON lines): pairs of a better and a worse answer to a prompt; the first 1"
        " rows are usable"
    )


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("sft", [{"text": "once"}], r"'given', for sft: .*columns are text, which is no shape"),
        ("sft", [PAIR], r"preferences .* a stage of kind import-preferences reads them"),
        ("sft", [{"prompt": "", "completion": ""}], r"none of the first 1 rows is usable: 1 x pro"),
        (
            "sft",
            [{"prompt": "a", "completion": "b", "format": "alpaca"}],
            r"given\.jsonl:1: format 'alpaca' is none that r1pipe wrote",
        ),
        ("import", [PAIR], r"kind import-preferences reads them"),
        ("preferences", [{"messages": [ASK, SAY]}], r"kind import-rows reads them"),
        ("mix", [{"messages": [ASK, SAY]}], r"put a stage of kind import-rows between"),
        ("clean", [{"messages": [ASK, SAY]}], r"put a stage of kind import-rows between"),
        ("rm", [PAIR], r"put a stage of kind import-preferences between"),
    ],
)
def test_plan_refuses_rows_that_a_stage_cannot_read(
    tmp_path: Path, name: str, rows: list[Row], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        found(tmp_path, rows, name)


def test_own_rows_without_a_column_are_refused_by_plan_and_by_the_stage(tmp_path: Path) -> None:
    write_rows(tmp_path / "own", [{"prompt": "a", "completion": "b", "format": "chat"}])
    for name, kind in (("mix", "import-rows"), ("rm", "import-preferences")):
        match = rf"its rows have no column (problem_id|chosen).*put a stage of kind {kind} between"
        with pytest.raises(SourceError, match=match):
            found(tmp_path, None, name)
    assert found(tmp_path, None, "clean") == "1 of r1pipe's own rows"
    assert found(tmp_path, None, "sft").startswith("r1pipe's Parquet: r1pipe's own rows")
    mix = stage("mix")
    params = mix.params(seed=1, reasoning_rows=5, general_rows=5)
    inputs = Inputs({"reasoning": tmp_path / "own", "general": tmp_path / "own"})
    with pytest.raises(ArtifactError, match=r"no column problem_id, task, language"):
        mix.run(FakeContext(tmp_path / "work"), params, mix.run_model(), inputs)


@pytest.mark.parametrize("rows", [[{"messages": [ASK, SAY]}] * 30, [PAIR] * 30])
def test_every_stage_has_a_cost_whatever_the_rows_are(tmp_path: Path, rows: list[Row]) -> None:
    save_policy(tmp_path / "base")
    read = manifest(tmp_path, rows)
    estimator = make_estimator(read, Store(tmp_path / "store"), {})
    for name in ("sft", "import", "preferences", "rm"):
        assert estimator.estimate(name).disk_bytes.high > 0
    written = estimator.cost("import").outputs["rows"]
    assert isinstance(written, RowsInfo)
    assert written.num_rows.high == 30


def test_the_rows_of_json_lines_and_parquet_are_counted_for_the_cost(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": "a", "completion": "b"}] * 7
    forms = {"a.jsonl": lines(rows), "data/train-00000-of-00002.parquet": parquet(rows)}
    forms["data/test-00000-of-00001.parquet"] = parquet(rows)
    put(tmp_path, forms)
    place = Origin("m.yaml", 1, 1)
    parts = [("a.jsonl", None, 7), ("data", "train", 7), ("data", None, None), ("gone", None, None)]
    for name, split, count in parts:
        node = SourceNode("x", tmp_path / name, None, None, "dataset", place, split=split)
        assert source_info(node)[0] == DatasetInfo(count)


# ---- pairs of conversations train a reward model -------------------------------------------------


def reward_model(tmp_path: Path, rows: Path, **params: Any) -> FakeContext:
    kind, context = stage("reward-model"), FakeContext(tmp_path / "rm")
    values = {"seed": 1, "num_epochs": 1, "batch_size": 2, "objective": "pairwise"}
    chosen = kind.params(**values | params, reads="completion", optimizer={"lr": 1e-3})
    inputs = Inputs({"model": tmp_path / "base", "rows": rows})
    kind.run(context, chosen, kind.run_model(), inputs)
    return context


def test_imported_pairs_of_messages_train_a_reward_model(tmp_path: Path) -> None:
    save_policy(tmp_path / "base")
    kind, context = stage("import-preferences"), FakeContext(tmp_path / "work")
    (tmp_path / "p.jsonl").write_bytes(
        lines([PAIR, {"prompt": "1+1?"} | {"chosen": "2"} | {"rejected": "3"}])
    )
    kind.run(context, kind.params(), kind.run_model(), Inputs({"source": tmp_path / "p.jsonl"}))
    rows = context.output("rows")
    assert [row["messages"] is None for row in read_rows(rows)] == [False, True]
    assert reward_model(tmp_path, rows).notes["num_examples"] == 2
    with pytest.raises(ArtifactError, match=r"no column completion .*params\.objective"):
        reward_model(tmp_path, rows, objective="pointwise")


def test_a_prompt_of_several_turns_is_scored_as_the_template_shows_it() -> None:
    turns = [Message("user", "1+1?"), Message("assistant", "2"), Message("user", "+1?")]
    scored = encode_scored(tokenizer(), turns, "3", "completion")
    assert tokenizer().decode([*scored.prompt_ids, *scored.completion_ids]) == (
        "<|user|>1+1?<|assistant|>2<|end|><|user|>+1?<|assistant|>3<|end|>"
    )
    plain = encode_scored(tokenizer(), "1+1?", "2", "completion")
    assert encode_scored(tokenizer(), turns[:1], "2", "completion") == plain


def test_folders_of_others_may_have_r1pipes_file_names(tmp_path: Path) -> None:
    put(tmp_path / "own", {"part-00000-c000.parquet": parquet([{"messages": [ASK, SAY]}])})
    assert found(tmp_path, None, "sft").startswith("part-00000-c000.parquet (Parquet): conversat")
    (tmp_path / "own" / "part-00000-c000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"part-00000-c000\.parquet"):
        found(tmp_path, None, "sft")


def test_a_cut_shard_of_r1pipe_is_told(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "format": "chat"}
    write_rows(tmp_path / "own", [row] * 4, rows_per_shard=2)
    second = tmp_path / "own" / "part-00001.parquet"
    second.write_bytes(second.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"part-00001\.parquet: it cannot be read after row 0"):
        found(tmp_path, None, "sft")


def test_missing_files_are_told_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(SourceError, match=r"no file in it holds rows"):
        found(tmp_path, None, "sft")
    with pytest.raises(StageError, match=r"not rows as r1pipe writes them"):
        stage("mix").look(None, Inputs({"reasoning": tmp_path / "own"}))
