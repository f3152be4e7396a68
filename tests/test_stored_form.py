"""Weights that come one by one take the names and shapes that `save_pretrained` gives a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_families import family

from r1pipe.models.policy import persistent_buffers
from r1pipe.models.stored_form import StoredForm

NAMES = """
afmoe deepseek_v2 deepseek_v3 ernie4_5_moe flex_olmo glm4_moe gpt_oss granitemoe hy_v3 jamba laguna
longcat_flash minimax minimax_m2 mixtral nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe_text
qwen3_moe qwen3_next
"""
MIXTURES = NAMES.split()
PLAIN = ["gpt2", "llama", "phi3", "qwen3"]


def weights(policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from policy.named_parameters()
    yield from persistent_buffers(policy).items()


@pytest.mark.parametrize("name", [*MIXTURES, *PLAIN])
def test_weights_given_one_by_one_are_those_of_the_familys_files(name: str, tmp_path: Path) -> None:
    policy = family(name)
    policy.save_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    form, given = StoredForm(policy.config), list(weights(policy))
    assert form.num_values == sum(tensor.numel() for _, tensor in given)
    random.Random(1).shuffle(given)
    found = dict(form.stored(given))
    assert found.keys() == form.names == expected.keys()
    for stored, tensor in found.items():
        assert torch.equal(tensor, expected[stored]), stored


def test_experts_are_handed_on_as_soon_as_they_are_there() -> None:
    policy = family("qwen3_moe")
    asked: list[str] = []

    def noted() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights(policy):
            asked.append(name)
            yield name, tensor

    experts = "model.layers.{}.mlp.experts.{}"
    for name, tensor in StoredForm(policy.config).stored(noted()):
        if name == experts.format(0, "3.gate_proj.weight"):
            assert asked[-1] == experts.format(0, "gate_up_proj")
            fused = dict(policy.named_parameters())[asked[-1]]  # [E, 2 F, H]: gate, then up
            assert torch.equal(tensor, fused[3, :24])
            return
    pytest.fail("no expert came")


def test_weights_that_a_file_has_as_one_wait_for_one_another() -> None:
    form = StoredForm(family("qwen3").config)
    form._groups = {"a": frozenset("ab"), "b": frozenset("ab")}
    left, right = torch.zeros(1), torch.ones(1)
    assert list(form.stored([("a", left)])) == []
    assert {n for n, _ in form.stored([("a", left), ("c", right), ("b", right)])} == {"a", "b", "c"}


def test_a_tied_head_is_no_weight_of_its_own_and_handed_on_if_it_is_given() -> None:
    form = StoredForm(family("qwen3", tie_word_embeddings=True).config)
    assert "lm_head.weight" not in form.names
    head = torch.zeros(2)
    assert list(form.stored([("lm_head.weight", head)])) == [("lm_head.weight", head)]
    assert "lm_head.weight" in StoredForm(family("qwen3", tie_word_embeddings=False).config).names
