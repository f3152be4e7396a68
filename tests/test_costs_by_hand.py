"""What `plan` says of `zero` on GPUs, against a calculation by hand and published speeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import Run

from r1pipe.costs import memory, rates
from r1pipe.costs.models import model_of_size
from r1pipe.costs.work import Cost, ModelInfo, ProblemsInfo, Range, SamplingWork, Training
from r1pipe.manifest import load_manifest
from r1pipe.settings import Placement

R1 = str(Path(__file__).resolve().parent.parent / "manifests" / "r1.yaml")
H100_BYTES = 80 * 10**9
SEVEN = ModelInfo(4096, 32, 16384, 50368, 8192, 4096, 6_650_000_000, 6_650_000_000)
EIGHT = ModelInfo(4096, 32, 14336, 128256, 2048, 4096, 8_030_000_000, 8_030_000_000, 32, 8)
ONE = ModelInfo(2048, 24, 8192, 50368, 4096, 2048, 1_310_000_000, 1_310_000_000)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("R1PIPE_STORE", raising=False)


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
    read = completions / slots * length * (weights / bandwidth + step_s)
    read += tokens * (prompt + length / 2) * cached / bandwidth
    return (computed + read) / 3600


def test_zero_of_node8_costs_what_it_does_by_hand() -> None:
    """819,200 completions of 819 to 4,915 tokens after 60 to 120, a 7B model, 8 x 990 TFLOP/s.

    Training: 6 x 7e9 operations a token and 2 x 7e9 for the reference, at 43 % of the peak of 8
    devices to 20 % of 0.9 of them.

    Sampling: of 45 % of 80 GB, 2 GiB and 14 GB of weights leave 19.9 GB for keys and values, 57,344
    bytes (28 layers x 1,024 x 2) a token: 346,000 tokens, or 737 completions of 60 + 819 / 2 under
    way to 69 of 120 + 4,915. Each of 100 rollouts may end with one completion that goes on to 8,192
    tokens, each of which reads 14 GB at 2 TB/s and goes through 28 layers.
    """
    training, sampling = parts_of("node8")
    fewest, most = (819_200 * tokens for tokens in (60 + 819.2, 120 + 4915.2))
    operations = 8 * 7e9
    low = fewest * operations / (425e12 * 8) / 3600
    high = most * operations / (200e12 * 8 * 0.9) / 3600
    assert low == pytest.approx(3.3, abs=0.05)
    assert high == pytest.approx(44.6, abs=0.1)
    assert low <= training.low <= 1.2 * low
    assert high <= training.high <= 1.3 * high
    room = (0.45 * H100_BYTES - (2 << 30) - 14e9) / 57_344
    fast, slow = room / (60 + 819.2 / 2), room / (120 + 4915.2)
    assert fast == pytest.approx(737, abs=1)
    assert slow == pytest.approx(68.8, abs=0.1)
    # 2 operations a parameter, and 4 x 28 layers x 3,584 for each of 5,035 tokens before
    model = 14e9 + 4 * 28 * 3584 * 5035.2, 14e9, 57_344.0
    best, worst = (450e12, 1e-6, 3e12, 28 * 2e-5), (200e12, 1e-5, 2e12, 28 * 1e-4)
    least = sampling_by_hand(819_200, (60, 819.2), fast, model, best) / (8 * 0.95)
    longest = sampling_by_hand(819_200, (120, 4915.2), slow, model, worst) / (8 * 0.75)
    alone = 100 * (8192 - 819.2) * (14e9 / 2e12 + 28 * 1e-4) / 3600
    assert alone == pytest.approx(2.0, abs=0.05)
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest + alone, rel=0.001)
    assert least == pytest.approx(1.3, abs=0.01)
    assert longest == pytest.approx(57, abs=1)


def test_an_older_hand_calculation_of_node8_is_inside_for_its_lengths() -> None:
    """Sampling 2 to 11 h, training 1 to 28 h on 8 x H100, without the lengths it was made for.

    One hour of training at 425 TFLOP/s is 3,600 x 8 x 425e12 / 56e9 = 219 M tokens: 267 of each of
    819,200 completions, 60 of them prompt. 28 h at 200 TFLOP/s and 0.9 of the devices are 3,164,
    120 of them prompt. So it was made for means of 207 to 3,044 tokens, where 10 to 60 % of 8,192
    are 819 to 4,915. For those lengths we plan the same training, and sampling from 0.3 h on.
    """
    fewest = 3600 * 8 * 425e12 / 56e9 / 819_200 - 60
    most = 28 * 3600 * 8 * 0.9 * 200e12 / 56e9 / 819_200 - 120
    assert [fewest, most] == pytest.approx([207, 3044], abs=1)
    training, sampling = parts_of("node8", f"[{fewest},{most}]")
    assert training.low == pytest.approx(1, rel=0.1)
    assert training.high == pytest.approx(28, rel=0.2)
    assert sampling.low <= 2
    assert 11 <= sampling.high <= 30
    for expect in ("", "[200,900]", "[600,600]"):
        for found, (low, high) in zip(parts_of("node8", expect), ((1, 28), (2, 11)), strict=True):
            assert found.low <= high, expect
            assert found.high >= low, expect


def test_zero_of_gpu_costs_what_it_does_by_hand() -> None:
    """131,072 completions of 102 to 614 tokens after 60 to 120, 1.5B, one GPU: 30.9 GB for keys and
    values of 28,672 bytes a token are more than 1,024 completions need, which is vLLM's most.
    Training: 8 x 1.5e9 operations a token at 43 to 20 % of the peak, 0.17 to 1.6 h."""
    training, sampling = parts_of("gpu")
    low, high = (
        131_072 * tokens * 12e9 / speed / 3600
        for tokens, speed in ((60 + 102.4, 425e12), (120 + 614.4, 200e12))
    )
    assert [low, high] == pytest.approx([0.167, 1.6], abs=0.01)
    assert low <= training.low <= 1.2 * low
    assert high <= training.high <= 1.3 * high
    model = 3e9 + 4 * 28 * 1536 * 734.4, 3e9, 28_672.0
    best, worst = (450e12, 1e-6, 3e12, 28 * 2e-5), (200e12, 1e-5, 2e12, 28 * 1e-4)
    assert (0.45 * H100_BYTES - (2 << 30) - 3e9) / 28_672 / (120 + 614.4) > 1024
    least = sampling_by_hand(131_072, (60, 102.4), 1024, model, best)
    longest = sampling_by_hand(131_072, (120, 614.4), 1024, model, worst)
    longest += 16 * (1024 - 102.4) * (3e9 / 2e12 + 28 * 1e-4) / 3600
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest, rel=0.001)


@pytest.mark.parametrize("profile", ["node8", "gpu"])
@pytest.mark.parametrize(("expect", "most"), [("[600,600]", 4.0), ("[200,900]", 4.5 * 3.3)])
def test_lengths_decide_how_wide_a_plan_is(
    profile: str, expect: str, most: float, r1pipe: Run, tmp_path: Path
) -> None:
    """The whole stage of the command's plan, prompts of 50 to 250 tokens: known lengths leave a
    factor of four; a mean that is a factor of 4.5 itself multiplies it, at most."""
    setting = f"stages.zero.run.expect.completion_tokens={expect}"
    arguments = ("--profile", profile, "--json", "--store", str(tmp_path), "--set", setting)
    costs = json.loads(r1pipe("plan", R1, *arguments)[1])["costs"]
    low, high = costs["stages"]["zero"]["seconds"]
    assert high <= most * low
    for found in parts_of(profile):
        assert found.high > 4 * found.low, "nothing is known: 10 to 60 % of max_tokens"


@pytest.mark.parametrize(
    ("model", "length", "tokens_per_s"),
    [(SEVEN, 1024, 10_203), (SEVEN, 4096, 8_611), (SEVEN, 8192, 6_935), (ONE, 1024, 48_910)],
)
def test_the_assumed_training_holds_what_eight_h100_reach(
    model: ModelInfo, length: int, tokens_per_s: float
) -> None:
    """MosaicML's llm-foundry, scripts/train/benchmarking, H100 80GB BF16: tokens/s of each GPU."""
    place = Placement("deepspeed", "cuda", 8, 3, is_bf16=True)
    work = Training(model, place, Range(8e9), Range(100), length, length, 16384)
    found, _ = rates.training_seconds(work, None)
    assert 1e9 / found.high <= tokens_per_s <= 1.05 * 1e9 / found.low
    assert 1e9 / found.high >= tokens_per_s / 3, "a range says something"


def test_the_assumed_sampling_holds_what_vllm_reaches() -> None:
    """Lambda's vllm-benchmark, benchmark_v0.md: vLLM 0.6.0, Llama 3.1 8B, one H100, 5,000 requests
    of ShareGPT (about 220 tokens and 200), 256 at once: 8,088 tokens/s."""
    place = replace(Placement("vllm", "cuda"), is_bf16=True)
    work = SamplingWork(
        EIGHT, place, Range(5000), Range(5000), Range(220), Range(200), 2048, 256, Range(1)
    )
    found, _ = rates.sampling_seconds(work, None, Range(256))
    assert 1e6 / found.high <= 8_088 <= 1e6 / found.low
    assert 1e6 / found.high >= 8_088 / 2.1
