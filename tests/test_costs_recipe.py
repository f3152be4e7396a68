"""What `plan` says that the recipe costs, by hand and as it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Run
from ruamel.yaml import YAML

from r1pipe.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
R1 = str(ROOT / "manifests" / "r1.yaml")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("R1PIPE_STORE", raising=False)


def planned(r1pipe: Run, tmp_path: Path, profile: str) -> dict[str, Any]:
    store = str(tmp_path / "store")
    code, out, _ = r1pipe("plan", R1, "--profile", profile, "--json", "--store", store)
    assert code == 0
    document: dict[str, Any] = json.loads(out)
    return document


PROFILES = list(YAML(typ="safe").load(Path(R1))["profiles"])


def test_the_profiles_that_the_recipe_promises_are_there() -> None:
    assert {"laptop", "smoke", "gpu", "node8", "paper"} <= set(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_of_every_profile_has_an_estimate(
    profile: str, r1pipe: Run, tmp_path: Path
) -> None:
    document = planned(r1pipe, tmp_path, profile)
    costs = document["costs"]
    assert costs["unknown"] == {}
    assert list(costs["stages"]) == [stage["name"] for stage in document["stages"]]
    for name, found in costs["stages"].items():
        for field in ("seconds", "peak_bytes", "disk_bytes"):
            low, high = found[field]
            assert 0 <= low <= high, (name, field)
            assert high > 0, (name, field)
    trained = [n for n, found in costs["stages"].items() if found["trained_tokens"][1]]
    sampled = [n for n, found in costs["stages"].items() if found["sampled_tokens"][1]]
    assert {"zero", "cold-start-sft", "second-sft", "helpful-rm", "distil"} <= set(trained)
    assert {"zero", "rejection-sample", "eval-r1", "student-rl"} <= set(sampled)


def test_the_larger_the_profile_the_more_it_costs(r1pipe: Run, tmp_path: Path) -> None:
    totals = [
        planned(r1pipe, tmp_path, profile)["costs"]["total"]
        for profile in ("smoke", "laptop", "gpu", "node8", "paper")
    ]
    for field in ("trained_tokens", "sampled_tokens", "disk_bytes"):
        ends = [total[field][1] for total in totals]
        assert ends == sorted(ends), field


def test_models_from_outside_have_the_size_that_the_manifest_states(
    r1pipe: Run, tmp_path: Path
) -> None:
    for profile, size in (("gpu", 1.5e9), ("node8", 7e9), ("paper", 671e9)):
        costs = planned(r1pipe, tmp_path, profile)["costs"]
        low, high = costs["stages"]["base"]["disk_bytes"]
        assert low <= 4 * size <= high, profile
        assert any("as its 'size' says" in text for text in costs["assumed"])
    assert (
        "source base-model"
        in costs["assumed"]["a model of 671B-A37B parameters, as its 'size' says"]
    )


def test_grpo_of_the_paper_samples_what_its_numbers_say(r1pipe: Run, tmp_path: Path) -> None:
    zero = planned(r1pipe, tmp_path, "paper")["costs"]["stages"]["zero"]
    completions = 10_400 * 32 * 16
    assert zero["sampled_tokens"] == [
        pytest.approx(completions * 0.1 * 32_768),
        pytest.approx(completions * 0.6 * 32_768),
    ]


def test_the_laptop_profile_is_predicted_as_it_was_measured(r1pipe: Run, tmp_path: Path) -> None:
    """Counts, bytes and MiB of a finished run with seed 17; its times are another machine's."""
    stages = planned(r1pipe, tmp_path, "laptop")["costs"]["stages"]
    measured = {
        "base": {"trained_tokens": 1_837_249, "disk_bytes": 3_589_289, "peak_bytes": 725 << 20},
        "student-base": {"trained_tokens": 565_740, "disk_bytes": 1_669_138},
        "zero": {"sampled_tokens": 438_000, "peak_bytes": 800 << 20},
        "reasoning-rl": {"sampled_tokens": 862_000, "peak_bytes": 680 << 20},
        "cold-start-sft": {"trained_tokens": 68_400},
        "second-sft": {"trained_tokens": 1_366_368},
        "distil": {"trained_tokens": 426_990},
        "rejection-sample": {"sampled_tokens": 173_000, "disk_bytes": 255_524},
        "eval-base": {"sampled_tokens": 34_600},
        "eval-dev2": {"sampled_tokens": 64_600, "disk_bytes": 71_965},
        "corpus": {"disk_bytes": 1_024_630},
    }
    for name, values in measured.items():
        for field, value in values.items():
            low, high = stages[name][field]
            assert low <= value <= high, (name, field)
            assert high <= 8 * low + (1 << 23), (name, field)  # a range says something


def test_a_finished_stage_gives_its_own_counts(tmp_path: Path, r1pipe: Run) -> None:
    store = str(tmp_path / "store")
    arguments = (R1, "--profile", "smoke", "--store", store)
    assert r1pipe("run", *arguments, "--to", "problems")[0] == 0
    record = Store(Path(store)).resolve("held-out")
    document = json.loads(r1pipe("plan", *arguments, "--json")[1])
    assert "held-out" not in document["costs"]["stages"]
    assert record.facts["num_problems"] == 24
    # 2 samples of 24 problems, which are there, and of 0.9 x 8 and 0.9 x 6, which may be fewer; at
    # least half of the tasks' mean completions of 30.75, 17.5 and 19.5 tokens
    low = 2 * 0.5 * (24 * 30.75 + 7.2 * 17.5 + 5.4 * 19.5)
    assert document["costs"]["stages"]["eval-base"]["sampled_tokens"][0] == pytest.approx(low)
    assert document["costs"]["stages"]["general-problems"]["disk_bytes"][1] > 0
