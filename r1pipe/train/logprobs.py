"""Log-probabilities of completion tokens under a model, at the sampling temperature.

# B rows, T tokens, V vocabulary, N trained tokens of a micro-batch
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r1pipe.engine_settings import MAX_LOGITS
from r1pipe.models.interfaces import LanguageModel
from r1pipe.ranks import Ranks
from r1pipe.records import TokenSequence
from r1pipe.tables import gather_floats
from r1pipe.train.batching import Batching, MicroBatch, by_sequence, micro_batches
from r1pipe.train.engine import Forward
from r1pipe.train.packed import blocks_of, is_attending

LARGE_LOGITS = 1 << 22
"""Logits from which their memory counts."""
BLOCK = 1 << 18
"""Logits that are gone through at once on a CPU: 1 MiB."""


OPTIONAL = ("position_ids", "attention_mask")
"""What a backbone is given if it takes it."""


def token_logprobs(model: LanguageModel, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of every trained token, in row order.  -> [N]

    The head runs only where a trained token is predicted, so no logits of prompts or padding are
    in memory; if those of the trained tokens would be more than MAX_LOGITS numbers, it runs over
    one slice of the tokens after another, and again in the backward pass: on each rank as often as
    on the others, since ZeRO-3 gathers what is inside a head, an adapter, for every slice. Logits
    are divided by `temperature`, as the sampler's were; without that the ratio compares two
    distributions.
    """
    return _at_targets(model, batch, partial(gather_logprobs, temperature=temperature))


