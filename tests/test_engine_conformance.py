"""One suite for every engine, PyTorch and DeepSpeed: gradients, clipping, rates, state, weights."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import corpus_rows, model, tokenizer
from transformers import Qwen3ForCausalLM

from r1pipe.engine_settings import EngineRun, EngineSettings
from r1pipe.errors import DamagedError, StageError
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.records import TokenSequence
from r1pipe.settings import Optimizer, Precision
from r1pipe.store.checkpoints import SealedCheckpoints
from r1pipe.train import logprobs
from r1pipe.train.backends import load_trained, make_engine
from r1pipe.train.batching import Batching, MicroBatch, micro_batches
from r1pipe.train.deepspeed_backend import DeepSpeedSettings
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.torch_backend import TorchSettings

PAD = tokenizer().pad_token_id
OPTIMIZER = Optimizer(lr=1.0, beta1=0.8, beta2=0.9, weight_decay=0.1, max_grad_norm=0.5)
BACKENDS = [
    "torch",
    *(
        pytest.param(
            f"zero-{stage}",
            marks=[
                pytest.mark.engines,
                pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
            ],
        )
        for stage in range(4)
    ),
]


def sequences(count: int = 8) -> list[TokenSequence]:
    return [
        TokenSequence(
            encode_prompt(tokenizer(), row["prompt"], row["format"]),
            encode_completion(tokenizer(), row["completion"]),
            index,
        )
        for index, row in enumerate(corpus_rows(count))
    ]


def batches(micro_batch_tokens: int = 512, layout: Any = "padded") -> Iterator[MicroBatch]:
    return micro_batches(sequences(), Batching(micro_batch_tokens, layout, PAD))


NUM_TOKENS = sum(len(s.completion_ids) for s in sequences())


def loss(policy: Any, batch: MicroBatch) -> Loss:
    """Mean negative log-likelihood of all eight sequences, and two measures."""
    logprobs = token_logprobs(policy, batch)
    return Loss(
        -logprobs.sum() / NUM_TOKENS,
        sums={"tokens": float(len(logprobs))},
        peaks={"worst": -logprobs.detach().min().item()},
    )


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Opened:
    """Engines of one backend, closed after the test."""

    def __init__(self, backend: str) -> None:
        settings: EngineSettings = TorchSettings()
        if backend.startswith("zero-"):
            stage: Any = int(backend[-1])
            settings = DeepSpeedSettings(backend="deepspeed", zero_stage=stage)
        self.run = EngineRun(engine=settings, workers=1)
        self.precision: Precision = "float32"
        self.opened: list[Engine] = []

    def __call__(self, policy: Any, optimizer: Optimizer = OPTIMIZER) -> Engine:
        self.opened.append(make_engine(policy, optimizer, self.run, precision=self.precision))
        return self.opened[-1]


@pytest.fixture
def new_engine(backend: str) -> Iterator[Opened]:
    opened = Opened(backend)
    yield opened
    for engine in opened.opened:
        engine.close()


def plain_steps(policy: Any, rates: list[float]) -> list[tuple[float, float]]:
    """Train with PyTorch's own parts, one pass over all sequences a step: (loss, norm) of each."""
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.8, 0.9), weight_decay=0.1)
    seen = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        value = sum(loss(policy, batch).value for batch in batches(100_000))
        assert isinstance(value, torch.Tensor)
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
        seen.append((float(value.detach()), float(norm)))
    return seen


def steps(engine: Engine, rates: list[float], **options: Any) -> list[tuple[float, float]]:
    return [(engine.accumulate(batches(**options), loss)["loss"], engine.step(r)) for r in rates]


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in engine.weights()}


RATES = [1e-2, 3e-3, 1e-3, 2e-2]


@pytest.mark.parametrize("options", [{}, {"micro_batch_tokens": 1}, {"layout": "packed"}])
def test_steps_equal_those_of_plain_adamw_with_clipping(
    new_engine: Opened, options: dict[str, Any]
) -> None:
    policy = model()
    expected = plain_steps(copy.deepcopy(policy), RATES)
    assert expected[0][1] > 0.5, "the first gradient is clipped"
    seen = steps(new_engine(policy), RATES, **options)
    for (value, norm), (expected_value, expected_norm) in zip(seen, expected, strict=True):
        # sums in another order, in float32, fed back through four steps
        assert value == pytest.approx(expected_value, rel=2e-5)
        assert norm == pytest.approx(expected_norm, rel=5e-4)


def test_measures_add_up_and_peaks_are_the_largest(new_engine: Opened) -> None:
    policy = model()
    worst = max(loss(policy, batch).peaks["worst"] for batch in batches(1))
    measures = new_engine(policy).accumulate(batches(64), loss)
    assert measures["tokens"] == NUM_TOKENS
    assert measures["worst"] == pytest.approx(worst, rel=1e-5)


