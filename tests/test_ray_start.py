"""A cluster that `ray start` made, as docs/scale.md tells: two raylets on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_ray_engines import evaluate, inputs_in, wait_for
from tiny import problems, save_policy

from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.rows import write_problems

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is missing"),
]
RAY = Path(sys.executable).with_name("ray")
SMALL = ("--num-cpus=1", f"--object-store-memory={80 << 20}", "--disable-usage-stats", "--block")
WAIT_S = 30.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def started(*options: str) -> subprocess.Popen[bytes]:
    """Start Ray as a user does, in a session of its own."""
    command = [str(RAY), "start", *options, *SMALL]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a raylet with all that it has started; `ray stop` would end every Ray on the machine."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(WAIT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def address() -> Iterator[str]:
    """Start a head and a second raylet; return the head's address."""
    from r1pipe.generate.ray_cluster import use_own_token

    use_own_token()  # RAY_AUTH_MODE for both: by itself only the head looks for a token
    folder, made = tempfile.mkdtemp(prefix="ray-"), list[subprocess.Popen[bytes]]()
    found = f"127.0.0.1:{free_port()}"
    port = found.partition(":")[2]
    head = f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"
    try:
        made.append(started("--head", "--node-ip-address=127.0.0.1", *head))
        end = time.monotonic() + WAIT_S
        while not answers(found):
            assert made[0].poll() is None, "the head has ended"
            assert time.monotonic() < end, "the head does not answer"
            time.sleep(0.1)
        made.append(started(f"--address={found}", "--node-ip-address=127.0.0.1"))
        yield found
    finally:
        for process in reversed(made):
            ended(process)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_stage_joins_a_cluster_that_ray_start_made_by_ray_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_policy(tmp_path / "model")
    write_problems(tmp_path / "problems", problems(4))
    inputs = inputs_in(tmp_path)
    here = evaluate(tmp_path / "here", inputs, TransformersSettings())
    monkeypatch.setenv("RAY_ADDRESS", address)
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster(None, 1).ray  # which the stage will use
    try:
        joined = str(ray.get_runtime_context().gcs_address)
        assert joined.rpartition(":")[2] == address.rpartition(":")[2]
        wait_for(lambda: ray.cluster_resources().get("CPU") == 2)
        two = TransformersSettings(cluster="ray", data_parallel=2)
        there = evaluate(tmp_path / "there", inputs, two)
    finally:
        ray.shutdown()
    assert there == here
