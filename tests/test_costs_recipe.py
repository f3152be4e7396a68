"""What `plan` says that the recipe costs, by hand and as it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Run
from ruamel.yaml import YAML

from r1pipe.costs import memory, rates
from r1pipe.costs.models import model_of_size
from r1pipe.costs.work import Cost, ProblemsInfo, Range
from r1pipe.manifest import load_manifest
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


def parts_of(profile: str, expect: str = "") -> tuple[Range, Range]:
    """Return hours of training and of sampling of `zero`, on GPUs of the H100 class."""
    overrides = [f"stages.zero.run.expect.completion_tokens={expect}"] if expect else []
    manifest = load_manifest(Path(R1), profile=profile, overrides=overrides)
    node = manifest.stages["zero"]
    problems = ProblemsInfo(Range(80_000), Range(60, 120), None)
    model = model_of_size({"node8": "7B", "gpu": "1.5B"}[profile])
    assert model is not None
    assert node.kind.cost is not None
    cost = node.kind.cost(node.params, node.run, {"model": model, "problems": problems})
    assert isinstance(cost, Cost)
    training = sum((rates.training_seconds(each, None)[0] for each in cost.training), Range(0))
    (work,) = cost.sampling
    slots = memory.slots(work, H100_BYTES, 1024, is_alone=False)
    sampling, _ = rates.sampling_seconds(work, None, slots)
    return training * (1 / 3600), sampling * (1 / 3600)


H100_BYTES = 80 * 10**9


def sampling_by_hand(
    completions: float,
    lengths: tuple[float, float],
    slots: float,
    model: tuple[float, float, float],
    speed: tuple[float, float, float, float],
) -> float:
    """Return hours of one GPU: operations, weights once a step, and the cache for each token.

    `lengths` of prompt and completion; `model`: operations of a token, bytes of weights, bytes of a
    token's keys and values; `speed`: operations/s, s for each token, bytes/s, s for each step.
    """
    prompt, length = lengths
    operations, weights, cached = model
    flops, token_s, bandwidth, step_s = speed
    tokens = completions * length
    computed = (tokens + completions / 16 * prompt) * (operations / flops + token_s)
    read = completions / slots * length * weights / bandwidth
    read += tokens * (prompt + length / 2) * cached / bandwidth
    return (computed + read + step_s) / 3600


def test_zero_of_node8_costs_what_it_does_by_hand() -> None:
    """819,200 completions of 819 to 4,915 tokens after 60 to 120, a 7B model, 8 x 990 TFLOP/s.

    Training: 6 x 7e9 operations a token and 2 x 7e9 for the reference, at 40 % of the peak on 0.95
    of 8 devices to 15 % on 0.75 of them.

    Sampling: of 45 % of 80 GB, 2 GiB and 14 GB of weights leave 19.9 GB for keys and values, 57,344
    bytes (28 layers x 1,024 x 2) a token: 346,000 tokens, or 737 completions of 60 + 819 / 2 under
    way to 69 of 120 + 4,915. With 256 taken for granted, and the cache read for nothing, it was 1.5
    to 31 h; 14 GB read in each step of 69, and 2,577 tokens' cache for each token, take longer.
    """
    training, sampling = parts_of("node8")
    fewest, most = (819_200 * tokens for tokens in (60 + 819.2, 120 + 4915.2))
    operations = 8 * 7e9
    low = fewest * operations / (400e12 * 8 * 0.95) / 3600
    high = most * operations / (150e12 * 8 * 0.75) / 3600
    assert low == pytest.approx(3.7, abs=0.1)
    assert high == pytest.approx(71, abs=1)
    assert low <= training.low <= 1.2 * low
    assert high <= training.high <= 1.3 * high
    room = (0.45 * H100_BYTES - (2 << 30) - 14e9) / 57_344
    fast, slow = room / (60 + 819.2 / 2), room / (120 + 4915.2)
    assert fast == pytest.approx(737, abs=1)
    assert slow == pytest.approx(68.8, abs=0.1)
    # 2 operations a parameter, and 4 x 28 layers x 3,584 for each of 5,035 tokens before
    model = 14e9 + 4 * 28 * 3584 * 5035.2, 14e9, 57_344.0
    # 100 rollouts of as many steps as a completion is long, through 28 layers
    best = 400e12, 1e-6, 3e12, 100 * 819.2 * 28 * 2e-5
    worst = 150e12, 2e-5, 1.5e12, 100 * 4915.2 * 28 * 1e-4
    least = sampling_by_hand(819_200, (60, 819.2), fast, model, best) / (8 * 0.95)
    longest = sampling_by_hand(819_200, (120, 4915.2), slow, model, worst) / (8 * 0.75)
    assert least == pytest.approx(1.39, abs=0.01)
    assert longest == pytest.approx(67.4, abs=0.1)
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest, rel=0.001)
    assert sampling.low <= 2
    assert sampling.high >= 11


def test_zero_of_gpu_samples_as_long_as_by_hand() -> None:
    """131,072 completions of 102 to 614 tokens after 60 to 120, 1.5B, one GPU: 30.9 GB for keys and
    values of 28,672 bytes a token are more than 1,024 completions need, which is vLLM's most."""
    _, sampling = parts_of("gpu")
    model = 3e9 + 4 * 28 * 1536 * 734.4, 3e9, 28_672.0
    best = 400e12, 1e-6, 3e12, 16 * 102.4 * 28 * 2e-5
    worst = 150e12, 2e-5, 1.5e12, 16 * 614.4 * 28 * 1e-4
    assert (0.45 * H100_BYTES - (2 << 30) - 3e9) / 28_672 / (120 + 614.4) > 1024
    least = sampling_by_hand(131_072, (60, 102.4), 1024, model, best)
    longest = sampling_by_hand(131_072, (120, 614.4), 1024, model, worst)
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest, rel=0.001)


@pytest.mark.parametrize("profile", ["node8", "gpu"])
def test_known_lengths_leave_a_factor_of_four(profile: str) -> None:
    for found, rough in zip(parts_of(profile, "[600,600]"), parts_of(profile), strict=True):
        assert found.high <= 4 * found.low
        assert rough.high > 4 * rough.low


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
