"""A reward model: pairwise for helpfulness, pointwise for safety and outcomes, process for steps.

Paper: arXiv:2501.12948v2, section 3.1 (the policy's architecture with a scalar head; helpfulness
scores the final summary only, safety the whole completion; batch 256, lr 6e-6, one epoch);
arXiv:2402.03300, section 4.1.4 (iterative: it goes on from the last one; lr 2e-5); arXiv:2312.08935
(steps).

In: `model` (whose backbone it starts from; a reward model is gone on from, head and all), `rows`:
prompt, chosen and rejected, or prompt, completion and a label, or prompt, completion and `steps`, a
list of {end, label}, `end` in characters of the completion. Out: `model`, a sequence-classification
directory with one label.

Run it with `r1pipe stage helpful-rm`, `r1pipe stage safety-rm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from r1pipe.errors import StageError
from r1pipe.method_params.preferences import RewardModelParams, RewardModelRun
from r1pipe.records import Row, messages_from_json
from r1pipe.stage import Context, Input, Inputs
from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.models.interfaces import Tokenizer
    from r1pipe.records import TokenSequence

VERSION = 2
INPUTS = {"model": Input("model"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}
COLUMNS = {
    "pairwise": ("chosen", "rejected"),
    "pointwise": ("completion",),
    "process": ("completion", "steps"),
}
"""What each objective reads beside the prompt."""
ADVICE = (
    "set params.objective, or make the rows by a stage of kind import-preferences, pairs or"
    " process-labels"
)


Params = RewardModelParams
Run = RewardModelRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train backbone and head on the preference rows."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.rows import check_columns, read_rows
    from r1pipe.supervision.reward_model import (
        check_scores,
        new_reward_model,
        write_reward_model,
    )
    from r1pipe.supervision.training import train_reward_model
    from r1pipe.train.backends import make_engine
    from r1pipe.train.supervised import packed

    tokenizer = load_tokenizer(inputs.path("model"))
    model = new_reward_model(inputs.path("model"), params.seed, run, params.precision)
    engine = make_engine(
        model, params.optimizer, run, context.ranks, params.precision, context.warn
    )
    if getattr(run.engine, "sequence_parallel", 1) == 1:
        check_scores(engine, model, tokenizer.pad_token_id, params.precision)
    check_columns(inputs.path("rows"), ("prompt", *COLUMNS[params.objective]), ADVICE)
    folder, is_pointwise = inputs.path("rows"), params.objective == "pointwise"
    labels = _labels(read_rows(folder), folder, params.label) if is_pointwise else []
    encoded = [
        tuple(map(packed, texts)) for texts in _examples(read_rows(folder), tokenizer, params)
    ]
    kept = [i for i, texts in enumerate(encoded) if _fits(texts, params.max_tokens)]
    if not kept:
        raise StageError(
            f"{context.name}: no row to train on ({len(encoded)} rows, all with texts over"
            f" params.max_tokens {params.max_tokens})"
        )
    examples = [encoded[i] for i in kept]
    labels = [labels[i] for i in kept] if labels else []
    train_reward_model(context, engine, examples, labels, params, run, tokenizer.pad_token_id)
    write_reward_model(context, engine, tokenizer, params.precision)
    context.note(num_examples=len(examples), too_long=len(encoded) - len(kept))


def _labels(rows: Iterable[Row], folder: Path, column: str) -> list[float]:
    """Return the label of every row; one that is not there would train that all is safe."""
    labels: list[float] = []
    for number, row in enumerate(rows, start=1):
        label = row.get(column)
        if not _is_share(label):
            raise StageError(
                f"{folder}: row {number}: the label {visible(column)} is {visible(repr(label))}; a"
                " pointwise reward model needs true or false (or a share from 0 to 1) in every row"
            )
        labels.append(float(label))
    return labels


def _is_share(label: object) -> TypeGuard[float]:
    return isinstance(label, bool | int | float) and 0 <= label <= 1


def _fits(texts: Sequence[TokenSequence], max_tokens: int | None) -> bool:
    return max_tokens is None or max(map(len, texts)) <= max_tokens


def _examples(
    rows: Iterable[Row], tokenizer: Tokenizer, params: Params
) -> Iterator[tuple[TokenSequence, ...]]:
    from r1pipe.supervision.reward_model import encode_scored
    from r1pipe.train.conversations import Untrainable

    if params.objective == "process":
        yield from (_steps_of(row, number, tokenizer) for number, row in enumerate(rows, start=1))
        return
    for number, row in enumerate(rows):
        turns = row.get("messages")
        prompt = row["prompt"] if turns is None else messages_from_json(turns)
        texts = [row[name] for name in COLUMNS[params.objective]]
        try:
            yield tuple(encode_scored(tokenizer, prompt, text, params.reads) for text in texts)
        except Untrainable as error:
            raise StageError(f"row {number} cannot be trained: {error}") from None


def _steps_of(row: Row, number: int, tokenizer: Tokenizer) -> tuple[TokenSequence]:
    """Return a text whose trained tokens are the ends of its steps, with their labels."""
    from r1pipe.supervision.steps import encode_steps

    ends = [step["end"] for step in row["steps"]]
    labels = [step["label"] for step in row["steps"]]
    within = all(0 < end <= len(row["completion"]) for end in ends)
    if not ends or ends != sorted(set(ends)) or not within or not all(map(_is_share, labels)):
        raise StageError(
            f"row {number}: its steps are {visible(repr(row['steps'])[:200])}; a process reward"
            " model needs at least one, with ends that rise inside of the completion, and labels"
            " from 0 to 1"
        )
    sequence = encode_steps(tokenizer, row["prompt"], row["completion"], ends)
    left = iter(labels[len(labels) - sequence.num_trained :])  # the prompt may say the first ones
    marks = sequence.trained or ()
    sequence.streams["label"] = [next(left) if mark else 0.0 for mark in marks]
    return (sequence,)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    if "rows" not in inputs:
        return {}
    columns = ("prompt", *COLUMNS[params.objective])
    return {"rows": own_rows_found(inputs.path("rows"), columns, "import-preferences")}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over pairs, or single texts."""
    from r1pipe.costs.preferences import preference_training

    texts = 2 if params.objective == "pairwise" else 1
    return preference_training(params, run, inputs["model"], inputs["rows"], texts)
