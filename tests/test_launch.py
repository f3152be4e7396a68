"""Stages in processes of their own: ranks that agree, a stop, deaths, launchers; no engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import ArtifactError, Interrupted, StageError
from r1pipe.manifest.kinds import load_kind
from r1pipe.pipeline.context import RunContext
from r1pipe.pipeline.job import JobFolder
from r1pipe.pipeline.launch import command_of, launcher_of, run_kind
from r1pipe.pipeline.rank import launched_as
from r1pipe.pipeline.stopping import Stopper
from r1pipe.ranks import ALONE, Launch, Ranks

STAGE = '''
"""Add up numbers on several ranks."""

import os, signal, time
from typing import Literal

from r1pipe.errors import ArtifactError
from r1pipe.ranks import Launch
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
    fails: str = ""

    def launch(self):
        return Launch(self.processes, self.launcher, self.hostfile)


def run(context, params, run, inputs):
    ranks = context.ranks
    assert (inputs["folder"] / "x.txt").read_text() == inputs["many"]["a"].name
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
        context.stop_if_asked()
    context.sample(rank=ranks.rank)
    context.note(sums=sums, resumed_at=done, pids=ranks.gather(os.getpid()))
    if ranks.is_main:
        (context.output("rows") / "sum.txt").write_text(str(sum(sums)))
'''


class Shown:
    """Keeps what a console would show."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []

    def progress(self, name: str, step: int, total: int | None, values: Any) -> None:
        self.steps.append((step, values["loss"]))


class Project:
    """The stage file, its inputs, and a place to work."""

    def __init__(self, folder: Path) -> None:
        (folder / "add.py").write_text(STAGE)
        self.kind = load_kind("add", folder / "add.py")
        self.inputs = {"folder": folder / "in", "many": {"a": folder / "one"}}
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
        return RunContext("add", work, ("rows",), {}, console, self.stopper, every_s)

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


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


# ---- sharing, by hand ----------------------------------------------------------------------------


def test_shares_are_contiguous_and_joined_they_are_the_list() -> None:
    parts = [Ranks(rank, 3, Store()).share(list(range(8))) for rank in range(3)]
    assert parts == [[0, 1], [2, 3, 4], [5, 6, 7]]
    pairs = [Ranks(rank, 2, Store()).share("aabbcc", 2) for rank in range(2)]
    assert pairs == [["a", "a"], ["b", "b", "c", "c"]]
    assert ALONE.share([1, 2]) == [1, 2]
    assert ALONE.gather("x") == ["x"]


class Store:
    """A key-value store between threads."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        while key not in self.values:
            time.sleep(0.001)
        return self.values[key].encode()

    def delete_key(self, key: str) -> bool:
        return self.values.pop(key, None) is not None


def test_ranks_gather_by_rank_and_agree_on_rank_0_and_leave_nothing_behind() -> None:
    store, found = Store(), {}

    def work(rank: int) -> None:
        ranks = Ranks(rank, 3, store)
        gathered = [ranks.gather([rank, n]) for n in range(20)]
        found[rank] = (gathered, ranks.agree(f"from {rank}"))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [[[rank, n] for rank in range(3)] for n in range(20)]
    assert found == dict.fromkeys(range(3), (expected, "from 0"))
    assert len(store.values) == 3 + 1, "the last round and one agreement"


# ---- local processes -----------------------------------------------------------------------------


def test_ranks_share_the_work_and_rank_0_alone_tells_and_writes(project: Project) -> None:
    context = project.run(processes=2)
    assert project.shown.steps == [(1, 15.0), (2, 7.5), (3, 5.0)]
    assert context.stage_log.facts["sums"] == [1 + 2, 3 + 4 + 5]
    assert (context.output("rows") / "sum.txt").read_text() == "15"
    samples = (project.folder / "work" / "logs" / "samples.jsonl").read_text()
    assert json.loads(samples) == {"rank": 0}
    assert not any(map(is_running, context.stage_log.facts["pids"]))


def test_a_stop_is_agreed_on_and_the_ranks_resume_from_one_checkpoint(project: Project) -> None:
    def progress(name: str, step: int, total: int | None, values: Any) -> None:
        project.shown.steps.append((step, values["loss"]))
        if step == 2:
            project.stopper.ask(signal.SIGTERM)

    original, project.shown.progress = project.shown.progress, progress  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped:
        project.run(num_steps=500, step_s=0.05)
    assert stopped.value.exit_code == 75
    saved = project.context().checkpoints.latest()
    assert saved is not None
    assert saved[0] == project.shown.steps[-1][0] < 500
    assert {p.name for p in saved[1].iterdir()} >= {"rank-0.txt", "rank-1.txt"}
    project.stopper, project.shown.progress = Stopper(), original  # type: ignore[method-assign]
    context = project.run(num_steps=saved[0] + 2, processes=3)
    assert context.stage_log.facts["resumed_at"] == saved[0]
    assert [step for step, _ in project.shown.steps[-2:]] == [saved[0] + 1, saved[0] + 2]


def test_an_error_about_the_inputs_is_raised_as_it_is(project: Project) -> None:
    with pytest.raises(ArtifactError, match=r"^the rows are odd$"):
        project.run(fails="says-1")


def test_a_bug_keeps_its_traceback(project: Project) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 1:\nTraceback.*KeyError: 'a bug'"):
        project.run(fails="bug-1")


def test_a_rank_that_dies_ends_the_stage_and_is_named(project: Project) -> None:
    expected = r"(?s)rank 1 of 2 was killed by SIGKILL .*memory.*rank 1 is here"
    with pytest.raises(StageError, match=expected):
        project.run(fails="dies-1", step_s=60.0)


def test_ranks_die_with_the_run(project: Project) -> None:
    code = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from pathlib import Path
        from test_launch import Project
        folder = Path({str(project.folder / "other")!r})
        folder.mkdir()
        Project(folder).run(step_s=60.0)
        """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    ranks = project.folder / "other" / "work" / "ranks"
    logs = [ranks / "rank-0.log", ranks / "rank-1.log"]
    while not all(log.exists() and "is here" in log.read_text() for log in logs):
        assert process.poll() is None, "it ended early"
        time.sleep(0.05)
    found = subprocess.run(
        ["pgrep", "-f", str(ranks)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(found) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(is_running(int(pid)) for pid in found):
        assert time.monotonic() < deadline, "a rank outlived its run"
        time.sleep(0.05)


# ---- other launchers -----------------------------------------------------------------------------


def test_the_launcher_is_the_one_asked_for_or_what_the_environment_offers() -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}
    assert launcher_of(Launch(2, "slurm"), torchrun) == "slurm"
    assert launcher_of(Launch(4), torchrun) == "torchrun"
    assert launcher_of(Launch(4, hostfile="hosts"), {}) == "deepspeed"
    assert launcher_of(Launch(4), {"SLURM_JOB_NUM_NODES": "2"}) == "slurm"
    assert launcher_of(Launch(4), {"SLURM_JOB_NUM_NODES": "1"}) == "local"
    assert launcher_of(Launch(4), {}) == "local"


def test_a_rank_knows_its_number_from_torchrun_or_slurm() -> None:
    slurm = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}
    assert launched_as(slurm) == {"RANK": 9, "LOCAL_RANK": 1, "WORLD_SIZE": 16}
    torchrun = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}
    assert launched_as(slurm | torchrun) == {"RANK": 3, "LOCAL_RANK": 3, "WORLD_SIZE": 8}
    with pytest.raises(StageError, match="neither RANK nor SLURM_PROCID is set"):
        launched_as({})


