"""Candidates verified again: verdicts, kept rows, the flip report, and what it takes to resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, call
from store_world import QuietConsole
from tiny import FakeContext, stage

from r1pipe.candidates import reverify as judging
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.report import read_report, write_report
from r1pipe.chat import boxed, render_completion
from r1pipe.errors import ArtifactError, Interrupted, StageError
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.records import Problem
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.stage import Inputs
from r1pipe.store.store import Store
from r1pipe.verify import VERIFIER_VERSION, verify_stream

PROBLEMS = [
    Problem("a", "arithmetic", "2+3", "5", checker="number"),
    Problem("b", "algebra", "(x+1)^2", "x^2+2x+1"),
    Problem("c", "countdown", "use 2 3 to make 5", "5", checker="countdown",
            meta={"numbers": [2, 3], "target": 5}),
]  # fmt: skip
PASSED = {"verdict": True, "language": True, "paragraph": True}
CHOSEN = {"duplicate": True, "quota": True, "target": True}


def candidate(
    problem: Problem, index: int, answer: str, verdict: str, **changes: Any
) -> dict[str, Any]:
    """Return a candidate as an older verifier decided it."""
    decisions = PASSED | {"verdict": verdict == "correct"} | changes.pop("filters", {})
    if all(decisions.values()):
        decisions = CHOSEN | decisions
    return {
        "id": f"{problem.id}#{index}",
        "problem_id": problem.id,
        "task": problem.task,
        "language": "en",
        "format": "chat",
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": render_completion("so it is", "", "chat", f"It is {boxed(answer)}"),
        "num_tokens": 7,
        "finish_reason": "stop",
        "model_id": "m" * 64,
        "temperature": 1.0,
        "seed": 3,
        "verifier_version": 0,
        "verdict": verdict,
        "filters": json.dumps(decisions, sort_keys=True),
        "kept": all(decisions.values()),
    } | changes


def countdown(text: str) -> str:
    return f"<think>\nso\n</think>\n\n<answer>{text}</answer>"


CANDIDATES = [
    candidate(PROBLEMS[0], 0, "5", "correct"),
    candidate(PROBLEMS[0], 1, "6", "correct"),  # kept although it is wrong
    candidate(PROBLEMS[0], 2, "5.0", "wrong"),  # dropped although it is right
    candidate(PROBLEMS[0], 3, "5", "correct", filters={"language": False}),
    candidate(PROBLEMS[1], 0, "(x+1)(x+1)", "timeout"),
    candidate(PROBLEMS[1], 1, "x+1", "no_answer"),
    candidate(PROBLEMS[2], 0, "", "wrong", completion=countdown("2+3")),
    candidate(PROBLEMS[0], 4, "5", "correct", filters=CHOSEN | {"duplicate": False}),
]


def reverify(
    tmp_path: Path, rows: list[dict[str, Any]], context: FakeContext | None = None, **params: Any
) -> FakeContext:
    write_rows(tmp_path / "candidates", rows)
    write_problems(tmp_path / "problems", PROBLEMS)
    kind = stage("reverify")
    context = context or FakeContext(tmp_path / "work")
    inputs = {name: tmp_path / name for name in ("candidates", "problems")}
    kind.run(context, kind.params(**params), kind.run_model(), Inputs(inputs))
    return context


def output(context: FakeContext, name: str) -> list[dict[str, Any]]:
    return list(read_rows(context.output(name)))


def flips(context: FakeContext) -> dict[str, Any]:
    text = (context.output("flips") / "flips.json").read_text()
    report: dict[str, Any] = json.loads(text)
    return report


def test_every_candidate_has_the_present_verdict_and_its_other_decisions(tmp_path: Path) -> None:
    rows = output(reverify(tmp_path, CANDIDATES), "candidates")
    assert [row["id"] for row in rows] == [row["id"] for row in CANDIDATES]
    right = {"a#0", "a#2", "a#3", "b#0", "c#0", "a#4"}
    assert {row["id"] for row in rows if row["verdict"] == "correct"} == right
    assert {row["id"] for row in rows if row["verdict"] == "wrong"} == {"a#1", "b#1"}
    assert [row["kept"] for row in rows] == [True, False, True, False, True, False, True, False]
    assert {row["verifier_version"] for row in rows} == {VERIFIER_VERSION}
    same = [name for name in CANDIDATES[0]
            if name not in ("verdict", "kept", "filters", "verifier_version")]  # fmt: skip
    for old, new in zip(CANDIDATES, rows, strict=True):
        assert list(new) == list(old)
        assert [new[name] for name in same] == [old[name] for name in same]
        was, now = json.loads(old["filters"]), json.loads(new["filters"])
        filters = {name: was[name] for name in PASSED} | {"verdict": new["verdict"] == "correct"}
        assert {name: now[name] for name in PASSED} == filters
        assert (now.keys() > PASSED.keys()) == all(filters.values()), "selected if all pass"


def test_the_rows_are_the_kept_candidates(tmp_path: Path) -> None:
    context = reverify(tmp_path, CANDIDATES)
    assert [row["id"] for row in output(context, "rows")] == ["a#0", "a#2", "b#0", "c#0"]
    assert context.notes["rows"] == 4
    fewer = reverify(tmp_path, CANDIDATES, FakeContext(tmp_path / "fewer"), target_rows=3)
    assert [row["id"] for row in output(fewer, "rows")] == ["a#0", "a#2", "b#0"]


def test_the_report_counts_flips_by_direction_and_kind(tmp_path: Path) -> None:
    context = reverify(tmp_path, CANDIDATES)
    report = flips(context)
    assert (report["candidates"], report["kept_before"], report["kept_after"]) == (8, 2, 4)
    assert (report["kept_to_dropped"], report["dropped_to_kept"]) == (1, 3)
    assert report["kept_after"] - report["kept_before"] == 3 - 1
    assert report["kinds"] == {
        "kept -> dropped": {"verdict correct -> wrong": 1},
        "dropped -> kept": {"verdict wrong -> correct": 2, "verdict timeout -> correct": 1},
        "dropped, for another reason": {"verdict no_answer -> wrong": 1},
    }
    assert report["tasks"]["dropped -> kept"] == {"arithmetic": 1, "algebra": 1, "countdown": 1}
    assert report["verdicts_changed"]["wrong -> correct"] == 2
    assert report["verifier_before"] == {"0": 8}
    assert report["verifier_after"] == VERIFIER_VERSION
    (example,) = report["examples"]["kept -> dropped: verdict correct -> wrong"]
    assert (example["id"], example["gold"]) == ("a#1", "5")
    assert boxed("6") in example["completion"]
    rows = output(context, "flips")
    assert [row["id"] for row in rows] == ["a#1", "a#2", "b#0", "b#1", "c#0"]
    assert rows[0]["direction"] == "kept -> dropped"
    assert context.notes["dropped_to_kept"] == 3


def test_examples_are_few_and_their_completions_short(tmp_path: Path) -> None:
    long = "x" * 5000 + f" {boxed('6')}"
    rows = [candidate(PROBLEMS[0], i, "6", "correct", completion=long) for i in range(9)]
    report = flips(reverify(tmp_path, [*rows, candidate(PROBLEMS[0], 9, "5", "correct")]))
    (examples,) = report["examples"].values()
    assert [example["id"] for example in examples] == [f"a#{i}" for i in range(5)]
    assert all(len(e["completion"]) < 2100 and boxed("6") in e["completion"] for e in examples)


def test_thresholds_that_are_given_decide_all_filters_again(tmp_path: Path) -> None:
    plain = {"verdict": True, "truncated": True, "format": True, "language": True,
             "paragraph": True, "code": True, "repetition": True}  # fmt: skip
    rows = [
        candidate(PROBLEMS[0], 0, "5", "correct", filters=plain),
        candidate(PROBLEMS[0], 1, "5", "correct", filters=plain | {"language": False},
                  completion=render_completion("five", "", "chat", f"It is {boxed('5')}")),
    ]  # fmt: skip
    report = flips(reverify(tmp_path, rows, keep={"max_paragraph_chars": 4}))
    assert report["kinds"] == {
        "kept -> dropped": {"paragraph passed -> failed": 1},
        "dropped -> kept": {"language failed -> passed": 1},
    }


def test_a_verifier_that_says_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    first = reverify(tmp_path, CANDIDATES)
    again = reverify(tmp_path, output(first, "candidates"), FakeContext(tmp_path / "again"))
    for name in ("candidates", "rows"):
        path = f"{name}/part-00000.parquet"
        same = [(c.folder / "out" / path).read_bytes() for c in (first, again)]
        assert same[0] == same[1]
    assert flips(again)["kinds"] == {}
    assert output(again, "flips") == []


def test_repeats_and_the_target_are_decided_again(tmp_path: Path) -> None:
    rows = [
        candidate(PROBLEMS[0], 0, "6", "correct"),  # wrong: makes room
        candidate(PROBLEMS[0], 1, "5", "correct"),
        candidate(PROBLEMS[0], 2, "5", "correct", filters=CHOSEN | {"duplicate": False}),
        candidate(PROBLEMS[0], 3, "5.0", "correct", filters=CHOSEN | {"target": False}),
        candidate(PROBLEMS[0], 4, "5.00", "correct", filters=CHOSEN | {"target": False}),
        candidate(PROBLEMS[0], 5, "7", "wrong"),
    ]
    context = reverify(tmp_path, rows, target_rows=2)
    found = output(context, "candidates")
    assert [row["id"] for row in found if row["kept"]] == ["a#1", "a#3"]
    assert [row["id"] for row in output(context, "rows")] == ["a#1", "a#3"]
    assert json.loads(found[2]["filters"]) == PASSED | CHOSEN | {"duplicate": False}
    assert json.loads(found[4]["filters"])["target"] is False
    assert flips(context)["kinds"] == {
        "kept -> dropped": {"verdict correct -> wrong": 1},
        "dropped -> kept": {"target failed -> passed": 1},
    }
    few = FakeContext(tmp_path / "few")
    reverify(tmp_path, rows, few, quotas=Quotas(tasks={"arithmetic": 1}))
    assert [row["id"] for row in output(few, "rows")] == ["a#1"]


def test_quotas_of_adaptive_sampling_are_taken_from_beside_its_candidates(tmp_path: Path) -> None:
    now = {"verifier_version": VERIFIER_VERSION}
    rows = [
        candidate(PROBLEMS[0], 0, "5", "correct", **now),
        candidate(PROBLEMS[0], 1, "5.0", "correct", **now),
        candidate(PROBLEMS[0], 2, "5.00", "correct", **now, filters=CHOSEN | {"quota": False}),
    ]
    report, quotas = {"samples": 3, "lost": {}}, Quotas(tasks={"arithmetic": 2})
    (tmp_path / "candidates").mkdir()
    write_report(tmp_path / "candidates", report, quotas)
    context = reverify(tmp_path, rows)
    assert flips(context)["kinds"] == {}
    for path in (tmp_path / "candidates").iterdir():
        assert (context.output("candidates") / path.name).read_bytes() == path.read_bytes()
    fewer = FakeContext(tmp_path / "fewer")
    reverify(tmp_path, rows, fewer, quotas=Quotas(tasks={"arithmetic": 1}))
    assert [row["id"] for row in output(fewer, "rows")] == ["a#0"]
    assert read_report(fewer.output("candidates")) == (report, Quotas(tasks={"arithmetic": 1}))
    none = FakeContext(tmp_path / "none")
    reverify(tmp_path, rows, none, quotas=Quotas())
    assert len(output(none, "rows")) == 3, "none is what was asked for"


def test_a_quota_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    rows = [
        candidate(PROBLEMS[0], 0, "5", "correct"),
        candidate(PROBLEMS[0], 1, "5.0", "correct", filters=CHOSEN | {"quota": False}),
    ]
    with pytest.raises(StageError, match=r"candidate a#1 was dropped by a quota, but .*quotas$"):
        reverify(tmp_path, rows)


@pytest.mark.parametrize("text", ["", "[1]", '{"samples": 3}', '{"quotas": {"task": {}}}'])
def test_a_report_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    write_rows(tmp_path / "candidates", CANDIDATES)
    (tmp_path / "candidates" / "sampling.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"sampling\.json: not the report that adaptive"):
        reverify(tmp_path, CANDIDATES)


def test_a_stopped_run_goes_on_and_judges_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def watched(pairs: Any, **limits: Any) -> Any:
        def noted() -> Iterator[Any]:
            for pair in pairs:
                judged.append(pair[1])
                yield pair

        return verify_stream(noted(), **limits)

    monkeypatch.setattr(judging, "verify_stream", watched)
    rows = [
        candidate(PROBLEMS[0], index, str(index % 7), "correct", extracted="")
        for index in range(12_345)
    ]
    whole = reverify(tmp_path, rows, FakeContext(tmp_path / "whole"))
    judged.clear()
    with pytest.raises(Interrupted, match="stopped by the test"):
        reverify(tmp_path, rows, FakeContext(tmp_path / "work", stop_after=2))
    judged.clear()
    resumed = reverify(tmp_path, rows)
    assert len(judged) == 2_345
    assert resumed.column("judged") == []
    assert {row["extracted"] for row in output(resumed, "candidates")} == set("0123456")
    for name in ("candidates", "rows", "flips"):
        paths = [sorted(context.output(name).iterdir()) for context in (whole, resumed)]
        assert [p.read_bytes() for p in paths[0]] == [p.read_bytes() for p in paths[1]]


MANIFEST = """
r1pipe: 1
name: again
sources:
  stored: {path: ../candidates, as: rows}
  asked: {path: ../problems, as: problems}
