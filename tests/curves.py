"""Twenty steps of SFT, GRPO and DPO on fixed data, for engines that shall give the same curve."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import torch
from tiny import (
    corpus_rows,
    frozen_logprobs,
    model,
    objective,
    problems,
    rollout,
    tokenizer,
    update_policy,
)

from r1pipe.chat import AnyFormat
from r1pipe.engine_settings import MAX_LOGITS, EngineRun
from r1pipe.models.adapters import add_adapter
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import Rollout, TokenSequence
from r1pipe.rl.dpo import dpo_loss
from r1pipe.settings import Adapter, Optimizer
from r1pipe.stage import Context, Inputs
from r1pipe.supervision.training import adjacent
from r1pipe.train import logprobs
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching, Layout, MicroBatch, count_loss_tokens, micro_batches
from r1pipe.train.deepspeed_backend import DeepSpeedSettings
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs

NUM_STEPS = 20
OPTIMIZER = Optimizer(lr=1.0, weight_decay=0.01, max_grad_norm=1.0)
PAD = tokenizer().pad_token_id
BATCHING = Batching(96, "padded", PAD)
"""Small micro-batches: some steps have an odd number of them, some more than others."""
Curve = list[tuple[float, float]]
"""(loss, gradient norm) of each step."""
ZeroStage = Literal[0, 1, 2, 3]


def sft_curve(engine: Engine, batching: Batching = BATCHING) -> Curve:
    """Train on rows of the corpus, eight or fewer a step."""
    rows = [
        TokenSequence(
            encode_prompt(tokenizer(), row["prompt"], row["format"]),
            encode_completion(tokenizer(), row["completion"]),
        )
        for row in corpus_rows(48)
    ]
    rng, curve = random.Random(4), []
    for step in range(NUM_STEPS):
        batch = rng.sample(rows, rng.randint(3, 8))
        total = count_loss_tokens(batch)

        def loss(policy: Any, micro: MicroBatch, total: int = total) -> Loss:
            return Loss(-token_logprobs(policy, micro).sum() / total)

        value = engine.accumulate(micro_batches(batch, batching), loss)["loss"]
        curve.append((value, engine.step(3e-3 if step < 10 else 1e-3)))
    return curve


def fixed_rollouts() -> list[Rollout]:
    """Return completions of random tokens, with log-probabilities near those of the policy."""
    fmt: AnyFormat = "chat"
    rng, made = random.Random(7), []
    for problem in problems(6):
        prompt = encode_prompt(tokenizer(), problem.prompt, fmt)
        for _ in range(4):
            ids = [rng.randrange(len(tokenizer())) for _ in range(rng.randint(3, 14))]
            made.append(rollout(prompt, ids, advantage=rng.uniform(-1, 1)))
    rows = frozen_logprobs(model(), made, 1.0, BATCHING)
    for each, row in zip(made, rows, strict=True):
        each.streams["sampler_logprobs"][:] = [value + rng.gauss(0, 0.1) for value in row]
    return made


def grpo_curve(engine: Engine, batching: Batching = BATCHING) -> Curve:
    """Go over the same rollouts again and again, so that ratios leave 1 and the clip acts."""
    everyone, curve = fixed_rollouts(), []
    chosen = objective(1.0, 0.2, 0.2, 0.05, "token-mean", 16)
    reference = frozen_logprobs(model(3), everyone, 1.0, BATCHING)
    of_rollout = {id(each): row for each, row in zip(everyone, reference, strict=True)}
    for step in range(0, NUM_STEPS, 2):
        order = list(everyone)
        random.Random(f"order:{step}").shuffle(order)
        for batch in (order[0::2], order[1::2]):
            rows = [of_rollout[id(each)] for each in batch]
            measures = update_policy(engine, batch, rows, chosen, batching, 2e-3)
            curve.append((measures["loss"], measures["grad_norm"]))
    return curve


def dpo_curve(engine: Engine, batching: Batching = BATCHING) -> Curve:
    """Prefer some completions of random tokens to others of the same problem."""
    made, curve = fixed_rollouts(), []
    pairs = list(zip(made[0::2], made[1::2], strict=True))
    rows = frozen_logprobs(model(3), made, 1.0, BATCHING)
    sums = torch.tensor([sum(row) for row in rows], dtype=torch.float64).view(-1, 2)
    for step in range(NUM_STEPS):
        chosen = random.Random(f"pairs:{step}").sample(range(len(pairs)), 3 + step % 4)
        loss = partial(
            dpo_loss,
            reference=sums,
            beta=0.5,
            aggregation="sequence-sum" if step % 2 else "sequence-mean",
            num_pairs=len(chosen),
        )
        batches = adjacent(pairs, chosen, 9, batching.micro_batch_tokens, PAD)
        value = engine.accumulate(batches, loss)["loss"]
        curve.append((value, engine.step(2e-3)))
    return curve


CURVES = {"sft": sft_curve, "grpo": grpo_curve, "dpo": dpo_curve, "adapter": sft_curve}
WHOLE = ("sft", "grpo", "dpo")
"""Those that train weights, not an adapter beside them."""


def curve_of(task: str, run: EngineRun, ranks: Ranks = ALONE, layout: Layout = "padded") -> Curve:
    """Return the curve of an engine."""
    policy = model()
    if task not in WHOLE:
        add_adapter(policy, Adapter(rank=4, alpha=16.0), seed=1)
    engine = make_engine(policy, OPTIMIZER, run, ranks)
    try:
        return CURVES[task](engine, replace(BATCHING, layout=layout))
    finally:
        engine.close()


def positions_held(run: EngineRun, ranks: Ranks) -> tuple[int, int]:
    """Return the positions that a layer sees on this rank, and those of the micro-batch."""
    policy = model()
    engine = make_engine(policy, OPTIMIZER, run, ranks)
    seen: list[int] = []
    policy.model.layers[1].register_forward_hook(lambda m, i, out: seen.append(out.shape[1]))
    batches = list(micro_batches(fixed_rollouts(), BATCHING))[:2]
    try:
        engine.per_token(batches, token_logprobs)
    finally:
        engine.close()
    assert len(seen) == 2, "all ranks share each of them"
    return sum(seen), sum(batch.input_ids.shape[1] for batch in batches)


def log_curves_of(context: Context, case: str, run: EngineRun, layout: Layout) -> None:
    """Log the loss and gradient norm of every task, by step."""
    from r1pipe.train import deepspeed_setup

    deepspeed_setup.PERSISTENT_NUMBERS = 0  # so that ZeRO 3 divides small parameters too
    # with ZeRO 3 the head goes over a few tokens at a time: ranks that have fewer of them must
    # gather its weight as often as the others
    most = 12 * 320 if run.engine.shards_weights else MAX_LOGITS
    with patch.object(logprobs, "MAX_LOGITS", most):
        for task in CURVES:
            curve = curve_of(task, run, context.ranks, layout)
            for step, (loss, norm) in enumerate(curve, start=1):
                found = {f"{task}-{case}-loss": loss, f"{task}-{case}-norm": norm}
                context.log(step, None, **found)


def log_curves(context: Context, inputs: Inputs) -> None:
    """Log the curves of every ZeRO stage, of ranks that share the micro-batches of a step."""
    stages: tuple[ZeroStage, ...] = (0, 1, 2, 3)
    for stage in stages:
        run = EngineRun(engine=settings_of(context.ranks, stage))
        log_curves_of(context, f"{stage}-padded", run, "padded")


def log_curves_of_shared_rows(context: Context, inputs: Inputs) -> None:
    """Log the curves of ranks that share each micro-batch, and what they hold of it."""
    stages: tuple[ZeroStage, ...] = (2, 3)
    layouts: tuple[Layout, ...] = ("padded", "packed")
    for stage in stages:
        run = EngineRun(engine=settings_of(context.ranks, stage, context.ranks.size))
        held, whole = positions_held(run, context.ranks)
        context.log(1, **{f"held-{stage}": held, f"whole-{stage}": whole})
        for layout in layouts:
            log_curves_of(context, f"{stage}-{layout}", run, layout)


def settings_of(ranks: Ranks, stage: ZeroStage, sequence_parallel: int = 1) -> DeepSpeedSettings:
    """Return DeepSpeed on all ranks."""
    return DeepSpeedSettings(
        backend="deepspeed",
        num_processes=ranks.size,
        zero_stage=stage,
        sequence_parallel=sequence_parallel,
    )