def test_the_weights_it_yields_are_those_it_trains(new_engine: Opened) -> None:
    policy = model()
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    engine = new_engine(policy)
    assert weights_of(engine).keys() == before.keys()
    for name, tensor in weights_of(engine).items():
        assert torch.equal(tensor, before[name]), name
    steps(engine, [1e-2])
    after, saved = weights_of(engine), engine.consolidated()
    assert saved is not None
    for name, tensor in after.items():
        assert torch.equal(tensor, saved[name]), name
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_no_weight_and_the_norm_says_so(
    new_engine: Opened, value: float
) -> None:
    def broken(policy: Any, batch: MicroBatch) -> Loss:
        logprobs = token_logprobs(policy, batch)
        return Loss((logprobs * torch.where(torch.arange(len(logprobs)) == 3, value, 1.0)).sum())

    engine = new_engine(model())
    steps(engine, RATES[:1])
    before = weights_of(engine)
    engine.accumulate(batches(), broken)
    assert not math.isfinite(engine.step(1e-2))
    for name, tensor in weights_of(engine).items():
        assert torch.equal(tensor, before[name]), name


def test_a_checkpoint_continues_exactly(new_engine: Opened, tmp_path: Path) -> None:
    first = new_engine(model(1))
    steps(first, RATES[:2])
    first.save(tmp_path)
    expected, wanted = steps(first, RATES[2:]), weights_of(first)
    second = new_engine(model(2))
    steps(second, [1e-2])  # moments of its own, which the checkpoint replaces
    second.load(tmp_path)
    assert steps(second, RATES[2:]) == expected
    for name, tensor in weights_of(second).items():
        assert torch.equal(tensor, wanted[name]), name


def test_a_checkpoint_before_the_first_step_continues_exactly(
    new_engine: Opened, tmp_path: Path
) -> None:
    first = new_engine(model(1))
    first.save(tmp_path)
    second = new_engine(model(2))
    second.load(tmp_path)
    assert steps(second, RATES[:2]) == steps(first, RATES[:2])


def test_a_checkpoint_of_another_engine_continues(new_engine: Opened, tmp_path: Path) -> None:
    first = new_engine(model(1))
    steps(first, RATES[:2])
    (tmp_path / "own").mkdir()
    first.save(tmp_path / "own")
    torch_engine = make_engine(model(2), OPTIMIZER, EngineRun(workers=1))
    torch_engine.load(tmp_path / "own")
    torch_engine.save(tmp_path)
    back = new_engine(model(3))
    back.load(tmp_path)
    expected = steps(first, RATES[2:])
    for seen in (steps(torch_engine, RATES[2:]), steps(back, RATES[2:])):
        assert [v for v, _ in seen] == pytest.approx([v for v, _ in expected], rel=2e-5)


def test_checkpoints_are_safetensors_and_json(new_engine: Opened, tmp_path: Path) -> None:
    engine = new_engine(model())
    steps(engine, [1e-3])
    with SealedCheckpoints(tmp_path).saving(1) as folder:
        engine.save(folder)
        names = sorted(path.name for path in folder.iterdir())
    digested = "engine.safetensors.blake3"  # the shard's digest, taken as it was written
    assert names == ["engine.json", "engine.safetensors", digested]
    sealed = sorted(path.name for path in (tmp_path / "step-0000000001").iterdir())
    assert sealed == ["engine.json", "engine.safetensors", "seal.json"]


def test_a_checkpoint_of_another_model_is_refused(new_engine: Opened, tmp_path: Path) -> None:
    engine = new_engine(model())
    engine.save(tmp_path)
    other = torch.nn.Module()
    other.score = torch.nn.Linear(2, 2)
    with pytest.raises(DamagedError, match="other parameters than the model's"):
        make_engine(other, OPTIMIZER, EngineRun(workers=1)).load(tmp_path)


