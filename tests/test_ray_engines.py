"""Engines as actors of Ray: one cluster for the module, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from killing import stat_of
from tiny import FakeContext, problems, save_policy, stage

from r1pipe.errors import StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.rows import read_rows, write_problems
from r1pipe.stage import Inputs

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is missing"),
]
SAMPLING = SamplingParams(max_tokens=60, logprobs=False)
WAIT_S = 180.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a cluster; return its address."""
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster("local", 4).ray
    yield str(ray.get_runtime_context().gcs_address)
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def run_on(count: int, **changes: Any) -> SampleRun:
    settings = TransformersSettings(cluster="ray", data_parallel=count, **changes)
    return SampleRun(workers=1, max_batch=8, generator=settings)


def requests(count: int) -> list[Request]:
    return [Request((9, 30, 41 + i // 4), i, i) for i in range(count)]


def actors(kind: str = "EngineActor") -> set[int]:
    """Return the processes of all engines of the cluster that this process has started; others may
    run tests beside it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_one = kind.encode() in path.read_bytes()
        except OSError:
            continue  # it has ended
        pid = ancestor = int(path.parent.name)
        while is_one and ancestor not in (0, os.getpid()):
            stat = stat_of(ancestor)
            ancestor = int(stat[1]) if stat else 0
        if is_one and ancestor:
            found.add(pid)
    return found


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def expected(folder: Path, asked: Sequence[Request]) -> dict[int, list[int]]:
    """Return the tokens of one engine in this process."""
    with open_generator(folder, SampleRun(workers=1, max_batch=8)) as (generator, _):
        return {made.index: made.token_ids for made in generator.generate(asked, SAMPLING)}


def test_a_killed_actor_leaves_its_requests_to_the_others_and_is_started_again(
    cluster: str, folder: Path
) -> None:
    asked, before = requests(120), actors()
    found: dict[int, list[int]] = {}
    handler = signal.getsignal(signal.SIGTERM)
    with open_generator(folder, run_on(2)) as (opened, _):
        generator: Any = opened
        assert signal.getsignal(signal.SIGTERM) is handler
        for made in generator.stream(iter(asked), SAMPLING):
            assert made.index not in found
            found[made.index] = made.token_ids
            if len(found) == 10:  # one that samples, which the other may not do yet
                place = next(engine.place for engine in generator._engines if engine.is_up)
                own = int(place.rsplit(" ", 1)[1])
                assert own in actors() - before
                os.kill(own, signal.SIGKILL)
        (loss,) = generator.losses
        assert "is lost and started again" in loss
        assert not loss.endswith(" 0 requests went to others")
        again = [made.index for made in generator.generate(asked[:30], SAMPLING)]
        assert sorted(again) == list(range(30)), "and a second sampling can follow"
        with pytest.raises(StageError, match=r"engine \d: 1 of 1 prompts leave no room in the 128"):
            list(generator.generate([Request(tuple(range(200)), 1, 0)], SAMPLING))
    assert found == expected(folder, asked)
    wait_for(lambda: actors() <= before)


def test_the_end_of_the_last_engine_is_told(cluster: str, folder: Path) -> None:
    before = actors()
    with open_generator(folder, run_on(1, max_restarts=0)) as (generator, _):
        sampling = generator.generate(requests(400), SAMPLING)
        next(sampling)
        (own,) = actors() - before
        os.kill(own, signal.SIGKILL)
        with pytest.raises(StageError, match=r"engine 0 .* is lost after 0 restarts; run\.gen"):
            list(sampling)


def evaluate(work: Path, inputs: Inputs, generator: TransformersSettings) -> list[dict[str, Any]]:
    kind = stage("evaluate")
    params = kind.params(seed=3, format="chat", num_samples=16, max_tokens=60, problems_per_unit=4)
    run = kind.run_model(workers=1, max_batch=8, generator=generator, sandbox="weak")
    context = FakeContext(work)
    kind.run(context, params, run, inputs)
    return list(read_rows(context.output("samples")))


def inputs_in(folder: Path) -> Inputs:
    return Inputs({"model": folder / "model", "problems": {"sums": folder / "problems"}})


def test_a_killed_run_leaves_no_actor_and_the_next_one_goes_on_to_the_same_rows(
    cluster: str, tmp_path: Path
) -> None:
    save_policy(tmp_path / "model")
    write_problems(tmp_path / "problems", problems(8))
    before, work = actors(), tmp_path / "work"
    script = (
        "import sys; from pathlib import Path; import test_ray_engines as t; f = Path(sys.argv[1]);"
        "t.evaluate(f / 'work', t.inputs_in(f), t.run_on(1).generator)"
    )
    environment = {name: text for name, text in os.environ.items() if name != "RAY_AUTH_MODE"}
    environment["RAY_ADDRESS"] = cluster
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path])
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    wait_for(lambda: (work / "batches.jsonl").exists() or driver.poll() is not None)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, "it was at work"
    wait_for(lambda: actors() <= before)
    kept = (work / "batches.jsonl").read_text().count("\n")
    assert kept
    whole = evaluate(tmp_path / "whole", inputs_in(tmp_path), TransformersSettings())
    assert evaluate(work, inputs_in(tmp_path), TransformersSettings()) == whole
