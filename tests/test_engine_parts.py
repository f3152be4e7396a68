"""ZeRO-3 loads and keeps models sharded: policy, reference, reward model; results stay equal."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from on_ranks import Console, call_on_ranks, notes_of, run_stage
from tiny import MAX_CHARS, grpo_params, problems, save_policy, stage, tokenizer
from transformers import AutoModelForSequenceClassification, Qwen3Config, Qwen3ForCausalLM

from r1pipe.errors import Interrupted
from r1pipe.rows import write_rows

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]
PERSISTENT = 600  # as in `loaded_parts`
ZERO_3 = {"backend": "deepspeed", "num_processes": 2, "zero_stage": 3}
SHARED = ZERO_3 | {"sequence_parallel": 2}


# ---- what a rank holds ---------------------------------------------------------------------------


def untied(folder: Path) -> Path:
    """Write a policy whose head is its own, in several files."""
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def renamed(folder: Path) -> Path:
    """Write a policy whose files use older names, without the prefix of the base model."""
    from safetensors.torch import load_file, save_file

    save_policy(folder)
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("parts")
    inputs = {
        "tied": save_policy(folder / "tied"),
        "untied": untied(folder / "untied"),
        "renamed": renamed(folder / "renamed"),
    }
    context, _ = call_on_ranks("loaded_parts:note_facts", 2, folder, inputs)
    return notes_of(context)


MODELS = ("tied", "untied", "bfloat16", "reward")


@pytest.mark.parametrize("model", [*MODELS, "reference", "used reference"])
def test_right_after_loading_a_rank_holds_its_part_of_every_parameter(
    facts: dict[str, Any], model: str
) -> None:
    assert len(facts["held"]) == 2
    for of_rank in facts["held"]:
        for name, (whole, part, besides) in of_rank[model].items():
            assert part == -(-whole // 2), name
            assert besides == 0, name


@pytest.mark.parametrize("model", MODELS)
def test_parts_put_together_are_what_one_process_loads(facts: dict[str, Any], model: str) -> None:
    assert [of_rank[model] for of_rank in facts["differences"]] == [0.0, 0.0]


def test_a_reference_in_parts_scores_as_a_whole_one(facts: dict[str, Any]) -> None:
    found, expected = facts["reference rows"]
    assert len(found) == 5
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)


def test_a_tied_head_stays_tied(facts: dict[str, Any]) -> None:
    assert facts["is_tied"]


def test_while_it_loads_a_rank_holds_its_part_and_one_parameter(facts: dict[str, Any]) -> None:
    numbers = [whole for whole, _, _ in facts["held"][0]["untied"].values()]
    for peak in facts["peak"]:
        assert sum(numbers) // 4 < peak < sum(numbers) // 2 + max(numbers) + 500 < sum(numbers)


def test_between_steps_only_small_parameters_are_whole(facts: dict[str, Any]) -> None:
    for of_rank in facts["trained"]:
        sizes = {whole for whole, _, _ in of_rank.values()}
        assert min(sizes) <= PERSISTENT < max(sizes)
        for name, (whole, _, besides) in of_rank.items():
            assert besides == (whole if whole <= PERSISTENT else 0), name


def test_a_head_in_slices_is_gathered_as_often_as_a_whole_one(facts: dict[str, Any]) -> None:
    for of_rank in facts["gathers"]:
        whole, slices = of_rank["whole"], of_rank["slices"]
        assert slices == whole
        micro_batches = 2  # four of twelve positions, on two ranks
        assert 0 < slices["lm_head.weight"] <= 2 * micro_batches, "forward and backward"
        assert of_rank["calls"]["lm_head.weight"] > slices["lm_head.weight"]


def test_neighbours_that_keep_weights_twice_take_the_same_steps(facts: dict[str, Any]) -> None:
    for of_rank in facts["neighbours"]:
        assert of_rank["neighbours"] == pytest.approx(of_rank["plain"], rel=1e-5)
        assert of_rank["plain"][-1] < of_rank["plain"][0]
        assert (of_rank["plain twice"], of_rank["neighbours twice"]) == (False, True)


def test_files_with_other_names_are_loaded_whole_and_said_so(facts: dict[str, Any]) -> None:
    assert not facts["is_renamed_sharded"]
    (said,) = facts["warning"]
    assert "no file has model.embed_tokens.weight; every rank loads the whole model" in said


# ---- the same results ----------------------------------------------------------------------------


class Grpo:
    """Six updates of the stage of the recipe, with a reference that is refreshed after three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [p.to_row() for p in problems(12, max_chars=MAX_CHARS)]
        write_rows(folder / "problems", rows)
        self.inputs = {"model": save_policy(folder / "base"), "problems": folder / "problems"}

    def run(self, name: str, console: Console, **engine: Any) -> Any:
        kind = stage("grpo")
        run = kind.run_model.model_validate({"engine": engine, "micro_batch_tokens": 128})
        folder = self.folder / name
        # a larger rate makes Adam blow the rounding of vanishing gradients up
        params = grpo_params(optimizer={"lr": 2e-3})
        return run_stage(kind, folder, params, run, self.inputs, console)


