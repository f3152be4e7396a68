"""Three checks of `benchmarks/gpu_hour.py` that need a process of their own.

    python benchmarks/gpu_checks.py cycles [--device cuda] [--repeats 20]
    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/gpu_checks.py reduce
    python benchmarks/gpu_checks.py weights [--device cuda] [--repeats 20]

`cycles` samples, sleeps, pushes weights and samples again, in two engines one after the other; the
same requests must give the same completions, and memory must stay where it was. `reduce` adds
arrays over all ranks, by NCCL or, on a CPU, by gloo. `weights` broadcasts tensors from one process
to another as a trainer does to its samplers, on two GPUs or a CPU. Each prints a line, and ends
with 1 if what it must show is not so.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from memory import resident_bytes

from r1pipe.generate.weight_group import SENDER, Meeting, WeightGroup, host_meeting
from r1pipe.launch.process import prepare_process

MIB = 1 << 20
ALLOWED_MIB, SAME_FRAC = 64.0, 0.9
"""Memory that may be lost, and completions that must be equal: a GPU's sums have no fixed order."""
NUM_REQUESTS, NUM_TOKENS, SETTLED = 64, 32, 2
"""`SETTLED` cycles warm up: graphs, workspaces and pools are made there."""


def taken_mib(device: str) -> float:
    """Return the MiB that are taken on the device, or by this process on a CPU."""

    gc.collect()
    if device == "cpu":
        return resident_bytes(os.getpid()) / MIB
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB


def cycles(device: str, repeats: int) -> bool:
    """Sleep and wake two engines again and again; return whether nothing is lost."""
    from generation import make_model

    from r1pipe.models.policy import load_model

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        end = make_model(folder)
        policy = load_model(folder, device=device)
        left, losses, shares = [], [], []
        for _ in range(2):
            lost, share = one_engine(folder, policy, end, device, repeats)
            losses.append(lost)
            shares.append(share)
            left.append(taken_mib(device))
    growth = left[1] - left[0]
    print(
        f"{repeats} cycles of two engines on {device}: {min(shares):.1%} of the completions the"
        f" same, at most {max(losses):.0f} MiB more taken while asleep, {growth:.0f} MiB more after"
        " the second engine's end than after the first's"
    )
    return min(shares) >= SAME_FRAC and max(*losses, growth) <= ALLOWED_MIB


def one_engine(
    folder: Path, policy: Any, end: int, device: str, repeats: int
) -> tuple[float, float]:
    """Cycle one engine; return the MiB lost and the smallest share of equal completions."""
    from generation import asked

    from r1pipe.generate.protocol import SamplingParams
    from r1pipe.generate.vllm_backend import VllmSettings
    from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator

    shape = EngineShape(folder, (end,), device=device, is_shared=True)
    settings = VllmSettings(backend="vllm", max_model_tokens=512, gpu_memory_fraction=0.3)
    generator, requests = VllmGenerator(shape, settings), asked(NUM_REQUESTS, 1)
    sampling = SamplingParams(1.0, 1.0, NUM_TOKENS)
    taken: list[float] = []
    shares: list[float] = []
    first: dict[int, list[int]] = {}
    try:
        for _ in range(repeats + SETTLED):
            generator.sleep()
            taken.append(taken_mib(device))
            generator.load_weights(policy.named_parameters())
            said = {s.index: s.token_ids for s in generator.generate(requests, sampling)}
            first = first or said
            shares.append(sum(said[n] == first[n] for n in first) / NUM_REQUESTS)
    finally:
        generator.close()
    return max(taken[SETTLED:]) - taken[SETTLED], min(shares)


def reduce() -> bool:
    """Add 2^24 numbers over all ranks, five times; return whether the sums are right."""
    import torch.distributed as dist

    has_gpu = torch.cuda.is_available()
    device = (
        f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}" if has_gpu else "cpu"
    )
    dist.init_process_group("nccl" if has_gpu else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    is_right = True
    for _ in range(5):
        values = torch.full((1 << 24,), float(rank + 1), device=device)
        dist.all_reduce(values)
        is_right &= bool((values == size * (size + 1) / 2).all())
    if rank == 0:
        print(f"all-reduce of 64 MiB over {size} ranks by {dist.get_backend()}: right {is_right}")
    dist.destroy_process_group()
    return is_right


def sent() -> dict[str, torch.Tensor]:
    """Return what `weights` broadcasts: 256 MiB of one type, and a little of another."""
    return {
        "embedding": torch.arange(1 << 26, dtype=torch.float32),
        "norm": torch.arange(4096, dtype=torch.bfloat16),
    }


def receive(meeting: Meeting, device: str, repeats: int, answers: Any) -> None:
    """Receive the same weights again and again; answer whether they came whole."""
    group = WeightGroup(meeting, 1, torch.device(device))
    wanted = sent()
    for _ in range(repeats):
        found = {name: tensor.cpu().clone() for name, tensor in group.receive()}
        answers.put(
            found.keys() == wanted.keys()
            and all(torch.equal(each, wanted[name]) for name, each in found.items())
        )


def weights(device: str, repeats: int) -> bool:
    """Broadcast weights to another process; return whether they came whole each time."""
    on_gpus = device.startswith("cuda")
    own, other = ("cuda:0", "cuda:1") if on_gpus else ("cpu", "cpu")
    meeting, store = host_meeting("127.0.0.1", 2)
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=receive, args=(meeting, other, repeats, answers))
    process.start()
    group = WeightGroup(meeting, SENDER, torch.device(own), store)
    tensors = {name: tensor.to(own) for name, tensor in sent().items()}
    seconds, is_right = list[float](), True
    for _ in range(repeats):
        began = time.perf_counter()
        num_bytes = group.send(tensors.items())
        seconds.append(time.perf_counter() - began)
        is_right &= answers.get(timeout=60)
    process.join()
    speed = num_bytes / sorted(seconds)[len(seconds) // 2] / 1e9
    print(
        f"{num_bytes:,} bytes from {own} to {other}: right {is_right}, median {speed:.2f} GB/s"
        f" of {repeats}"
    )
    return is_right


def main() -> None:
    """Do the check that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("check", choices=("cycles", "reduce", "weights"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args()
    prepare_process()
    checks = {"cycles": cycles, "weights": weights}
    if chosen.check == "reduce":
        is_well = reduce()
    else:
        is_well = checks[chosen.check](chosen.device, chosen.repeats)
    sys.stdout.flush()
    raise SystemExit(0 if is_well else 1)


if __name__ == "__main__":
    main()
