"""What is on a rank that has loaded sharded models; called in the ranks of a stage."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deepspeed
import torch
from tiny import frozen_logprobs

from r1pipe.engine_settings import MAX_LOGITS, TrainRun
from r1pipe.keys import JsonObject
from r1pipe.models.policy import load_model
from r1pipe.ranks import Ranks
from r1pipe.records import TokenSequence
from r1pipe.settings import Optimizer
from r1pipe.stage import Context, Inputs
from r1pipe.supervision.reward_model import new_reward_model
from r1pipe.train import deepspeed_engine, logprobs
from r1pipe.train import deepspeed_setup as setup
from r1pipe.train.backends import load_trained, make_engine
from r1pipe.train.batching import Batching, MicroBatch, micro_batches
from r1pipe.train.deepspeed_backend import DeepSpeedSettings
from r1pipe.train.engine import Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.reference import make_reference

PERSISTENT = 600
"""Parameters up to this size stay whole: norms and the attention's matrices, not the others."""
ROWS = [TokenSequence([5, 6, 7], [8 + number] * (number + 1), number) for number in range(5)]
BATCHING = Batching(12, "padded", 0)
RUN = TrainRun(engine=DeepSpeedSettings(backend="deepspeed", num_processes=2, zero_stage=3))


def note_facts(context: Context, inputs: Inputs) -> None:
    """Note what is on every rank."""
    context.note(**facts_of(inputs, context.ranks))


def facts_of(inputs: Inputs, ranks: Ranks) -> dict[str, Any]:
    """Return, of every rank, what it holds of each model, and how far that is from the files."""
    models = {name: load_trained(inputs.path(name), RUN) for name in ("tied", "untied")}
    models["bfloat16"] = load_trained(inputs.path("untied"), RUN, "bfloat16")
    models["reward"] = new_reward_model(inputs.path("tied"), 3, RUN)
    whole = {name: load_model(inputs.path(name)) for name in ("tied", "untied")}
    whole["bfloat16"] = load_model(inputs.path("untied"), dtype=torch.bfloat16)
    whole["reward"] = new_reward_model(inputs.path("tied"), 3)
    held = {name: held_of(model) for name, model in models.items()}
    reference = make_reference(models["untied"], RUN, ranks, "float32")
    held["reference"] = held_of(reference.model)
    rows = reference.logprobs(ROWS, 0.7, BATCHING)
    held["used reference"] = held_of(reference.model)
    scored = frozen_logprobs(whole["untied"], ROWS, 0.7, BATCHING)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        renamed = load_trained(inputs.path("renamed"), RUN)
    return {
        "held": ranks.gather(held),
        "differences": ranks.gather({n: difference(models[n], whole[n]) for n in whole}),
        "reference rows": [rows, scored],
        "is_tied": models["tied"].lm_head.weight is models["tied"].model.embed_tokens.weight,
        "peak": ranks.gather(peak_of(inputs.path("untied"))),
        "warning": [str(each.message) for each in said if "whole model" in str(each.message)],
        "is_renamed_sharded": any(hasattr(p, "ds_tensor") for p in renamed.parameters()),
        "trained": ranks.gather(held_after_a_step(inputs.path("untied"), ranks)),
        "gathers": ranks.gather(gathers(inputs.path("untied"), ranks)),
        "neighbours": ranks.gather(losses_of_neighbours(inputs.path("untied"), ranks)),
    }


def loss(model: Any, batch: MicroBatch) -> Loss:
    return Loss(-token_logprobs(model, batch).sum())


def gathers(folder: Path, ranks: Ranks) -> dict[str, dict[str, int]]:
    """Return how often a step gathers each parameter: with the head whole, in slices of one call,
    and in slices that are a call each. No parameter stays for its next use, as in large models."""

    def releasing(*given: Any, **options: Any) -> JsonObject:
        config = setup.config_of(*given, **options)
        config["zero_optimization"]["stage3_max_reuse_distance"] = 0
        return config

    setup.PERSISTENT_NUMBERS, few = PERSISTENT, 2 * 320
    own, whole = logprobs.is_whole_call, MAX_LOGITS
    kinds = ("whole", whole, own), ("slices", few, own), ("calls", few, lambda head: False)
    found = {}
    for name, most, is_whole_call in kinds:
        with (
            patch.object(deepspeed_engine, "config_of", releasing),
            patch.object(logprobs, "MAX_LOGITS", most),
            patch.object(logprobs, "is_whole_call", is_whole_call),
        ):
            engine = make_engine(load_trained(folder, RUN), Optimizer(lr=1e-3), RUN, ranks)
            counts = counted(engine.parameters)
            for _ in range(3):  # DeepSpeed follows the order of modules in the first ones
                counts.clear()
                engine.accumulate(micro_batches(ROWS, BATCHING), loss)
                engine.step(1e-3)
            engine.close()
        found[name] = dict(counts)
    return found


