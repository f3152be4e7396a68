"""The first hour on a GPU (`benchmarks/gpu.py --first-hour`): commands, and what each must show."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASS, FAIL, NOT_RUN = "pass", "fail", "not run"
SECONDS = 900
"""Longest that one check may take."""


@dataclass(frozen=True)
class Check:
    """A command of this interpreter, from the root of the repository; it passes with status 0."""

    name: str
    command: tuple[str, ...]
    """`{device}` stands for the device."""
    shows: str
    num_gpus: int = 1
    packages: tuple[str, ...] = ()
    on_cpu: bool = False
    """Whether it can be tried without a GPU, of which it then says nothing."""


CHECKS = (
    Check("machine", ("-m", "r1pipe", "doctor"), "driver, CUDA, NCCL, /dev/shm without an error"),
    Check(
        "all-reduce",
        (
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("benchmarks/gpu_checks.py", "reduce"),
        ),
        "right sums by NCCL over two GPUs",
        num_gpus=2,
        on_cpu=True,
    ),
    Check(
        "weights",
        ("benchmarks/gpu_checks.py", "weights", "--device", "{device}"),
        "weights that are broadcast by NCCL to a second GPU come whole",
        num_gpus=2,
        on_cpu=True,
    ),
    Check(
        "probe",
        ("-m", "r1pipe", "plan", "manifests/r1.yaml", "--profile", "gpu", "--probe"),
        "measured speeds of training and sampling on the GPU",
    ),
    Check(
        "sleep and wake",
        ("benchmarks/gpu_checks.py", "cycles", "--device", "{device}"),
        "20 times the same completions after each push; memory flat, nothing left after the end",
        packages=("vllm",),
        on_cpu=True,
    ),
    Check(
        "engines' steps",
        ("benchmarks/training.py", "--device", "{device}"),
        "torch and ZeRO 0 to 3 with the same last loss",
        packages=("deepspeed",),
    ),
    Check(
        "sampling",
        ("benchmarks/generation.py", "--device", "{device}"),
        "r1pipe over raw vLLM about 1",
        packages=("vllm",),
    ),
)
UNSCRIPTED = (
    ("conformance of generators and engines on cuda", "their tests make models on the CPU"),
    ("GRPO's peak memory against plan; padded, flash, liger", "by hand: gpu.py --set, then plan"),
    ("kill and resume on a GPU; time of a checkpoint", "benchmarks/kills.py trains on the CPU"),
    ("ZeRO-3 at 7B, tensor parallel over ranks", "needs 2 to 8 GPUs and a model of that size"),
    ("Ray over two nodes; Slurm with 1 and 8 GPUs a task", "needs the cluster"),
)
"""What no command here shows, and why."""


def why_not(check: Check, device: str, num_gpus: int) -> str | None:
    """Say why a check cannot be run here; None if it can."""
    if missing := [name for name in check.packages if find_spec(name) is None]:
        return f"{', '.join(missing)} is not installed"
    if device == "cpu":
        return None if check.on_cpu else "no GPU"
    found = f"{num_gpus} GPU{'' if num_gpus == 1 else 's'} here"
    return None if num_gpus >= check.num_gpus else f"needs {check.num_gpus} GPUs, {found}"


def tried(check: Check, device: str) -> tuple[str, str]:
    """Run a check; return pass or fail, and the last line that it said."""
    command = [sys.executable, *(part.format(device=device) for part in check.command)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return FAIL, f"not done after {SECONDS} s"
    said = done.stdout.strip() or done.stderr.strip()
    last = said.splitlines()[-1] if said else ""
    where = ", on a CPU, which says nothing of a GPU" if device == "cpu" else ""
    return (FAIL if done.returncode else PASS) + where, last[:200]


def outcomes(
    device: str, num_gpus: int, attempt: Callable[[Check, str], tuple[str, str]] = tried
) -> Iterator[tuple[str, str, str, str]]:
    """Yield each check, its command, its outcome and what it said or must show."""
    for check in CHECKS:
        command = "python " + " ".join(part.format(device=device) for part in check.command)
        reason = why_not(check, device, num_gpus)
        if reason is not None:
            yield check.name, command, f"{NOT_RUN}: {reason}", f"must show: {check.shows}"
        else:
            yield check.name, command, *attempt(check, device)
    for name, reason in UNSCRIPTED:
        yield name, "", f"{NOT_RUN}: no script", reason


def run_checks(device: str) -> int:
    """Print the table as it grows; return 1 if a check failed, else 0."""
    import torch

    has_failed = False
    print("| check | command | outcome | said |\n|---|---|---|---|")
    for name, command, outcome, said in outcomes(device, torch.cuda.device_count()):
        has_failed |= outcome.startswith(FAIL)
        shown = f"`{command}`" if command else ""
        print(f"| {name} | {shown} | {outcome} | {said.replace('|', '/')} |", flush=True)
    return int(has_failed)
