"""`params.precision`: in the key, the same for trainer, sampler and reference, checked early."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generator_conformance import model as model_for_any_backend
from test_generator_conformance import requests, sample
from tiny import (
    MANIFEST,
    MAX_CHARS,
    FakeContext,
    corpus_rows,
    frozen_logprobs,
    grpo_params,
    model,
    problems,
    stage,
    tokenizer,
)

from r1pipe.engine_settings import EngineRun
from r1pipe.errors import ManifestError
from r1pipe.generate.backends import generator_of, open_generator
from r1pipe.generate.protocol import SamplingParams
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.manifest import StageNode, load_manifest
from r1pipe.models.policy import load_model, save_model
from r1pipe.models.precision import cast_weights, computing
from r1pipe.records import TokenSequence
from r1pipe.rows import write_rows
from r1pipe.settings import Optimizer, Precision
from r1pipe.stage import Inputs
from r1pipe.supervision import reward_model
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching
from r1pipe.train.logprobs import completion_logprobs
from r1pipe.train.torch_backend import TorchSettings

BOTH: tuple[Precision, ...] = ("float32", "bfloat16")
BATCHING = Batching(4096, "padded", 0)
KINDS = (
    "pretrain",
    "sft",
    "grpo",
    "reward-model",
    "evaluate",
    "rejection-sample",
    "cold-start-data",
)
NEEDS_DEEPSPEED = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]
NEEDS_VLLM = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("vllm"), reason="needs vllm"),
]
DEEPSPEED = {"backend": "deepspeed", "zero_stage": 2}
ZERO_3 = {"backend": "deepspeed", "zero_stage": 3}
VLLM = {"backend": "vllm", "kv_cache_mb": 16, "max_num_seqs": 32}


# ---- params and run ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_computes_with_a_model_has_it_in_params_alone(kind: str) -> None:
    found = stage(kind)
    assert found.params.model_fields["precision"].default == "float32"
    assert "precision" not in found.run_model.model_fields
    assert "bf16" not in str(found.run_model.model_json_schema())


def test_the_key_has_another_precision_and_not_the_default() -> None:
    base = load_manifest(MANIFEST).stages["distil"].key_params() or {}
    half = load_manifest(MANIFEST, overrides=["stages.distil.params.precision=bfloat16"])
    assert "precision" not in base
    assert half.stages["distil"].key_params() == base | {"precision": "bfloat16"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.engine={attention: flash}"], "flash computes only in bfloat16; set params.prec"),
        (
            ["params.precision=bfloat16", "run.engine={backend: deepspeed, zero_stage: 0}"],
            "ZeRO 0 keeps no float32 weights .* set zero_stage: 1, 2 or 3",
        ),
    ],
)
def test_an_engine_that_cannot_is_refused_before_anything_runs(
    overrides: list[str], message: str
) -> None:
    texts = [f"stages.distil.{text}" for text in overrides]
    with pytest.raises(ManifestError, match=f"stages.distil: run.engine.*{message}"):
        load_manifest(MANIFEST, overrides=texts)


def test_an_engine_that_can_is_not_refused() -> None:
    texts = ["params.precision=bfloat16", "run.engine={attention: flash}"]
    node = load_manifest(MANIFEST, overrides=[f"stages.distil.{t}" for t in texts]).stages["distil"]
    assert node.params.model_dump()["precision"] == "bfloat16"


class SeenError(Exception):
    """Ends a stage where it has said its precision."""


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("base", 1),
        ("distil", 1),
        ("helpful-rm", 1),
        ("zero", 1),
        ("alignment-rl", 3),  # two reward models, then the engine
        ("eval-r1", 1),
        ("rejection-sample", 1),
        ("cold-start-data", 1),
    ],
)
def test_every_stage_hands_it_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, times: int
) -> None:
    seen: list[Precision] = []

    def scorer(model: Path, part: str, run: Any, precision: Precision = "float32") -> None:
        seen.append(precision)

    def engine(policy: Any, *, precision: Precision = "float32", **settings: Any) -> None:
        seen.append(precision)
        raise SeenError

    def sampler(settings: Any, model: Path, tok: Any, run: Any, precision: Precision) -> None:
        seen.append(precision)
        raise SeenError

    monkeypatch.setattr(reward_model, "reward_function", scorer)
    monkeypatch.setattr("r1pipe.train.engine.TorchEngine", engine)
    monkeypatch.setattr(TransformersSettings, "open_sealed", sampler)
    text = f"stages.{name}.params.precision=bfloat16"
    node = load_manifest(MANIFEST, profile="smoke", overrides=[text]).stages[name]
    with pytest.raises(SeenError):
        node.kind.run(
            FakeContext(tmp_path / "work"), node.params, node.run, inputs_of(node, folder, tmp_path)
        )
    assert seen == ["bfloat16"] * times


def inputs_of(node: StageNode, folder: Path, root: Path) -> Inputs:
    """Write small inputs of the types that a stage takes."""
    texts = {"chosen": "sixteen", "rejected": "cat"}
    write_rows(root / "rows", [row | texts for row in corpus_rows(24)])
    write_rows(root / "problems", [p.to_row() for p in problems(8, max_chars=MAX_CHARS)])
    paths = {"rows": root / "rows", "problems": root / "problems"}
    types = {name: str(node.kind.inputs[name].type) for name in node.inputs}
    found = {name: paths.get(each, folder) for name, each in types.items()}
    return Inputs({n: {"a": f} if node.kind.inputs[n].many else f for n, f in found.items()})


# ---- one arithmetic in a stage -------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    save_model(model_for_any_backend(), tokenizer(), path)
    return path


def apart(one: list[list[float]], other: list[list[float]]) -> float:
    """Return the mean absolute difference."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def sampled_rows(made: Any) -> tuple[list[TokenSequence], list[list[float]]]:
    """Return sampled sequences, and what the sampler says of their tokens."""
    asked = requests(24)
    found = sample(made, asked, SamplingParams(0.8, 1.0, 16))
    sequences = [TokenSequence(r.prompt_ids, found[r.index].token_ids, r.index) for r in asked]
    return sequences, [found[r.index].logprobs for r in asked]


