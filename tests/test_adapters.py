"""Low-rank adapters: their arithmetic, what is trained, merged and saved, and the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import (
    FakeContext,
    corpus_rows,
    grpo_params,
    model,
    problems,
    save_policy,
    stage,
)

from r1pipe.errors import Interrupted, StageError
from r1pipe.models.adapters import add_adapter, merged_weights, without_adapters
from r1pipe.models.policy import load_model
from r1pipe.records import TokenSequence
from r1pipe.rows import write_problems, write_rows
from r1pipe.settings import Adapter, Precision
from r1pipe.stage import Inputs
from r1pipe.train.adapter_reference import AdapterReference
from r1pipe.train.batching import Batching, one_batch
from r1pipe.train.logprobs import token_logprobs

ADAPTER = Adapter(rank=4, alpha=8.0)
LAYER = "model.layers.0.self_attn.q_proj"  # 24 -> 24
BATCH = one_batch(
    [TokenSequence([9, 30], [41, 52, 63], 0), TokenSequence([7], [8, 99], 1)], pad_id=0
)


def adapted(adapter: Adapter = ADAPTER, seed: int = 5) -> Any:
    """Return the tiny model with adapters whose B is no longer 0."""
    policy = add_adapter(model(), adapter, seed)
    draws = torch.Generator().manual_seed(2)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=draws)
    return policy


def own_weights(policy: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in merged_weights(policy)}


# ---- arithmetic ----------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained() -> None:
    plain, policy = model(), add_adapter(model(), ADAPTER, 5)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(policy(ids).logits, plain(ids).logits)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7, "A and B of seven linear layers, twice"
    assert all("lora_" in name for name in trained)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == set(names)


def test_an_adapter_is_a_function_of_its_seed_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = [dict(add_adapter(model(), ADAPTER, s).named_parameters()) for s in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (d[f"{LAYER}.lora_A.default.weight"] for d in drawn)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_merged_weights_compute_what_the_adapted_model_does() -> None:
    policy, whole = adapted(), model()
    merged = own_weights(policy)
    assert merged.keys() == dict(whole.named_parameters()).keys()
    base = whole.get_submodule(LAYER).weight.detach().clone()
    layer = policy.get_submodule(LAYER)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(merged[f"{LAYER}.weight"], base + 8 / 4 * b @ a)
    whole.load_state_dict(merged, strict=False)
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(policy(ids).logits, whole(ids).logits)


def test_gradients_are_those_of_the_chain_rule() -> None:
    policy, whole = adapted(), model()
    whole.load_state_dict(own_weights(policy), strict=False)
    weight = whole.get_submodule(LAYER).weight
    (of_weight,) = torch.autograd.grad(token_logprobs(whole, BATCH).sum(), [weight])
    layer = policy.get_submodule(LAYER)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    of_a, of_b = torch.autograd.grad(token_logprobs(policy, BATCH).sum(), [a, b])
    torch.testing.assert_close(of_b, 2 * of_weight @ a.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_a, 2 * b.T @ of_weight, rtol=1e-4, atol=1e-5)


def test_at_full_rank_a_step_is_that_of_the_whole_weight() -> None:
    full = Adapter(rank=24, alpha=24.0, targets=("q_proj",))
    policy, whole = add_adapter(model(), full, 1), model()
    layer, weight = policy.get_submodule(LAYER), whole.get_submodule(LAYER).weight
    layer.lora_A["default"].weight.data.copy_(torch.eye(24))  # then B is what is added to W
    (of_b,) = torch.autograd.grad(
        token_logprobs(policy, BATCH).sum(), [layer.lora_B["default"].weight]
    )
    (of_weight,) = torch.autograd.grad(token_logprobs(whole, BATCH).sum(), [weight])
    layer.lora_B["default"].weight.data.add_(0.1 * of_b)
    weight.data.add_(0.1 * of_weight)
    before = token_logprobs(model(), BATCH)
    moved, wanted = token_logprobs(policy, BATCH), token_logprobs(whole, BATCH)
    torch.testing.assert_close(moved, wanted, rtol=1e-5, atol=1e-5)
    assert float((moved - before).detach().abs().max()) > 0.01


def test_a_base_in_bfloat16_has_adapters_in_float32() -> None:
    policy = add_adapter(model(), ADAPTER, 1, "bfloat16")
    kinds = {("lora" in name, p.dtype) for name, p in policy.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


# ---- stages --------------------------------------------------------------------------------------


def sft(
    tmp_path: Path,
    name: str,
    precision: Precision = "float32",
    adapter: Adapter = ADAPTER,
    **options: Any,
) -> FakeContext:
    if not (tmp_path / "model").exists():
        save_policy(tmp_path / "model")
        write_rows(tmp_path / "rows", corpus_rows(8, "chat"))
    kind = stage("sft")
    sizes = {"num_epochs": 2, "batch_size": 4, "max_tokens": 400}
    params = kind.params(
        seed=1, optimizer={"lr": 1e-2}, adapter=adapter, precision=precision, **sizes
    )
    context = FakeContext(tmp_path / name, **options)
    inputs = Inputs({"model": tmp_path / "model", "rows": tmp_path / "rows"})
    kind.run(context, params, kind.run_model(workers=1), inputs)
    return context


def test_sft_writes_a_whole_model_in_which_only_adapted_layers_moved(tmp_path: Path) -> None:
    context = sft(tmp_path, "work")
    assert context.column("loss")[-1] < context.column("loss")[0]
    before, after = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "model", context.output("model"))
    )
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    assert load_model(context.output("model")).config.architectures == ["Qwen3ForCausalLM"]
    difference = after[f"{LAYER}.weight"] - before[f"{LAYER}.weight"]
    assert torch.linalg.matrix_rank(difference, tol=1e-5) <= 4


def test_checkpoints_hold_adapters_alone_and_a_resumed_stage_ends_the_same(tmp_path: Path) -> None:
    whole = sft(tmp_path, "whole")
    with pytest.raises(Interrupted, match="stopped by the test"):
        sft(tmp_path, "killed", stop_after=2, saves=True)
    paths = list((tmp_path / "killed").rglob("engine*.safetensors"))
    assert len(paths) == 2
    assert all("lora_" in name for path in paths for name in load_file(path))
    resumed = sft(tmp_path, "killed")
    assert len(resumed.logged) < len(whole.logged)
    files = [(c.output("model") / "model.safetensors").read_bytes() for c in (whole, resumed)]
    assert files[0] == files[1]


def test_in_bfloat16_the_sum_is_written_in_bfloat16(tmp_path: Path) -> None:
    context = sft(tmp_path, "work", precision="bfloat16")
    assert context.column("loss")[-1] < context.column("loss")[0]
    stored = load_file(context.output("model") / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def grpo(tmp_path: Path, name: str, **options: Any) -> FakeContext:
    if not (tmp_path / "model").exists():
        save_policy(tmp_path / "model")
        write_problems(tmp_path / "problems", problems(8, max_chars=18))
    kind = stage("grpo")
    params = grpo_params(adapter=ADAPTER, reference_refresh_steps=4)
    context = FakeContext(tmp_path / name, **options)
    inputs = Inputs({"model": tmp_path / "model", "problems": tmp_path / "problems"})
    kind.run(context, params, kind.run_model(workers=1), inputs)
    return context


def test_grpo_starts_at_its_base_and_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    whole = grpo(tmp_path, "whole")
    kl = whole.column("kl")
    assert kl[0] == pytest.approx(0.0, abs=1e-6), "the reference is the base itself"
    assert max(kl[1:4]) > 1e-5
    with pytest.raises(Interrupted, match="stopped by the test"):
        grpo(tmp_path, "killed", stop_after=2, saves=True)
    resumed = grpo(tmp_path, "killed")
    assert 0 < len(resumed.logged) < len(whole.logged)
    files = [(c.output("model") / "model.safetensors").read_bytes() for c in (whole, resumed)]
    assert files[0] == files[1]
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(whole.output("model") / "model.safetensors")
    assert not torch.equal(before[f"{LAYER}.weight"], after[f"{LAYER}.weight"])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])


# ---- the reference -------------------------------------------------------------------------------


def test_the_reference_is_the_base_until_it_is_refreshed(tmp_path: Path) -> None:
    policy, base = adapted(), model()
    sequences = [TokenSequence([9, 30], [41, 52, 63], 0)]
    batching = Batching(64, "padded", 0)
    reference = AdapterReference(policy, "float32")
    with torch.no_grad():
        batch = one_batch(sequences, 0)
        of_base, of_policy = (token_logprobs(each, batch).tolist() for each in (base, policy))
    found = reference.logprobs(sequences, 1.0, batching)[0]
    assert found == pytest.approx(of_base, abs=1e-5)
    assert found != pytest.approx(of_policy, abs=1e-3)
    reference.refresh([])
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert reference.logprobs(sequences, 1.0, batching)[0] == pytest.approx(of_policy, abs=1e-5)
    with torch.no_grad():
        assert token_logprobs(policy, batch).tolist() == pytest.approx(of_base, abs=1e-5)
    reference.save(tmp_path)
    restored = AdapterReference(policy, "float32")
    restored.load(tmp_path)
    assert restored.logprobs(sequences, 1.0, batching)[0] == pytest.approx(of_policy, abs=1e-5)


def test_the_policy_computes_with_its_adapters_again_after_the_block() -> None:
    policy, ids = adapted(), torch.tensor([[3, 4, 5]])
    before = policy(ids).logits
    with pytest.raises(ZeroDivisionError), without_adapters(policy):  # noqa: PT012
        assert torch.equal(policy(ids).logits, model()(ids).logits)
        _ = 1 / 0
    assert torch.equal(policy(ids).logits, before)


# ---- refusals ------------------------------------------------------------------------------------


def test_layers_that_are_not_there_are_told_with_those_that_are() -> None:
    wrong = Adapter(rank=4, alpha=8.0, targets=("query",))
    with pytest.raises(StageError, match=r"targets: .*this model's layers are called .*q_proj"):
        add_adapter(model(), wrong, 1)