def assert_same_steps(found: dict[int, Any], expected: dict[int, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for step, values in expected.items():
        for column in ("loss", "kl", "reward", "completion_tokens"):
            assert found[step][column] == pytest.approx(values[column], abs=1e-4), (step, column)


def test_grpo_with_policy_and_reference_in_parts_takes_the_same_steps(tmp_path: Path) -> None:
    grpo, whole, divided = Grpo(tmp_path), Console(), Console()
    first = grpo.run("whole", whole, backend="torch")
    second = grpo.run("divided", divided, **ZERO_3)
    assert max(abs(values["kl"]) for values in whole.logged.values()) > 1e-3
    assert_same_steps(divided.logged, whole.logged)
    tokens = [notes_of(context)["trained_tokens"] for context in (first, second)]
    assert tokens[0] == tokens[1]
    names = [sorted(p.name for p in c.output("model").iterdir()) for c in (first, second)]
    assert names[0] == names[1]


@pytest.mark.parametrize("shared", [1, 2])
def test_grpo_in_parts_resumes_whole_and_the_reverse(tmp_path: Path, shared: int) -> None:
    grpo, whole = Grpo(tmp_path), Console()
    expected = notes_of(grpo.run("whole", whole, backend="torch"))["trained_tokens"]
    divided = ZERO_3 | {"sequence_parallel": shared}
    for name, one, other in (("a", divided, {}), ("b", {}, divided)):
        stopped, resumed = Console(), Console()
        stopped.stop_at = 3  # a rollout has two updates: it ends behind the fourth
        with pytest.raises(Interrupted, match="SIGTERM"):
            grpo.run(name, stopped, **one)
        found = notes_of(grpo.run(name, resumed, **other))["trained_tokens"]
        assert max(stopped.logged) in (4, 6)
        assert_same_steps(stopped.logged | resumed.logged, whole.logged)
        assert found == expected


def test_a_reward_model_in_parts_takes_the_same_steps(tmp_path: Path) -> None:
    maker = stage("preferences")
    made = maker.params(seed=1, objective="pairwise", num_rows=24)
    rows = run_stage(maker, tmp_path / "rows", made, maker.run_model(), {}, Console())
    kind = stage("reward-model")
    params = kind.params(
        seed=1, objective="pairwise", reads="summary", batch_size=8, optimizer={"lr": 3e-3}
    )
    inputs = {"model": save_policy(tmp_path / "base"), "rows": rows.output("rows")}
    found = {}
    for name, engine in (("whole", {}), ("divided", ZERO_3), ("shared", SHARED)):
        console = Console()
        run = kind.run_model.model_validate({"engine": engine, "examples_per_micro_batch": 3})
        context = run_stage(kind, tmp_path / name, params, run, inputs, console)
        model = AutoModelForSequenceClassification.from_pretrained(context.output("model"))
        found[name] = console.logged, dict(model.named_parameters())
    steps, weights = found["whole"]
    assert len(steps) == 3
    for name in ("divided", "shared"):
        for step, values in steps.items():
            for column in ("loss", "accuracy", "grad_norm"):
                value = pytest.approx(values[column], rel=1e-3, abs=1e-4)
                assert found[name][0][step][column] == value, (name, step, column)
        for parameter, weight in found[name][1].items():
            torch.testing.assert_close(weight, weights[parameter], rtol=0, atol=2e-4)
