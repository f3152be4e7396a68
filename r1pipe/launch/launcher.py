"""Run a stage in its own processes: start its ranks, relay rank 0's events, end them all.

The run itself stays one process and joins no group: it supervises. A rank that dies ends the stage
with an error that names it; whatever ends the run ends the ranks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from r1pipe import errors
from r1pipe.errors import R1PipeError, StageError
from r1pipe.keys import JsonObject
from r1pipe.launch import torchrun
from r1pipe.launch.context import RunContext
from r1pipe.launch.job import Job, JobFolder, Report, tail
from r1pipe.plugins.tables import active
from r1pipe.ranks import Launch, Launcher
from r1pipe.stage import Inputs, StageKind, StageModel

POLL_S = 0.05
TOUCH_S = 1.0
GRACE_S = 3.0
"""Seconds that the other ranks have to report how they ended before they are killed."""


@dataclass(frozen=True)
class Child:
    """A process of ours; `rank` is None for a launcher that starts the ranks itself."""

    process: subprocess.Popen[bytes]
    rank: int | None


def run_kind(
    kind: StageKind, context: RunContext, params: StageModel, run: StageModel, inputs: Inputs
) -> None:
    """Run a stage here, or in the processes that its `run` parameters ask for."""
    launch: Launch | None = run.launch() if hasattr(run, "launch") else None
    if launch is None:
        kind.run(context, params, run, inputs)
        return
    folder = JobFolder((context.work / "ranks").absolute())
    folder.create(
        Job(
            name=context.name,
            kind=kind.kind,
            file=str(kind.path.absolute()),
            params=params.model_dump_json(by_alias=True),
            run=run.model_dump_json(by_alias=True),
            inputs={name: as_text(value) for name, value in inputs.items()},
            input_ids=dict(context.input_ids),
            outputs=list(kind.outputs),
            work=str(context.work.absolute()),
            checkpoint_every_s=context.checkpoint_every_s,
            size=launch.num_processes,
            plugins=dict(active().files),
            uses={table: dict(entries) for table, entries in active().used.items()},
        )
    )
    with started(launch, folder) as children:
        supervise(folder, context, children)


def as_text(value: Path | Mapping[str, Path]) -> str | dict[str, str]:
    """Return an input, a path or a mapping of labels to paths, as JSON."""
    if isinstance(value, Mapping):
        return {label: str(path.absolute()) for label, path in value.items()}
    return str(value.absolute())


def supervise(folder: JobFolder, context: RunContext, children: list[Child]) -> None:
    """Pass on events and a stop until all have ended; raise what ended the first of them."""
    seen, touched = 0, time.monotonic()
    while True:
        codes = [child.process.poll() for child in children]
        seen, events = folder.events(seen)
        for what, values in events:
            tell(context, what, values)
        if any(codes) or any(report.status in ("failed", "bug") for report in folder.reports()):
            wait_for_reports(folder, children)
            raise first_error(folder, children)
        if all(code == 0 for code in codes):
            break
        if context.stopper.is_asked and not folder.is_stop_asked:
            folder.ask_stop()
        if time.monotonic() - touched > TOUCH_S:
            folder.touch()
            touched = time.monotonic()
        time.sleep(POLL_S)
    statuses = {report.status for report in folder.reports()}
    if statuses == {"stopped"}:
        raise context.stopper.interrupted()
    if statuses != {"done"} or len(folder.reports()) != folder.job().size:
        raise first_error(folder, children)


def tell(context: RunContext, what: str, values: JsonObject) -> None:
    """Apply an event of rank 0 to the stage's context."""
    if what == "log":
        context.log(values.pop("step"), values.pop("total"), **values)
    elif what == "sample":
        context.sample(**values)
    elif what == "warn":
        context.warn(**values)
    elif what == "doing":
        context.doing(**values)
    else:
        context.note(**values)


# ---- how it went wrong ---------------------------------------------------------------------------


def wait_for_reports(folder: JobFolder, children: list[Child]) -> None:
    """Give ranks that fail because another one did the time to report it, also those elsewhere."""
    ends = time.monotonic() + GRACE_S
    while time.monotonic() < ends and (
        any(child.process.poll() is None for child in children) or is_silent(folder, children)
    ):
        time.sleep(POLL_S)


