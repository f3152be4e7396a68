"""The two measurements of `benchmarks/gpu.py`, by the sides of `benchmarks/trainers.py`.

Import it once TRAINERS_SIZES and TRAINERS_MODEL are set: the sides read them as they start.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import trainers
from gpu_peaks import step_flops, utilisation
from trainers_data import BATCH_SIZE, GROUP_SIZE, MAX_TOKENS, NUM_PROMPTS, ROW_TOKENS

from r1pipe.costs.models import model_from_config

SFT, GRPO = "sft gpu", "grpo gpu"
WANTED_UTILISATION, WANTED_RATIO = 0.40, 1.5
WANTED_PARAMETERS = (0.4e9, 1.9e9)
"""What is called 0.5B and 1.5B."""
MEAN_LETTERS = 7.0
"""Of the words that a wide vocabulary is made of (`trainers_data.widened`)."""
MOST_PROMPT_TOKENS = 256
"""Room for TRL's prompts; r1pipe finds its own."""


def comparisons(chosen: argparse.Namespace, peer_has_vllm: bool) -> dict[str, dict[str, Any]]:
    """Return the settings of all sides on the device, for `trainers.COMPARISONS`."""
    on_gpu, device = chosen.device != "cpu", chosen.device
    tokens = chosen.micro_batch_tokens or (16384 if on_gpu else 480)
    packed = {"layout": "packed", "micro_batch_tokens": tokens, "device": device}
    sft = {"precision": "bfloat16", **packed}
    if not on_gpu:  # PyTorch's fused attention is slow backwards in bfloat16 there
        sft["engine"] = {"attention": "eager"}
    limit = {"bf16": True, "device": device, "size": 8192 if on_gpu else 1024}
    return {
        SFT: {trainers.OURS: sft, trainers.LIMIT: limit},
        GRPO: {
            trainers.OURS: our_grpo(chosen, packed),
            trainers.PEER: their_grpo(chosen, peer_has_vllm),
        },
    }


def common_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what both sides of GRPO have: no KL term, and where the length reward is centred."""
    is_wide = chosen.model is None and chosen.size != "toy"
    letters = MEAN_LETTERS if is_wide else trainers.MEAN_CHARS / 64
    return {"kl_coef": 0.0, "device": chosen.device, "mean_chars": letters * MAX_TOKENS}


def our_grpo(chosen: argparse.Namespace, packed: dict[str, Any]) -> dict[str, Any]:
    """Return r1pipe's settings: the engine sleeps by its default."""
    ours = common_of(chosen)
    if chosen.device != "cpu":
        ours |= {"precision": "bfloat16", **packed}
    if chosen.generator == "vllm":
        fraction = {} if chosen.device == "cpu" else {"gpu_memory_fraction": chosen.memory_fraction}
        ours["generator"] = {"backend": "vllm", **fraction}
    return ours


def their_grpo(chosen: argparse.Namespace, has_vllm: bool) -> dict[str, Any]:
    """Return TRL's settings: float32 weights under autocast on a GPU, as r1pipe has them.

    TRL's vLLM computes in the precision of the model's files, which is bfloat16 there.
    """
    on_gpu = chosen.device != "cpu"
    theirs = common_of(chosen) | {"model_init_kwargs": {"dtype": "float32"}, "bf16": on_gpu}
    if on_gpu:
        theirs["micro_batch_size"] = min(16, GROUP_SIZE * NUM_PROMPTS)
    if has_vllm:
        theirs |= {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_enable_sleep_mode": on_gpu,
            "vllm_gpu_memory_utilization": chosen.memory_fraction,
            "vllm_max_model_length": MOST_PROMPT_TOKENS + MAX_TOKENS,
        }
    return theirs


def measure_sft(
    folder: Path, chosen: argparse.Namespace, peak: float | None, num_parameters: int
) -> str:
    """Time packed rows in bfloat16, print tokens/s and utilisation; return the verdict.

    `peak` is in TFLOP/s; None: the measured rate of matrix products stands in for it.
    """
    sides = trainers.compare(SFT, folder, chosen, False, one_by_one=True)
    ours, limit = sides[trainers.OURS], sides[trainers.LIMIT]
    model = model_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    flops, tokens = rows_of_steps(folder, len(ours.steps), model)
    first = trainers.WARM_UP
    walls = [float(step["wall"]) for step in ours.steps[first:]]
    products = limit.steps[-1]["facts"]["gflop"] / 1e3 / limit.median("wall")
    against = products if peak is None else peak
    shares = [utilisation(f, w, against) for f, w in zip(flops[first:], walls, strict=True)]
    speed = statistics.median(n / w for n, w in zip(tokens[first:], walls, strict=True))
    rows = f"{BATCH_SIZE} rows of {ROW_TOKENS[0]} to {ROW_TOKENS[1]} tokens a step"
    print(f"\n### SFT, packed rows in bfloat16, {rows}\n")
    print("| tokens/s | s a step | TFLOP a step | TFLOP/s | of products | peak MiB | GPU MiB |")
    print("|---|---|---|---|---|---|---|")
    done = statistics.median(f / w for f, w in zip(flops[first:], walls, strict=True)) / 1e12
    last, mean = ours.steps[-1], statistics.mean(flops[first:]) / 1e12
    figures = f"{speed:,.0f} | {ours.median('wall'):.3f} | {mean:.3f} | {done:.3f} | {products:.3f}"
    print(f"| {figures} | {last['peak_mib']:.0f} | {last['gpu_mib']:.0f} |")
    return sft_verdict(shares, peak, missing(chosen.device, num_parameters))


