"""Runs that torchrun started: rank 0 is the run, the others start the ranks that it asks for.

`torchrun --nnodes 2 --nproc-per-node 8 -m r1pipe run ...` starts as many runs as there are GPUs.
Only rank 0 plans, logs and publishes; the others wait at torchrun's own key-value store for the
folder of a job (`r1pipe.launch.job`), start their rank of it, and wait for the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import StageError

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from r1pipe.launch.job import JobFolder

POLL_S = 0.1
JOBS, END = "r1pipe/jobs", "r1pipe/end"


def is_running(environment: Mapping[str, str]) -> bool:
    """Return whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in environment and int(environment["WORLD_SIZE"]) > 1


@cache
def _store() -> TCPStore:
    """Return torchrun's key-value store."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(minutes=5))


@contextmanager
def leading() -> Iterator[None]:
    """Run the block in torchrun's rank 0; the other ranks follow it and exit."""
    if not is_running(os.environ):
        yield
    elif int(os.environ["RANK"]):
        follow()
        raise SystemExit(0)
    else:
        try:
            yield
        finally:
            _store().set(END, "")


@contextmanager
def job(folder: JobFolder, size: int) -> Iterator[None]:
    """Have the other processes run their ranks of a job; at the end of the block they are ended."""
    if not is_running(os.environ):
        raise StageError("run.engine.launcher is torchrun, but torchrun did not start this run")
    if size != int(os.environ["WORLD_SIZE"]):
        raise StageError(
            f"run.engine.num_processes is {size}, but torchrun started {os.environ['WORLD_SIZE']}"
        )
    number = int(_store().add(f"{JOBS}/count", 1))
    _store().set(f"{JOBS}/{number}", str(folder.path))
    try:
        yield
    finally:
        _store().set(f"{JOBS}/{number}/over", "")


def start_rank(folder: JobFolder, said: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one rank on this machine, with its number as the launcher says it."""
    command = [sys.executable, "-m", "r1pipe.launch.rank", str(folder.path)]
    environment = {**os.environ, **said}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )


def follow() -> None:
    """Run this process's rank of every job until the run ends."""
    from r1pipe.launch.job import JobFolder

    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides when to stop
        signal.signal(number, signal.SIG_IGN)
    count = 1
    while True:
        if _store().check([f"{JOBS}/{count}"]):
            folder = JobFolder(Path(_store().get(f"{JOBS}/{count}").decode()))
            _follow_job(folder, f"{JOBS}/{count}/over")
            count += 1
        elif _store().check([END]):
            return
        time.sleep(POLL_S)


def _follow_job(folder: JobFolder, over: str) -> None:
    """Run one rank until it has ended or the job is over; report a death it could not report.

    A rank may die after its report, when its libraries are torn down: that is no failure, and by
    then the run may have removed the folder.
    """
    rank = int(os.environ["RANK"])
    process = start_rank(folder, {})
    try:
        while process.poll() is None and not _store().check([over]):
            time.sleep(POLL_S)
        if process.returncode and process.returncode < 0:
            folder.report_death(rank, int(os.environ["WORLD_SIZE"]), process.returncode)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
