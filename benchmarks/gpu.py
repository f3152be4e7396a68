"""Measure r1pipe on a GPU: SFT against the device's peak, GRPO against TRL with vLLM.

usage: PYTHONPATH=. python benchmarks/gpu.py [--peer PYTHON] [--device cuda] [--size 0.5B]

SFT: packed rows in bfloat16; model FLOP utilisation is r1pipe's count of operations
(`r1pipe/costs`, the head at trained tokens only) over seconds over the peak of
`gpu_peaks.PEAKS`, or `--peak`. GRPO: one update for each rollout, no KL term; vLLM in the
trainer's process, asleep while the policy trains; TRL the same in the interpreter of `--peer`,
which has TRL 1.16 and vLLM beside what r1pipe needs. Sides take turns as in
`benchmarks/trainers.py`.
Models are those of Qwen2.5's shapes with random weights, or of a folder (`--model`). On a CPU all
is of toy size, matrix products stand in for the peak, and what is said of a GPU is "not run".
`--first-hour` runs the checks of `benchmarks/gpu_hour.py` and nothing else.
`--set 'grpo:TRL={"micro_batch_size": 32}'` changes the settings of a side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_peaks import PEAKS, peak_of

from r1pipe.costs.models import QWEN_SHAPES
from r1pipe.launch.process import prepare_process

SHAPES = dict(zip(("0.5B", "1.5B", "3B"), QWEN_SHAPES[:3], strict=True))
"""Those whose embeddings are tied, as `new_model` has them."""
TOY: dict[str, Any] = {"prompts": 4, "group_size": 4, "max_tokens": 16, "rows": 16}
LARGE: dict[str, Any] = {
    "prompts": 32,
    "group_size": 8,
    "max_tokens": 512,
    "rows": 64,
    "row_tokens": [256, 2048],
    "is_bf16": True,
}
"""Sizes of a step at toy size and of one on a GPU (`trainers_data.SIZES`)."""


def sizes_of(size: str) -> dict[str, Any]:
    """Return the sizes of a step and of a fresh model, as `trainers_data` reads them."""
    if size == "toy":
        return TOY
    hidden, layers, heads, kv_heads, width, vocabulary, _ = SHAPES[size]
    shape = {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "intermediate_size": width,
        "max_positions": 4096,
    }
    return LARGE | {"shape": shape, "vocabulary": vocabulary}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="an interpreter with TRL")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--size", choices=("toy", *SHAPES), help="default: 0.5B, toy on a CPU")
    parser.add_argument("--model", type=Path, help="folder of a model, in place of random weights")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, dense bfloat16")
    parser.add_argument("--generator", choices=("vllm", "transformers"))
    parser.add_argument("--memory-fraction", type=float, default=0.2, help="of a GPU, each vLLM")
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("sft", "grpo"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME:SIDE=JSON")
    parser.add_argument("--first-hour", action="store_true")
    chosen = parser.parse_args()
    chosen.side = None
    return chosen


def found_device(chosen: argparse.Namespace) -> tuple[str, float | None]:
    """Settle device, size and sampler; return the device in words and its peak in TFLOP/s.

    Ends the process if there is no such device, or one whose peak nobody said.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if chosen.device == "cuda" and not has_gpu:
        raise SystemExit("--device cuda: torch finds no GPU here; leave it out for toy size")
    chosen.device = chosen.device or ("cuda" if has_gpu else "cpu")
    is_cpu = chosen.device == "cpu"
    chosen.size = chosen.size or ("toy" if is_cpu else "0.5B")
    chosen.generator = chosen.generator or ("transformers" if is_cpu else "vllm")
    if is_cpu:
        cores = len(os.sched_getaffinity(0))
        return f"a CPU ({platform.machine()}, {cores} cores), no GPU", chosen.peak
    name = torch.cuda.get_device_name(0)
    peak = chosen.peak or peak_of(name)
    if peak is None and not chosen.first_hour:
        raise SystemExit(
            f"{name}: no peak is known of this device (of {', '.join(PEAKS)} one is); give --peak"
            " with its dense TFLOP/s in bfloat16"
        )
    return name, peak


def has_packages(python: str) -> dict[str, bool]:
    """Return whether an interpreter finds TRL and vLLM."""
    ask = "import importlib.util as u, json; print(json.dumps({n: bool(u.find_spec(n)) for n in "
    command = [python, "-c", ask + "('trl', 'vllm')}))"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"--peer {python}: {found.stderr.strip()[-300:]}")
    packages: dict[str, bool] = json.loads(found.stdout)
    return packages


def measure(chosen: argparse.Namespace, words: str, peak: float | None) -> None:
    """Run both measurements and print what was run on what, and the verdicts."""
    os.environ["TRAINERS_SIZES"] = json.dumps(sizes_of(chosen.size))
    if chosen.model is not None:
        os.environ["TRAINERS_MODEL"] = str(chosen.model)
    import gpu_measures as measures
    import torch
    import trainers
    from trainers_data import write_model

    peer = has_packages(chosen.peer)
    trainers.COMPARISONS.update(measures.comparisons(chosen, peer["trl"] and peer["vllm"]))
    for change in chosen.set:
        where, _, value = change.partition("=")
        name, _, who = where.partition(":")
        trainers.COMPARISONS[f"{name} gpu"][who] |= json.loads(value)
    began, verdicts = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = write_model(folder)
        load = f"load {os.getloadavg()[0]:.1f} at the start"
        what = chosen.model.name if chosen.model else f"{chosen.size}, random weights"
        print(f"Run on {words}; {count:,} parameters ({what}), torch {torch.__version__}, {load}.")
        if chosen.only != "grpo":
            verdicts.append(measures.measure_sft(folder, chosen, peak, count))
            sys.stdout.flush()
        if chosen.only != "sft":
            verdicts.append(measures.measure_grpo(folder, chosen, peer, count))
    print("\n" + "\n".join(f"- {verdict}" for verdict in verdicts))
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def main() -> None:
    """Do what the command line says."""
    chosen = arguments()
    prepare_process()
    words, peak = found_device(chosen)
    if chosen.first_hour:
        from gpu_hour import run_checks

        print(f"Run on {words}.\n")
        raise SystemExit(run_checks(chosen.device))
    measure(chosen, words, peak)


if __name__ == "__main__":
    main()
