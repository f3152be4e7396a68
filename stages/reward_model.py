"""A reward model: pairwise for helpfulness, pointwise for safety.

Paper: arXiv:2501.12948v2, section 3.1 (the policy's architecture with a scalar head; helpfulness
scores the final summary only, safety the whole completion; batch 256, lr 6e-6, one epoch).

In: `model` (whose backbone it starts from), `rows`. Out: `model`, a sequence-classification
directory with one label.

Run it with `r1pipe stage helpful-rm`, `r1pipe stage safety-rm`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from r1pipe.records import Row
from r1pipe.rl.params import RewardModelParams, RewardModelRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.models.interfaces import Tokenizer
    from r1pipe.records import TokenSequence

VERSION = 1
INPUTS = {"model": Input("model"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}


Params = RewardModelParams
Run = RewardModelRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train backbone and head on the preference rows."""
    from r1pipe.models.policy import in_dtype, load_tokenizer, say_dtype
    from r1pipe.models.precision import dtype_of
    from r1pipe.rl.preference import train_reward_model
    from r1pipe.rl.reward_model import new_reward_model
    from r1pipe.rows import read_rows
    from r1pipe.train.backends import make_engine

    tokenizer = load_tokenizer(inputs.path("model"))
    model = new_reward_model(inputs.path("model"), params.seed, run, params.precision)
    engine = make_engine(model, params.optimizer, run, context.ranks, params.precision)
    rows = list(read_rows(inputs.path("rows")))
    examples = list(_examples(rows, tokenizer, params))
    train_reward_model(
        context,
        engine,
        examples,
        [float(row.get("is_safe", 1.0)) for row in rows],
        params,
        run,
        tokenizer.pad_token_id,
    )
    weights = engine.consolidated()
    if weights is not None:
        out = context.output("model")
        dtype = dtype_of(params.precision)
        weights = in_dtype(model, weights, dtype)
        model.save_pretrained(out, safe_serialization=True, state_dict=weights)
        tokenizer.save_pretrained(out)
        if dtype is not model.dtype:
            say_dtype(out, dtype)
    engine.close()
    context.note(num_examples=len(examples))


def _examples(
    rows: list[Row], tokenizer: Tokenizer, params: Params
) -> Iterator[tuple[TokenSequence, ...]]:
    from r1pipe.rl.reward_model import encode_scored

    names = ("chosen", "rejected") if params.objective == "pairwise" else ("completion",)
    for row in rows:
        yield tuple(encode_scored(tokenizer, row["prompt"], row[n], params.reads) for n in names)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over pairs or single texts."""
    from r1pipe.costs.recipes import preference_training

    texts = 2 if params.objective == "pairwise" else 1
    return preference_training(params, run, inputs["model"], inputs["rows"], texts)
