"""What starts the ranks of a stage: Slurm, torchrun, the launcher of DeepSpeed; no engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from launch_project import Project

from r1pipe.errors import ArtifactError, StageError
from r1pipe.launch.job import JobFolder, Report
from r1pipe.launch.launcher import Child, command_of, first_error, launcher_of, wait_for_reports
from r1pipe.launch.rank import launched_as
from r1pipe.ranks import Launch


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


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


def test_ranks_share_the_cores_of_a_run_that_srun_started(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `--overlap` Slurm lets them wait for the cores of the run, which waits for them."""
    srun, batch = project.folder / "srun", {"SLURM_JOB_NUM_NODES": "2"}
    srun.write_text(SRUN.replace("shift 3", '[ "$4" = --overlap ] || exit 9; shift 4'))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert project.run(processes=2, launcher="slurm").stage_log.facts["sums"] == [3, 12]
    assert "--overlap" not in command_of("slurm", Launch(2), JobFolder(Path("/job")), batch)


RUN = """
import os
import sys
from pathlib import Path

sys.path[:0] = {paths!r}
from launch_project import Project

from r1pipe.errors import R1PipeError
from r1pipe.launch import torchrun

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


def test_a_rank_that_dies_after_its_report_or_after_the_job_is_no_failure(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.path.mkdir()
    folder.write_report(Report(1, "done"))
    folder.report_death(1, 2, -6)
    folder.report_death(0, 2, -9)
    assert [report.status for report in folder.reports()] == ["done", "failed"]
    assert folder.reports()[1].message.startswith("rank 0 of 2 was killed by SIGKILL")
    shutil.rmtree(folder.path)
    folder.report_death(0, 2, -6)
    assert not folder.path.exists()


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
    command = command_of("deepspeed", Launch(2, hostfile="hosts"), job, {})
    assert command[1:5] == ["-m", "deepspeed.launcher.runner", "--hostfile", "hosts"]
    assert command[-3:] == ["--module", "r1pipe.launch.rank", "/job"]
    with pytest.raises(StageError, match=r"launcher deepspeed needs run\.engine\.hostfile"):
        command_of("deepspeed", Launch(2), job, {})


def test_a_rank_that_a_launcher_lost_is_named_before_what_its_death_did_to_others(
    project: Project,
) -> None:
    project.run()
    folder = JobFolder(next(project.folder.glob("ranks-*")))
    (folder.path / "rank-1.json").unlink()
    bug = {"rank": 0, "status": "bug", "message": "Connection reset by peer"}
    (folder.path / "rank-0.json").write_text(json.dumps(bug | {"time": 1.0}))
    launcher = Child(subprocess.Popen(["false"]), rank=None)
    launcher.process.wait()
    error = first_error(folder, [launcher])
    assert isinstance(error, StageError)
    said = r"(?s)ranks \[1\] ended without a report .*rank 1 is here.*rank 0:\nConnection reset"
    assert re.match(said, str(error))


def test_a_rank_elsewhere_has_time_to_say_that_it_died(project: Project) -> None:
    project.run()
    folder = JobFolder(next(project.folder.glob("ranks-*")))
    (folder.path / "rank-1.json").unlink()
    bug = {"rank": 0, "status": "bug", "message": "Connection reset by peer"}
    (folder.path / "rank-0.json").write_text(json.dumps(bug | {"time": 1.0}))
    ours = Child(subprocess.Popen(["false"]), rank=0)
    ours.process.wait()
    late = threading.Timer(0.5, folder.report_death, (1, 2, -9))
    late.start()
    wait_for_reports(folder, [ours])
    late.join()
    assert "rank 1 of 2 was killed by SIGKILL" in str(first_error(folder, [ours]))