def missing(device: str, num_parameters: int) -> list[str]:
    """Return what of a measurement on a GPU, at 0.5 to 1.5B parameters, was not there."""
    low, high = WANTED_PARAMETERS
    size = f"a model of {num_parameters / 1e6:,.1f}M parameters"
    fits = low <= num_parameters <= high
    return (["no GPU"] if device == "cpu" else []) + ([] if fits else [size])


def sft_verdict(shares: list[float], peak: float | None, lacks: list[str]) -> str:
    """Say whether the utilisation that is wanted was reached, or what it lacks to be said.

    Without a peak (TFLOP/s) the shares are those of the measured rate of matrix products.
    """
    share = statistics.median(shares)
    against = "the measured rate of matrix products" if peak is None else f"{peak:g} TFLOP/s"
    steps = f"{min(shares):.1%} to {max(shares):.1%} over {len(shares)} steps"
    found = f"{share:.1%} ({steps}) of {against}"
    wanted = f"SFT, model FLOP utilisation >= {WANTED_UTILISATION:.0%}"
    return f"{wanted}: {outcome(share >= WANTED_UTILISATION, found, lacks)}"


def grpo_verdict(ratio: float | None, lacks: list[str]) -> str:
    """Say whether the ratio that is wanted was reached, or what it lacks to be said."""
    wanted = f"GRPO, steps >= {WANTED_RATIO} x TRL with vLLM"
    if ratio is None:
        return f"{wanted}: not run ({'; '.join(lacks)})"
    return f"{wanted}: {outcome(ratio >= WANTED_RATIO, f'{ratio:.2f} by the clock', lacks)}"


def outcome(is_reached: bool, found: str, lacks: list[str]) -> str:
    """Return reached, missed or not run, with what was found."""
    if lacks:
        return f"not run ({'; '.join(lacks)}); here {found}"
    return f"{'reached' if is_reached else 'missed'}, {found}"


def rows_of_steps(folder: Path, number: int, model: Any) -> tuple[list[float], list[int]]:
    """Return the operations and the tokens of each of the first steps."""
    from itertools import islice

    from trainers_data import sequences, supervised_params

    from r1pipe.train.supervised import batches_of

    rows = sequences(model.vocab_size)
    steps = islice(batches_of(len(rows), supervised_params()), number)
    chosen = [[rows[each] for each in numbers] for numbers in steps]
    return [step_flops(model, step) for step in chosen], [sum(map(len, step)) for step in chosen]


def measure_grpo(
    folder: Path, chosen: argparse.Namespace, peer: dict[str, bool], num_parameters: int
) -> str:
    """Time steps of GRPO, r1pipe's and TRL's in turn; print both and return the verdict."""
    sides = trainers.compare(GRPO, folder, chosen, peer["trl"], one_by_one=True)
    size = f"{NUM_PROMPTS} prompts in groups of {GROUP_SIZE}, up to {MAX_TOKENS} tokens"
    print(f"\n### GRPO, {size}\n")
    print("| | sampled by | s a step | of it sampling | tokens | samples/s | peak MiB | GPU MiB |")
    print("|---|---|---|---|---|---|---|---|")
    samplers = {trainers.OURS: chosen.generator}
    samplers[trainers.PEER] = "vllm" if peer["vllm"] and peer["trl"] else "transformers"
    for who, side in sides.items():
        wall, last = side.median("wall"), side.steps[-1]
        sampled = [step["parts"]["generation"][0] for step in side.steps[trainers.WARM_UP :]]
        figures = f"{wall:.3f} | {statistics.median(sampled):.3f}"
        figures += f" | {side.mean_fact('completion_tokens'):.1f}"
        figures += f" | {GROUP_SIZE * NUM_PROMPTS / wall:.1f}"
        memory = f"{last['peak_mib']:.0f} | {last['gpu_mib']:.0f}"
        print(f"| {who} | {samplers[who]} | {figures} | {memory} |")
    lacks = missing(chosen.device, num_parameters)
    lacks += [f"{who} sampled without vLLM" for who in sides if samplers[who] != "vllm"]
    if trainers.PEER not in sides:
        return grpo_verdict(None, [*lacks, "the interpreter of --peer has no TRL"])
    trainers.print_ratio(sides, trainers.PEER)
    ratio = sides[trainers.PEER].median("wall") / sides[trainers.OURS].median("wall")
    return grpo_verdict(ratio, lacks)
