"""Plain sides of `benchmarks/trainers.py`: loops of PyTorch and transformers, without a library.

Each reads its rows as one padded batch, as a user's own first script would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, pad
from trainers_data import (
    GROUP_SIZE,
    LEARNING_RATE,
    MAX_STEPS,
    MAX_TOKENS,
    NUM_PROMPTS,
    NUM_SAMPLED,
    PROMPT_TOKENS,
    SEED,
    problems,
    sequences,
    supervised_params,
)
from trainers_sides import Turns, prompts_of

from r1pipe.curricula.order import problem_order
from r1pipe.models.policy import load_model, load_tokenizer
from r1pipe.models.prompts import encode_prompt
from r1pipe.rewards.length import length
from r1pipe.train.supervised import batches_of

CLIP = 0.2


def plain_sft(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Train on the same rows, one padded batch a step."""
    model = load_model(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    rows = sequences(model.config.vocab_size)
    kind = torch.bfloat16 if options["bf16"] else torch.float32
    for numbers in batches_of(len(rows), supervised_params()):
        turns.next()
        chosen = [rows[number] for number in numbers]
        width = max(map(len, chosen))
        whole = [torch.tensor([*r.prompt_ids, *r.completion_ids]) for r in chosen]
        ids = torch.stack([pad(row, (0, width - len(row))) for row in whole])
        mask = torch.stack([pad(torch.ones(len(row)), (0, width - len(row))) for row in whole])
        labels = torch.where(mask.bool(), ids, -100)
        labels[:, :PROMPT_TOKENS] = -100
        with torch.autocast("cpu", kind, enabled=options["bf16"]):
            logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        step(model, optimizer)
        turns.facts = {"loss": float(loss)}
    turns.next()


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clip, update, and clear the gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def plain_sampling(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Sample the same groups by `generate` of transformers."""
    tokenizer = load_tokenizer(folder)
    kind = torch.bfloat16 if options["precision"] == "bfloat16" else torch.float32
    model = load_model(folder, dtype=kind).eval()
    prompts = prompts_of(folder)
    for start in range(0, len(prompts), NUM_SAMPLED):
        turns.next()
        _, said, _ = generated(model, tokenizer, prompts[start : start + NUM_SAMPLED])
        turns.facts = {"tokens": float(said.sum())}
    turns.next()


def generated(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return groups as one batch padded on the left: ids [B, T], which tokens were sampled, and
    which are no padding."""
    pad_id, width = tokenizer.pad_token_id, max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=MAX_TOKENS,
        num_return_sequences=GROUP_SIZE,
        pad_token_id=pad_id,
    )
    is_end = (found[:, width:] == tokenizer.eos_token_id).long()
    said = (is_end.cumsum(dim=1) - is_end) == 0  # up to the first end, with it
    given = mask.repeat_interleave(GROUP_SIZE, dim=0).bool()
    sampled = torch.cat([torch.zeros_like(given), said], dim=1)
    return found, sampled, torch.cat([given, said], dim=1)


def plain_grpo(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Sample groups by `generate`, reward them, and make one update on all of them at once."""
    mean_chars, is_bf16 = options["mean_chars"], options["bf16"]
    order = problem_order(problems(mean_chars), NUM_PROMPTS, SEED)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    kind = torch.bfloat16 if is_bf16 else torch.float32
    for _ in range(MAX_STEPS):
        turns.next()
        drawn = next(order)
        prompts = [encode_prompt(tokenizer, each.prompt, "chat") for each in drawn]
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=is_bf16):
            ids, sampled, mask = generated(model.eval(), tokenizer, prompts)
        texts = [tokenizer.decode(row[own]) for row, own in zip(ids, sampled, strict=True)]
        asked = [problem for problem in drawn for _ in range(GROUP_SIZE)]
        rewards = [length(each, text) for each, text in zip(asked, texts, strict=True)]
        groups = torch.tensor(rewards, dtype=torch.float64).view(-1, GROUP_SIZE)
        spread = groups.std(dim=1, keepdim=True, correction=0)
        gain = ((groups - groups.mean(dim=1, keepdim=True)) / (spread + 1e-8)).flatten().float()
        with torch.autocast("cpu", kind, enabled=is_bf16):
            logits = model.train()(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        known = log_softmax(logits.logits[:, :-1].float(), dim=-1)
        said = known.gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1]
        ratio, of_row = (said - said.detach()).exp(), gain[:, None]
        clipped = torch.minimum(ratio * of_row, ratio.clamp(1 - CLIP, 1 + CLIP) * of_row)
        loss = -(clipped * sampled[:, 1:]).sum() / sampled.sum()
        loss.backward()
        step(model, optimizer)
        turns.facts = {
            "completion_tokens": float(sampled.sum() / len(sampled)),
            "flat_group_frac": float((spread == 0).float().mean()),
        }
    turns.next()


SIDES = {
    "sft:plain": plain_sft,
    "grpo:plain": plain_grpo,
    "sample:generate": plain_sampling,
}