def is_silent(folder: JobFolder, children: list[Child]) -> bool:
    """Return whether a rank that is not a process of ours has not said how it ended."""
    ours = {child.rank for child in children}
    if None in ours:  # a launcher, which ends after its ranks
        return False
    reported = {report.rank for report in folder.reports()}
    return bool(set(range(folder.job().size)) - ours - reported)


def first_error(folder: JobFolder, children: list[Child]) -> Exception:
    """Return the error to show: a rank's report to the user, a death, or a bug's traceback."""
    reports, size = folder.reports(), folder.job().size
    for report in reports:
        if report.status == "failed":
            return user_error(report)
    reported = {report.rank for report in reports}
    for child in children:
        code = child.process.poll()
        if code is not None and child.rank is not None and child.rank not in reported:
            return StageError(folder.death(child.rank, size, code))
    bugs = [f"rank {r.rank}:\n{r.message}" for r in reports if r.status == "bug"]
    missing = sorted(set(range(size)) - reported)
    if bugs and (not missing or all(child.rank is not None for child in children)):
        return RuntimeError(bugs[0])
    output = folder.log_path(missing[0] if missing else 0)
    if not output.exists():
        output = folder.path / "launcher.log"
    said = f"ranks {missing} ended without a report (killed, or out of memory?); {tail(output)}"
    return StageError("\n".join([said, *bugs[:1]]))  # a bug may be what another rank's death did


def user_error(report: Report) -> R1PipeError:
    """Return a rank's error as the run would have raised it."""
    found = getattr(errors, report.error, StageError)
    error: R1PipeError = found(report.message)
    return error


# ---- starting and ending -------------------------------------------------------------------------


def launcher_of(launch: Launch, environment: Mapping[str, str]) -> Launcher:
    """Return the launcher asked for, else the one that the environment offers."""
    if launch.launcher is not None:
        return launch.launcher
    if torchrun.is_running(environment):
        return "torchrun"
    if launch.hostfile is not None:
        return "deepspeed"
    return "slurm" if int(environment.get("SLURM_JOB_NUM_NODES", "1")) > 1 else "local"


@contextmanager
def started(launch: Launch, folder: JobFolder) -> Iterator[list[Child]]:
    """Start the ranks; at the end of the block none of them is left."""
    launcher = launcher_of(launch, os.environ)
    children: list[Child] = []
    with ended(children):
        if launcher == "torchrun":
            with torchrun.job(folder, launch.num_processes):
                children.append(Child(torchrun.start_rank(folder, {}), 0))
                yield children
        elif launcher == "local":
            for rank in range(launch.num_processes):
                children.append(local_child(folder, rank, launch.num_processes))
            yield children
        else:
            command = command_of(launcher, launch, folder, os.environ)
            children.append(launched(command, folder))
            yield children


def local_child(folder: JobFolder, rank: int, size: int) -> Child:
    """Start one rank on this machine."""
    said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return Child(
        torchrun.start_rank(folder, {name: str(value) for name, value in said.items()}), rank
    )


def command_of(
    launcher: Launcher, launch: Launch, folder: JobFolder, environment: Mapping[str, str]
) -> list[str]:
    """Return the command that starts all ranks on several nodes."""
    program = ["r1pipe.launch.rank", str(folder.path.absolute())]
    if launcher == "slurm":
        srun = ["srun", f"--ntasks={launch.num_processes}", "--kill-on-bad-exit=1", "--export=ALL"]
        if "SLURM_STEP_ID" in environment:  # srun started this run, so its step has all cores
            srun.append("--overlap")
        return [*srun, sys.executable, "-m", *program]
    if launch.hostfile is None:
        raise StageError("run.engine.launcher deepspeed needs run.engine.hostfile")
    runner = [sys.executable, "-m", "deepspeed.launcher.runner"]
    return [
        *runner,
        "--hostfile",
        launch.hostfile,
        "--no_ssh_check",
        "--no_local_rank",
        "--module",
        *program,
    ]


def launched(command: list[str], folder: JobFolder) -> Child:
    """Start a launcher; its output goes to its own file."""
    if shutil.which(command[0]) is None:
        raise StageError(f"run.engine.launcher needs the command '{command[0]}', which is not here")
    with (folder.path / "launcher.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Child(process, None)


@contextmanager
def ended(children: list[Child]) -> Iterator[list[Child]]:
    """Kill the remaining children, and theirs, at the end of the block."""
    try:
        yield children
    finally:
        for child in children:
            if child.rank is None and child.process.poll() is None:  # it ends its ranks itself
                child.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(GRACE_S)
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
