"""`r1pipe try`: a few completions of a stage, or two of its rows, before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Run
from fake_project import make_project
from store_world import QuietConsole, kind, manifest, write_number
from store_world import stage as node_of
from tiny import problems, save_policy, stage

from r1pipe.cli import trying
from r1pipe.cli.trying import Trial, trial_lines, trials_of
from r1pipe.errors import ArtifactError, ManifestError, StageError
from r1pipe.manifest import StageNode
from r1pipe.pipeline.built import stage_with_inputs
from r1pipe.pipeline.run import run
from r1pipe.rows import write_problems, write_rows
from r1pipe.stage import Inputs
from r1pipe.store.store import Store

SAMPLING = {"seed": 1, "max_tokens": 6, "format": "chat"}


def node(name: str, **params: Any) -> StageNode:
    found = stage(name)
    return StageNode("tried", found, {}, found.params(**params), found.run_model(), {})


def given(folder: Path, count: int = 5) -> dict[str, Any]:
    write_problems(folder / "problems", problems(count))
    return {"model": save_policy(folder / "model"), "problems": folder / "problems"}


def test_completions_come_with_prompt_answer_and_rewards_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    inputs = given(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    chosen = node("evaluate", num_samples=1, **SAMPLING)
    many = Inputs(inputs | {"problems": {"sums": inputs["problems"]}})
    trials = trials_of(chosen, many, 2)
    assert sorted(tmp_path.rglob("*")) == before
    asked = problems(5)
    assert [trial.gold for trial in trials] == [asked[0].gold, asked[2].gold]
    assert trials[0].prompt == f"<|user|>{asked[0].prompt}<|assistant|>"
    for trial in trials:
        assert 1 <= trial.num_tokens <= 6
        assert (trial.verdict == "correct") == bool(trial.rewards["accuracy"])
        assert list(trial.rewards) == ["accuracy", "format", "language"]
    assert trials == trials_of(chosen, many, 2)


def test_a_stage_that_keeps_rows_shows_what_its_filters_decide(tmp_path: Path) -> None:
    chosen = node("rejection-sample", target_rows=3, samples_per_problem=1, **SAMPLING)
    (trial,) = trials_of(chosen, Inputs(given(tmp_path)), 1)
    assert set(trial.filters) >= {"verdict", "truncated", "format", "repetition"}
    assert trial.filters["verdict"] == (trial.verdict == "correct")
    cold = node("cold-start-data", seed=1, max_tokens=6, target_rows=3, samples_per_problem=1)
    (trial,) = trials_of(cold, Inputs(given(tmp_path / "cold")), 1)
    assert trial.prompt.startswith("A conversation between User and Assistant.")


def test_training_on_rows_shows_which_tokens_are_trained(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + 1", "completion": f"it is {i}", "format": "chat"} for i in range(3)]
    write_rows(tmp_path / "rows", rows)
    inputs = Inputs({"model": save_policy(tmp_path / "model"), "rows": tmp_path / "rows"})
    optimizer: Any = {"lr": 1e-3}
    chosen = node("sft", seed=1, num_epochs=1, batch_size=1, max_tokens=64, optimizer=optimizer)
    found = trials_of(chosen, inputs, 8)
    assert [trial.prompt for trial in found] == [
        "<|user|>0 + 1<|assistant|>",
        "<|user|>1 + 1<|assistant|>",
    ]
    assert found[1].completion == "it is 1<|end|>"
    assert "  trained tokens\n  | it is 1<|end|>" in "\n".join(trial_lines(found))


def test_turns_of_others_are_marked_as_not_trained(tmp_path: Path) -> None:
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in said]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    inputs = Inputs({"model": save_policy(tmp_path / "model"), "rows": tmp_path / "rows.jsonl"})
    optimizer: Any = {"lr": 1e-3}
    chosen = node("sft", seed=1, num_epochs=1, batch_size=1, max_tokens=64, optimizer=optimizer)
    (trial,) = trials_of(chosen, inputs, 8)
    assert trial.prompt == "<|user|>a<|assistant|>"
    assert trial.completion == "b<|end|>[[not trained: <|user|>c<|assistant|>]]d<|end|>"


def test_text_of_a_model_cannot_move_the_cursor() -> None:
    trial = Trial("p\x1b", "a\x1b[2Jb\nc", "[red]\x07", 3, "length", "\x1b", "wrong", "wrong: '5'")
    lines = trial_lines([trial])
    assert lines == [
        "[1] p\\x1b",
        "  prompt, as the model is given it",
        "  | a\\x1b[2Jb",
        "  | c",
        "  completion (3 tokens, length)",
        "  | [red]\\x07",
        "  wrong: '5' (gold '\\x1b')",
        "  rewards: none",
        "",
        "1 completions: 1 wrong; 1 cut off at max_tokens; 3 tokens on average",
    ]


def test_a_kind_that_samples_nothing_is_refused() -> None:
    chosen = node("tokenizer", vocab_size=300)
    with pytest.raises(StageError, match="nothing can be tried of a stage of kind tokenizer; kind"):
        trials_of(chosen, Inputs(), 8)


def test_all_inputs_that_are_not_built_are_named_with_the_command_that_builds_them(
    tmp_path: Path,
) -> None:
    middle = node_of("middle", kind(write_number), {"a": "base"})
    last = node_of("rl", kind(write_number), {"a": "middle", "b": "other"})
    made = manifest(node_of("base"), node_of("other", number=2), middle, last, node_of("apart"))
    store = Store(tmp_path / "store")
    said = r"rl: needs base, other, middle, not built .*: r1pipe try rl --before --manifest .*"
    with pytest.raises(ArtifactError, match=said):
        stage_with_inputs(made, store, "rl")
    assert not store.root.exists()
    with pytest.raises(ManifestError, match="no stage 'rll'; did you mean 'rl'"):
        stage_with_inputs(made, store, "rll")
    run(made, store, QuietConsole(), to="middle")
    with pytest.raises(ArtifactError, match="rl: needs other, not built"):
        stage_with_inputs(made, store, "rl")
    result = run(made, store, QuietConsole(), before="rl")
    assert list(result.stages) == ["base", "other", "middle"]
    assert result.built == ["other"], "neither the stage itself nor one that it does not read"
    found, inputs = stage_with_inputs(made, Store(store.root), "rl")
    assert found.name == "rl"
    numbers = [json.loads((inputs.path(n) / "number.json").read_text()) for n in ("a", "b")]
    assert numbers == [2, 2]


def test_an_input_of_an_input_may_be_gone(tmp_path: Path) -> None:
    middle = node_of("middle", kind(write_number), {"a": "base"})
    made = manifest(
        node_of("base"), middle, node_of("rl", kind(write_number), {"a": "middle"}, number=5)
    )
    store = Store(tmp_path / "store")
    result = run(made, store, QuietConsole(), before="rl")
    store.set_artifact_aside(result.stages["base"].record.artifact_id)
    _, inputs = stage_with_inputs(made, Store(store.root), "rl")
    assert (inputs.path("a") / "number.json").read_text() == "2"
    store.set_artifact_aside(result.stages["middle"].record.artifact_id)
    with pytest.raises(ArtifactError, match="rl: needs base, middle, not built"):
        stage_with_inputs(made, Store(store.root), "rl")


def test_before_builds_what_is_not_there_and_says_in_a_line_that_all_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    monkeypatch.setattr(trying, "KINDS", ("join",))
    monkeypatch.setattr(trying, "trials_of", lambda *_: [Trial("row 1", "a", "b", 1)])
    small = ("try", "joined", "--manifest", "manifests/small.yaml")
    assert r1pipe(*small)[0] != 0
    code, out, err = r1pipe(*small, "--before")
    assert code == 0, err
    assert out.startswith("[1] row 1")
    assert "numbers: starts" in err
    assert r1pipe(*small, "--before") == (0, out, "joined: all that it reads is in the store\n")
    assert r1pipe(*small) == (0, out, "")
