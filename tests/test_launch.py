"""Stages in processes of their own: ranks that agree, a stop, deaths, launchers; no engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from killing import is_running
from launch_project import Project

from r1pipe.errors import ArtifactError, Interrupted, Paused, StageError
from r1pipe.launch.stopping import Stopper
from r1pipe.ranks import ALONE, Ranks
from r1pipe.tables import gather_floats


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


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


def test_ranks_gather_by_rank_and_agree_on_rank_0() -> None:
    store, found = Store(), {}
    told, everyone = [b""] * 3, threading.Barrier(3)

    def work(rank: int) -> None:
        def exchange(data: bytes) -> list[bytes]:
            told[rank] = data
            everyone.wait()
            of_ranks = list(told)
            everyone.wait()
            return of_ranks

        ranks = Ranks(rank, 3, store, exchange)
        gathered = [ranks.gather([rank, n]) for n in range(20)]
        floats = gather_floats(ranks, [[0.1] * rank, [], [float(rank)]])
        found[rank] = (gathered, floats, ranks.agree(f"from {rank}"))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [[[rank, n] for rank in range(3)] for n in range(20)]
    rows = [[[], [], [0.0]], [[0.1], [], [1.0]], [[0.1, 0.1], [], [2.0]]]
    assert found == dict.fromkeys(range(3), (expected, rows, "from 0"))


# ---- local processes -----------------------------------------------------------------------------


def test_ranks_share_the_work_and_rank_0_alone_tells_and_writes(project: Project) -> None:
    context = project.run(processes=2)
    assert project.shown.steps == [(1, 15.0), (2, 7.5), (3, 5.0)]
    assert context.stage_log.facts["sums"] == [1 + 2, 3 + 4 + 5]
    assert (context.output("rows") / "sum.txt").read_text() == "15"
    samples = (project.folder / "work" / "logs" / "samples.jsonl").read_text()
    assert json.loads(samples) == {"rank": 0}
    assert not any(map(is_running, context.stage_log.facts["pids"]))


def test_what_ranks_tell_may_be_larger_than_a_message_of_their_store(project: Project) -> None:
    size = 160 << 20  # more than the pieces in which it travels, and unequal
    context = project.run(processes=2, told_mib=160)
    assert context.stage_log.facts["told"] == [[size + 3, 0, "end"], [size // 2 + 3, 1, "end"]]


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


def test_ranks_that_sample_different_times_return_all_they_sampled(project: Project) -> None:
    context = project.run(num_sampled=5, step_s=0.01)
    assert context.stage_log.facts["sampled"] == [5, 5]


@pytest.mark.parametrize("fails", ["", "idle-1"], ids=["both", "one"])
def test_a_stop_is_seen_inside_the_sampling_of_every_rank(project: Project, fails: str) -> None:
    def doing(name: str, what: str, done: int, total: int) -> None:
        project.shown.sampled.append((done, total))
        if not project.stopper.is_asked:
            project.stopper.ask(signal.SIGINT)

    project.shown.doing = doing  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        project.run(num_sampled=600, step_s=0.02, fails=fails)
    assert project.shown.sampled[-1][0] < 600, "all had been sampled before the stop was seen"
    assert not project.shown.steps


def test_a_pause_that_all_ranks_agree_on_ends_the_stage_and_it_goes_on(project: Project) -> None:
    with pytest.raises(Paused, match=r"^paused after step 2: enough$") as paused:
        project.run(num_steps=4, fails="pauses")
    assert paused.value.exit_code == 4
    assert [step for step, _ in project.shown.steps] == [1, 2]
    saved = project.context().checkpoints.latest()
    assert saved is not None
    assert {p.name for p in saved[1].iterdir()} >= {"rank-0.txt", "rank-1.txt"}
    context = project.run(num_steps=4, processes=3)
    assert context.stage_log.facts["resumed_at"] == 2
    assert [step for step, _ in project.shown.steps] == [1, 2, 3, 4]


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
        from launch_project import Project
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
