"""Sampling as a stream: all candidates kept, resumed to the row, in rounds, and on from earlier."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, ScriptedGenerator, generator, model, problems, stage, tokenizer

from r1pipe.chat import boxed, render_completion
from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request
from r1pipe.records import Problem
from r1pipe.rewards import REWARDS
from r1pipe.rows import read_rows, write_problems
from r1pipe.sampling import collecting, remote
from r1pipe.sampling.params import SampleParams
from r1pipe.sampling.recorder import ProblemResult, UnitResult
from r1pipe.sampling.report import Forecast, cost_of_fixed
from r1pipe.sampling.schedule import Schedule
from r1pipe.sampling.sources import sample_seed
from r1pipe.verify import VERIFIER_VERSION


def right(problem: Problem, thought: str = "a sum") -> str:
    return render_completion(thought, "", "chat", f"It is {boxed(problem.gold)}")


def wrong(problem: Problem) -> str:
    return render_completion("a sum", "", "chat", f"It is {boxed(str(int(problem.gold) + 1))}")


def english(count: int) -> list[Problem]:
    return [replace(p, language="en") for p in problems(count)]


class BySample(ScriptedGenerator):
    """Answers by sample index, whatever round a sample is asked for in."""

    def __init__(self, answers: dict[str, list[str]], asked: Sequence[Problem], seed: int) -> None:
        super().__init__(answers, "chat")
        self.by_seed = {
            sample_seed(seed, p, i): text for p in asked for i, text in enumerate(answers[p.prompt])
        }
        self.units: list[int] = []

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        self.units.append(len(requests))
        self.answers = {}
        for request in requests:
            self.answers.setdefault(request.prompt_ids, []).append(self.by_seed[request.seed])
        return super().generate(requests, sampling)


def half_texts(asked: list[Problem]) -> dict[str, list[str]]:
    return {p.prompt: [right(p), wrong(p), right(p, "a sum of two")] for p in asked}


def half_right(asked: list[Problem]) -> BySample:
    return BySample(half_texts(asked), asked, 3)


def sample(
    tmp_path: Path,
    script: Any,
    asked: list[Problem],
    monkeypatch: Any,
    *,
    kind: str = "rejection-sample",
    context: FakeContext | None = None,
    **changes: Any,
) -> FakeContext:
    """Run a sampling stage on scripted completions."""

    @contextmanager
    def scripted(folder: Path, run: Any, precision: Any) -> Any:
        yield script, tokenizer()

    monkeypatch.setattr(collecting, "open_generator", scripted)
    write_problems(tmp_path / "problems", asked)
    chosen = stage(kind)
    values = {
        "seed": 3, "target_rows": 1000, "samples_per_problem": 2, "max_tokens": 100,
        "problems_per_unit": 2, **changes,
    }  # fmt: skip
    context = context or FakeContext(tmp_path / "work")
    inputs = {"model": tmp_path / "model", "problems": tmp_path / "problems"}
    run = chosen.run_model(units_at_once=values.pop("units_at_once", 1))
    params = chosen.params.model_validate_json(json.dumps(values))
    chosen.run(context, params, run, inputs)
    return context


def table(context: FakeContext, name: str = "candidates") -> list[dict[str, Any]]:
    return list(read_rows(context.folder / "out" / name))


def files(context: FakeContext) -> dict[str, bytes]:
    root = context.folder / "out"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- what is written -----------------------------------------------------------------------------


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
    assert json.loads(rows[1]["filters"]) == {
        name: name != "verdict" for name in json.loads(first["filters"])
    }


def test_rows_for_training_are_distinct_and_all_candidates_are_accounted_for(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    texts = {p.prompt: [right(p), wrong(p), right(p)] for p in asked}
    script = BySample(texts, asked, 3)
    context = sample(tmp_path, script, asked, monkeypatch, samples_per_problem=3)
    assert [row["completion"] for row in table(context, "rows")] == [right(p) for p in asked]
    assert Counter(row["kept"] for row in table(context)) == {True: 8, False: 4}
    notes = context.notes
    assert {name: notes[name] for name in ("rows", "sampled", "kept", "dropped", "failed")} == {
        "rows": 4, "sampled": 12, "kept": 4, "dropped": 8, "failed": 0
    }  # fmt: skip
    assert (notes["dropped_verdict"], notes["dropped_duplicate"]) == (4, 4)
    assert len(context.samples) == 4


def test_repeats_and_rows_beyond_the_target_are_named_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    texts = {p.prompt: [right(p), wrong(p), right(p)] for p in asked}
    script = BySample(texts, asked, 3)
    context = sample(
        tmp_path, script, asked, monkeypatch,
        samples_per_problem=3, target_rows=3, mark_unselected=True,
    )  # fmt: skip
    rows = table(context)
    assert [row["kept"] for row in rows] == [True, False, False] * 3 + [False] * 3
    assert [json.loads(row["filters"]).get("duplicate") for row in rows[:3]] == [True, None, False]
    last = json.loads(rows[9]["filters"])
    assert [name for name, passed in last.items() if not passed] == ["target"]
    assert table(context, "rows") == [row for row in rows if row["kept"]]
    assert context.notes["dropped_target"] == 1


def test_nothing_kept_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(2)
    script = BySample({p.prompt: [wrong(p)] * 2 for p in asked}, asked, 3)
    with pytest.raises(StageError, match="none of 4 completions was kept; see the filters"):
        sample(tmp_path, script, asked, monkeypatch)


def test_a_generator_that_loses_a_completion_fails_the_stage(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(2)

    class Losing(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            return list(super().generate(requests, sampling))[:-1]

    script = Losing({p.prompt: [right(p)] * 2 for p in asked}, asked, 3)
    with pytest.raises(StageError, match=r"3 candidates came of 4 requests \(unit 0\)"):
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


def test_cold_start_rows_keep_the_thought_and_get_a_readable_boxed_summary(
    tmp_path: Path, monkeypatch: Any
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
        tmp_path, script, asked, monkeypatch, kind="cold-start-data", samples_per_problem=3
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


# ---- resume and growth ---------------------------------------------------------------------------


def test_sampling_ends_with_the_unit_that_reaches_the_target(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(8)
    script = half_right(asked)
    # two problems a unit, one kept row a problem: three rows are reached in the second unit
    context = sample(tmp_path, script, asked, monkeypatch, target_rows=3)
    assert script.units == [4, 4]
    assert sum(row["kept"] for row in table(context)) == 4
    assert len(table(context, "rows")) == 3
    assert context.journal("candidates").done() == {"0", "1"}
    assert context.column("kept") == [2.0, 4.0]
    assert context.column("pass_rate") == [0.5, 0.5]


def test_units_that_are_sampled_together_give_the_same_bytes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    class Backwards(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            return reversed(list(super().generate(requests, sampling)))

    asked = english(9)
    apart = sample(tmp_path / "apart", half_right(asked), asked, monkeypatch)
    script = Backwards(half_texts(asked), asked, 3)
    together = sample(tmp_path / "together", script, asked, monkeypatch, units_at_once=3)
    assert files(together) == files(apart)
    assert script.units == [12, 6]  # five units of two, two, two, two and one problem


@pytest.mark.parametrize("units_before_the_kill", [1, 3])
def test_a_resumed_stage_writes_the_bytes_of_the_uninterrupted_one(
    tmp_path: Path, units_before_the_kill: int, monkeypatch: Any
) -> None:
    asked = english(8)
    sampler = MostlyRight(generator(model()), asked)
    options: dict[str, Any] = {"max_tokens": 60}
    whole = sample(tmp_path / "whole", sampler, asked, monkeypatch, **options)
    killed = FakeContext(tmp_path / "killed", stop_after=units_before_the_kill)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, sampler, asked, monkeypatch, context=killed, **options)
    resumed = FakeContext(tmp_path / "killed")
    sample(tmp_path, sampler, asked, monkeypatch, context=resumed, **options)
    assert files(resumed) == files(whole)
    assert len(resumed.logged) == 4 - units_before_the_kill
    assert len({row["completion"] for row in table(whole)}) > 12, "random texts, not one"


class MostlyRight:
    """A sampler whose texts are random, with a right answer behind most of them."""

    def __init__(self, inner: Any, asked: list[Problem]) -> None:
        self.inner = inner
        self.script = half_right(asked)

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        texts = list(self.script.generate(requests, sampling))
        for found, text in zip(self.inner.generate(requests, sampling), texts, strict=True):
            yield found if found.index % 2 else text


def test_a_resumed_stage_stops_where_the_uninterrupted_one_did(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(8)
    killed = FakeContext(tmp_path / "work", stop_after=1)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, half_right(asked), asked, monkeypatch, context=killed, target_rows=3)
    for units in ([4], []):
        script = half_right(asked)
        sample(tmp_path, script, asked, monkeypatch, target_rows=3)
        assert script.units == units


@pytest.mark.parametrize("units_at_once", [1, 3])
def test_what_was_sampled_before_a_failure_of_the_generator_is_kept(
    tmp_path: Path, units_at_once: int, monkeypatch: Any
) -> None:
    class Failing(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            for number, found in enumerate(super().generate(requests, sampling)):
                if sum(self.units[:-1]) + number == 6:  # in the midst of the second unit
                    raise SamplingFailed("the server is gone")
                yield found

    asked = english(8)
    whole = sample(tmp_path / "whole", half_right(asked), asked, monkeypatch)
    failing = Failing(half_texts(asked), asked, 3)
    options: dict[str, Any] = {"units_at_once": units_at_once}
    with pytest.raises(SamplingFailed, match="the server is gone"):
        sample(tmp_path, failing, asked, monkeypatch, **options)
    assert FakeContext(tmp_path / "work").journal("candidates").done() == {"0"}
    resumed = sample(tmp_path, half_right(asked), asked, monkeypatch, **options)
    assert files(resumed) == files(whole)


def test_a_recorder_that_dies_ends_the_stage_with_a_word_about_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    class Deadly(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            for child in started:
                child.kill()
                child.wait()
            return super().generate(requests, sampling)

    started: list[Any] = []
    begin = remote.subprocess.Popen
    monkeypatch.setattr(
        remote.subprocess, "Popen", lambda *a, **k: started.append(begin(*a, **k)) or started[0]
    )
    asked = english(2)
    with pytest.raises(StageError, match=r"ended early \(killed, or out of memory\); go on with"):
        sample(tmp_path, Deadly(half_texts(asked), asked, 3), asked, monkeypatch)


def test_rows_that_another_verifier_judged_are_judged_again_on_resume(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    whole = sample(tmp_path / "whole", half_right(asked), asked, monkeypatch)
    killed = FakeContext(tmp_path / "work", stop_after=1)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, half_right(asked), asked, monkeypatch, context=killed)
    path = killed.folder / "candidates.jsonl"
    old = path.read_text().replace('"verdict": "correct"', '"verdict": "wrong"')
    assert old != path.read_text()
    version = f'"verifier_version": {VERIFIER_VERSION}'
    path.write_text(old.replace(version, '"verifier_version": 0'))
    resumed = sample(tmp_path, half_right(asked), asked, monkeypatch)
    assert files(resumed) == files(whole)


@pytest.mark.parametrize("adaptive", [None, {"samples_per_round": 1, "enough_rows": 1}])
def test_a_raised_target_reuses_every_candidate_and_ends_as_if_begun_with_it(
    tmp_path: Path, adaptive: Any, monkeypatch: Any
) -> None:
    asked = english(12)
    options: dict[str, Any] = {"samples_per_problem": 3, "adaptive": adaptive}
    small = sample(
        tmp_path / "small", half_right(asked), asked, monkeypatch, target_rows=3, **options
    )
    afresh = half_right(asked)
    whole = sample(tmp_path / "whole", afresh, asked, monkeypatch, target_rows=9, **options)
    grown = FakeContext(tmp_path / "grown")
    grown.earlier_result = small.folder / "out"
    script = half_right(asked)
    sample(tmp_path, script, asked, monkeypatch, context=grown, target_rows=9, **options)
    assert files(grown) == files(whole)
    reused = len(table(small))
    assert grown.notes["reused_candidates"] == reused > 0
    assert sum(script.units) == sum(afresh.units) - reused


def test_candidates_of_other_seeds_are_not_taken_over(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(4)
    other = ScriptedGenerator({p.prompt: [right(p), wrong(p)] for p in asked}, "chat")
    small = sample(tmp_path / "small", other, asked, monkeypatch, target_rows=1, seed=4)
    grown = FakeContext(tmp_path / "grown")
    grown.earlier_result = small.folder / "out"
    script = half_right(asked)
    sample(tmp_path, script, asked, monkeypatch, context=grown)
    assert sum(script.units) == 8
    assert "reused_candidates" not in grown.notes


# ---- rounds --------------------------------------------------------------------------------------


def by_rounds(
    tmp_path: Path, monkeypatch: Any, adaptive: dict[str, Any], **changes: Any
) -> tuple[FakeContext, list[Problem]]:
    """Six problems, up to four samples: 0 always right, 1 never, 2 in its last sample, the others
    right in different words each time."""
    asked = [replace(p, level=i % 3) for i, p in enumerate(english(6))]
    texts = {p.prompt: [right(p, f"sum {i}") for i in range(4)] for p in asked}
    texts[asked[0].prompt] = [right(asked[0])] * 4
    texts[asked[1].prompt] = [wrong(asked[1])] * 4
    texts[asked[2].prompt] = [*[wrong(asked[2])] * 3, right(asked[2])]
    script = BySample(texts, asked, 3)
    values = {"samples_per_problem": 4, "problems_per_unit": 3, "adaptive": adaptive, **changes}
    return sample(tmp_path, script, asked, monkeypatch, **values), asked


def samples_of(context: FakeContext, asked: list[Problem]) -> list[int]:
    counts = Counter(row["problem_id"] for row in table(context))
    return [counts[p.id] for p in asked]


def test_rounds_leave_out_problems_with_enough_rows_and_hopeless_ones(
    tmp_path: Path, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    context, asked = by_rounds(tmp_path, monkeypatch, rule)
    # 0: one text, again and again, is one row; 1 and 2: given up after three; the others: two rows
    assert samples_of(context, asked) == [4, 3, 3, 2, 2, 2]
    assert [row["id"] for row in table(context)][:7] == [
        *(f"{p.id}#0" for p in asked), f"{asked[0].id}#1"
    ]  # fmt: skip
    assert Counter(row["problem_id"] for row in table(context, "rows")) == {
        asked[0].id: 1, asked[3].id: 2, asked[4].id: 2, asked[5].id: 2
    }  # fmt: skip
    assert context.notes["problems"] == {"sampled": 1, "hopeless": 2, "enough": 3}
    assert context.notes["problems_without_rows"] == 2


def test_the_report_says_what_a_fixed_number_would_have_cost_and_who_lost_out(
    tmp_path: Path, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    context, asked = by_rounds(tmp_path, monkeypatch, rule)
    report = json.loads((context.folder / "out/candidates/sampling.json").read_text())
    assert report["lost"] == {"hopeless": [asked[1].id, asked[2].id]}
    assert report["samples"] == 16
    # all six problems with four samples; rows: 4 x 1/4, nothing twice, and 3 x 4 x 2/2
    assert report["fixed_n"]["samples"] == 24
    assert report["fixed_n"]["rows"] == 13
    assert report["groups"]["arithmetic 1"] == {
        "problems": 2, "samples": 5, "rows": 2, "with_rows": 1, "not_reached": 0
    }  # fmt: skip
    assert context.notes["fixed_n"] == report["fixed_n"]


def test_fixed_sampling_ends_where_its_target_is_reached() -> None:
    params = SampleParams(seed=1, target_rows=10, samples_per_problem=4, max_tokens=9)
    schedule = Schedule(english(5), params)
    # of the second problem 2 samples, one new, 10 tokens; of all others nothing is known
    schedule.num_samples[1], schedule.num_new[1], schedule.num_tokens[1] = 2, 1, 10
    assert cost_of_fixed(schedule, 5) == {"samples": 12, "tokens": 60, "rows": 5}
    assert cost_of_fixed(schedule, 100) == {"samples": 20, "tokens": 100, "rows": 10}


QUOTAS = [
    ({"tasks": {"arithmetic": 3}}, 3),
    ({"levels": {"0": 2, "1": 1}}, 2 + 1 + 5),  # level 2: one of problem 2, four of problem 5
    ({"lengths": [{"up_to_tokens": 10_000, "max_rows": 5}]}, 5),
    ({"lengths": [{"up_to_tokens": 1, "max_rows": 0}]}, 14),  # shorter than anything: no bound
]


@pytest.mark.parametrize(("quotas", "kept"), QUOTAS)
def test_quotas_bound_the_kept_rows_and_end_the_sampling(
    tmp_path: Path, quotas: dict[str, Any], kept: int, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 9, "hopeless_after": 4, "quotas": quotas}
    context, _ = by_rounds(tmp_path, monkeypatch, rule)
    assert len(table(context, "rows")) == kept
    over = [row for row in table(context) if json.loads(row["filters"]).get("quota") is False]
    assert not any(row["kept"] for row in over)
    assert context.notes.get("dropped_quota", 0) == len(over)
    if kept == 3:
        assert len(table(context)) == 6, "full after the first round"


def test_adaptive_sampling_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    whole, _ = by_rounds(tmp_path / "whole", monkeypatch, rule)
    for stop_after in (1, 2, 4):
        context = FakeContext(tmp_path / str(stop_after), stop_after=stop_after)
        with pytest.raises(Interrupted, match="stopped by the test"):
            by_rounds(tmp_path, monkeypatch, rule, context=context)
        context = FakeContext(tmp_path / str(stop_after))
        by_rounds(tmp_path, monkeypatch, rule, context=context)
        assert files(context) == files(whole)


def test_the_forecast_follows_the_yield() -> None:
    forecast = Forecast(target_rows=100)
    assert forecast.values(40) == ({"kept": 0.0, "tokens_per_s": 0.0}, 40.0)
    problem = ProblemResult(new_lengths=[0] * 5, num_tokens=80)
    forecast.add(UnitResult(20, 10, [problem], b""), is_sampled=False)
    values, samples = forecast.values(samples_left=1000)
    assert samples == 380  # 95 rows more, one in four
    assert values["target_tokens"] == 4 * 380
    assert values["forecast_rows"] == 100
    assert "target_s" not in values, "played back: nothing is known of the speed"
    assert forecast.values(samples_left=40)[0]["forecast_rows"] == 5 + 10