@pytest.mark.parametrize("workers", [1, 2])
def test_trainer_sampler_and_reference_compute_alike(folder: Path, workers: int) -> None:
    policy = load_model(folder)
    run = EngineRun(workers=workers)
    engine = make_engine(policy, Optimizer(lr=1.0), run, precision="bfloat16")
    made = generator_of(
        policy, tokenizer(), SampleRun(workers=workers, max_batch=7), precision="bfloat16"
    )
    sequences, rows = sampled_rows(made)
    trainer = completion_logprobs(engine, sequences, 0.8, BATCHING)
    reference = frozen_logprobs(policy, sequences, 0.8, BATCHING, "bfloat16")
    whole = frozen_logprobs(policy, sequences, 0.8, BATCHING)
    assert reference == trainer, "bit by bit"
    # rounding differs with the shapes of the products; in float32 it would be below 1e-6
    assert 1e-5 < apart(rows, trainer) < 0.02
    assert 1e-3 < apart(rows, whole) < 0.05
    assert apart(rows, trainer) < 0.7 * apart(rows, whole)


def test_a_sealed_model_is_sampled_with_weights_of_the_precision(folder: Path) -> None:
    for precision in BOTH:
        with open_generator(folder, SampleRun(workers=1), precision) as (made, _):
            assert made.model.dtype == getattr(torch, precision)  # type: ignore[attr-defined]
            sequences, rows = sampled_rows(made)
        same = frozen_logprobs(
            cast_weights(load_model(folder), precision), sequences, 0.8, BATCHING
        )
        assert apart(rows, same) < (1e-5 if precision == "float32" else 0.02)
        whole = frozen_logprobs(load_model(folder), sequences, 0.8, BATCHING)
        assert (apart(rows, whole) < 1e-5) == (precision == "float32")


def test_float32_buffers_and_tied_weights_stay_so() -> None:
    policy = cast_weights(model(), "bfloat16")
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in policy.buffers()} == {torch.float32}
    assert policy.lm_head.weight is policy.model.embed_tokens.weight


def test_bfloat16_weights_compute_without_autocast() -> None:
    policy = model()
    with computing(policy, "bfloat16"):
        assert torch.is_autocast_enabled("cpu")
    with computing(policy, "float32"):
        assert not torch.is_autocast_enabled("cpu")
    with computing(cast_weights(policy, "bfloat16"), "bfloat16"):
        assert not torch.is_autocast_enabled("cpu")


# ---- GRPO ----------------------------------------------------------------------------------------


def run_grpo(folder: Path, attempt: Path, precision: Precision, **run: Any) -> FakeContext:
    kind, context = stage("grpo"), FakeContext(attempt)
    write_rows(attempt / "problems", [p.to_row() for p in problems(12, max_chars=MAX_CHARS)])
    params = grpo_params(num_steps=4, kl_coef=0.01, precision=precision)
    inputs = {"model": folder, "problems": attempt / "problems"}
    kind.run(context, params, kind.run_model.model_validate({"workers": 1} | run), Inputs(inputs))
    return context


@pytest.fixture
def in_float32(folder: Path, tmp_path: Path) -> FakeContext:
    return run_grpo(folder, tmp_path / "float32", "float32")


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="torch"),
        pytest.param(DEEPSPEED, id="zero-2", marks=NEEDS_DEEPSPEED),
        pytest.param(ZERO_3, id="zero-3", marks=NEEDS_DEEPSPEED),
    ],
)
def test_grpo_in_bfloat16_begins_at_its_reference_and_near_its_sampler(
    folder: Path, tmp_path: Path, in_float32: FakeContext, engine: dict[str, Any]
) -> None:
    context = run_grpo(folder, tmp_path, "bfloat16", engine=engine)
    assert context.column("kl")[0] < 1e-9, "the reference computes as the policy does"
    assert in_float32.column("mismatch_kl")[0] < 1e-9
    assert 1e-9 < context.column("mismatch_kl")[0] < 1e-3
    assert context.column("loss") != in_float32.column("loss")
    assert load_model(context.output("model")).dtype == torch.float32


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="torch", marks=NEEDS_VLLM),
        pytest.param(DEEPSPEED, id="zero-2", marks=[*NEEDS_DEEPSPEED, *NEEDS_VLLM]),
    ],
)
def test_vllm_beside_a_trainer_samples_in_its_precision(
    folder: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    context = run_grpo(folder, tmp_path, "bfloat16", engine=engine, generator=VLLM)
    assert 1e-5 < context.notes["parity"] < 0.05, "float32 would be below 1e-5"
    assert context.column("kl")[0] < 1e-9


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.engines
@pytest.mark.skipif(not find_spec("vllm"), reason="needs vllm")
def test_vllm_samples_a_sealed_model_in_the_precision(folder: Path, precision: Precision) -> None:
    run = SampleRun.model_validate({"generator": VLLM})
    with open_generator(folder, run, precision) as (made, _):
        sequences, rows = sampled_rows(made)
    whole = frozen_logprobs(load_model(folder), sequences, 0.8, BATCHING)
    assert (apart(rows, whole) < 1e-5) == (precision == "float32")
    assert apart(rows, whole) < 0.05


def test_pytorch_trains_in_both() -> None:
    assert [TorchSettings().incompatible_with(precision) for precision in BOTH] == [None, None]
