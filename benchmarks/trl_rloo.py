"""RLOO's advantages and gradient against TRL's on one batch, the KL to a reference included.

usage: PYTHONPATH=.:tests python benchmarks/trl_rloo.py [--write]

Needs TRL 1.16 beside r1pipe, in an environment of its own. TRL's own code rewards the fixed
completions, takes the KL off, leaves one out and clips the ratio of whole completions, which is 1
here: they were sampled by the weights that are trained. Its loss is then the mean advantage with
the gradient of REINFORCE, so gradients are compared and losses are not. Prints two rows for
docs/methods.md; `--write` puts TRL's values into tests/trl_rloo_golden.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from fixed_batch import MAX_TOKENS, TEMPERATURE, policy, rollouts, summary
from fixed_rloo import GOLDEN, GROUP_SIZE, KL_COEF, REWARDS, our_rloo
from tiny import tokenizer
from torch import Tensor

from r1pipe.models.policy import save_model


def fixed(prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
    """Return the tokens of prompts and completions, in place of what TRL would sample."""
    made = rollouts()
    ids = [list(each.completion_ids) for each in made]
    return [list(each.prompt_ids) for each in made], ids, ["" for _ in prompts]


def trl_rloo(folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Return the advantages and all gradients of TRL's trainer."""
    save_model(policy(), tokenizer(), folder / "policy")
    options: dict[str, Any] = {"bf16": False, "use_cpu": True, "report_to": []}
    config = trl.RLOOConfig(
        output_dir=str(folder / "out"),
        beta=KL_COEF,
        temperature=TEMPERATURE,
        max_completion_length=MAX_TOKENS,
        per_device_train_batch_size=len(REWARDS),
        num_generations=GROUP_SIZE,
        gradient_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = trl.RLOOTrainer(
        model=str(folder / "policy"),
        reward_funcs=lambda completions, **_: list(REWARDS),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=tokenizer(),
    )
    trainer._generate = fixed
    trainer.ref_model.load_state_dict(policy(seed=12).state_dict())
    model = trainer.model.float().train()
    inputs = trainer._generate_and_score_completions([{"prompt": "x"} for _ in REWARDS])
    trainer._compute_loss(model, inputs).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    return inputs["advantages"].tolist(), gradients


def main(is_written: bool) -> None:
    """Print the rows; write TRL's values into the golden file if asked."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, their_gradients = trl_rloo(Path(folder))
    ours, gradients = our_rloo()
    assert gradients.keys() == their_gradients.keys()
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"advantages {theirs}: largest difference {apart:.1e}")
    found = summary(0.0, their_gradients)
    apart = max(float((gradients[n] - g).abs().max()) for n, g in their_gradients.items())
    print(f"norm of the gradient {found['norm']:.5f}: largest difference {apart:.1e}")
    if is_written:
        golden = {
            "versions": {"trl": trl.__version__},
            "advantages": theirs,
            "norm": found["norm"],
            "gradients": found["gradients"],
        }
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
