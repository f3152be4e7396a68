"""Training computes what each family's own forward does: tiny random models of every decoder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import FakeContext, corpus_rows, generator, model, save_policy, stage, tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from r1pipe.errors import StageError
from r1pipe.models.policy import load_model, save_model, with_attention, without_randomness
from r1pipe.records import TokenSequence
from r1pipe.rows import write_rows
from r1pipe.stage import Inputs
from r1pipe.train import logprobs
from r1pipe.train.batching import Batching, one_batch
from r1pipe.train.engine import LocalForward
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.own_forward import check_forward

SIZES = {  # by whatever name a family has for them
    "vocab_size": 64, "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32, "lru_width": 32,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2,
    "head_dim": 16, "rotary_dim": 8, "intermediate_size": 48, "n_inner": 48, "ffn_dim": 48,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "sliding_window": 64, "state_size": 8, "mamba_d_state": 8, "time_step_rank": 4, "n_groups": 1,
    "mamba_n_groups": 1, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SCALES = {  # what some do to their logits: none is 1 here
    "logit_scale": 0.25, "logits_scaling": 4.0, "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0, "lm_head_multiplier": 0.5,
}  # fmt: skip
OWN: dict[str, dict[str, object]] = {
    **{name: {"head_dim": 8} for name in ("deepseek_v3", "longcat_flash", "youtu", "axk1")},
    "deepseek_v2": {"head_dim": 8, "topk_group": None, "num_experts_per_tok": 2},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "mamba2": {"num_heads": 4, "expand": 2},
    "minicpm3": {"logits_scaling": None},
}
LISTED = """
afmoe apertus arcee aria_text axk1 axk2 bamba biogpt bitnet bloom cohere cohere2 cohere2_moe
cpmant ctrl cwm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge ernie4_5
ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text
glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese
gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared
helium hy_v3 hy_v4 hyperclovax inkling_text jais2 jamba jetmoe laguna lfm2 llama llama4_text
longcat_flash mamba mamba2 mellum minicpm3 minimax minimax_m2 ministral3 mistral mixtral
modernbert-decoder mpt nanochat nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt
persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next
qwen4_exp_text recurrent_gemma rwkv seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma
xglm youtu
"""
FAMILIES = LISTED.split()
SEQUENCES = [
    TokenSequence([5, 9, 30], [12, 17, 22, 40], 0),
    TokenSequence([7, 8, 9, 10, 33], [50, 51], 1),
]


def family(name: str, **changes: object) -> Any:
    """Return a tiny random model of a family, whose logits are scaled if the family scales them."""
    kind = type(CONFIG_MAPPING[name]().get_text_config())
    plain = kind()
    known: dict[str, object] = {
        n: v for n, v in SIZES.items() if getattr(plain, n, None) is not None
    }
    known |= {n: v for n, v in SCALES.items() if hasattr(plain, n)}
    known |= {**OWN.get(name, {}), **changes}
    config = kind(**{n: v for n, v in known.items() if v is not None})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return without_randomness(made.eval())


@torch.no_grad()
def own_scores(policy: Any, sequence: TokenSequence) -> list[float]:
    """Score a sequence alone by the family's own forward."""
    ids = [*sequence.prompt_ids, *sequence.completion_ids]
    logits = policy(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    scores = logits.log_softmax(dim=-1)
    return [float(scores[i - 1, ids[i]]) for i in range(len(sequence.prompt_ids), len(ids))]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_the_familys_own_forward(name: str) -> None:
    policy = family(name)
    with torch.no_grad():
        found = token_logprobs(policy, one_batch(SEQUENCES, 0)).tolist()
    wanted = [score for sequence in SEQUENCES for score in own_scores(policy, sequence)]
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["cohere", "gemma2", "granite", "falcon_h1"])
def test_a_head_without_the_familys_scale_would_be_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batching = family(name), Batching(64, "padded", 0)
    assert check_forward(LocalForward(policy), policy, batching, "float32") < 1e-5
    monkeypatch.setattr(logprobs, "logits_of", lambda model, states: model.lm_head(states))
    with pytest.raises(StageError, match=f"{name}: training would compute other log-prob"):
        check_forward(LocalForward(policy), policy, batching, "float32")


def test_a_cap_on_the_scores_of_attention_is_kept(tmp_path: Path) -> None:
    own = family("gemma2", attn_logit_softcapping=0.25)
    save_model(own, tokenizer(), tmp_path)
    loaded = load_model(tmp_path)
    wanted = [own_scores(own, sequence) for sequence in SEQUENCES]
    assert [own_scores(loaded, sequence) for sequence in SEQUENCES] == wanted
    uncapped = family("gemma2", attn_logit_softcapping=None)
    assert own_scores(uncapped, SEQUENCES[0]) != pytest.approx(wanted[0], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "wanted"), [("gemma2", "eager"), ("gpt_oss", "eager"), ("llama", "sdpa")]
)
def test_a_model_without_weights_has_the_attention_that_its_family_has(
    name: str, wanted: str
) -> None:
    """ZeRO-3 makes such a one, and fills each rank's shards."""
    config = family(name).config
    made = with_attention(partial(AutoModelForCausalLM.from_config, config))
    assert made.config._attn_implementation == wanted


