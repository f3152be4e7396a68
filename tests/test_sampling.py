"""Sampling as a stream: all candidates kept, counted, and written in order."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sampling_world import BySample, english, files, half_right, right, sample, table, wrong
from tiny import FakeContext, ScriptedGenerator, problems, tokenizer

from r1pipe.candidates.selection import SELECTION
from r1pipe.chat import boxed
from r1pipe.errors import Paused, StageError
from r1pipe.generate.protocol import Request
from r1pipe.records import Problem
from r1pipe.rejection import collecting
from r1pipe.rewards.table import REWARDS
from r1pipe.rows import write_problems
from r1pipe.verify import VERIFIER_VERSION

FILTERS = ("verdict", "truncated", "format", "language", "paragraph", "code", "repetition")


def test_every_candidate_is_written_in_order_with_where_it_came_from(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(3)
    context = sample(tmp_path, half_right(asked), asked, monkeypatch, temperature=0.7)
    rows = table(context)
    assert [row["id"] for row in rows] == [f"{p.id}#{i}" for p in asked for i in range(2)]
    assert [row["verdict"] for row in rows] == ["correct", "wrong"] * 3
    assert [row["kept"] for row in rows] == [True, False] * 3
    first = rows[0]
    assert first["completion"] == right(asked[0])
    assert (first["prompt"], first["gold"]) == (asked[0].prompt, asked[0].gold)
    assert (first["model_id"], first["temperature"]) == ("m" * 8, 0.7)
    assert (first["format"], first["finish_reason"]) == ("chat", "stop")
    assert first["verifier_version"] == VERIFIER_VERSION
    assert first["num_tokens"] == len(tokenizer()(first["completion"])["input_ids"]) + 1
    assert len({row["seed"] for row in rows}) == 6
    assert json.loads(first["filters"]) == dict.fromkeys([*FILTERS, *SELECTION], True)
    assert json.loads(rows[1]["filters"]) == {name: name != "verdict" for name in FILTERS}


def test_rows_for_training_are_distinct_and_all_candidates_are_accounted_for(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    texts = {p.prompt: [right(p), wrong(p), right(p)] for p in asked}
    script = BySample(texts, asked, 3)
    context = sample(tmp_path, script, asked, monkeypatch, samples_per_problem=3)
    assert [row["completion"] for row in table(context, "rows")] == [right(p) for p in asked]
    assert Counter(row["kept"] for row in table(context)) == {True: 4, False: 8}
    notes = context.notes
    assert {name: notes[name] for name in ("rows", "sampled", "kept", "dropped", "failed")} == {
        "rows": 4, "sampled": 12, "kept": 4, "dropped": 8, "failed": 0
    }  # fmt: skip
    assert (notes["dropped_verdict"], notes["dropped_duplicate"]) == (4, 4)
    assert notes["rows_short_of_target"] == 996
    assert len(context.samples) == 4


def test_repeats_and_rows_beyond_the_target_are_named_and_kept_says_all(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    texts = {p.prompt: [right(p), wrong(p), right(p)] for p in asked}
    script = BySample(texts, asked, 3)
    context = sample(tmp_path, script, asked, monkeypatch, samples_per_problem=3, target_rows=3)
    rows = table(context)
    assert [row["kept"] for row in rows] == [True, False, False] * 3 + [False] * 3
    assert [json.loads(row["filters"]).get("duplicate") for row in rows[:3]] == [True, None, False]
    last = json.loads(rows[9]["filters"])
    assert [name for name, passed in last.items() if not passed] == ["target"]
    assert table(context, "rows") == [row for row in rows if row["kept"]]
    assert context.notes["dropped_target"] == 1
    assert context.notes["rows_short_of_target"] == 0


def first_of_each_text(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return what is trained on by its definition: what passes, each text once, up to a limit."""
    found: list[dict[str, Any]] = []
    for row in rows:
        decisions = json.loads(row["filters"])
        texts = [(each["prompt"], each["completion"]) for each in found]
        if all(decisions[name] for name in FILTERS) and len(found) < limit:
            found += [row] if (row["prompt"], row["completion"]) not in texts else []
    return found


@pytest.mark.parametrize("limit", [1, 7, 15, 1000])
def test_the_kept_rows_are_the_first_of_each_text_up_to_the_target(
    tmp_path: Path, limit: int, monkeypatch: Any
) -> None:
    asked, rng = english(12), random.Random(limit)
    choices: list[Callable[[Problem], str]]
    choices = [lambda p: right(p), wrong, lambda p: right(p, "other"), lambda p: right(p)[:9]]
    texts = {p.prompt: [rng.choice(choices)(p) for _ in range(4)] for p in asked}
    script = BySample(texts, asked, 3)
    options: dict[str, Any] = {"samples_per_problem": 4, "target_rows": limit}
    context = sample(tmp_path, script, asked, monkeypatch, **options)
    assert table(context, "rows") == first_of_each_text(table(context), limit)


def test_nothing_kept_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(2)
    script = BySample({p.prompt: [wrong(p)] * 2 for p in asked}, asked, 3)
    said = r"none of 4 completions was kept \(4 wrong\)\.\nDropped by filter: verdict 4\. Some"
    context = FakeContext(tmp_path / "work")
    with pytest.raises(StageError, match=said) as caught:
        sample(tmp_path, script, asked, monkeypatch, context=context)
    assert "Take easier problems" in str(caught.value)
    assert len(context.samples) == 3


