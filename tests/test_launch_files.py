"""The files of docs/scale.md that start a cluster: they parse, and fit one another and r1pipe."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from test_page_commands import parse

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
STUBS = {
    "scontrol": 'printf "127.0.0.1\\nanother\\n"',
    "srun": 'exec "$@"',
    "ray": '[ "$1 $2 $3 $4 $5 $6" = "symmetric-run --address 127.0.0.1:6379 --min-nodes 4 --" ]'
    ' || exit 9; shift 6; exec "$@"',
    "r1pipe": 'echo "$RAY_ADDRESS $RAY_AUTH_MODE $@"',
    "start_cluster": "echo cluster",
}
"""Stand-ins for programs, as they are called on the page."""


def block(heading: str) -> str:
    """Return the first block of code below a heading."""
    found = re.search(r"^```\w+\n(.*?)^```$", PAGE[PAGE.index(f"\n### {heading}\n") :], re.S | re.M)
    assert found is not None
    return found[1]


def said(text: str, folder: Path, **environment: str) -> list[str]:
    """Run a script among stand-ins; return its lines."""
    for name, body in STUBS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-euc", text],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def command_in(text: str) -> list[str]:
    """Return the words of the r1pipe command in a line, which r1pipe would take."""
    words = shlex.split(text)
    found = list(takewhile(lambda word: word != ";", words[words.index("r1pipe") + 1 :]))
    parse(found)
    return found


def store_of(words: list[str]) -> Path:
    return Path(words[words.index("--store") + 1])


def test_the_batch_script_gives_the_run_the_address_of_the_first_node(tmp_path: Path) -> None:
    (line,) = said(block("Slurm"), tmp_path, SLURM_JOB_NODELIST="n[1-4]", SLURM_JOB_NUM_NODES="4")
    assert line.startswith("127.0.0.1:6379 token run my.yaml ")
    assert "--nodes=4 --ntasks-per-node=1 " in block("Slurm")  # one Ray on each node


def pods(job: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the groups of a RayJob, each with its pod."""
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group, group["template"]["spec"]


def test_the_rayjob_mounts_the_store_of_its_entry_point_in_every_pod() -> None:
    job = yaml.safe_load(block("Kubernetes"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = command_in(job["spec"]["entrypoint"])
    for group, pod in pods(job):
        (container,) = pod["containers"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert all(isinstance(mount["mountPath"], str) for mount in container["volumeMounts"])
        mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
        assert store_of(words) in mounts
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    (head, _), *others = pods(job)
    assert head["rayStartParams"]["num-gpus"] == "0"
    for _, pod in others:
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] > 0


def test_the_rayjob_has_the_ray_of_the_image_and_of_the_extra() -> None:
    version = yaml.safe_load(block("Kubernetes"))["spec"]["rayClusterSpec"]["rayVersion"]
    lock = (ROOT / "constraints" / "gpu.txt").read_text().split()
    assert f"ray=={version}" in lock
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = map(Requirement, extras["optional-dependencies"]["ray"])
    assert wanted.specifier.contains(version)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_task_of_skypilot_runs_on_its_first_node_only(rank: int, tmp_path: Path) -> None:
    task = yaml.safe_load(block("SkyPilot"))
    plain = {"name", "num_nodes", "resources", "volumes", "setup", "run"}
    assert set(task) - plain == {"envs", "secrets"}
    assert (task["envs"], task["secrets"]) == ({"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN": None})
    (line,) = (line for line in task["run"].splitlines() if "r1pipe" in line)
    assert str(store_of(command_in(line))) in task["volumes"]
    scripts = tmp_path / "sky_templates" / "ray"
    scripts.mkdir(parents=True)
    (scripts / "start_cluster").symlink_to(tmp_path / "start_cluster")
    lines = said(task["run"], tmp_path, SKYPILOT_NODE_RANK=str(rank), **task["envs"])
    assert lines[0] == "cluster"
    assert [line.split()[:3] for line in lines[1:]] == [["127.0.0.1:6379", "token", "run"]][rank:]