def test_packed_rows_of_a_model_with_a_running_state_are_refused_by_name() -> None:
    policy = family("mamba")
    check_forward(LocalForward(policy), policy, Batching(64, "padded", 0), "float32")
    with pytest.raises(StageError, match=r"mamba: training would .* try layout: padded"):
        check_forward(LocalForward(policy), policy, Batching(64, "packed", 0), "float32")


def test_gradients_go_through_the_familys_own_head() -> None:
    policy = family("gemma2")
    batch = one_batch(SEQUENCES, 0)
    names = ["lm_head.weight", "model.norm.weight"]
    trained = [dict(policy.named_parameters(remove_duplicate=False))[name] for name in names]
    ours = torch.autograd.grad(token_logprobs(policy, batch).sum(), trained)
    total = torch.zeros(())
    for sequence in SEQUENCES:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        scores = policy(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
        for place in range(len(sequence.prompt_ids), ids.shape[1]):
            total = total + scores[place - 1, ids[0, place]]
    for mine, theirs in zip(ours, torch.autograd.grad(total, trained), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_stage_checks_its_model_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_policy(tmp_path / "model")
    write_rows(tmp_path / "rows", corpus_rows(8, "chat"))
    kind = stage("sft")
    sizes = {"num_epochs": 1, "batch_size": 4, "max_tokens": 400}
    params = kind.params(seed=1, optimizer={"lr": 1e-3}, **sizes)
    monkeypatch.setattr(logprobs, "logits_of", lambda model, states: 2 * model.lm_head(states))
    context = FakeContext(tmp_path / "work")
    inputs = Inputs({"model": tmp_path / "model", "rows": tmp_path / "rows"})
    with pytest.raises(StageError, match="qwen3: training would compute other"):
        kind.run(context, params, kind.run_model(), inputs)
    assert context.logged == []


# ---- nothing random, nothing lost ----------------------------------------------------------------


def test_no_dropout_and_no_jitter_is_left() -> None:
    kind = type(CONFIG_MAPPING["mixtral"]())
    config = kind(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4,
        attention_dropout=0.5, router_jitter_noise=0.5,
    )  # fmt: skip
    policy: Any = AutoModelForCausalLM.from_config(config).train()
    ids = torch.tensor([[3, 4, 5, 6]])
    assert not torch.equal(policy(ids).logits, policy(ids).logits)
    without_randomness(policy)
    assert torch.equal(policy(ids).logits, policy(ids).logits)
    assert (policy.config.attention_dropout, policy.config.router_jitter_noise) == (0.0, 0.0)


def test_a_model_without_randomness_stays_as_it_is() -> None:
    before, policy = model().config.to_dict(), model()
    assert without_randomness(policy).config.to_dict() == before
    assert len(tokenizer()) == policy.config.vocab_size


def test_a_routers_bias_survives_training_and_reaches_samplers(tmp_path: Path) -> None:
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    policy = family("deepseek_v3", vocab_size=len(tokenizer()), max_position_embeddings=512)
    dict(policy.named_buffers())[bias].fill_(0.3)
    save_model(policy, tokenizer(), tmp_path / "model")
    write_rows(tmp_path / "rows", corpus_rows(4, "chat"))
    kind = stage("sft")
    sizes = {"num_epochs": 1, "batch_size": 4, "max_tokens": 400}
    params = kind.params(seed=1, optimizer={"lr": 1e-2}, precision="bfloat16", **sizes)
    context = FakeContext(tmp_path / "work")
    inputs = Inputs({"model": tmp_path / "model", "rows": tmp_path / "rows"})
    kind.run(context, params, kind.run_model(workers=1), inputs)
    folder = context.output("model")
    stored = load_file(folder / "model.safetensors")
    assert stored[bias].dtype is torch.float32
    assert torch.equal(stored[bias], torch.full((4,), 0.3))
    assert stored["model.norm.weight"].dtype is torch.bfloat16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    after = load_model(folder)
    assert torch.equal(dict(after.named_buffers())[bias], torch.full((4,), 0.3))
    assert not torch.equal(after.model.norm.weight, policy.model.norm.weight)
    sampler = generator(load_model(tmp_path / "model"))
    sampler.load_weights([(bias, torch.full((4,), 0.7))])
    assert dict(sampler.model.named_buffers())[bias].tolist() == pytest.approx([0.7] * 4)
