"""One rank of a stage: `python -m r1pipe.launch.rank FOLDER`, started by any launcher.

The launcher says which rank this is: RANK, LOCAL_RANK and WORLD_SIZE (torchrun, DeepSpeed, and a
run itself), or Slurm's own variables. All else is in the folder (`r1pipe.launch.job`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import Interrupted, Paused, R1PipeError, StageError
from r1pipe.launch.job import JobFolder, Report, Status
from r1pipe.launch.process import prepare_process
from r1pipe.launch.rank_context import RankContext
from r1pipe.machine import usable_cores
from r1pipe.manifest.kinds import load_kind
from r1pipe.plugins.tables import load_again, using
from r1pipe.ranks import Exchange, Ranks
from r1pipe.stage import Inputs
from r1pipe.store import disk

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
SILENCE_S = 120.0
"""A run that has not touched its folder for so long is gone."""
PATIENCE = timedelta(hours=4)
"""How long ranks wait for one another: the longest may sample or score much longer than others."""
EXCHANGED_AT_ONCE = 256 << 20
"""Bytes that all ranks together tell at once."""
NAMES = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_NTASKS",
}
"""What torchrun calls it -> what Slurm calls it."""


def main(folder: JobFolder) -> None:
    """Run the stage and report how it ended; never return."""
    environment = launched_as(os.environ)
    os.environ |= {name: str(value) for name, value in environment.items()}
    rank = environment["RANK"]
    redirect_output(folder.log_path(rank))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which asks us to stop
    end_with_the_run(folder)
    status: Status = "done"
    error: BaseException | None = None
    try:
        run_stage(folder, rank, environment["WORLD_SIZE"])
    except Interrupted:
        status = "stopped"
    except R1PipeError as found:
        status, error = "failed", found
    except BaseException as found:  # noqa: BLE001 - printed, and the parent is told
        status, error = "bug", found
    if error is not None:
        traceback.print_exception(error)
    text = "".join(traceback.format_exception(error)) if status == "bug" else str(error or "")
    folder.write_report(Report(rank, status, type(error).__name__ if error else "", text))
    sys.stdout.flush()
    sys.stderr.flush()
    # at once: libraries' own threads have been seen to crash while the interpreter is taken down
    os._exit(0 if error is None else 1)


def launched_as(environment: Mapping[str, str]) -> dict[str, int]:
    """Return RANK, LOCAL_RANK and WORLD_SIZE as any launcher has said them."""
    found = {}
    for name, slurm_name in NAMES.items():
        value = environment.get(name, environment.get(slurm_name))
        if value is None:
            raise StageError(f"neither {name} nor {slurm_name} is set: start ranks by a launcher")
        found[name] = int(value)
    return found


def run_stage(folder: JobFolder, rank: int, size: int) -> None:
    """Meet the other ranks and run the stage with them."""
    job = folder.job()
    if size != job.size:
        raise StageError(
            f"{job.name}: run.engine.num_processes is {job.size}, but the launcher started {size}"
        )
    prepare_process()
    kind = load_kind(job.kind, Path(job.file))
    plugins = load_again(job.plugins)
    with using(plugins):
        params = kind.params.model_validate_json(job.params)
    run = kind.run_model.model_validate_json(job.run)
    store = meet(folder, rank, size)
    join(store, rank, size, str(getattr(run, "device", "cpu")))
    ranks = Ranks(rank, size, store, exchange_by_gloo())
    inputs = Inputs(
        {
            name: {label: Path(path) for label, path in value.items()}
            if isinstance(value, dict)
            else Path(value)
            for name, value in job.inputs.items()
        }
    )
    context = RankContext(folder, job, ranks)
    try:
        with using(plugins, job.uses):
            kind.run(context, params, run, inputs)
    except (Interrupted, Paused):  # all ranks have agreed on it
        context.checkpoints.wait()
        leave(store, ranks)
        raise
    context.checkpoints.wait()
    leave(store, ranks)


def meet(folder: JobFolder, rank: int, size: int) -> TCPStore:
    """Return the key-value store of all ranks; rank 0 holds it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = folder.path / "address"
    if rank == 0:
        is_here = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == size
        host = "127.0.0.1" if is_here else os.environ.get("MASTER_ADDR", socket.gethostname())
        store = TCPStore(host, 0, size, is_master=True, timeout=PATIENCE, wait_for_workers=False)
        disk.place_json(address, [host, store.port], durable=False)
    else:
        while (found := disk.read_json(address)) is None:
            time.sleep(0.02)
        host, port = found
        store = TCPStore(host, port, size, timeout=PATIENCE, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(store.port)}
    return store


def join(store: TCPStore, rank: int, size: int, device: str) -> None:
    """Make the process group, and this rank's GPU the current one."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    backend = "gloo"
    if device.startswith("cuda"):
        own = gpu_of(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
        os.environ["LOCAL_RANK"] = str(own)  # DeepSpeed and vLLM take their device from it
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        torch.set_num_threads(max(1, usable_cores() // here))
    group = PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=PATIENCE)


def gpu_of(local_rank: int, visible: int) -> int:
    """Return the GPU of a node's rank: the only visible one (Slurm may give each task its own), or
    that of its number. Raises StageError if there are fewer."""
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise StageError(
            f"rank {local_rank} of this node has no GPU: {visible} are visible; start as many"
            " processes on a node as it has GPUs (run.engine.num_processes)"
        )
    return local_rank


def exchange_by_gloo() -> Exchange:
    """Return what tells bytes to all ranks, over a group of processes that nothing else uses.

    Bytes travel in pieces, so that all of them together take `EXCHANGED_AT_ONCE` of memory besides.
    """
    import torch
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    size = dist.get_world_size(group)

    def all_gather(mine: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(found, mine, group=group)
        return found

    def exchange(data: bytes) -> list[bytes]:
        lengths = [int(each) for each in all_gather(torch.tensor([len(data)]))]
        told = [bytearray() for _ in lengths]
        piece = max(1, min(max(lengths), EXCHANGED_AT_ONCE // size))
        for start in range(0, max(lengths), piece):
            part = torch.zeros(piece, dtype=torch.uint8)
            mine = data[start : start + piece]
            part[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8) if mine else 0
            for of_rank, found in zip(told, all_gather(part), strict=True):
                of_rank += found.numpy().tobytes()
        return [bytes(each[:length]) for each, length in zip(told, lengths, strict=True)]

    return exchange


def leave(store: TCPStore, ranks: Ranks) -> None:
    """Wait, on rank 0, which holds the store, until all other ranks have left."""
    if ranks.is_main:
        for other in range(1, ranks.size):
            store.get(f"left:{other}")
    else:
        store.set(f"left:{ranks.rank}", "")


def redirect_output(path: Path) -> None:
    """Send what this process and its children print to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def end_with_the_run(folder: JobFolder) -> None:
    """Die with the launcher, at once on Linux; die when the run has been silent for long."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        seen, since = 0, time.monotonic()
        while True:
            try:
                touched = folder.last_touch()
            except OSError:  # the attempt is gone
                touched = seen
            if touched != seen:
                seen, since = touched, time.monotonic()
            elif time.monotonic() - since > SILENCE_S:
                os._exit(75)
            time.sleep(SILENCE_S / 20)

    threading.Thread(target=watch, daemon=True, name="watch").start()


if __name__ == "__main__":
    main(JobFolder(Path(sys.argv[1])))
