"""A batch of rollouts and a policy that do not depend on any library's random initialisation."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tiny import model, objective, rollout, tokenizer, update_policy
from torch import Tensor

from r1pipe.records import Rollout
from r1pipe.settings import Aggregation
from r1pipe.train.batching import Batching
from r1pipe.train.engine import TorchEngine

TEMPERATURE = 0.8
CLIP_LOW, CLIP_HIGH, KL_COEF = 0.2, 0.28, 0.05
MAX_TOKENS = 16
AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": "sequence-mean",
    "dr_grpo": "constant",
    "dapo": "token-mean",
}
"""TRL's `loss_type` -> ours."""
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"ratio": "sequence", "aggregation": "sequence-mean"},
    ),
    "cispo": (  # TRL's upper bound is the ratio itself, and it has no lower one
        {"loss_type": "cispo", "epsilon_high": 1 + CLIP_HIGH},
        {"surrogate": "cispo", "clip_low": 1.0, "aggregation": "token-mean"},
    ),
}
"""Name -> TRL's options, and what differs in our parameters."""
VOCAB = 300
GOLDEN = Path(__file__).with_name("trl_golden.json")
"""What TRL 1.16 gave for each loss: the loss, the gradient's norm, and a few of its elements."""
SHOWN = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")


def policy(seed: int = 11) -> Any:
    """Return the tiny model with weights drawn by name."""
    made = model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(made.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    return made


def rollouts() -> list[Rollout]:
    """Return eight ragged rollouts whose ratios are on both sides of both clips."""
    rng, made = random.Random(5), []
    for number in range(8):
        prompt = [rng.randrange(5, VOCAB) for _ in range(rng.randint(2, 9))]
        ids = [rng.randrange(5, VOCAB) for _ in range(rng.randint(1, MAX_TOKENS))]
        logprobs = [rng.uniform(-7.5, -4.0) for _ in ids]
        made.append(rollout(prompt, ids, logprobs, rng.uniform(-2, 2) if number else 0.0))
    return made


def reference_rows() -> list[list[float]]:
    """Return log-probabilities of a reference that is not the policy."""
    rng = random.Random(6)
    return [[rng.uniform(-7.0, -4.5) for _ in r.completion_ids] for r in rollouts()]


class Gradients(TorchEngine):
    """Keeps the gradients in place of a step."""

    def step(self, learning_rate: float) -> float:
        self.found = {name: p.grad.detach().clone() for name, p in self.parameters.items()}
        return 0.0


def our_loss(name: str, micro_batch_tokens: int = 64) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of one update."""
    engine = Gradients(policy())
    changes = OTHERS[name][1] if name in OTHERS else {"aggregation": AGGREGATIONS[name]}
    chosen = objective(TEMPERATURE, CLIP_LOW, CLIP_HIGH, KL_COEF, "token-mean", MAX_TOKENS)
    chosen = chosen.model_copy(update=changes)
    batching = Batching(micro_batch_tokens, "padded", tokenizer().pad_token_id)
    measures = update_policy(engine, rollouts(), reference_rows(), chosen, batching, 0.0)
    return measures["loss"], engine.found


def summary(loss: float, gradients: dict[str, Tensor]) -> dict[str, Any]:
    """Return what the golden file keeps."""
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    shown = {name: gradients[name].flatten()[:6].tolist() for name in SHOWN}
    return {"loss": loss, "norm": float(norm), "gradients": shown}
