"""A small stage that runs in processes of its own, and a place for it to work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from r1pipe.launch.context import RunContext
from r1pipe.launch.launcher import run_kind
from r1pipe.launch.stopping import Stopper
from r1pipe.manifest.kinds import load_kind
from r1pipe.stage import Inputs

STAGE = '''
"""Add up numbers on several ranks."""

import os, signal, time
from typing import Literal

from r1pipe.errors import ArtifactError, Paused
from r1pipe.generate.following import Followed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.ranks import Launch
from r1pipe.records import FinishReason
from r1pipe.stage import Input, StageModel

VERSION = 1
INPUTS = {"folder": Input("rows"), "many": Input("rows", many=True)}
OUTPUTS = {"rows": "rows"}


class Params(StageModel):
    numbers: tuple[int, ...]
    num_steps: int = 3


class Run(StageModel):
    processes: int = 2
    launcher: Literal["local", "deepspeed", "slurm", "torchrun"] | None = None
    hostfile: str | None = None
    step_s: float = 0.0
    told_mib: int = 0
    num_sampled: int = 0
    fails: str = ""

    def launch(self):
        return Launch(self.processes, self.launcher, self.hostfile)


class Slow:
    """Samples one token after another; rank 1 takes three times as long."""

    def __init__(self, seconds):
        self.seconds = seconds

    def generate(self, requests, sampling):
        for request in requests:
            time.sleep(self.seconds)
            yield Sampled(request.index, [1], [0.0], FinishReason.STOP)


def run(context, params, run, inputs):
    ranks = context.ranks
    if run.num_sampled:
        requests = [Request((1,), number, number) for number in range(run.num_sampled)]
        slow = Slow(run.step_s * (1 + 2 * ranks.rank))
        if run.fails == f"idle-{ranks.rank}":
            requests = []
        found = list(Followed(slow, context).generate(requests, SamplingParams()))
        context.note(sampled=ranks.gather(len(found)))
    assert (inputs.path("folder") / "x.txt").read_text() == inputs.paths("many")["a"].name
    print("rank", ranks.rank, "is here", flush=True)
    if run.fails == f"says-{ranks.rank}":
        raise ArtifactError("the rows are odd")
    if run.fails == f"bug-{ranks.rank}":
        raise KeyError("a bug")
    if run.fails == f"dies-{ranks.rank}":
        os.kill(os.getpid(), signal.SIGKILL)
    found = context.checkpoints.latest()
    done = found[0] if found else 0
    sums = ranks.gather(sum(ranks.share(params.numbers)))
    for step in range(done + 1, params.num_steps + 1):
        time.sleep(run.step_s)
        context.log(step, params.num_steps, loss=sum(sums) / step)
        if context.checkpoint_due():
            with context.checkpoints.saving(step) as folder:
                (folder / f"rank-{ranks.rank}.txt").write_text(str(step))
        if run.fails == "pauses" and step == 2:
            with context.checkpoints.saving(step) as folder:
                (folder / f"rank-{ranks.rank}.txt").write_text(str(step))
            raise Paused("paused after step 2: enough")
        context.stop_if_asked()
    if run.told_mib:
        mine = bytes([ranks.rank]) * (run.told_mib << 20 >> ranks.rank) + b"end"
        told = ranks.exchange(mine)
        assert told[ranks.rank] == mine
        context.note(told=[(len(each), each[0], each[-3:].decode()) for each in told])
    context.sample(rank=ranks.rank)
    context.note(sums=sums, resumed_at=done, pids=ranks.gather(os.getpid()))
    if ranks.is_main:
        (context.output("rows") / "sum.txt").write_text(str(sum(sums)))
'''


class Shown:
    """Keeps what a console would show."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.sampled: list[tuple[int, int]] = []

    def progress(self, name: str, step: int, total: int | None, values: Any) -> None:
        self.steps.append((step, values["loss"]))

    def doing(self, name: str, what: str, done: int, total: int) -> None:
        self.sampled.append((done, total))


class Project:
    """The stage file, its inputs, and a place to work."""

    def __init__(self, folder: Path) -> None:
        (folder / "add.py").write_text(STAGE)
        self.kind: Any = load_kind("add", folder / "add.py")
        self.inputs = Inputs({"folder": folder / "in", "many": {"a": folder / "one"}})
        (folder / "in").mkdir()
        (folder / "in" / "x.txt").write_text("one")
        self.folder = folder
        self.shown = Shown()
        self.stopper = Stopper()

    def context(self, every_s: float = 1000.0) -> RunContext:
        console: Any = self.shown
        work = self.folder / "work"
        for part in ("logs", "checkpoints"):
            (work / part).mkdir(parents=True, exist_ok=True)
        return RunContext(
            "add",
            work,
            ("rows",),
            {},
            console.progress,
            self.stopper,
            every_s,
            doing=console.doing,
        )

    def run(self, every_s: float = 1000.0, num_steps: int = 3, **run: Any) -> RunContext:
        context = self.context(every_s)
        params = self.kind.params(numbers=(1, 2, 3, 4, 5), num_steps=num_steps)
        try:
            run_kind(self.kind, context, params, self.kind.run_model(**run), self.inputs)
        finally:
            context.close()
            ranks = self.folder / "work" / "ranks"
            if ranks.exists():
                ranks.rename(self.folder / f"ranks-{time.monotonic_ns()}")
        return context
