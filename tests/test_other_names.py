"""Settings written as other libraries call them are answered with the name that they have here."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.errors import ManifestError
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.loading import load_manifest
from r1pipe.manifest.other_names import OTHER_NAMES, here

MANIFEST = Path(__file__).parents[1] / "manifests" / "r1.yaml"


def mistakes_of(*overrides: str) -> list[str]:
    try:
        load_manifest(MANIFEST, profile="smoke", overrides=overrides)
    except ManifestError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("zero.params.learning_rate", "params.optimizer.lr"),
        ("zero.params.optimizer.learning_rate", "params.optimizer.lr"),
        ("zero.params.num_generations", "params.group_size"),
        ("rejection-sample.params.num_generations", "params.samples_per_problem"),
        ("zero.params.beta", "params.kl_coef"),
        ("zero.train_batch_size", "params.problems_per_step"),
        ("distil.params.train_batch_size", "params.batch_size"),
        ("zero.run.use_vllm", "run.generator: {backend: vllm}"),
        ("zero.run.generator.tensor_parallel_size", "run.generator.tensor_parallel"),
        ("zero.params.lr", "params.optimizer.lr"),
        ("zero.run.flat_updates", "run.stop_when.flat_updates"),
        ("base.hidden_size", "params.architecture.hidden_size"),
    ],
)
def test_a_setting_of_another_library_is_told_by_its_name_here(setting: str, place: str) -> None:
    (mistake,) = mistakes_of(f"stages.{setting}=1")
    name = setting.rpartition(".")[2]
    assert f"unknown key '{name}' in stages." in mistake
    assert mistake.endswith(f"; here it is `{place}`")


def test_a_name_that_the_kind_has_nothing_for_is_answered_by_the_nearest_one() -> None:
    (mistake,) = mistakes_of("stages.distil.params.num_generations=8")
    assert "here it is" not in mistake
    (mistake,) = mistakes_of("stages.zero.params.grop_size=8")
    assert mistake.endswith("did you mean 'group_size'?")


def test_no_name_of_another_library_is_a_setting_of_the_same_place() -> None:
    kinds = load_kinds(MANIFEST)
    for name in OTHER_NAMES:
        told = {text for kind in kinds.values() if (text := here(kind, name))}
        assert told, f"no kind has a place for {name}"


@pytest.mark.parametrize("place", sorted({p for places in OTHER_NAMES.values() for p in places}))
def test_every_place_is_one_that_some_stage_has(place: str) -> None:
    path, _, value = place.partition(": ")
    if path.startswith("inputs."):
        return  # `here` has looked it up among the inputs of the kinds
    vllm = ["stages.zero.run.generator.backend=vllm"] if "generator." in path else []
    found = [
        mistakes_of(f"stages.{stage}.{path}={value or 1}", *vllm)
        for stage in ("zero", "distil", "rejection-sample")
    ]
    assert any("unknown" not in " ".join(mistakes) for mistakes in found), found
