"""The stage that runs lm-evaluation-harness, with a stand-in that writes what lm-eval writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_harness import write_harness
from tiny import FakeContext, stage

from r1pipe.errors import Interrupted, StageError
from r1pipe.evaluation import harness
from r1pipe.evaluation.harness import merged
from r1pipe.evaluation.harness_process import command_of
from r1pipe.stage import Inputs


def benchmark(
    tmp_path: Path, *tasks: str, version: str = "0.4.13", work: str = "work", **more: Any
) -> FakeContext:
    """Run the stage on a model of one file."""
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    harness_path = write_harness(tmp_path / "bin", version)
    kind = stage("benchmark")
    context = more.pop("context", None) or FakeContext(tmp_path / work)
    inputs = {"model": model} | ({"tasks": more.pop("own")} if "own" in more else {})
    settings = {"command": (str(harness_path),)} | more.pop("run", {})
    params = kind.params(tasks=tasks, harness_version="0.4.13", **more)
    kind.run(context, params, kind.run_model(**settings), Inputs(inputs))
    return context


def calls(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "bin" / "calls.jsonl").open()]


def report(context: FakeContext) -> Any:
    return json.loads((context.output("report") / "harness.json").read_text())


def test_scores_have_intervals_from_their_standard_errors(tmp_path: Path) -> None:
    context = benchmark(tmp_path, "sums", "gsm8k")
    tasks = report(context)["tasks"]
    score = tasks["sums"]["scores"]["exact_match"]
    assert (score["value"], score["stderr"]) == (0.5, 0.1)
    assert (score["low"], score["high"]) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=1e-4)
    assert tasks["sums"]["num_samples"] == 6
    strict = tasks["gsm8k"]["scores"]["exact_match (strict-match)"]
    assert strict["value"] == 0.25
    flexible = tasks["gsm8k"]["scores"]["exact_match (flexible-extract)"]
    assert (flexible["value"], flexible["stderr"], flexible["low"]) == (0.75, None, None)
    assert context.notes["sums exact_match"] == 0.5
    assert [row["step"] for row in context.logged] == [1, 2]


def test_a_group_is_shown_by_its_own_scores_or_by_those_of_its_parts(tmp_path: Path) -> None:
    tasks = report(benchmark(tmp_path, "mmlu", "arc"))["tasks"]
    assert {name: each["is_shown"] for name, each in tasks.items()} == {
        "mmlu": True, "mmlu_law": False, "arc_easy": True, "arc_hard": True
    }  # fmt: skip
    assert tasks["arc_hard"]["scores"]["acc"]["value"] is None, "not a number is no score"


def test_parameters_become_options_and_the_environment_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    own = tmp_path / "own"
    own.mkdir()
    (own / "sums.yaml").write_text("task: sums")
    benchmark(
        tmp_path,
        "sums",
        own=own,
        num_fewshot=3,
        limit=4,
        seed=7,
        apply_chat_template=True,
        precision="bfloat16",
        generation={"max_gen_toks": 64, "do_sample": False},
        run={"batch_size": 2},
    )
    (call,) = calls(tmp_path)
    assert " ".join(call["argv"]) == (
        "--model hf --model_args pretrained=../model,dtype=bfloat16 --tasks sums"
        " --output_path ../out --device cpu --batch_size 2 --seed 7 --num_fewshot 3 --limit 4"
        " --apply_chat_template --gen_kwargs do_sample=False,max_gen_toks=64 --include_path ."
    )
    assert (call["cwd"], call["model"]) == (["sums.yaml"], ["config.json"])
    assert (call["offline"], call["path"]) == ("1", None)
    assert [path.name for path in own.iterdir()] == ["sums.yaml"], "the source stays as it was"


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="failed at task 'crash'"):
        benchmark(tmp_path, "sums", "crash")
    with pytest.raises(StageError, match="failed at task 'crash'"):
        benchmark(tmp_path, "sums", "crash")
    names = [call["argv"][call["argv"].index("--tasks") + 1] for call in calls(tmp_path)]
    assert names == ["sums", "crash", "crash"]


def test_the_report_is_the_same_bytes_again(tmp_path: Path) -> None:
    texts = [
        (benchmark(tmp_path, "mmlu", work=name).output("report") / "harness.json").read_bytes()
        for name in ("a", "b")
    ]
    assert texts[0] == texts[1]


FAULTS = {
    "crash": r"lm-eval failed at task 'crash'; its last words:\n"
    r"  Traceback .*\n  ValueError: \\x1b\[31mred\\x1b\[0m bits$",
    "gone": r"may not be on this machine: run.offline: false lets it download",
    "nowhere": r"lm-eval 0.4.13 knows no task 'nowhere'; '.*lm_eval ls tasks' lists them",
    "silent": r"ended without an error and wrote no results_",
    "broken": r"results_2026.*json: not a results file of lm-eval as r1pipe knows it: Expecting",
    "listed": r"not a results file .*'results' is no mapping",
    "text": r"not a results file .*the value of acc,none is 'high'",
    "empty": r"not a results file .*: 0 scores",
}


@pytest.mark.parametrize("task", FAULTS)
def test_a_fault_of_the_harness_is_told(tmp_path: Path, task: str) -> None:
    with pytest.raises(StageError, match=FAULTS[task]):
        benchmark(tmp_path, task)


def test_a_result_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "MAX_RESULT_BYTES", 100)
    with pytest.raises(StageError, match=r"bytes, more than 100"):
        benchmark(tmp_path, "sums")


def test_another_version_of_the_harness_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"is lm-eval 0.4.2, and params.harness_version says 0.4"):
        benchmark(tmp_path, "sums", version="0.4.2")


@pytest.mark.parametrize(
    "run",
    [{"command": ("no-such-harness",)}, {"python": "/no/such/python", "command": ("lm_eval",)},
     {"python": sys.executable, "command": ("lm_eval",)}],
    ids=["command", "python", "package"],
)  # fmt: skip
def test_a_harness_that_is_not_there_is_told_with_what_to_do(tmp_path: Path, run: Any) -> None:
    with pytest.raises(StageError, match=r"(?s)cannot be started.*pip install 'lm-eval\[hf\]=="):
        benchmark(tmp_path, "sums", run=run)


def test_ctrl_c_ends_the_harness(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped by the test"):
        benchmark(tmp_path, "sleep", context=FakeContext(tmp_path / "work", stop_after=9))
    (call,) = calls(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(call["pid"], 0)


def test_an_interpreter_and_a_command_do_not_go_together() -> None:
    kind = stage("benchmark")
    params = kind.params(tasks=("a",), harness_version="1")
    both = kind.run_model(python="/venv/bin/python", command=("uvx", "lm_eval"))
    assert "leave one out" in both.incompatible_with(params)
    assert kind.run_model(python="/venv/bin/python").incompatible_with(params) is None


@pytest.mark.parametrize("tasks", [(), ("a", "a"), ("a,b",), ("--help",), ("",)])
def test_names_of_tasks_are_single_names(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"tasks"):
        stage("benchmark").params(tasks=tasks, harness_version="1")


def test_a_path_to_an_interpreter_is_not_followed_to_where_it_links(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert command_of(str(link), ()) == [str(link), "-m", "lm_eval"]
    assert command_of(None, ("uvx", "lm_eval")) == ["uvx", "lm_eval"]


def test_two_reports_with_one_score_are_refused(tmp_path: Path) -> None:
    folder = benchmark(tmp_path, "sums").output("report")
    assert list(merged("board", "base", [folder])["scores"]) == ["sums exact_match"]
    with pytest.raises(StageError, match=r"two benchmark reports of base have 'sums exact_match'"):
        merged("board", "base", [folder, folder])
