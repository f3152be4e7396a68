"""The recipe's manifest: its graph, the paper's numbers, and what all profiles must keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import MANIFEST

from r1pipe.manifest import Manifest, load_manifest
from r1pipe.manifest.yaml_source import read_yaml
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.resolution import upstream
from r1pipe.store.store import Store
from r1pipe.tasks.table import TASKS
from r1pipe.tasks.world import sample_problems

RECIPE: Any = read_yaml(MANIFEST, [])
PROFILES = sorted(RECIPE.get("profiles").entries())
RELATIVES = sorted(path for path in MANIFEST.parent.glob("*.yaml") if path != MANIFEST)
GRPO = ("zero", "reasoning-rl", "alignment-rl", "student-rl")
MODELS = {
    "eval-base": "base",
    "eval-zero": "zero",
    "eval-dev1": "cold-start-sft",
    "eval-dev2": "reasoning-rl",
    "eval-dev3": "second-sft",
    "eval-r1": "alignment-rl",
    "eval-student-base": "student-base",
    "eval-student-rl": "student-rl",
    "eval-r1-distill": "distil",
}


@pytest.fixture(scope="module", params=PROFILES)
def manifest(request: Any) -> Manifest:
    return load_manifest(MANIFEST, profile=request.param)


@pytest.fixture(scope="module")
def paper() -> Manifest:
    return load_manifest(MANIFEST, profile="paper")


def params(manifest: Manifest, stage: str) -> Any:
    return manifest.stages[stage].params


def source_of(manifest: Manifest, stage: str, name: str) -> str:
    """Return the stage (or source) that an input reads."""
    reference = manifest.stages[stage].inputs[name]
    assert not isinstance(reference, Mapping)
    return reference.name


# ---- every profile -------------------------------------------------------------------------------


def test_the_profiles_of_the_recipe_are_there() -> None:
    assert {"smoke", "laptop", "gpu", "node8", "paper"} <= set(PROFILES)


def test_every_profile_plans_all_of_its_stages(manifest: Manifest, tmp_path: Path) -> None:
    planned = plan(manifest, Store(tmp_path / "artifacts")).stages
    assert [stage.name for stage in planned] == list(manifest.stages)
    assert {stage.status for stage in planned} <= {"run", "waits"}
    assert {*GRPO, *MODELS, *MODELS.values(), "scoreboard"} <= set(manifest.stages)


@pytest.mark.parametrize("path", RELATIVES, ids=lambda path: path.stem)
def test_every_relative_of_the_manifest_plans(path: Path, tmp_path: Path) -> None:
    loaded = load_manifest(path)
    planned = plan(loaded, Store(tmp_path / "artifacts")).stages
    assert [stage.name for stage in planned] == list(loaded.stages)


def test_the_graph_is_that_of_the_paper(manifest: Manifest) -> None:
    edges = {
        ("zero", "model"): "base",
        ("cold-start-data", "model"): "zero",
        ("cold-start-sft", "model"): "base",
        ("cold-start-sft", "rows"): "cold-start-data",
        ("reasoning-rl", "model"): "cold-start-sft",
        ("rejection-sample", "model"): "reasoning-rl",
        ("sft-data", "reasoning"): "rejection-sample",
        ("second-sft", "rows"): "sft-data",
        ("helpful-rm", "model"): "second-sft",
        ("safety-rm", "model"): "second-sft",
        ("alignment-rl", "model"): "second-sft",
        ("alignment-rl", "helpful"): "helpful-rm",
        ("alignment-rl", "safety"): "safety-rm",
    }
    found = {(stage, name): source_of(manifest, stage, name) for stage, name in edges}
    assert found == edges


def test_the_second_sft_restarts_from_the_base(manifest: Manifest) -> None:
    inputs = [manifest.stages[name].inputs["model"] for name in ("cold-start-sft", "second-sft")]
    assert inputs[0] == inputs[1] == manifest.stages["zero"].inputs["model"]
    assert source_of(manifest, "second-sft", "model") == "base"


def test_distillation_is_sft_alone_on_the_rows_of_the_second_sft(manifest: Manifest) -> None:
    distil = manifest.stages["distil"]
    assert distil.kind.kind == "sft"
    assert distil.inputs["rows"] == manifest.stages["second-sft"].inputs["rows"]
    assert source_of(manifest, "distil", "rows") == "sft-data"


def test_distillation_and_its_control_share_the_student_base(manifest: Manifest) -> None:
    students = [manifest.stages[name].inputs["model"] for name in ("distil", "student-rl")]
    assert students[0] == students[1]
    assert source_of(manifest, "distil", "model") == "student-base"
    assert manifest.stages["student-rl"].kind.kind == "grpo"


def test_all_evaluations_share_all_but_the_model_and_its_format(manifest: Manifest) -> None:
    dumps = []
    for name, model in MODELS.items():
        assert source_of(manifest, name, "model") == model
        dumped = params(manifest, name).model_dump()
        dumped.pop("format")
        dumps.append((dumped, manifest.stages[name].inputs["problems"]))
    assert all(dump == dumps[0] for dump in dumps)


def trained_format(manifest: Manifest, stage: str) -> str:
    """Return the format of the completions that a model was last trained on."""
    node = manifest.stages[stage]
    if node.kind.kind == "grpo":
        return str(node.params.format)  # type: ignore[attr-defined]
    if node.kind.kind == "import-model":
        return "r1-zero"  # not trained here: the template of a base without a chat format
    formats = {format_of_rows(manifest, source_of(manifest, stage, "rows"))}
    assert len(formats) == 1
    return formats.pop()


def format_of_rows(manifest: Manifest, stage: str) -> str:
    node = manifest.stages[stage]
    if node.kind.kind == "mix":
        parts = {
            format_of_rows(manifest, source_of(manifest, stage, name))
            for name in ("reasoning", "general")
        }
        assert len(parts) == 1, "a mix of formats"
        return parts.pop()
    if node.kind.kind == "cold-start-data":
        return "chat"
    return str(node.params.format)  # type: ignore[attr-defined]


def test_every_model_is_evaluated_in_its_own_format(manifest: Manifest) -> None:
    for name, model in MODELS.items():
        assert params(manifest, name).format == trained_format(manifest, model), name


def test_every_rl_stage_goes_on_in_the_format_of_its_model(manifest: Manifest) -> None:
    for name in GRPO:
        model = source_of(manifest, name, "model")
        assert params(manifest, name).format == trained_format(manifest, model), name
    sampled = source_of(manifest, "rejection-sample", "model")
    assert params(manifest, "rejection-sample").format == trained_format(manifest, sampled)


def test_training_and_held_out_problems_are_different_stages(manifest: Manifest) -> None:
    training = {source_of(manifest, name, "problems") for name in (*GRPO, "rejection-sample")}
    tested = manifest.stages["eval-r1"].inputs["problems"]
    assert isinstance(tested, Mapping)
    held_out = {reference.name for reference in tested.values()}
    assert not training & held_out
    assert source_of(manifest, "problems", "held_out") in held_out
    for name in held_out:
        assert params(manifest, name).split == "held-out", name
    for name in ("problems", "general-problems"):
        assert params(manifest, name).split == "train", name


def test_no_training_stage_reads_the_held_out_problems_but_to_stay_apart(
    manifest: Manifest,
) -> None:
    for name, node in manifest.stages.items():
        reads = [used for used in upstream(node) if used.startswith("held-out")]
        if node.kind.kind != "evaluate" and reads:
            assert (name, reads) == ("problems", ["held-out"])


def test_the_world_holds_as_many_problems_as_each_stage_asks_for(manifest: Manifest) -> None:
    for name, node in manifest.stages.items():
        chosen: Any = node.params
        if node.kind.kind != "problems" or chosen.world is None:
            continue
        found = sample_problems(
            TASKS,
            chosen.world.mix,
            chosen.num_problems,
            held_out=chosen.split == "held-out",
            seed=chosen.seed,
            languages=chosen.world.languages,
            levels=chosen.world.levels,
        )
        assert len(found) == pytest.approx(chosen.num_problems, abs=2), name


def test_updates_are_whole_rollouts_and_a_rollout_has_no_problem_twice_at_once(
    manifest: Manifest,
) -> None:
    for name in GRPO:
        chosen = params(manifest, name)
        assert chosen.num_steps % chosen.minibatches_per_rollout == 0, name
        per_rollout = chosen.problems_per_step * chosen.minibatches_per_rollout
        assert per_rollout <= params(manifest, "problems").num_problems, name


def test_preferences_rule_the_last_part_of_alignment_only(manifest: Manifest) -> None:
    chosen = params(manifest, "alignment-rl")
    assert 0 < chosen.preference.from_step < chosen.num_steps
    per_rollout = chosen.problems_per_step * chosen.minibatches_per_rollout
    assert chosen.preference.from_step % chosen.minibatches_per_rollout == 0
    assert 0 < round(per_rollout * chosen.preference.general_frac) < per_rollout
    for name in set(GRPO) - {"alignment-rl"}:
        assert params(manifest, name).preference is None


def test_the_language_reward_is_for_the_chat_stages_only(manifest: Manifest) -> None:
    rewards = {name: set(params(manifest, name).rewards) for name in GRPO}
    assert rewards["zero"] == rewards["student-rl"] == {"accuracy", "format"}
    assert rewards["reasoning-rl"] == rewards["alignment-rl"] == {"accuracy", "format", "language"}


def test_helpfulness_reads_the_summary_and_safety_everything(manifest: Manifest) -> None:
    helpful, safe = params(manifest, "helpful-rm"), params(manifest, "safety-rm")
    assert (helpful.objective, helpful.reads) == ("pairwise", "summary")
    assert (safe.objective, safe.reads) == ("pointwise", "completion")


def test_the_scoreboard_names_every_model_and_compares_neighbours(manifest: Manifest) -> None:
    board = manifest.stages["scoreboard"]
    reports = board.inputs["reports"]
    assert isinstance(reports, Mapping)
    assert {reference.name for reference in reports.values()} == set(MODELS)
    chosen: Any = board.params
    assert set(chosen.models) == set(reports)
    evaluated = {label: MODELS[reference.name] for label, reference in reports.items()}
    for label, before in chosen.before.items():
        if label in ("zero", "dev2", "r1", "student-rl"):
            trained = source_of(manifest, evaluated[label], "model")
            assert evaluated[before] == trained, "an RL stage is compared with what it started from"


def test_the_ablation_differs_in_the_language_reward_alone() -> None:
    whole = load_manifest(MANIFEST)
    ablation = load_manifest(MANIFEST.with_name("r1-no-language.yaml"))
    for name, node in ablation.stages.items():
        if name not in ("reasoning-rl", "scoreboard"):
            assert node.key_params() == whole.stages[name].key_params(), name
    ours = whole.stages["reasoning-rl"].key_params()
    theirs = ablation.stages["reasoning-rl"].key_params()
    assert theirs.pop("rewards") == ours.pop("rewards") | {"language": 0}
    assert theirs == ours


# ---- the paper's numbers (arXiv:2501.12948v2, sections 2.1, 3.2 and B.4) -------------------------


@pytest.mark.parametrize("name", GRPO)
def test_reinforcement_learning_has_the_published_numbers(paper: Manifest, name: str) -> None:
    chosen = params(paper, name)
    assert chosen.optimizer.lr == (2e-6 if name == "student-rl" else 3e-6)
    assert chosen.kl_coef == 0.001
    assert (chosen.clip_low, chosen.clip_high) == (10.0, 10.0)
    assert chosen.group_size == 16
    assert chosen.problems_per_step == 32
    assert chosen.minibatches_per_rollout == 16
    assert chosen.reference_refresh_steps == 400
    assert chosen.temperature == (0.7 if name == "alignment-rl" else 1.0)
    assert chosen.advantage_std == "population"
    assert chosen.max_tokens == 32768
    assert set(chosen.rewards.values()) == {1.0}
    # 8,192 outputs a rollout, 512 outputs an update
    outputs = chosen.problems_per_step * chosen.minibatches_per_rollout * chosen.group_size
    assert (outputs, outputs // chosen.minibatches_per_rollout) == (8192, 512)


def test_r1_zero_takes_10_400_updates_and_650_rollouts(paper: Manifest) -> None:
    chosen = params(paper, "zero")
    assert chosen.num_steps == 10_400
    assert chosen.num_steps // chosen.minibatches_per_rollout == 650


def test_preferences_rule_the_last_400_updates_of_about_1_700(paper: Manifest) -> None:
    chosen = params(paper, "alignment-rl")
    assert chosen.num_steps - chosen.preference.from_step == 400
    assert abs(chosen.num_steps - 1700) < chosen.minibatches_per_rollout


def test_fine_tuning_has_the_published_numbers(paper: Manifest) -> None:
    for name, batch_size, rate in (
        ("cold-start-sft", 128, 5e-5),
        ("second-sft", 128, 5e-5),
        ("distil", 64, 1e-4),
    ):
        chosen = params(paper, name)
        assert chosen.batch_size == batch_size, name
        assert chosen.optimizer.lr == rate, name
        assert (chosen.optimizer.schedule, chosen.optimizer.final_lr_frac) == ("cosine", 0.1), name
        assert 2 <= chosen.num_epochs <= 3, name
        assert chosen.max_tokens == 32768, name


def test_the_sft_data_are_600k_and_200k_rows(paper: Manifest) -> None:
    chosen = params(paper, "sft-data")
    assert (chosen.reasoning_rows, chosen.general_rows) == (600_000, 200_000)
    assert params(paper, "rejection-sample").target_rows == 600_000


def test_reward_models_have_the_published_numbers(paper: Manifest) -> None:
    for name in ("helpful-rm", "safety-rm"):
        chosen = params(paper, name)
        assert (chosen.batch_size, chosen.optimizer.lr, chosen.num_epochs) == (256, 6e-6, 1)
    assert params(paper, "helpful-pairs").num_rows == 66_000
    assert params(paper, "safety-labels").num_rows == 106_000


def test_evaluation_has_the_published_numbers(paper: Manifest) -> None:
    chosen = params(paper, "eval-r1")
    assert (chosen.temperature, chosen.top_p, chosen.num_samples) == (0.6, 0.95, 64)
    assert chosen.max_tokens == 32768