def test_sampling_in_vain_pauses_after_the_unit_with_the_verdict_of_every_filter(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(10)
    odd = "```\n\x1b[2J[red]"  # no thought, no box, and it would clear the screen
    script = BySample({p.prompt: [wrong(p), odd] for p in asked}, asked, 3)
    context = FakeContext(tmp_path / "work")
    with pytest.raises(Paused) as caught:
        sample(tmp_path, script, asked, monkeypatch, context=context, stop_without_rows=8)
    assert script.units == [4, 4]
    text = str(caught.value)
    assert "none of 8 completions was kept (4 wrong, 4 no_answer)." in text
    assert "Dropped by filter: verdict 8, format 4." in text
    assert text.count("  completion: ") == 3
    assert "completion: ```\\n\\x1b[2J[red]\n" in text
    passed = "passed code, language, paragraph, repetition, truncated"
    no_answer = "no answer: there is no box, answer tag or final phrase"
    assert f"  {no_answer}; dropped by format, verdict; {passed}" in text
    answers = [f"  wrong: '{int(p.gold) + 1}', not '{p.gold}'; dropped by verdict;" for p in asked]
    assert any(answer in text for answer in answers)
    assert [row["decided"].split(":")[0] for row in context.samples] == text_reasons(text)


def text_reasons(text: str) -> list[str]:
    lines = text.splitlines()
    return [lines[i + 1].strip().split(":")[0] for i, t in enumerate(lines) if "completion:" in t]


def test_a_paused_sampling_goes_on_for_as_many_again_and_ends_as_one_without_a_pause(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(10)
    texts = {p.prompt: [wrong(p), wrong(p)] for p in asked[:8]}
    texts |= {p.prompt: [right(p), wrong(p)] for p in asked[8:]}
    script, context = BySample(texts, asked, 3), FakeContext(tmp_path / "work")
    for _ in range(2):  # units of 4: the second start replays two of them and samples two
        with pytest.raises(Paused, match="the same command samples as many again"):
            sample(tmp_path, script, asked, monkeypatch, context=context, stop_without_rows=8)
    assert script.units == [4] * 4
    sample(tmp_path, script, asked, monkeypatch, context=context, stop_without_rows=8)
    assert script.units == [4] * 5
    whole = BySample(texts, asked, 3)
    other = FakeContext(tmp_path / "whole")
    sample(tmp_path, whole, asked, monkeypatch, context=other, stop_without_rows=None)
    assert files(context) == files(other)


def test_a_generator_that_loses_a_completion_fails_the_stage(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(2)

    class Losing(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            return list(super().generate(requests, sampling))[:-1]

    script = Losing({p.prompt: [right(p)] * 2 for p in asked}, asked, 3)
    with pytest.raises(StageError, match="ended without 1 completions it was asked for"):
        sample(tmp_path, script, asked, monkeypatch)


@pytest.mark.parametrize("counts", [{"kept": 2, "dropped_verdict": 1}, {"kept": 2, "written": 4}])
def test_counts_that_do_not_add_up_fail_the_stage(tmp_path: Path, counts: dict[str, int]) -> None:
    context = FakeContext(tmp_path)
    write_problems(context.output("candidates"), english(3))
    with pytest.raises(StageError, match="the candidates do not add up: 3 asked for"):
        collecting.check_counts(context, {"written": 3, "dropped_x": 2, **counts}, 3)


def test_a_problem_that_comes_twice_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(2)
    with pytest.raises(StageError, match=f"problem {asked[0].id} comes twice"):
        sample(tmp_path, half_right(asked), [*asked, asked[0]], monkeypatch)


def test_unusable_gold_answers_are_set_aside_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    bad = replace(asked[1], gold="who knows")
    given = [asked[0], bad, *asked[2:]]
    with pytest.raises(StageError, match=f"1 of 4 gold answers .*first: problem {bad.id}"):
        sample(tmp_path / "strict", half_right(asked), given, monkeypatch)
    script = half_right(asked)
    context = sample(tmp_path, script, given, monkeypatch, max_unusable_frac=0.25)
    assert {row["problem_id"] for row in table(context)} == {p.id for p in asked} - {bad.id}
    assert sum(script.units) == 6
    assert context.notes["quarantined"] == 1
    assert context.notes["quarantined_verdicts"] == {"gold_unusable": 1}
    assert context.notes["quarantined_problems"] == [f"{bad.id}: 'who knows' gold_unusable"]


@pytest.mark.parametrize(
    ("kind", "formats"),
    [
        ("cold-start-data", {}),
        ("rejection-sample", {"format": "r1-zero", "rows_format": "chat"}),
    ],
)
def test_rows_of_another_format_keep_the_thought_and_get_a_readable_boxed_summary(
    tmp_path: Path, monkeypatch: Any, kind: str, formats: dict[str, Any]
) -> None:
    asked = [replace(p, language=lang) for p, lang in zip(problems(2), ("en", "zh"), strict=True)]
    answers = {
        p.prompt: [
            f" <think>{word} {i}</think> <answer>{p.gold}</answer>" for i in range(2)
        ] + ["<think>no"]
        for p, word in zip(asked, ("sum", "和"), strict=True)
    }  # fmt: skip
    script = ScriptedGenerator(answers, "r1-zero")
    context = sample(
        tmp_path, script, asked, monkeypatch, kind=kind, samples_per_problem=3, **formats
    )
    rows = table(context, "rows")
    assert {row["format"] for row in rows} == {"chat"}
    assert [row["completion"] for row in rows] == [
        f"<think>\nsum {i}\n</think>\n\nThe answer is {boxed(asked[0].gold)}" for i in range(2)
    ] + [f"<think>\n和 {i}\n</think>\n\n答案是 {boxed(asked[1].gold)}" for i in range(2)]
    by_prompt = {p.prompt: p for p in asked}
    for row in rows:
        assert REWARDS["format_chat"](by_prompt[row["prompt"]], row["completion"]) == 1.0
    assert len(table(context)) == 6