stages:
  reverify: {kind: reverify, inputs: {candidates: stored, problems: asked}, params: {}}
"""


@pytest.mark.parametrize("fault", ["journal.append@2", "journal.torn@2", "publish.seal"])
def test_a_killed_run_goes_on_to_the_same_artifact(tmp_path: Path, fault: str) -> None:
    rows = [candidate(PROBLEMS[0], n, str(n % 7), "correct") for n in range(12_345)]
    write_rows(tmp_path / "candidates", rows)
    write_problems(tmp_path / "problems", PROBLEMS)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "again.yaml").write_text(MANIFEST)
    made = load_manifest(tmp_path / "manifests" / "again.yaml")
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "store")
    run(made, whole, QuietConsole())
    assert call(lambda: run(made, store, QuietConsole()), fault) == KILLED
    assert plan(made, store).stages[0].status == "resume"
    run(made, store, QuietConsole())
    assert [r.artifact_id for r in store.records()] == [r.artifact_id for r in whole.records()]


def test_a_candidate_without_its_problem_is_named(tmp_path: Path) -> None:
    lost = candidate(Problem("z", "arithmetic", "1+1", "2"), 0, "2", "correct")
    with pytest.raises(
        StageError, match="candidate z#0 is of problem z, which is not in the input"
    ):
        reverify(tmp_path, [*CANDIDATES, lost])


def test_nothing_kept_is_an_error_and_not_an_empty_data_set(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"none of 1 candidates is kept .*correct -> wrong"):
        reverify(tmp_path, [candidate(PROBLEMS[0], 0, "6", "correct")])


def test_it_stops_when_asked(tmp_path: Path) -> None:
    rows = [candidate(PROBLEMS[0], index, "5", "correct") for index in range(10_001)]
    context = FakeContext(tmp_path / "work", stop_after=2)
    with pytest.raises(Interrupted, match="stopped by the test"):
        reverify(tmp_path, rows, context)
    assert context.column("judged") == [5000.0, 10_000.0]


def test_a_new_verifier_is_a_new_key() -> None:
    assert stage("reverify").version == 1000 * VERIFIER_VERSION + 2
