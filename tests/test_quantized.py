"""Adapters over weights in four bits (QLoRA): refusals, memory, and the arithmetic where there is
bitsandbytes."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import LAYER, sft
from test_costs import training
from tiny import grpo_params, model, save_policy

from r1pipe.costs import memory
from r1pipe.costs.work import ModelInfo
from r1pipe.engine_settings import TrainRun
from r1pipe.errors import StageError
from r1pipe.models import quantized
from r1pipe.models.adapters import add_adapter, merged_weights, without_adapters
from r1pipe.models.policy import load_model
from r1pipe.models.quantized import dequantized, is_quantized, quantize
from r1pipe.settings import Adapter
from r1pipe.train.backends import load_trained
from r1pipe.train.deepspeed_backend import DeepSpeedSettings

QUANTIZED = Adapter(rank=4, alpha=8.0, quantize="nf4")
needs_package = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
NF4 = (
    *(-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0),
)
"""The levels of arXiv:2305.14314, appendix E."""


# ---- refusals and the plan -----------------------------------------------------------------------


def test_four_bits_need_a_gpu_and_the_engine_torch() -> None:
    params: Any = grpo_params(adapter=QUANTIZED)
    said = TrainRun().incompatible_with(params)
    assert said == (
        "run.device: params.adapter.quantize: nf4 needs a GPU and bitsandbytes; set run.device:"
        " cuda, or leave quantize out"
    )
    assert TrainRun(device="cuda").incompatible_with(params) is None
    engine = DeepSpeedSettings(backend="deepspeed")
    sharded = TrainRun(device="cuda", engine=engine).incompatible_with(params)
    assert sharded == "run.engine: params.adapter.quantize needs the engine torch; set it"
    plain: Any = grpo_params(adapter=Adapter(rank=4, alpha=8.0))
    assert TrainRun().incompatible_with(plain) is None


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(StageError, match="needs bitsandbytes, which is not installed; install it"):
        quantize(model(), "float32", "cpu")


def test_a_plan_counts_half_a_byte_for_a_weight_of_a_linear_layer() -> None:
    # Llama 7B: 32 layers of 4 * 4096^2 + 3 * 4096 * 11008, of 6.74e9 in all
    llama = ModelInfo(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=11008,
        vocab_size=32000,
        kv_values=2 * 4096,
        attention_size=4096,
        num_parameters=6_738_000_000,
        active_parameters=6_738_000_000,
    )
    work = training(model=llama, adapter_parameters=0)
    work = replace(work, where=replace(work.where, device="cuda", is_bf16=True))
    whole, small = (
        memory.training_bytes(replace(work, is_quantized=each)).low for each in (False, True)
    )
    assert whole - small == pytest.approx((2 - 0.52) * 32 * (4 * 4096**2 + 3 * 4096 * 11008))


# ---- arithmetic ----------------------------------------------------------------------------------


def rounded_to_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as its nearest levels, block by block of 64, with exact scales."""
    levels, flat = torch.tensor(NF4), weight.float().flatten()
    found = torch.empty_like(flat)
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = block.abs().max()
        nearest = (block[:, None] / scale - levels).abs().argmin(dim=1)
        found[start : start + 64] = levels[nearest] * scale
    return found.view_as(weight)


@needs_package
def test_linear_layers_become_their_nearest_levels_and_nothing_else_changes(tmp_path: Path) -> None:
    # bitsandbytes 0.50 on a CPU takes scales of other blocks where 64 divides no row, as of 48
    folder, plain = save_policy(tmp_path / "model"), model()
    policy = load_trained(folder, TrainRun(), "float32", adapter=QUANTIZED)
    weights = dict(plain.named_parameters())
    changed = {name for name, p in policy.named_parameters() if is_quantized(p)}
    assert changed == {name for name in weights if "_proj" in name}
    for name, parameter in policy.named_parameters():
        if name in changed and parameter.quant_state.shape[1] == 24:
            found = dequantized(parameter).float().flatten().split(64)
            for block, wanted in zip(
                found, rounded_to_nf4(weights[name]).flatten().split(64), strict=True
            ):
                scale = (block.abs().max() / wanted.abs().max()).item()  # itself in eight bits
                assert 0.8 < scale < 1.2
                torch.testing.assert_close(block, scale * wanted, rtol=1e-4, atol=1e-5)
        elif name not in changed:
            assert torch.equal(parameter, weights[name])


@needs_package
def test_the_merged_model_computes_what_was_trained_and_the_base_is_the_reference() -> None:
    policy = add_adapter(quantize(model(), "float32", "cpu"), QUANTIZED, 1)
    ids = torch.tensor([[3, 4, 5]])
    base = policy(ids).logits
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    merged = model()
    merged.load_state_dict(dict(merged_weights(policy)), strict=False)
    torch.testing.assert_close(policy(ids).logits, merged(ids).logits, rtol=1e-2, atol=1e-2)
    assert float((policy(ids).logits - base).detach().abs().max()) > 0.1
    with without_adapters(policy):
        assert torch.equal(policy(ids).logits, base)


@needs_package
def test_a_stage_writes_a_model_without_quantization_and_an_adapter_apart(tmp_path: Path) -> None:
    out = sft(tmp_path, "merged", adapter=QUANTIZED).output("model")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    before, after = load_file(tmp_path / "model" / "model.safetensors"), load_model(out)
    found = dict(after.named_parameters())
    assert found.keys() == before.keys()
    assert torch.equal(found["model.norm.weight"], before["model.norm.weight"])
    assert not torch.equal(found[f"{LAYER}.weight"], before[f"{LAYER}.weight"])
    again = sft(tmp_path, "again", adapter=QUANTIZED).output("model")
    files = [(each / "model.safetensors").read_bytes() for each in (out, again)]
    assert files[0] == files[1]
    apart = QUANTIZED.model_copy(update={"merge": False})
    beside = sft(tmp_path, "apart", adapter=apart).output("model")
    own = (beside / "model.safetensors").read_bytes()
    assert own == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert load_file(beside / "adapter_model.safetensors")