def test_activation_checkpointing_and_parts_of_the_vocabulary_change_nothing(
    new_engine: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps(new_engine(model()), RATES)
    settings = new_engine.run.engine.model_copy(update={"activation_checkpointing": True})
    new_engine.run = new_engine.run.model_copy(update={"engine": settings})
    monkeypatch.setattr(logprobs, "MAX_LOGITS", 5 * len(tokenizer()))
    policy = model()
    seen = steps(new_engine(policy), RATES)
    assert policy.is_gradient_checkpointing
    for found, wanted in zip(seen, expected, strict=True):
        assert found == pytest.approx(wanted, rel=5e-4)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_eager_attention_computes_the_same(new_engine: Opened, layout: str) -> None:
    policy = model()
    expected = plain_steps(copy.deepcopy(policy), RATES)
    settings = new_engine.run.engine.model_copy(update={"attention": "eager"})
    new_engine.run = new_engine.run.model_copy(update={"engine": settings})
    seen = steps(new_engine(policy), RATES, layout=layout)
    assert policy.config._attn_implementation == "eager"
    for found, wanted in zip(seen, expected, strict=True):
        assert found == pytest.approx(wanted, rel=5e-4)


def test_bfloat16_follows_float32_and_continues_exactly(
    backend: str, new_engine: Opened, tmp_path: Path
) -> None:
    expected = steps(new_engine(model()), RATES)
    new_engine.precision = "bfloat16"
    if backend == "zero-0":
        with pytest.raises(StageError, match=r"ZeRO 0 keeps no float32 weights .* set zero_stage"):
            new_engine(model())
        return
    first = new_engine(model())
    seen = steps(first, RATES[:2])
    first.save(tmp_path)
    seen += (rest := steps(first, RATES[2:]))
    for (found, _), (wanted, _) in zip(seen, expected, strict=True):
        assert found == pytest.approx(wanted, rel=2e-2)
    assert seen != expected
    second = new_engine(model(2))
    second.load(tmp_path)
    assert steps(second, RATES[2:]) == rest


def test_a_sum_of_many_gradients_in_bfloat16_keeps_growing(
    backend: str, new_engine: Opened
) -> None:
    new_engine.precision, count = "bfloat16", 512
    if backend == "zero-0":
        return  # refused
    one = min(sequences(), key=len)

    def norm(num_batches: int) -> float:
        engine = new_engine(model(), OPTIMIZER.model_copy(update={"max_grad_norm": 1e9}))
        (batch,) = micro_batches([one], Batching(1, "padded", PAD))

        def part(policy: Any, batch: MicroBatch) -> Loss:
            return Loss(-token_logprobs(policy, batch).sum() / num_batches)

        engine.accumulate([batch] * num_batches, part)
        return engine.step(0.0)

    assert norm(count) == pytest.approx(norm(1), rel=0.01)  # in bfloat16 it would be half


def test_a_missing_engine_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    for name in ("deepspeed_engine", "deepspeed_setup", "parts"):
        monkeypatch.delitem(sys.modules, f"r1pipe.train.{name}", raising=False)
    run = EngineRun(engine=DeepSpeedSettings(backend="deepspeed", zero_stage=3))
    message = r"deepspeed is not installed; .* 'r1pipe\[deepspeed\]'"
    with pytest.raises(StageError, match=message):
        make_engine(model(), OPTIMIZER, run)
    with pytest.raises(StageError, match=message):
        load_trained(Path("nowhere"), run)


PARTS = {"backend": "deepspeed"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**PARTS, "offload": "parameters", "zero_stage": 2}, "parameters needs zero_stage: 3"),
        ({**PARTS, "offload": "optimizer", "zero_stage": 0}, "optimizer needs zero_stage"),
        ({**PARTS, "zero_hpz_partition_size": 2, "zero_stage": 2}, "size needs zero_stage: 3"),
        (
            {**PARTS, "zero_hpz_partition_size": 4, "num_processes": 6, "zero_stage": 3},
            "size: 4 does not divide num_processes: 6; use one of 1, 2, 3, 6",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepSpeedSettings(**fields)


def test_deepspeed_is_told_of_neighbours_that_keep_weights_twice() -> None:
    pytest.importorskip("deepspeed")
    from r1pipe.train.deepspeed_setup import config_of

    base = DeepSpeedSettings(backend="deepspeed", num_processes=16, zero_stage=3)
    plus = base.model_copy(update={"zero_hpz_partition_size": 8})
    plain, told = (config_of(each, "bfloat16")["zero_optimization"] for each in (base, plus))
    assert told == plain | {"zero_hpz_partition_size": 8}
    assert "zero_hpz_partition_size" not in plain


@pytest.mark.parametrize(("field", "value"), [("attention", "flash"), ("kernels", "liger")])
def test_kernels_of_a_gpu_are_refused_without_one(field: str, value: str) -> None:
    run = EngineRun(engine=TorchSettings.model_validate({field: value}))
    with pytest.raises(StageError, match=f"{field} {value} needs a GPU"):
        make_engine(model(), OPTIMIZER, run, precision="bfloat16")


def test_flash_attention_is_refused_in_float32() -> None:
    run = EngineRun(engine=TorchSettings(attention="flash"))
    with pytest.raises(StageError, match="flash computes only in bfloat16"):
        make_engine(model(), OPTIMIZER, run)


def test_buffers_that_files_hold_are_among_the_weights(new_engine: Opened) -> None:
    policy = model()
    bias = torch.full((3,), 0.3)
    policy.model.register_buffer("router_bias", bias.clone())
    policy.model.register_buffer("frequencies", bias.clone(), persistent=False)
    engine = new_engine(policy)
    engine.accumulate(list(batches()), loss)
    engine.step(0.1)
    found, saved = dict(engine.weights()), engine.consolidated()
    assert saved is not None
    for weights in (found, saved):
        assert torch.equal(weights["model.router_bias"].cpu(), bias)
        assert "model.frequencies" not in weights


class Routed(Qwen3ForCausalLM):  # type: ignore[misc]
    """A model with a buffer that files hold."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.register_buffer("router_bias", torch.zeros(3))

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Any:
        return cls._from_config(config, **options)


def test_buffers_are_read_as_the_files_have_them(new_engine: Opened, tmp_path: Path) -> None:
    policy: Any = Routed(model().config)
    policy.model.router_bias.fill_(0.3)
    policy.save_pretrained(tmp_path)
    found = load_trained(tmp_path, new_engine.run, "float32", Routed)
    assert torch.equal(found.model.router_bias.cpu(), torch.full((3,), 0.3))
