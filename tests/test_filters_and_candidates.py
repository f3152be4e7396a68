"""Filters of sampled completions, and candidates: all kept with their decisions, resumed alike."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, ScriptedGenerator, generator, model, problems, stage, tokenizer

from r1pipe.chat import boxed, render_completion
from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.protocol import Sampling
from r1pipe.records import Completion, FinishReason, Problem, Verdict
from r1pipe.rewards import REWARDS
from r1pipe.rl import candidates as candidates_module
from r1pipe.rl.candidates import CandidatePlan, account, sample_candidates, unique_kept
from r1pipe.rl.filters import decide, is_kept, longest_paragraph, most_repeated
from r1pipe.rows import read_rows, write_problems
from r1pipe.settings import Keep
from r1pipe.verify import VERIFIER_VERSION

PROBLEM = Problem("p", "arithmetic", "2+3", "5", checker="number")
KEEP = Keep(min_language_share=0.8, max_paragraph_chars=60, max_repeats=2)


def chat(thought: str, summary: str = f"It is {boxed('5')}") -> str:
    return render_completion(thought, "", "chat", summary)


def decisions(text: str, fmt: Any = "chat", **changes: Any) -> dict[str, bool]:
    reason = changes.pop("finish_reason", FinishReason.STOP)
    verdict = changes.pop("verdict", Verdict.CORRECT)
    keep = KEEP.model_copy(update=changes)
    completion = Completion("p", 0, 0, [1], text, reason, [0.0])
    return decide(PROBLEM, completion, verdict, keep, fmt)


def dropped_by(text: str, **changes: Any) -> list[str]:
    return [name for name, passed in decisions(text, **changes).items() if not passed]


# ---- filters -------------------------------------------------------------------------------------


def test_a_correct_and_readable_completion_passes_every_filter() -> None:
    found = decisions(chat("two and three are five"))
    assert set(found) == {
        "verdict", "truncated", "format", "language", "paragraph", "code", "repetition"
    }  # fmt: skip
    assert is_kept(found)


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.CORRECT])
def test_every_verdict_but_correct_is_dropped(verdict: Verdict) -> None:
    assert dropped_by(chat("two and three"), verdict=verdict) == ["verdict"]


DROPPED = {
    "format": f"<think>\nso be it\n</think>\n\n{boxed('5')} or {boxed('5')}",
    "language": chat("two 加三得五 so"),
    "paragraph": chat("sum 1+2+3+4+5+6+7+8+9+10+11+12+13+14+15+16+17+18+19+20+21+22+23+24"),
    "code": chat("run ```1+1``` now"),
    "repetition": chat("1+2+3+4," * 3),
}


@pytest.mark.parametrize("name", DROPPED)
def test_a_filter_drops_what_it_should_and_no_other_does(name: str) -> None:
    assert dropped_by(DROPPED[name]) == [name]


def test_a_truncated_completion_is_dropped() -> None:
    assert dropped_by(chat("two"), finish_reason=FinishReason.LENGTH) == ["truncated"]


def test_an_unclosed_thought_is_dropped_for_its_format() -> None:
    assert dropped_by("<think> two and three") == ["format"]


def test_each_format_is_held_to_its_own_layout() -> None:
    zero = render_completion("two and three", "5", "r1-zero")
    assert dropped_by(zero, fmt="r1-zero") == []
    assert dropped_by(zero, fmt="chat") == ["format"]
    assert dropped_by(chat("two and three"), fmt="r1-zero") == ["format"]


def test_thresholds_are_met_at_their_edge() -> None:
    four_of_five = chat("two and three are 五")  # a share of 0.8
    assert dropped_by(four_of_five) == []
    assert dropped_by(four_of_five, min_language_share=0.81) == ["language"]
    assert dropped_by(chat("1" * 7 + "+" + "2" * 52)) == ["repetition"]
    fifty = chat("abcdefghij klmnopqrs tuvwxyzab cdefghijk lmnopqrst")
    assert longest_paragraph("abcdefghij klmnopqrs tuvwxyzab cdefghijk lmnopqrst") == 50
    assert dropped_by(fifty, max_paragraph_chars=50) == []
    assert dropped_by(fifty, max_paragraph_chars=49) == ["paragraph"]
    twice = chat("1+2+3+4," * 2)
    assert dropped_by(twice) == []
    assert dropped_by(twice, max_repeats=1) == ["repetition"]


def test_code_is_kept_where_the_manifest_says_so() -> None:
    assert dropped_by(DROPPED["code"], code_blocks=True) == []


def test_bare_arithmetic_has_no_language_to_judge() -> None:
    assert dropped_by(chat("2+3=5")) == []


def test_the_summary_is_not_what_the_filters_of_the_thought_read() -> None:
    assert dropped_by(chat("two and three", f"```x``` 答案是五五五五 {boxed('5')}")) == []


def test_a_paragraph_ends_at_a_blank_line() -> None:
    assert longest_paragraph("") == 0
    assert longest_paragraph("abc") == 3
    assert longest_paragraph("ab\ncd\n\nabcdef\n\na") == 6


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("", 1),
        ("abcdefgh", 1),
        ("abcdefghabcdefgh", 2),
        ("xyabcdefghabcdefghabcdefghz", 3),
        ("abcdefgh-abcdefgh", 1),  # with a gap
        ("abcdefgabcdefg", 1),  # seven characters are too few
        ("a" * 15, 1),
        ("a" * 16, 2),
        ("a" * 40, 5),
        (("a" * 30 + "b" * 34) * 3, 4),  # eight of the 34 b, four times: longer than the block
        ("0123456789" * 4 + "x" + "0123456789" * 2, 4),
    ],
)
def test_repetitions_are_counted_by_hand(text: str, times: int) -> None:
    assert most_repeated(text) == times


# ---- candidates ----------------------------------------------------------------------------------


def plan(**changes: Any) -> CandidatePlan:
    values: dict[str, Any] = {
        "samples_per_problem": 2,
        "sampling": Sampling(0.7, 1.0, 60),
        "format": "chat",
        "seed": 3,
        "keep": Keep(),
        "target_rows": 1000,
        "problems_per_unit": 2,
        "model_id": "m" * 8,
    }
    return CandidatePlan(**(values | changes))


def right(problem: Problem, thought: str = "a sum") -> str:
    return chat(thought, f"It is {boxed(problem.gold)}")


def wrong(problem: Problem) -> str:
    return chat("a sum", f"It is {boxed(str(int(problem.gold) + 1))}")


def english(count: int) -> list[Problem]:
    return [replace(p, language="en") for p in problems(count)]


def half_right(asked: list[Problem]) -> ScriptedGenerator:
    return ScriptedGenerator({p.prompt: [right(p), wrong(p)] for p in asked}, "chat")


def test_every_candidate_is_written_with_where_it_came_from(tmp_path: Path) -> None:
    asked = english(3)
    rows = list(
        sample_candidates(FakeContext(tmp_path), half_right(asked), tokenizer(), asked, plan())
    )
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


def test_kept_and_dropped_add_up_and_name_the_first_filter() -> None:
    rows = []
    for i, text in enumerate([*DROPPED.values(), chat("two and three"), chat("one and four")]):
        found = decisions(text)
        rows.append({"id": str(i), "kept": is_kept(found), "filters": json.dumps(found)})
    facts = account(rows, "rejection-sample")
    assert facts == {
        "sampled": 7, "kept": 2, "dropped": 5, **{f"dropped_{name}": 1 for name in DROPPED}
    }  # fmt: skip
    assert facts["kept"] + facts["dropped"] == facts["sampled"]


def test_a_candidate_that_is_counted_twice_is_refused() -> None:
    row = {"id": "a", "kept": True, "filters": "{}"}
    with pytest.raises(StageError, match="do not add up"):
        account([row, row], "rejection-sample")


def test_nothing_kept_is_an_error_that_says_what_to_do() -> None:
    row = {"id": "a", "kept": False, "filters": json.dumps({"verdict": False})}
    with pytest.raises(StageError, match="none of 1 completions was kept; see the filters"):
        account([row], "rejection-sample")


def test_exact_duplicates_are_trained_on_once_and_the_limit_holds() -> None:
    made = [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("c", "z")]
    kept = [True, True, True, False, True]
    rows = [
        {"prompt": prompt, "completion": completion, "kept": is_kept}
        for (prompt, completion), is_kept in zip(made, kept, strict=True)
    ]
    assert unique_kept(rows, 10) == [rows[0], rows[2], rows[4]]
    assert unique_kept(rows, 2) == [rows[0], rows[2]]


def test_sampling_ends_with_the_unit_that_reaches_the_target(tmp_path: Path) -> None:
    asked = english(8)
    script, context = half_right(asked), FakeContext(tmp_path)
    # two problems a unit, one kept row a problem: three rows are reached in the second unit
    rows = list(sample_candidates(context, script, tokenizer(), asked, plan(target_rows=3)))
    assert len(script.asked) == 2
    assert sum(row["kept"] for row in rows) == 4
    assert context.journal("candidates").done() == {"0", "1"}
    assert context.column("kept") == [2.0, 4.0]
    assert context.column("pass_rate") == [0.5, 0.5]


@pytest.mark.parametrize("units_before_the_kill", [1, 3])
def test_resumed_sampling_gives_the_rows_of_the_uninterrupted_one(
    tmp_path: Path, units_before_the_kill: int
) -> None:
    asked, chosen = problems(8), plan(sampling=Sampling(1.0, 1.0, 6))
    sampler = generator(model())

    def sample(context: FakeContext) -> list[dict[str, Any]]:
        return list(sample_candidates(context, sampler, tokenizer(), asked, chosen))

    whole = sample(FakeContext(tmp_path / "whole"))
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(FakeContext(tmp_path / "killed", stop_after=units_before_the_kill))
    resumed = FakeContext(tmp_path / "killed")
    assert sample(resumed) == whole
    assert len(resumed.logged) == 4 - units_before_the_kill
    assert len({row["completion"] for row in whole}) > 12, "random completions, not one text"


def test_a_resumed_run_stops_where_the_uninterrupted_one_did(tmp_path: Path) -> None:
    asked, chosen = english(8), plan(target_rows=3)
    with pytest.raises(Interrupted, match="stopped by the test"):
        list(
            sample_candidates(
                FakeContext(tmp_path, stop_after=1), half_right(asked), tokenizer(), asked, chosen
            )
        )
    script = half_right(asked)
    list(sample_candidates(FakeContext(tmp_path), script, tokenizer(), asked, chosen))
    assert len(script.asked) == 1
    script = half_right(asked)
    list(sample_candidates(FakeContext(tmp_path), script, tokenizer(), asked, chosen))
    assert script.asked == []


# ---- the stages ----------------------------------------------------------------------------------


def run_stage(
    kind_name: str, tmp_path: Path, script: Any, asked: list[Problem], monkeypatch: Any
) -> FakeContext:
    """Run a sampling stage on scripted completions."""

    @contextmanager
    def scripted(folder: Path, run: Any) -> Any:
        yield script, tokenizer()

    monkeypatch.setattr("r1pipe.rl.candidates.open_generator", scripted)
    write_problems(tmp_path / "problems", asked)
    kind = stage(kind_name)
    params = kind.params(seed=1, target_rows=100, samples_per_problem=3, max_tokens=100)
    context = FakeContext(tmp_path / "work")
    inputs = {"model": tmp_path / "model", "problems": tmp_path / "problems"}
    kind.run(context, params, kind.run_model(), inputs)
    return context


def test_rejection_sampling_writes_every_candidate_and_trains_on_distinct_kept_ones(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    script = ScriptedGenerator({p.prompt: [right(p), wrong(p), right(p)] for p in asked}, "chat")
    context = run_stage("rejection-sample", tmp_path, script, asked, monkeypatch)
    rows = list(read_rows(context.output("rows")))
    everything = list(read_rows(context.output("candidates")))
    assert [row["completion"] for row in rows] == [right(p) for p in asked]
    assert Counter(row["kept"] for row in everything) == {True: 8, False: 4}
    assert context.notes == {
        "rows": 4, "sampled": 12, "kept": 8, "dropped": 4, "dropped_verdict": 4
    }  # fmt: skip


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
    context = run_stage("cold-start-data", tmp_path, script, asked, monkeypatch)
    rows = list(read_rows(context.output("rows")))
    assert {row["format"] for row in rows} == {"chat"}
    assert [row["completion"] for row in rows] == [
        f"<think>\nsum {i}\n</think>\n\nThe answer is {boxed(asked[0].gold)}" for i in range(2)
    ] + [f"<think>\n和 {i}\n</think>\n\n答案是 {boxed(asked[1].gold)}" for i in range(2)]
    by_prompt = {p.prompt: p for p in asked}
    for row in rows:
        assert REWARDS["format_chat"](by_prompt[row["prompt"]], row["completion"]) == 1.0
    assert len(list(read_rows(context.output("candidates")))) == 6


def test_candidates_are_judged_by_the_verifier_and_not_by_their_format(monkeypatch: Any) -> None:
    seen = []

    def verify_many(pairs: Any) -> list[Verdict]:
        seen.extend(text for _, text in pairs)
        return [Verdict.TIMEOUT] * len(seen)

    monkeypatch.setattr(candidates_module, "verify_many", verify_many)
    asked = english(1)
    rows = candidates_module.candidate_rows(half_right(asked), tokenizer(), asked, plan())
    assert seen == [right(asked[0]), wrong(asked[0])]
    assert [row["verdict"] for row in rows] == ["timeout"] * 2
    assert not any(row["kept"] for row in rows)
