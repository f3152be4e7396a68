"""Sizes of models against published counts and against a model that was built."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from r1pipe.costs.models import (
    DEEPSEEK_V3,
    forward_flops,
    model_from_config,
    model_of_size,
    new_model_info,
)
from r1pipe.costs.recipes import adapter_parameters
from r1pipe.costs.work import ModelInfo
from r1pipe.models.adapters import add_adapter
from r1pipe.settings import Adapter

QWEN25: dict[str, Any] = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # the safetensors of Qwen2.5-0.5B and Qwen2.5-Math-1.5B hold so many values
        (
            {
                **QWEN25,
                "hidden_size": 896,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "intermediate_size": 4864,
            },
            494_032_768,
        ),
        (
            {
                **QWEN25,
                "hidden_size": 1536,
                "num_hidden_layers": 28,
                "num_attention_heads": 12,
                "num_key_value_heads": 2,
                "intermediate_size": 8960,
            },
            1_543_714_304,
        ),
        # Llama-3.1-8B
        (
            {
                "model_type": "llama",
                "vocab_size": 128256,
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "intermediate_size": 14336,
                "tie_word_embeddings": False,
            },
            8_030_261_248,
        ),
        # Qwen3-0.6B, whose heads are wider than hidden size / heads
        (
            {
                "model_type": "qwen3",
                "vocab_size": 151936,
                "hidden_size": 1024,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 3072,
                "tie_word_embeddings": True,
            },
            596_049_920,
        ),
    ],
)
def test_parameters_are_those_of_published_models(config: dict[str, Any], count: int) -> None:
    assert model_from_config(config).num_parameters == count


def test_deepseek_v3_has_671_billion_of_which_37_work_on_a_token() -> None:
    model = model_from_config(DEEPSEEK_V3)
    assert model.num_parameters == pytest.approx(671.0e9, rel=1e-3)  # arXiv:2412.19437, abstract
    assert model.active_parameters == pytest.approx(37e9, rel=0.02)
    assert model.kv_values == 512 + 64  # section 2.1.1: the latent and the rotary key


def test_a_new_model_has_as_many_parameters_as_one_that_was_built() -> None:
    built = tiny.model()
    info = model_from_config(built.config.to_dict())
    assert info.num_parameters == sum(parameter.numel() for parameter in built.parameters())
    assert info.num_layers == built.config.num_hidden_layers


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_an_adapter_has_as_many_parameters_as_one_that_was_put_in(targets: Any) -> None:
    adapter, built = Adapter(rank=3, alpha=6.0, targets=targets), tiny.model()
    counted = adapter_parameters(adapter, model_from_config(built.config.to_dict()))
    add_adapter(built, adapter, 1)
    assert counted == sum(p.numel() for p in built.parameters() if p.requires_grad)


def test_operations_of_a_token_are_two_per_weight_and_those_of_attention() -> None:
    model = ModelInfo(8, 3, 16, 100, 8, 8, 1000, 900)
    # 2 x 900, and per layer 4 x 8 for each of 10 tokens before it: 3 x 32 x 10
    assert forward_flops(model, 10) == 1800 + 960


@pytest.mark.parametrize(
    ("name", "stored", "active"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", 1.5e9, 1.5e9),
        ("671B-A37B", 671e9, 37e9),
        ("Qwen3-30B-A3B-Instruct-2507", 30e9, 3e9),
        ("500m", 5e8, 5e8),
    ],
)
def test_a_name_that_states_a_size_gives_it(name: str, stored: float, active: float) -> None:
    model = model_of_size(name)
    assert model is not None
    assert (model.num_parameters, model.active_parameters) == (stored, active)


@pytest.mark.parametrize("name", ["base-model", "v2b", "model-7Beta", "DeepSeek-V3-Base", ""])
def test_a_name_without_a_size_gives_nothing(name: str) -> None:
    assert model_of_size(name) is None


def test_the_shape_of_a_size_is_that_of_the_nearest_model() -> None:
    seven, huge = model_of_size("7B"), model_of_size("671B-A37B")
    assert seven is not None
    assert huge is not None
    assert (seven.hidden_size, seven.num_layers) == (3584, 28)  # Qwen2.5-7B
    assert (huge.hidden_size, huge.num_layers) == (7168, 61)


def test_a_config_that_lacks_a_size_names_it() -> None:
    with pytest.raises(KeyError, match="num_hidden_layers"):
        model_from_config({"hidden_size": 8})


def test_the_laptop_base_has_the_parameters_that_its_run_counted() -> None:
    class Laptop:
        hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size = 128, 4, 4, 2, 384

    assert new_model_info(Laptop, 765).num_parameters == 885_760
