"""Stages around the training: the mix, tokenizer and base, models from outside, evaluation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FakeContext, corpus_rows, model, problems, save_policy, stage, tokenizer

from r1pipe import chat
from r1pipe.errors import Interrupted, StageError
from r1pipe.models.policy import load_tokenizer
from r1pipe.models.tokenizer import TAGS
from r1pipe.records import Problem
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.stage import Inputs

# ---- mix -----------------------------------------------------------------------------------------


def mix(tmp_path: Path, reasoning: list[Any], general: list[Any], **quotas: int) -> FakeContext:
    for name, rows in (("reasoning", reasoning), ("general", general)):
        write_rows(tmp_path / name, rows, schema=None)
    kind = stage("mix")
    params = kind.params(**({"seed": 1, "reasoning_rows": 100, "general_rows": 100} | quotas))
    context = FakeContext(tmp_path / "work")
    inputs = {name: tmp_path / name for name in ("reasoning", "general")}
    kind.run(context, params, kind.run_model(), Inputs(inputs))
    return context


def test_the_mix_keeps_each_distinct_row_once_and_names_its_part(tmp_path: Path) -> None:
    reasoning, general = corpus_rows(20, "chat", seed=1), corpus_rows(10, "chat", seed=2)
    context = mix(tmp_path, [*reasoning, *reasoning[:5]], general)
    rows = list(read_rows(context.output("rows")))
    marks = [(row["prompt"], row["completion"]) for row in rows if row["source"] == "reasoning"]
    assert sorted(marks) == sorted({(r["prompt"], r["completion"]) for r in reasoning})
    assert sum(context.notes["tasks"].values()) == len(rows)
    sources = [row["source"] for row in rows]
    assert sources != sorted(sources, reverse=True), "not one part behind the other"
    assert context.notes["tasks"] == dict(Counter(row["task"] for row in rows))


def test_each_part_is_taken_up_to_its_quota_and_shortfalls_are_told(tmp_path: Path) -> None:
    reasoning, general = corpus_rows(20, "chat", seed=1), corpus_rows(3, "chat", seed=2)
    context = mix(tmp_path, reasoning, general, reasoning_rows=7, general_rows=50)
    sources = Counter(row["source"] for row in read_rows(context.output("rows")))
    assert sources == {"reasoning": 7, "general": 3}
    assert context.notes["reasoning_short_of_quota"] == 0
    assert context.notes["general_short_of_quota"] == 47


def test_a_mix_of_nothing_is_an_error(tmp_path: Path) -> None:
    rows = corpus_rows(2, "chat")
    with pytest.raises(StageError, match="both parts are empty"):
        mix(tmp_path, rows, rows, reasoning_rows=0, general_rows=0)


# ---- tokenizer and base --------------------------------------------------------------------------


def test_the_tokenizer_stage_makes_the_same_tokenizer_each_time(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", corpus_rows(40))
    kind = stage("tokenizer")
    texts = []
    for name in ("a", "b"):
        context = FakeContext(tmp_path / name)
        inputs = {"rows": {"corpus": tmp_path / "rows"}}
        kind.run(context, kind.params(vocab_size=330), kind.run_model(), Inputs(inputs))
        folder = context.output("tokenizer")
        texts.append((folder / "tokenizer.json").read_text())
    assert texts[0] == texts[1]
    made = load_tokenizer(folder)
    assert len(made) <= 330
    assert made.chat_template == chat.CHAT_TEMPLATE
    assert [made.decode(made(tag)["input_ids"]) for tag in TAGS] == list(TAGS)


def pretrain(tmp_path: Path, name: str, **changes: Any) -> FakeContext:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    write_rows(tmp_path / "rows", corpus_rows(12))
    kind = stage("pretrain")
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    params = kind.params(
        seed=1,
        architecture={**sizes, "intermediate_size": 32},
        batch_size=4,
        optimizer={"lr": 1e-3},
        **changes,
    )
    context = FakeContext(tmp_path / name)
    inputs = {"tokenizer": tmp_path / "tokenizer", "rows": tmp_path / "rows"}
    kind.run(context, params, kind.run_model(), Inputs(inputs))
    return context


def test_pretraining_uses_the_rows_it_may_use(tmp_path: Path) -> None:
    whole, some = pretrain(tmp_path, "whole"), pretrain(tmp_path, "some", max_rows=8)
    assert (whole.notes["num_rows"], len(whole.logged)) == (12, 3)
    assert (some.notes["num_rows"], len(some.logged)) == (8, 2)


def test_a_fresh_base_is_a_function_of_its_seed_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = model(1)
    assert torch.equal(torch.rand(3), expected)
    weights = [policy.lm_head.weight for policy in (first, model(1), model(2))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.lm_head.weight is first.model.embed_tokens.weight


# ---- evaluation ----------------------------------------------------------------------------------


def evaluate(tmp_path: Path, name: str, **options: Any) -> FakeContext:
    kind = stage("evaluate")
    params = kind.params(
        seed=1, format="chat", num_samples=2, max_tokens=6, num_resamples=50, problems_per_unit=3
    )
    context = FakeContext(tmp_path / name, **options)
    benchmarks = {"easy": tmp_path / "easy", "hard": tmp_path / "hard"}
    inputs = Inputs({"model": tmp_path / "model", "problems": benchmarks})
    kind.run(context, params, kind.run_model(), inputs)
    return context


def test_a_resumed_evaluation_writes_the_report_of_the_uninterrupted_one(tmp_path: Path) -> None:
    save_policy(tmp_path / "model")
    for name, seed in (("easy", 1), ("hard", 2)):
        write_problems(tmp_path / name, problems(4, seed=seed))
    whole = evaluate(tmp_path, "whole")
    with pytest.raises(Interrupted, match="stopped by the test"):
        evaluate(tmp_path, "killed", stop_after=3)
    resumed = evaluate(tmp_path, "killed")
    assert len(resumed.logged) == 1, "four units of two benchmarks, three done"
    texts = [(c.output("report") / "summary.json").read_text() for c in (whole, resumed)]
    assert texts[0] == texts[1]
    rows = [list(read_rows(c.output("samples"))) for c in (whole, resumed)]
    assert rows[0] == rows[1]
    assert Counter(row["benchmark"] for row in rows[0]) == {"easy": 8, "hard": 8}
    report = json.loads(texts[0])
    assert report["benchmarks"]["easy"]["num_problems"] == 4
    assert set(report["benchmarks"]["hard"]["by_problem"]["pass@1"]) == {
        row["problem_id"] for row in rows[0] if row["benchmark"] == "hard"
    }


UNUSABLE = [Problem(f"bad-{i}", "math", f"bad {i}", gold) for i, gold in enumerate((r"\\", "$ $"))]


def test_unusable_golds_are_counted_apart_and_not_as_wrong(tmp_path: Path) -> None:
    save_policy(tmp_path / "model")
    easy = problems(4, seed=1)
    write_problems(tmp_path / "easy", [UNUSABLE[0], *easy, UNUSABLE[1]])
    write_problems(tmp_path / "hard", problems(4, seed=2))
    context = evaluate(tmp_path, "work")
    report = json.loads((context.output("report") / "summary.json").read_text())["benchmarks"]
    assert report["easy"]["num_problems"] == 4
    assert set(report["easy"]["by_problem"]["pass@1"]) == {p.id for p in easy}
    golds = report["easy"]["unusable_golds"]
    assert (golds["count"], golds["rate"]) == (2, round(2 / 6, 6))
    assert golds["verdicts"] == {"gold_unusable": 2}
    assert golds["first"][1] == "bad-1: '$ $' gold_unusable"
    assert report["hard"]["unusable_golds"]["count"] == 0
    counts = {name: each["count"] for name, each in context.notes["unusable_golds"].items()}
    assert counts == {"easy": 2, "hard": 0}
    assert context.warnings[0].startswith(
        "benchmark easy: 2 of 6 gold answers do not verify against themselves and are left out"
    )


def test_a_benchmark_without_a_usable_gold_is_an_error_before_anything_is_sampled(
    tmp_path: Path,
) -> None:
    write_problems(tmp_path / "easy", UNUSABLE)
    write_problems(tmp_path / "hard", problems(4, seed=2))
    with pytest.raises(StageError, match=r"benchmark easy: no problem has a usable gold answer"):
        evaluate(tmp_path, "work")


def test_a_task_has_the_pass_at_1_of_its_own_rows(tmp_path: Path) -> None:
    save_policy(tmp_path / "model")
    for name, seed in (("easy", 1), ("hard", 2)):
        write_problems(tmp_path / name, problems(4, seed=seed))
    context = evaluate(tmp_path, "work")
    report = json.loads((context.output("report") / "summary.json").read_text())
    easy = report["benchmarks"]["easy"]
    assert easy["pass@1 arithmetic"] == easy["pass@1"]
    assert "helpful" not in easy["by_problem"], "no problem asks for it"
