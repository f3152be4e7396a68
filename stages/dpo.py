"""Direct preference optimization: pairs of completions, one chosen and one rejected.

Paper: arXiv:2305.18290 (sums of log-probabilities, the default) and arXiv:2402.03300, Eq. 12 (means
over the tokens of each completion). The reference is the model that the stage is given, with
adapters their base. `r1pipe/rl/dpo.py` has the loss, and what is wrong with Eq. 13 and 14.

In: `model`, `rows` with prompt, chosen and rejected (of pairs, preferences, import-preferences; any
`format`, or `messages` before the answers). Out: `model`.

Run it with `r1pipe stage dpo --manifest manifests/methods/dpo.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.method_params.preferences import DpoParams, DpoRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.models.interfaces import Tokenizer
    from r1pipe.rl.dpo import Pair

VERSION = 1
INPUTS = {"model": Input("model"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}
COLUMNS = ("prompt", "chosen", "rejected")
ADVICE = "make the rows by a stage of kind pairs or import-preferences"

Params = DpoParams
Run = DpoRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Compute the reference's log-probabilities once, then train on the pairs."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.rl.dpo import train_dpo
    from r1pipe.train.backends import load_policy, make_engine
    from r1pipe.train.batching import Batching
    from r1pipe.train.own_forward import check_forward
    from r1pipe.train.supervised import finish
    from r1pipe.workers import num_workers

    tokenizer = load_tokenizer(inputs.path("model"))
    pairs = _encoded(context, params, inputs, tokenizer)
    model = load_policy(inputs.path("model"), run, params, params.seed)
    engine = make_engine(
        model, params.optimizer, run, context.ranks, params.precision, context.warn
    )
    workers = num_workers(run.workers, run.device)
    batching = Batching(run.micro_batch_tokens, "padded", tokenizer.pad_token_id, workers)
    check_forward(engine, model, batching, params.precision)
    train_dpo(context, engine, pairs, params, run, batching)
    finish(context, engine, tokenizer, params.precision, params.adapter)


def _encoded(context: Context, params: Params, inputs: Inputs, tokenizer: Tokenizer) -> list[Pair]:
    """Return the pairs as tokens; those that are too long or cannot be trained are counted."""
    from r1pipe.data.preference_pairs import encoded_pairs
    from r1pipe.models.policy import stored_end_ids
    from r1pipe.rows import check_columns
    from r1pipe.train.conversations import TurnEncoder

    encoder = TurnEncoder(tokenizer, stored_end_ids(inputs.path("model"), tokenizer))
    folder = inputs.path("rows")
    check_columns(folder, COLUMNS, ADVICE)
    pairs, too_long, bad = encoded_pairs(folder, encoder, params.max_tokens)
    num_rows = len(pairs) + too_long + len(bad)
    context.note(too_long=too_long, **bad.as_note())
    bad.check(params.max_bad_frac, num_rows, folder)
    if not pairs:
        raise StageError(
            f"{context.name}: no pair to train on ({num_rows} rows, of which {too_long} have a text"
            f" over params.max_tokens {params.max_tokens})"
        )
    return pairs


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    if "rows" not in inputs:
        return {}
    return {"rows": own_rows_found(inputs.path("rows"), COLUMNS, "import-preferences")}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over pairs, and one forward pass of the reference."""
    from r1pipe.costs.preferences import pair_training

    return pair_training(params, run, inputs["model"], inputs["rows"])
