"""What sampling costs a plan: completions that fit an engine, and rollouts beside the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from test_costs import MODEL, GrpoRun, grpo_params, sampling

from r1pipe.costs import memory, rates, rollouts
from r1pipe.costs.estimate import Estimator
from r1pipe.costs.placement import Room
from r1pipe.costs.work import Cost, ProblemsInfo, Range
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.machine import Gpu, Machine
from r1pipe.settings import Placement
from r1pipe.train.deepspeed_backend import DeepSpeedSettings

MIB = 1 << 20
GIB = 1 << 30
LARGE = replace(MODEL, num_parameters=10**9, active_parameters=10**9, num_kv_heads=2)
HERE = Machine("here", "cpu", 2, 16 * GIB)


def vllm(device: str = "cuda", **settings: Any) -> Placement:
    return VllmSettings(backend="vllm", **settings).place(device, "float32")


def test_an_engine_decodes_as_many_completions_as_its_cache_holds() -> None:
    work = sampling(vllm(gpu_memory_fraction=0.5), model=LARGE, at_once=10**9)
    # half of 16 GiB without 2 GiB and weights of 4 GB; a token has 3 layers x 8 values x 4 bytes,
    # a completion under way 10 + 10 to 10 + 20 tokens
    left = 6 * GIB - 4e9
    assert memory.slots(work, 16 * GIB, 10**9) == Range(left / 96 / 30, left / 96 / 20)
    assert memory.slots(work, 16 * GIB, 1024) == Range(1024), "vLLM's own limit"
    assert memory.slots(replace(work, at_once=32), 16 * GIB, 1024) == Range(32)
    told = replace(work, where=vllm(gpu_memory_fraction=0.5, max_num_seqs=5000), at_once=5000)
    assert memory.slots(told, 16 * GIB, 1024) == Range(5000), "what is set is no default"
    assert memory.slots(work, 7 * GIB, 1024) == Range(1), "nothing is left: one, and a warning"


def test_a_cache_of_fixed_size_and_engines_that_are_divided() -> None:
    fixed = sampling(vllm(kv_cache_mb=3), model=LARGE, at_once=10**9)
    assert memory.slots(fixed, 80 * GIB, 10**9) == Range(3 * MIB / 96 / 30, 3 * MIB / 96 / 20)
    four = sampling(vllm(gpu_memory_fraction=0.5, tensor_parallel=4), model=LARGE, at_once=10**9)
    # four GPUs share weights once; of two heads of keys and values each is there twice
    left = 4 * 6 * GIB - 4e9
    assert memory.slots(four, 16 * GIB, 10**9).low == pytest.approx(left / (2 * 96) / 30)
    latent = replace(four, model=replace(LARGE, num_kv_heads=1))
    assert memory.slots(latent, 16 * GIB, 10**9).low == pytest.approx(left / (4 * 96) / 30)


def test_beside_a_trainer_an_engine_has_less_room_and_on_a_cpu_what_is_set() -> None:
    work = sampling(vllm(), model=LARGE, at_once=10**9)
    alone, beside = (memory.slots(work, 16 * GIB, 10**9, is_alone=x) for x in (True, False))
    assert alone.low == pytest.approx((14.4 * GIB - 2 * GIB - 4e9) / 96 / 30)
    assert beside.low == pytest.approx((7.2 * GIB - 2 * GIB - 4e9) / 96 / 30)
    on_cpu = sampling(vllm("cpu"), model=LARGE, at_once=256)
    assert memory.slots(on_cpu, 16 * GIB, 1024) == Range(256)
    assert memory.slots(sampling(), None, 1024) == Range(32)


@pytest.mark.parametrize(
    ("name", "gib", "most"),
    [("NVIDIA H100", 80, 1024), ("NVIDIA A100-SXM4-80GB", 80, 256), ("L40S", 45, 256)],
)
def test_the_default_is_vllms_own_for_the_gpu(name: str, gib: int, most: int) -> None:
    room = Room(replace(HERE, gpus=(Gpu(name, gib * GIB, "1"),)))
    assert room.default_seqs("cuda") == most
    assert Room(HERE).default_seqs("cuda") == 1024, "an H100 is assumed"


def test_fewer_completions_together_read_the_weights_more_often() -> None:
    work = sampling(vllm(), model=LARGE, completions=Range(3200), at_once=3200, rounds=Range(0))
    many, few = (rates.sampling_seconds(work, None, Range(n))[0] for n in (320, 32))
    # 10 batches and 100, of 20 steps through 3 layers that read 4 GB at 3 or 2 TB/s
    assert few.low - many.low == pytest.approx(90 * 20 * (4e9 / 3e12 + 3 * 2e-5))
    assert few.high - many.high == pytest.approx(90 * 20 * (4e9 / 2e12 + 3 * 1e-4))


def test_a_round_that_is_waited_for_may_end_with_one_completion_alone() -> None:
    place = vllm(tensor_parallel=2, data_parallel=4)
    work = sampling(place, model=LARGE, longest=1000)
    waits, streams = (
        rates.sampling_seconds(replace(work, waits=n), None)[0] for n in (Range(5), Range(0))
    )
    assert waits.low == streams.low
    # from 20 to 1,000 tokens, on two GPUs that share 4 GB; the four engines wait for each other
    assert waits.high - streams.high == pytest.approx(5 * 980 * (2e9 / 2e12 + 3 * 1e-4))
    speed = rates.Speed(((1e9, 1e-3),), 0.01)
    found = rates.Calibration({}, {}, "", {"sample:vllm:cuda": speed})
    waits, streams = (
        rates.sampling_seconds(replace(work, waits=n), found)[0] for n in (Range(5), Range(0))
    )
    assert waits.high - streams.high == pytest.approx(1.5 * 5 * 980 * 3 * 0.01)


def by_clock(sampled_s: float, trained_s: float, num_rollouts: int) -> float:
    """Return when the last rollout is trained on: the next is begun as the training on one is."""
    sampled, trained = sampled_s, 0.0
    for _ in range(num_rollouts):
        begins = max(trained, sampled)
        sampled, trained = begins + sampled_s, begins + trained_s
    return trained


@pytest.mark.parametrize(("sampled_s", "trained_s"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
@pytest.mark.parametrize("num_rollouts", [1, 2, 7])
def test_sampling_ahead_takes_what_a_clock_says(
    sampled_s: float, trained_s: float, num_rollouts: int
) -> None:
    training, sampled = (Range(num_rollouts * each) for each in (trained_s, sampled_s))
    found = rates.overlapped(training, sampled, num_rollouts, is_apart=True)
    assert found.low == found.high == pytest.approx(by_clock(sampled_s, trained_s, num_rollouts))
    shared = rates.overlapped(training, sampled, num_rollouts, is_apart=False)
    assert (shared.low, shared.high) == (found.low, training.high + sampled.high)


def grpo(
    staleness: int, device: str, cluster: Literal["ray"] | None, num_trainers: int = 1
) -> Cost:
    generator = VllmSettings(backend="vllm", cluster=cluster, data_parallel=2 if cluster else 1)
    engine = DeepSpeedSettings(backend="deepspeed", num_processes=num_trainers)
    run = GrpoRun(device=device, micro_batch_tokens=256, generator=generator, engine=engine)
    problems = ProblemsInfo(Range(100), Range(10), Range(20, 30))
    params = grpo_params(num_steps=8, staleness=staleness)
    return rollouts.rollouts(params, run, {"model": MODEL, "problems": problems})


def estimated(cost: Cost) -> Any:
    kind = SimpleNamespace(
        kind="grpo", path=Path("grpo.py"), cost=lambda *_: cost, outputs={"model": "model"}
    )
    node = SimpleNamespace(kind=kind, inputs={}, params=None, run=None)
    manifest: Any = SimpleNamespace(stages={"zero": node})
    nothing: Any = None
    return Estimator(manifest, nothing, {}, None, HERE).estimate("zero")


def test_a_plan_counts_overlapping_times_once_and_all_devices() -> None:
    ahead, in_turn = grpo(1, "cuda", "ray"), grpo(0, "cuda", "ray")
    assert (ahead.rollouts_ahead, in_turn.rollouts_ahead) == (4, 0)
    assert ahead.sampling[0].at_once == 32, "a rollout of 64 on two engines"
    apart, one_by_one = estimated(ahead), estimated(in_turn)
    (work,), (sampled,) = ahead.training, ahead.sampling
    trained_s = rates.training_seconds(work, None)[0]
    slots = Range(32)
    sampled_s = rates.sampling_seconds(sampled, None, slots)[0]
    shorter = Range(min(trained_s.low, sampled_s.low), min(trained_s.high, sampled_s.high)) * 0.75
    assert one_by_one.seconds.low - apart.seconds.low == pytest.approx(shorter.low)
    assert one_by_one.seconds.high - apart.seconds.high == pytest.approx(shorter.high)
    assert apart.devices == 3, "the trainer's, and one for each engine"
    assert estimated(grpo(0, "cuda", "ray", 4)).devices == 6
    assert estimated(grpo(0, "cuda", None, 4)).devices == 4


def test_ranks_that_have_an_engine_together_are_so_many_engines() -> None:
    engine = DeepSpeedSettings(backend="deepspeed", num_processes=4)
    together = VllmSettings(backend="vllm", tensor_parallel=2)
    run = GrpoRun(device="cuda", micro_batch_tokens=256, generator=together, engine=engine)
    problems = ProblemsInfo(Range(100), Range(10), Range(20, 30))
    cost = rollouts.rollouts(grpo_params(num_steps=8), run, {"model": MODEL, "problems": problems})
    (work,) = cost.sampling
    assert (work.where.processes, work.where.engines, work.at_once) == (4, 2, 32)
    assert estimated(cost).devices == 4


def test_on_a_cpu_both_may_take_all_cores() -> None:
    ahead, in_turn = (estimated(grpo(staleness, "cpu", "ray")) for staleness in (1, 0))
    assert ahead.seconds.low < in_turn.seconds.low
    assert ahead.seconds.high == pytest.approx(in_turn.seconds.high)


def test_an_engine_on_a_cluster_has_its_gpu_to_itself() -> None:
    beside, apart = (estimated(grpo(0, "cuda", cluster)) for cluster in (None, "ray"))
    assert beside.devices == 1
    assert apart.peak_bytes.low == pytest.approx(0.9 * 80e9, rel=0.02)
    assert beside.peak_bytes.low == pytest.approx(0.45 * 80e9, rel=0.05)
