"""A reward model: pairwise for helpfulness, pointwise for safety.

Paper: arXiv:2501.12948v2, section 3.1 (the policy's architecture with a scalar head; helpfulness
scores the final summary only, safety the whole completion; batch 256, lr 6e-6, one epoch).

In: `model` (whose backbone it starts from), `rows`. Out: `model`, a sequence-classification
directory with one label.

Run it with `r1pipe stage helpful-rm`, `r1pipe stage safety-rm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.records import Row, messages_from_json
from r1pipe.rl.params import RewardModelParams, RewardModelRun
from r1pipe.stage import Context, Input, Inputs
from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.models.interfaces import Tokenizer
    from r1pipe.records import TokenSequence

VERSION = 2
INPUTS = {"model": Input("model"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}
COLUMNS = {"pairwise": ("chosen", "rejected"), "pointwise": ("completion",)}
"""What each objective reads beside the prompt."""
ADVICE = "set params.objective, or make the rows by a stage of kind import-preferences"


Params = RewardModelParams
Run = RewardModelRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train backbone and head on the preference rows."""
    from r1pipe.models.policy import in_dtype, load_tokenizer, say_dtype
    from r1pipe.models.precision import dtype_of
    from r1pipe.rl.preference import train_reward_model
    from r1pipe.rl.reward_model import check_scores, new_reward_model
    from r1pipe.rows import check_columns, read_rows
    from r1pipe.train.backends import make_engine

    tokenizer = load_tokenizer(inputs.path("model"))
    model = new_reward_model(inputs.path("model"), params.seed, run, params.precision)
    engine = make_engine(model, params.optimizer, run, context.ranks, params.precision)
    if getattr(run.engine, "sequence_parallel", 1) == 1:
        check_scores(engine, model, tokenizer.pad_token_id, params.precision)
    check_columns(inputs.path("rows"), ("prompt", *COLUMNS[params.objective]), ADVICE)
    rows = list(read_rows(inputs.path("rows")))
    labels = _labels(rows, inputs.path("rows")) if params.objective == "pointwise" else []
    encoded = list(_examples(rows, tokenizer, params))
    kept = [i for i, texts in enumerate(encoded) if _fits(texts, params.max_tokens)]
    if not kept:
        raise StageError(
            f"{context.name}: no row to train on ({len(rows)} rows, all with texts over"
            f" params.max_tokens {params.max_tokens})"
        )
    examples = [encoded[i] for i in kept]
    labels = [labels[i] for i in kept] if labels else []
    train_reward_model(context, engine, examples, labels, params, run, tokenizer.pad_token_id)
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
    context.note(num_examples=len(examples), too_long=len(rows) - len(kept))


def _labels(rows: Sequence[Row], folder: Path) -> list[float]:
    """Return the label of every row; one that is not there would train that all is safe."""
    for number, row in enumerate(rows, start=1):
        label = row.get("is_safe")
        if not isinstance(label, bool | int | float) or not 0 <= label <= 1:
            raise StageError(
                f"{folder}: row {number}: the label is_safe is {visible(repr(label))}; a pointwise"
                " reward model needs true or false (or a share from 0 to 1) in every row"
            )
    return [float(row["is_safe"]) for row in rows]


def _fits(texts: Sequence[TokenSequence], max_tokens: int | None) -> bool:
    return max_tokens is None or max(map(len, texts)) <= max_tokens


def _examples(
    rows: list[Row], tokenizer: Tokenizer, params: Params
) -> Iterator[tuple[TokenSequence, ...]]:
    from r1pipe.rl.reward_model import encode_scored
    from r1pipe.train.conversations import Untrainable

    names = ("chosen", "rejected") if params.objective == "pairwise" else ("completion",)
    for number, row in enumerate(rows):
        turns = row.get("messages")
        prompt = row["prompt"] if turns is None else messages_from_json(turns)
        try:
            yield tuple(encode_scored(tokenizer, prompt, row[n], params.reads) for n in names)
        except Untrainable as error:
            raise StageError(f"row {number} cannot be trained: {error}") from None


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    if "rows" not in inputs:
        return {}
    columns = ("prompt", *COLUMNS[params.objective])
    return {"rows": own_rows_found(inputs.path("rows"), columns, "import-preferences")}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over pairs or single texts."""
    from r1pipe.costs.recipes import preference_training

    texts = 2 if params.objective == "pairwise" else 1
    return preference_training(params, run, inputs["model"], inputs["rows"], texts)