def logprobs_and_entropies(
    model: LanguageModel, batch: MicroBatch, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return what `token_logprobs` does, and the entropy of the distribution that each token is
    drawn from, in nats.  -> [N], [N]"""

    def both(logits: Tensor, targets: Tensor) -> Tensor:
        logs = torch.log_softmax(logits / temperature, dim=-1)
        entropies = -(logs.exp() * logs).sum(dim=-1)
        return torch.stack([logs.gather(1, targets[:, None])[:, 0], entropies], dim=1)

    found = _at_targets(model, batch, both)
    return found[:, 0], found[:, 1]


def policy_logprobs(
    model: LanguageModel, batch: MicroBatch, temperature: float, *, has_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Return both of `logprobs_and_entropies`, or the first alone."""
    if has_entropy:
        return logprobs_and_entropies(model, batch, temperature)
    return token_logprobs(model, batch, temperature), None


def _at_targets(
    model: LanguageModel, batch: MicroBatch, measure: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return a measure of the logits of every trained token.  ([M, V], [M] -> [M, ...]) -> [N, ...]

    Float64 logits stay so; others are measured in float32.
    """
    predicts = batch.loss_mask[:, 1:]  # position t predicts token t + 1
    hidden = hidden_states(model, batch)
    states = hidden[:, : predicts.shape[1]][predicts]  # [N, H]
    targets = batch.input_ids[:, 1:][predicts]  # [N]

    def score(states: Tensor, targets: Tensor) -> Tensor:
        logits = logits_of(model, states)
        return measure(logits if logits.dtype == torch.float64 else logits.float(), targets)

    rows = max(1, MAX_LOGITS // vocabulary(model))
    count = max(len(targets), batch.most_targets)
    slices = [slice(start, start + rows) for start in range(0, count, rows)]

    def measured(states: Tensor) -> Tensor:
        if count <= rows:
            return score(states, targets)
        parts = ((states[piece], targets[piece]) for piece in slices)
        return torch.cat([checkpoint(score, *part, use_reentrant=False) for part in parts])

    head: Any = model.get_output_embeddings()
    if is_whole_call(head):
        found: Tensor = head(states, measure=measured)
        return found
    return measured(states)


def measure_in_one_call(model: LanguageModel) -> None:
    """Have one call of a model's head measure all trained tokens of a micro-batch, slice by slice.

    ZeRO-3 gathers a module's weights for each of its calls, forward and backward.
    """
    head: Any = model.get_output_embeddings()
    if head is None or is_whole_call(head):
        return
    own = head.forward

    def forward(*inputs: Any, measure: Callable[..., Tensor] | None = None) -> Any:
        return own(*inputs) if measure is None else measure(*inputs)

    head.own_forward, head.forward = own, forward


def is_whole_call(head: object) -> bool:
    """Return whether one call of a head measures all tokens (`measure_in_one_call`)."""
    return hasattr(head, "own_forward")


def completion_logprobs(
    forward: Forward, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under a model as it is now."""
    numbered = [TokenSequence(s.prompt_ids, s.completion_ids, i) for i, s in enumerate(sequences)]
    batches = list(micro_batches(numbered, batching))
    values = forward.per_token(batches, partial(token_logprobs, temperature=temperature))
    return by_sequence(batches, values, len(sequences))


def shared_logprobs(
    forward: Forward,
    ranks: Ranks,
    sequences: Sequence[TokenSequence],
    temperature: float,
    batching: Batching,
) -> list[list[float]]:
    """Return what `completion_logprobs` does, under a model that every rank has whole: each rank
    computes a share, and all get all of them."""
    mine = completion_logprobs(forward, ranks.share(sequences), temperature, batching)
    return [row for rows in gather_floats(ranks, mine) for row in rows]


def hidden_states(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the last hidden state of every position.  -> [B, T, H]

    If ranks share the rows, only of this rank's positions.
    """
    inputs: dict[str, object] = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    if (shard := batch.shard) is not None:
        inputs = {
            "input_ids": batch.input_ids[:, :-1],
            "attention_mask": shard.mask,
            "position_ids": batch.position_ids[:, :-1],
            "sequence_shard": shard,
        }
    elif batch.attention_mask is None and is_attending(model):
        inputs["blocks"] = blocks_of(batch.position_ids)
    backbone = getattr(model, backbone_name(model))
    known = _named(type(backbone).forward)
    given = {n: value for n, value in inputs.items() if n in known or n not in OPTIONAL}
    hidden: Tensor = backbone(**given, use_cache=False).last_hidden_state
    return hidden


def backbone_name(model: LanguageModel) -> str:
    """Return under which name a model has its backbone, which gives the last hidden states."""
    prefix = model.base_model_prefix
    return prefix if prefix in model._modules else "model"


@lru_cache(maxsize=64)
def _named(forward: Callable[..., object]) -> frozenset[str]:
    """Return the names of a backbone's inputs: some families count positions by themselves."""
    return frozenset(inspect.signature(forward).parameters)


def logits_of(model: LanguageModel, states: Tensor) -> Tensor:
    """Return the logits of last hidden states.  [N, H] -> [N, V]

    The family's own forward computes them, since some scale or cap what the head gives; its
    backbone is replaced by one that has run already.
    """
    output = type(model).forward(_Headed(model, states[None]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


class _Headed:
    """A model whose backbone gives the hidden states that it is made with."""

    def __init__(self, model: LanguageModel, states: Tensor) -> None:
        self._model, self._states = model, states

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name == backbone_name(self._model):
            return _Ran(found, self._states)
        return _Called(found) if is_whole_call(found) else found


class _Called:
    """A head whose call is under way: it computes, and what follows its calls is not told."""

    def __init__(self, head: Any) -> None:
        self._head = head

    def __call__(self, *inputs: Any) -> Any:
        return self._head.own_forward(*inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)


class _Ran:
    """A backbone that has run, and whatever it holds."""

    def __init__(self, backbone: Any, states: Tensor) -> None:
        self._backbone, self._states = backbone, states

    def __call__(self, *inputs: object, **named: object) -> _Output:
        return _Output([self._states])

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backbone, name)
        return _Ran(found, self._states) if isinstance(found, torch.nn.Module) else found


class _Output(tuple[Tensor, ...]):
    """What a backbone gives, as a tuple or by name: hidden states and nothing else."""

    __slots__ = ()

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


def vocabulary(model: LanguageModel) -> int:
    """Return how many logits a position has."""
    head = model.get_output_embeddings()
    return int(getattr(head, "out_features", 0) or model.config.get_text_config().vocab_size)


def gather_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / temperature)[target] for each row.  [N, V], [N] -> [N]

    Large logits are gone through by blocks of rows, with the same result to the last bit, and their
    memory becomes that of their gradient: the usual way takes three times as much.
    """
    if logits.numel() < LARGE_LOGITS:
        return _gathered(logits, targets, temperature)
    apply: Callable[..., Tensor] = _LargeLogprobs.apply
    return apply(logits, targets, temperature)


def _gathered(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    scaled = logits if temperature == 1.0 else logits / temperature
    return -torch.nn.functional.cross_entropy(scaled, targets, reduction="none")


class _LargeLogprobs(torch.autograd.Function):
    """`_gathered` and its gradient, block by block."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.temperature = temperature
        blocks = [_gathered(logits[r], targets[r], temperature) for r in _blocks(logits)]
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        for rows in _blocks(logits):
            block = logits[rows].detach().requires_grad_()
            with torch.enable_grad():
                value = _gathered(block, targets[rows], ctx.temperature)
            (found,) = torch.autograd.grad(value, block, gradients[0][rows])
            logits[rows] = found
        return logits, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Yield slices of rows that a cache holds, or that are worth a kernel."""
    size = max(1, (BLOCK if logits.device.type == "cpu" else MAX_LOGITS) // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
