"""Direct preference optimization: pairs, without a reward model and without sampling.

# B rows of a micro-batch: chosen, rejected, chosen, ...; N trained tokens

With d(o) = sum over the tokens of o of log policy - log reference, the loss of a pair is
-log sigmoid(beta (d(chosen) - d(rejected))) (Rafailov et al., arXiv:2305.18290, Eq. 7), or with
d(o) / |o| in place of d(o) (DeepSeekMath, arXiv:2402.03300, Eq. 12).

DeepSeekMath's Eq. 13 and 14 are not the gradient of its Eq. 12: beta is missing, and they take a
sigmoid for each token, which two completions of unequal lengths do not even have. The gradient
of Eq. 12 by log policy of a token is -beta (1 - sigmoid(margin)) / |o| for all tokens of the chosen
completion, and the same with plus for those of the rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from r1pipe.method_params.preferences import DpoParams, DpoRun, PairAggregation
from r1pipe.models.adapters import is_adapted, without_adapters
from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import TokenSequence
from r1pipe.stage import Context
from r1pipe.supervision.training import adjacent
from r1pipe.train.batching import Batching, MicroBatch
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import completion_logprobs, token_logprobs
from r1pipe.train.loop import Trainer, Update
from r1pipe.train.sequence_parallel import add_over_shards
from r1pipe.train.supervised import batches_of

Pair = tuple[TokenSequence, TokenSequence]
"""Chosen and rejected."""
FILE = "reference_sums.safetensors"


class ReferenceSums:
    """The reference's log-probability of every completion, summed: what DPO needs of it.

    The reference is the policy as the stage is given it, so it is computed before the first step
    and no second model is in memory. It goes into every checkpoint; until the first one, a stage of
    one process keeps it in a journal, unit by unit.
    """

    def __init__(self, is_main: bool = True) -> None:
        self._is_main = is_main
        self.values = torch.zeros(0, 2, dtype=torch.float64)  # [pairs, 2]: chosen, rejected

    def compute(
        self,
        context: Context,
        engine: Engine,
        pairs: Sequence[Pair],
        batching: Batching,
        pairs_per_unit: int,
    ) -> None:
        """Run the model forward over all pairs, without adapters if it has any."""
        journal = context.journal("reference") if context.ranks.size == 1 else None
        sums = [row["sums"] for row in journal.rows()] if journal else []
        for start in range(len(sums), len(pairs), pairs_per_unit):
            context.doing("reference", start, len(pairs))
            unit = pairs[start : start + pairs_per_unit]
            found = _sums(engine, unit, batching)
            if journal:
                journal.append(str(start), [{"sums": each} for each in found])
            sums += found
            context.stop_if_asked()
        self.values = torch.tensor(sums, dtype=torch.float64)

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint folder; every rank has the same, and rank 0 writes."""
        if self._is_main:
            save_file({"sums": self.values}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.values = load_file(folder / FILE)["sums"]


def _sums(engine: Engine, pairs: Sequence[Pair], batching: Batching) -> list[list[float]]:
    sequences = [text for pair in pairs for text in pair]
    if is_adapted(engine.model):
        with without_adapters(engine.model):
            rows = completion_logprobs(engine, sequences, 1.0, batching)
    else:
        rows = completion_logprobs(engine, sequences, 1.0, batching)
    sums = [sum(row) for row in rows]
    return [list(each) for each in zip(sums[0::2], sums[1::2], strict=True)]


def train_dpo(
    context: Context,
    engine: Engine,
    pairs: Sequence[Pair],
    params: DpoParams,
    run: DpoRun,
    batching: Batching,
) -> None:
    """Train on pairs that keep side by side; resumes by itself."""
    tokens = [sum(map(len, pair)) for pair in pairs]
    context.note(num_pairs=len(pairs), trained_tokens=params.num_epochs * sum(tokens))
    steps = list(batches_of(len(pairs), params))
    reference = ReferenceSums(context.ranks.is_main)
    trainer = Trainer(context, engine, params.optimizer, len(steps), [reference])
    if context.checkpoints.latest() is None:
        reference.compute(context, engine, pairs, batching, run.pairs_per_unit)
        trainer.save()

    def update(rows: Sequence[int]) -> Update:
        batches = adjacent(pairs, rows, len(rows), run.micro_batch_tokens, batching.pad_id)
        loss = partial(
            dpo_loss,
            reference=reference.values,
            beta=params.beta,
            aggregation=params.aggregation,
            num_pairs=len(rows),
        )
        num_tokens = sum(tokens[row] for row in rows)
        return Update(batches, loss, num_tokens, num_tokens)

    trainer.run(map(update, steps[trainer.step :]))


def dpo_loss(
    model: LanguageModel,
    batch: MicroBatch,
    *,
    reference: Tensor,
    beta: float,
    aggregation: PairAggregation,
    num_pairs: int,
) -> Loss:
    """Return what a micro-batch adds to the loss of an update of `num_pairs`.

    `reference` is [pairs, 2]: the summed log-probabilities of chosen and rejected, by the number of
    the pair, which all tokens of a row have as their `sequence_index`. Ranks that share the
    positions of a row add their parts of its sums.
    """
    # in float64: the sums of a long completion are large, and the margins are what is left of them
    logprobs = token_logprobs(model, batch).double()  # [N]
    rows = batch.loss_mask.nonzero()[:, 0]  # [N]
    zeros = logprobs.new_zeros(len(batch.loss_mask))
    sums = add_over_shards(zeros.index_add(0, rows, logprobs), batch)  # [B]
    numbers = batch.sequence_index[0::2, 0].to(reference.device)  # right on the first shard
    gains = sums - reference[numbers].flatten().to(sums)
    if aggregation == "sequence-mean":
        counts = zeros.index_add(0, rows, torch.ones_like(logprobs))
        gains = gains / add_over_shards(counts, batch)
    chosen, rejected = (beta * gains[0::2], beta * gains[1::2])
    margins = chosen - rejected  # of each pair
    share = batch.is_first_shard / num_pairs  # all ranks that share the rows know all margins
    means = {
        "accuracy": margins > 0,
        "margin": margins,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    return Loss(
        -logsigmoid(margins).sum() * share,
        sums={name: float(values.detach().sum()) * share for name, values in means.items()},
    )