def counted(parameters: dict[str, Any]) -> Counter[str]:
    """Return a counter to which every gathering of a parameter adds."""
    counts: Counter[str] = Counter()
    names = {id(parameter): name for name, parameter in parameters.items()}

    def counting(gather: Any) -> Any:
        def gathering(given: Any, *rest: Any, **options: Any) -> Any:
            counts.update(names[id(parameter)] for parameter in given)
            return gather(given, *rest, **options)

        return gathering

    for parameter in parameters.values():
        parameter.all_gather_coalesced = counting(parameter.all_gather_coalesced)
    return counts


def losses_of_neighbours(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Return the losses of steps with and without ZeRO++, and whether weights are kept twice.

    DeepSpeed makes the groups of neighbours for the whole process, so this comes last.
    """
    found: dict[str, Any] = {}
    for name, size in (("plain", 1), ("neighbours", 2)):
        own = RUN.engine.model_copy(update={"zero_hpz_partition_size": size})
        run = RUN.model_copy(update={"engine": own})
        engine = make_engine(load_trained(folder, run), Optimizer(lr=1e-2), run, ranks)
        losses, kept = [], False
        for _ in range(4):
            losses.append(engine.accumulate(micro_batches(ROWS, BATCHING), loss)["loss"])
            kept |= any(p.ds_secondary_tensor is not None for p in engine.model.parameters())
            engine.step(1e-2)
        found |= {name: losses, f"{name} twice": kept}
        engine.close()
    return found


def held_after_a_step(folder: Path, ranks: Ranks) -> dict[str, tuple[int, int, int]]:
    """Return what a rank holds of each parameter once it has been trained."""
    setup.PERSISTENT_NUMBERS = PERSISTENT
    engine = make_engine(load_trained(folder, RUN), Optimizer(lr=1e-3), RUN, ranks)
    batches = micro_batches(ROWS, BATCHING)
    engine.accumulate(batches, loss)
    engine.step(1e-3)
    found = held_of(engine.model)
    engine.close()
    return found


def held_of(model: Any) -> dict[str, tuple[int, int, int]]:
    """Return numbers of each parameter: the whole, this rank's part, what lies here besides."""
    return {
        name: (parameter.ds_numel, parameter.ds_tensor.numel(), parameter.numel())
        for name, parameter in model.named_parameters()
    }


def difference(model: Any, whole: Any) -> float:
    """Return the largest difference between parameters, or buffers, of two models."""
    found = 0.0
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        named = dict(model.named_parameters()) | dict(model.named_buffers())
        others = dict(whole.named_parameters()) | dict(whole.named_buffers())
        assert named.keys() == others.keys()
        for name, tensor in named.items():
            assert tensor.dtype == others[name].dtype, name
            found = max(found, float((tensor - others[name]).abs().max()))
    return found


def peak_of(folder: Path) -> int:
    """Return the most numbers that lie in tensors of this process while a model is loaded."""
    seen: list[int] = []
    divide = deepspeed.zero.Init

    def counting(module: Any, **options: Any) -> Any:
        seen.append(numbers_alive())
        return divide(module=module, **options)

    deepspeed.zero.Init = counting
    before = numbers_alive()
    try:
        load_trained(folder, RUN)
    finally:
        deepspeed.zero.Init = divide
    return max(seen) - before


def numbers_alive() -> int:
    """Return how many numbers lie in the storages of all tensors that Python knows."""
    sizes = {}
    for each in gc.get_objects():
        if type(each) in (torch.Tensor, torch.nn.Parameter) and each.device.type == "cpu":
            tensors = [each, each.grad, getattr(each, "ds_tensor", None)]
            for tensor in filter(lambda t: t is not None, tensors):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes() // 4
    return sum(sizes.values())
