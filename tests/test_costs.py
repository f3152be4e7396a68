"""Work, time, memory and disk of stages, worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe.costs import memory, rates, recipes, rollouts
from r1pipe.costs.models import forward_flops
from r1pipe.costs.rates import Calibration, Speed
from r1pipe.costs.work import (
    DatasetInfo,
    ModelInfo,
    ProblemsInfo,
    Range,
    RowsInfo,
    SamplingWork,
    Training,
)
from r1pipe.engine_settings import TrainRun
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import Expected, SampleRun
from r1pipe.settings import Adapter, ModelParams, Placement
from r1pipe.train.deepspeed_backend import DeepSpeedSettings

MODEL = ModelInfo(
    hidden_size=8,
    num_layers=3,
    intermediate_size=16,
    vocab_size=100,
    kv_values=8,
    attention_size=8,
    num_parameters=1000,
    active_parameters=900,
)
HERE = Placement("torch")


class GrpoRun(TrainRun, SampleRun):
    """Run settings of GRPO."""


ROWS = RowsInfo(Range(100, 130), Range(10), Range(20, 30))


def training(where: Placement = HERE, **values: object) -> Training:
    base = Training(MODEL, where, Range(1000), Range(10), 20.0, 40, 256)
    return replace(base, **values)  # type: ignore[arg-type]


def sampling(where: Placement | None = None, **values: object) -> SamplingWork:
    place = where or Placement("transformers")
    base = SamplingWork(MODEL, place, Range(64), Range(8), Range(10), Range(20), 40, 32)
    return replace(base, **values)  # type: ignore[arg-type]


def grpo_params(**values: object) -> Any:
    """Return the fields of GRPO that decide its cost."""
    usual = {
        "precision": "float32",
        "num_steps": 6,
        "staleness": 0,
        "problems_per_step": 4,
        "group_size": 8,
        "minibatches_per_rollout": 2,
        "kl_coef": 0.001,
        "max_tokens": 50,
    }
    absent = "preference process dynamic_sampling adaback r3 sampler_truncation tools adapter"
    return SimpleNamespace(**{**usual, **dict.fromkeys(absent.split()), **values})


def test_ranges_add_multiply_and_are_cut() -> None:
    assert Range(1, 2) + Range(10) == Range(11, 12)
    assert Range(1, 2) * Range(3, 4) == Range(3, 8)
    assert Range(5, 20) * 0.5 == Range(2.5, 10)
    assert Range(5, 20).at_most(7) == Range(5, 7)
    with pytest.raises(AssertionError, match="not a range: 2 to 1"):
        Range(2, 1)


def test_supervised_work_is_epochs_times_rows_times_tokens() -> None:
    params = SimpleNamespace(num_epochs=3, batch_size=32, precision="float32")
    (work,) = recipes.supervised(params, TrainRun(), MODEL, ROWS, max_tokens=512).training
    assert work.tokens == Range(3 * 100 * 30, 3 * 130 * 40)
    assert work.updates == Range(3 * 4, 3 * 5)  # 100 rows in 4 batches of 32, 130 in 5
    few = recipes.supervised(params, TrainRun(), MODEL, ROWS, max_tokens=35, max_rows=64)
    assert few.training[0].tokens == Range(3 * 64 * 30, 3 * 64 * 35)


def test_a_mix_of_parts_has_their_rows_and_their_mean_lengths() -> None:
    other = RowsInfo(Range(0, 390), Range(2), Range(10))
    mixed = recipes.mixed_rows([ROWS, other])
    assert mixed.num_rows == Range(100, 520)
    # by the upper counts 1 : 3
    assert mixed.prompt_tokens == Range(0.25 * 10 + 0.75 * 2)
    assert mixed.completion_tokens == Range(0.25 * 20 + 7.5, 0.25 * 30 + 7.5)


def test_synthetic_rows_are_as_long_as_their_tasks_and_formats() -> None:
    world = SimpleNamespace(mix={"arithmetic": 1.0, "parity": 1.0, "choice": 0.0})
    chat = SimpleNamespace(world=world, format="chat")
    rows = recipes.world_rows(chat, Range(10))
    assert rows.prompt_tokens == recipes.SPREAD * 17.5
    assert rows.completion_tokens == recipes.SPREAD * 30.75
    zero = SimpleNamespace(world=world, format="r1-zero", thought_frac=0.5, unformatted_frac=0.0)
    # half of them have a thought (30.75 - 7 tokens), half a bare answer of 6
    assert recipes.world_rows(zero, Range(10)).completion_tokens == recipes.SPREAD * 14.875


def test_candidates_end_with_the_unit_that_suffices() -> None:
    params = SimpleNamespace(
        precision="float32",
        samples_per_problem=4,
        target_rows=90,
        max_tokens=16,
        problems_per_unit=10,
        adaptive=None,
        tools=None,
    )
    problems = ProblemsInfo(Range(50, 100), Range(10), Range(12, 40))
    cost = recipes.candidates(params, SampleRun(), {"model": MODEL, "problems": problems})
    (work,) = cost.sampling
    # 90 / 0.9 = 100 completions are three units of 40; 90 / 0.15 = 600 are over all 400
    assert work.completions == Range(120, 400)
    assert work.completion_tokens == Range(12, 16)
    assert work.tokens == Range(120 * 12, 400 * 16)
    rows, candidates = cost.outputs["rows"], cost.outputs["candidates"]
    assert isinstance(rows, RowsInfo)
    assert isinstance(candidates, RowsInfo)
    assert rows.num_rows == Range(0.15 * 120, 90)
    assert candidates.num_rows == Range(120, 400)


def test_grpo_samples_every_group_and_trains_some_of_it() -> None:
    params = grpo_params()
    run = GrpoRun(micro_batch_tokens=256, max_batch=32)
    problems = ProblemsInfo(Range(100), Range(10), Range(20, 30))
    cost = rollouts.rollouts(params, run, {"model": MODEL, "problems": problems})
    (work,), (samples,) = cost.training, cost.sampling
    assert samples.completions == Range(192)  # 6 x 4 x 8
    assert samples.rounds == Range(3)
    assert samples.at_once == 32  # a rollout has 64
    assert samples.tokens == Range(192 * 20, 192 * 30)
    assert work.tokens == Range(192 * 30, 192 * 40)  # the KL term gives all a gradient
    assert work.scored_tokens == Range(192 * 30, 192 * 40)
    assert work.frozen_copies == 1
    params.dynamic_sampling, params.process = 10, "model"
    cost = rollouts.rollouts(params, run, {"model": MODEL, "problems": problems})
    (again,), (samples,) = cost.training, cost.sampling
    assert samples.completions == Range(192, 1920)  # up to ten draws
    assert samples.rounds == Range(3, 30)
    assert again.tokens == work.tokens
    assert (work.whole_copies, again.whole_copies) == (0, 1)
    params.adapter = Adapter(rank=4, alpha=8.0)
    (adapted,) = rollouts.rollouts(params, run, {"model": MODEL, "problems": problems}).training
    assert adapted.frozen_copies == 0, "the reference is the base itself"
    assert adapted.adapter_parameters == recipes.adapter_parameters(params.adapter, MODEL)


def test_every_rank_of_grpo_samples_with_a_sampler_of_its_own() -> None:
    params = grpo_params(num_steps=2, kl_coef=0.0, precision="bfloat16")
    engine = DeepSpeedSettings(backend="deepspeed", num_processes=4)
    run = GrpoRun(device="cuda", micro_batch_tokens=256, max_batch=32, engine=engine)
    problems = ProblemsInfo(Range(100), Range(10), Range(20, 30))
    cost = rollouts.rollouts(params, run, {"model": MODEL, "problems": problems})
    assert cost.sampling[0].where.processes == cost.training[0].where.processes == 4
    assert cost.sampling[0].where.is_bf16
    assert cost.training[0].where.is_bf16
    assert cost.training[0].scored_tokens == Range(0)
    assert cost.training[0].tokens == Range(64 * 30 / 3, 64 * 40)  # flat groups are left out
    assert cost.training[0].frozen_copies == 0


def test_where_lengths_are_not_known_it_is_said() -> None:
    problems = recipes.dataset_problems(DatasetInfo(1000), 500)
    assert problems.num_problems == Range(450, 500)
    nothing = Expected()
    assert recipes.completion_length(problems, 1000, nothing) == Range(100, 600)
    (text,) = recipes.length_assumption(problems, 1000, nothing)
    assert text == "completions of 10 to 60 % of 1,000 tokens on average"
    expected = Expected(completion_tokens=(200, 1200))
    assert recipes.completion_length(problems, 1000, expected) == Range(200, 1000)
    (text,) = recipes.length_assumption(problems, 1000, expected)
    assert text == "completions of 200 to 1,200 tokens on average, as run.expect says"


def test_places_are_read_from_run_and_the_precision_from_params() -> None:
    engine = {"backend": "deepspeed", "num_processes": 4, "zero_stage": 3}
    trained = TrainRun.model_validate({"device": "cuda", "engine": engine})
    half, whole = ModelParams(precision="bfloat16"), ModelParams()
    place = recipes.training_place(whole, trained)
    assert place == Placement("deepspeed", "cuda", 4, 3, start_s=(4, 90))
    assert recipes.training_place(half, trained) == replace(place, is_bf16=True)
    generator = {"backend": "vllm", "tensor_parallel": 2, "data_parallel": 3, "max_num_seqs": 99}
    run = SampleRun.model_validate({"device": "cuda", "generator": generator})
    sampler = recipes.sampling_place(whole, run)
    assert (sampler.backend, sampler.device) == ("vllm", "cuda")
    assert (sampler.processes, sampler.shards) == (2 * 3, 2)
    assert sampler.has_own_weights
    assert recipes.sampling_place(half, run).is_bf16
    assert recipes.batch_limit(run) == 99
    assert recipes.batch_limit(SampleRun(max_batch=7)) == 7


@pytest.mark.parametrize(
    ("where", "per_parameter"),
    [
        (Placement("torch"), 16),  # weight 4, gradient 4, moments 8
        (Placement("deepspeed", processes=4, zero_stage=0), 16),
        (Placement("deepspeed", processes=4, zero_stage=1), 4 + 4 + 8 / 4),
        (Placement("deepspeed", processes=4, zero_stage=2), 4 + 4 / 4 + 8 / 4),
        (Placement("deepspeed", processes=4, zero_stage=3), 16 / 4),
        (Placement("deepspeed", processes=4, zero_stage=1, is_bf16=True), 2 + (4 + 12) / 4),
        (Placement("deepspeed", processes=4, zero_stage=3, is_bf16=True), (2 + 4 + 12) / 4),
        (
            Placement("deepspeed", processes=16, zero_stage=3, is_bf16=True, neighbours=8),
            (2 + 4 + 12) / 16 + 2 / 8,
        ),
        (Placement("deepspeed", processes=4, zero_stage=3, is_offloaded=True), 8 / 4),
    ],
)
def test_zero_divides_weights_gradients_and_moments(where: Placement, per_parameter: float) -> None:
    big = replace(MODEL, num_parameters=10**9)
    work = training(where, model=big)
    without = memory.training_bytes(replace(work, model=replace(big, num_parameters=0)))
    found = memory.training_bytes(work)
    assert found.low - without.low == pytest.approx(per_parameter * 1e9)
    assert found.high - without.high == pytest.approx(per_parameter * 1e9 * 1.3)


def test_of_logits_no_more_are_counted_than_are_there_at_a_time() -> None:
    large = replace(MODEL, vocab_size=150_000)
    few, many = (
        memory.training_bytes(training(model=model, micro_batch_tokens=16_384))
        for model in (replace(MODEL, vocab_size=1), large)
    )
    # of four bytes; in the backward pass three times as many, for four workers
    assert many.low - few.low == pytest.approx(4 * (2**26 - 16_384))
    assert many.high - few.high == pytest.approx(1.3 * 4 * 3 * 4 * (2**26 - 16_384))


def test_a_reference_is_one_more_copy_of_the_weights() -> None:
    plain, more = (memory.training_bytes(training(frozen_copies=n)) for n in (0, 1))
    assert more.low - plain.low == 4 * 1000


def test_an_adapter_alone_has_gradients_and_moments() -> None:
    big = replace(MODEL, num_parameters=10**9)
    work = training(Placement("torch", is_bf16=True), model=big)
    small = replace(work, adapter_parameters=10**6)
    whole, adapted = (memory.training_bytes(each).low for each in (work, small))
    assert whole - adapted == pytest.approx(16 * 1e9 - (2 * 1e9 + 16 * 1e6))
    assert memory.checkpoint_bytes(small).high == 2 * 12 * 1e6
    (slow, _), (fast, _) = (rates.training_seconds(each, None) for each in (work, small))
    assert fast.low < slow.low * 0.7
    assert fast.high < slow.high


def test_zero_3_divides_a_reference_and_leaves_reward_models_whole() -> None:
    place = Placement("deepspeed", processes=4, zero_stage=3)
    plain = memory.training_bytes(training(place))
    reference = memory.training_bytes(training(place, frozen_copies=1))
    scorers = memory.training_bytes(training(place, whole_copies=2))
    assert reference.low - plain.low == 4 * 1000 / 4
    assert scorers.low - plain.low == 2 * 4 * 1000


def test_devices_that_share_micro_batches_divide_what_these_need() -> None:
    place = Placement("deepspeed", "cuda", processes=4, zero_stage=3)
    alone, shared = (
        memory.training_bytes(training(replace(place, sequence_parallel=n))) for n in (1, 4)
    )
    state = 16 * 1000 / 4
    assert (shared.low - state) * 4 == pytest.approx(alone.low - state)
    engine = {"backend": "deepspeed", "num_processes": 4, "sequence_parallel": 2}
    run = TrainRun.model_validate({"engine": engine})
    assert recipes.training_place(ModelParams(), run).sequence_parallel == 2


def test_the_cache_of_a_sampler_grows_with_batch_and_length() -> None:
    # float32 weights, 32 rows x 30 tokens x 3 layers x 8 values, and 8 bytes for each of 32 x 100
    assert memory.sampling_bytes(sampling(), None).low == 4000 + 32 * 30 * 3 * 8 * 4 + 8 * 3200
    half = VllmSettings(backend="vllm", gpu_memory_fraction=0.5).place("cuda", "float32")
    assert memory.sampling_bytes(sampling(half), 10**9) == Range(5 * 10**8)
    usual = VllmSettings(backend="vllm").place("cuda", "float32")
    assert memory.sampling_bytes(sampling(usual), 10**9) == Range(0.9 * 10**9)
    beside = memory.sampling_bytes(sampling(usual), 10**9, is_alone=False)
    assert beside == Range(0.45 * 10**9)
    server = Placement("openai", is_server=True)
    assert memory.sampling_bytes(sampling(server), None) == Range(0)


def test_artifacts_take_what_they_hold() -> None:
    model = memory.artifact_bytes(MODEL)
    assert model.low == pytest.approx(0.9 * 4000 + 30 * 100)
    assert model.high == pytest.approx(4000 + 80 * 100)
    assert memory.artifact_bytes(ROWS).high == 130 * (40 + 40 * 4 * 0.5)
    assert memory.checkpoint_bytes(training(frozen_copies=1)).high == 2 * 16 * 1000


def test_speeds_lie_on_the_line_between_points() -> None:
    speed = Speed(((100.0, 1.0), (200.0, 1.5), (400.0, 3.5)))
    assert [speed.token_s(x) for x in (50, 100, 150, 300, 400)] == [1.0, 1.0, 1.25, 2.5, 3.5]
    assert speed.token_s(600) == 3.5 + 2.0  # the last slope is 0.01
    flat = Speed(((100.0, 1.0), (200.0, 1.0)))
    assert flat.token_s(1200) == 2.0  # a third of 1.0 x 1200 / 200
    assert Speed(((100.0, 1.0),)).token_s(300) == 3.0


def test_a_measured_engine_decides_the_time() -> None:
    flops = forward_flops(MODEL, 10)
    found = Calibration({}, {}, "", {"train:torch:cpu": Speed(((flops, 0.01),))})
    seconds, is_measured = rates.training_seconds(training(scored_tokens=Range(300)), found)
    assert is_measured
    # 1000 tokens forward and backward, 300 forward alone at a third
    assert seconds.low == pytest.approx(11.0 * 0.7)
    assert seconds.high == pytest.approx(11.0 * 1.5)
    other = training(Placement("torch", "cuda"))
    assert rates.training_seconds(other, found)[1] is False


def test_a_batch_that_is_not_full_pays_for_its_steps() -> None:
    speed = Speed(((forward_flops(MODEL, 30), 0.001),), step_layer_s=0.1)
    found = Calibration({}, {}, "", {"sample:transformers:cpu": speed})
    thin = rates.sampling_seconds(sampling(completions=Range(1), prompts=Range(1)), found)[0]
    assert thin.low == pytest.approx(20 * 3 * 0.1 * 0.7)  # 20 steps of 3 layers
    full = rates.sampling_seconds(sampling(completions=Range(10_000)), found)[0]
    assert full.low == pytest.approx((10_000 * 20 + 8 * 10) * 0.001 * 0.7)


def test_several_gpus_share_a_time_and_processes_on_a_cpu_do_not() -> None:
    one = rates.training_seconds(training(Placement("deepspeed", "cuda")), None)[0]
    four = rates.training_seconds(training(Placement("deepspeed", "cuda", 4)), None)[0]
    assert four.low == pytest.approx(one.low / 4)
    assert four.high == pytest.approx(one.high / (4 * 0.9))
    one, four = (
        rates.sampling_seconds(sampling(Placement("vllm", "cuda", n)), None)[0] for n in (1, 4)
    )
    assert four.low == pytest.approx(one.low / (4 * 0.95))
    assert four.high == pytest.approx(one.high / (4 * 0.75))
    cpu = [
        rates.training_seconds(training(Placement("deepspeed", "cpu", n)), None)[0] for n in (1, 4)
    ]
    assert cpu[0] == cpu[1]


def test_a_calibration_is_read_back_and_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    path = rates.calibration_path("my machine/1", {"XDG_CACHE_HOME": str(tmp_path)})
    assert path == tmp_path / "r1pipe" / "calibration-my_machine_1.json"
    assert rates.read_calibration(path) is None
    speeds = {"train:torch:cpu": Speed(((1.0, 2.0), (3.0, 4.0)), 0.5)}
    found = Calibration({"node": "x"}, {"torch": "2.13"}, "2026", speeds, {"a": "b"}, 0.25)
    rates.write_calibration(path, found)
    assert rates.read_calibration(path) == found
    for text in ("", "[]", json.dumps(found.to_json() | {"format": 99})):
        path.write_text(text)
        assert rates.read_calibration(path) is None


def test_a_server_answers_so_many_requests_at_once() -> None:
    seconds, is_measured = rates.sampling_seconds(
        sampling(Placement("openai", is_server=True)), None
    )
    assert not is_measured
    assert seconds == Range(64 * 20 / 32 * 0.005, 64 * 20 / 32 * 0.05)