SRUN = """#!/usr/bin/env bash
# srun of a machine with one node: --ntasks processes with Slurm's variables
count="${1#--ntasks=}"
[ "$2 $3" = "--kill-on-bad-exit=1 --export=ALL" ] || exit 9
shift 3
for i in $(seq 0 $((count - 1))); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$count "$@" &
done
status=0
for job in $(jobs -p); do wait "$job" || status=1; done
exit $status
"""


def test_slurm_starts_the_ranks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = project.folder / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}:{os.environ['PATH']}")
    context = project.run(processes=2, launcher="slurm")
    assert context.stage_log.facts["sums"] == [3, 12]
    with pytest.raises(ArtifactError, match="the rows are odd"):
        project.run(processes=2, launcher="slurm", fails="says-0")


RUN = """
import os
import sys
from pathlib import Path

sys.path[:0] = {paths!r}
from test_launch import Project

from r1pipe.errors import R1PipeError
from r1pipe.pipeline import torchrun

folder = Path({folder!r})
with torchrun.leading():
    folder.mkdir()
    project = Project(folder)
    contexts = [project.run(processes=2) for _ in range(2)]  # followers wait for the next job
    assert project.shown.steps[:3] == [(1, 15.0), (2, 7.5), (3, 5.0)]
    try:
        project.run(processes=2, fails="dies-1", step_s=60.0)
    except R1PipeError as error:
        (folder / "error.txt").write_text(str(error))
"""


def test_a_run_of_torchrun_uses_its_processes(project: Project) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script, folder = project.folder / "run.py", project.folder / "other"
    script.write_text(RUN.format(paths=paths, folder=str(folder)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "work" / "out" / "rows" / "sum.txt").read_text() == "15"
    assert "rank 1 of 2 was killed by SIGKILL" in (folder / "error.txt").read_text()


def test_torchrun_is_asked_for_where_it_does_not_run(project: Project) -> None:
    with pytest.raises(StageError, match="torchrun did not start this run"):
        project.run(launcher="torchrun")


@pytest.mark.engines
@pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing")
def test_the_launcher_of_deepspeed_starts_the_ranks_of_a_hostfile(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = project.folder / "ssh"  # it asks each host for its address
    ssh.write_text("#!/bin/sh\necho 127.0.0.1\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}:{os.environ['PATH']}")
    hosts = project.folder / "hosts"
    hosts.write_text("localhost slots=2\n")
    context = project.run(processes=2, hostfile=str(hosts))
    assert context.stage_log.facts["sums"] == [3, 12]
    with pytest.raises(StageError, match="num_processes is 3, but the launcher started 2"):
        project.run(processes=3, hostfile=str(hosts))


def test_a_launcher_that_is_not_here_is_an_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(project.folder))
    with pytest.raises(StageError, match="needs the command 'srun', which is not here"):
        project.run(launcher="slurm")


def test_another_number_of_processes_than_asked_for_is_an_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = project.folder / "srun"
    srun.write_text(SRUN.replace('count="${1#--ntasks=}"', "count=1"))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}:{os.environ['PATH']}")
    with pytest.raises(StageError, match="num_processes is 2, but the launcher started 1"):
        project.run(launcher="slurm")


def test_a_hostfile_goes_to_the_launcher_of_deepspeed(project: Project) -> None:
    job = JobFolder(Path("/job"))
    command = command_of("deepspeed", Launch(2, hostfile="hosts"), job)
    assert command[1:5] == ["-m", "deepspeed.launcher.runner", "--hostfile", "hosts"]
    assert command[-3:] == ["--module", "r1pipe.pipeline.rank", "/job"]
    with pytest.raises(StageError, match=r"launcher deepspeed needs run\.engine\.hostfile"):
        command_of("deepspeed", Launch(2), job)
