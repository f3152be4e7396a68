"""Rejection sampling in a store: killed and resumed, and going on from results with less rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole
from tiny import ScriptedGenerator, problems, tokenizer

from r1pipe.chat import boxed, render_completion
from r1pipe.errors import Interrupted
from r1pipe.generate.protocol import Request
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.pipeline.why import explain
from r1pipe.rejection import collecting
from r1pipe.rows import read_rows
from r1pipe.store.store import Store

COUNT = 40
KIND = '''
"""Arithmetic problems and a stand-in for a model."""
from r1pipe.stage import StageModel
VERSION = 1
class Params(StageModel):
    pass
class Run(StageModel):
    pass
INPUTS = {}
OUTPUTS = {"problems": "problems", "model": "model"}
def run(context, params, run, inputs):
    from tiny import problems
    from r1pipe.rows import write_problems
    write_problems(context.output("problems"), problems(40))
    (context.output("model") / "stand-in").write_text("no model")
'''
MANIFEST = """
r1pipe: 1
name: growth
stages:
  world: {kind: world, params: {}}
  sampled:
    kind: rejection-sample
    inputs: {model: world.model, problems: world.problems}
    params: {seed: 3, target_rows: 12, samples_per_problem: 2, max_tokens: 80, problems_per_unit: 3}
"""


class Slow(ScriptedGenerator):
    """Every second answer is right; a unit takes a little time, and is counted in a file."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        super().__init__(texts(), "chat")
        self.path, self.seconds = folder / "asked", seconds

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        with self.path.open("a") as file:
            file.write(f"{len(requests)}\n")
        time.sleep(self.seconds)
        return super().generate(requests, sampling)


def texts() -> dict[str, list[str]]:
    return {
        p.prompt: [
            render_completion("1+1", "", "chat", f"It is {boxed(str(int(p.gold) + i))}")
            for i in range(2)
        ]
        for p in problems(COUNT)
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("stages", "manifests"):
        (tmp_path / name).mkdir()
    (tmp_path / "stages" / "world.py").write_text(KIND)
    (tmp_path / "manifests" / "growth.yaml").write_text(MANIFEST)
    return tmp_path


def asked(project: Path) -> int:
    """Return how many completions have been asked for."""
    path = project / "asked"
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def sampled(project: Path, store: str = "store", seconds: float = 0.0, **params: Any) -> Any:
    """Run the manifest with other parameters; return the record of `sampled`."""

    @contextmanager
    def opened(folder: Path, run: Any, precision: Any, prompts: Any) -> Any:
        yield Slow(project, seconds), tokenizer()

    saved = collecting.open_generator  # type: ignore[attr-defined]
    collecting.open_generator = opened  # type: ignore[assignment,attr-defined]
    try:
        result = run(manifest(project, **params), Store(project / store), QuietConsole())
    finally:
        collecting.open_generator = saved  # type: ignore[attr-defined]
    return result.stages["sampled"].record


def manifest(project: Path, **params: Any) -> Any:
    sets = [f"stages.sampled.params.{name}={value}" for name, value in params.items()]
    return load_manifest(project / "manifests" / "growth.yaml", overrides=sets)


def test_a_raised_target_goes_on_from_the_finished_result_and_says_so(project: Path) -> None:
    small = sampled(project)
    before = asked(project)
    assert before == 24, "four units of three problems: one right answer for each problem"
    store = Store(project / "store")
    reason = next(s.reason for s in plan(manifest(project, target_rows=30), store).stages[1:])
    assert reason.startswith(f"goes on from sampled@{small.artifact_id[:8]} (target_rows 12)")
    text = "\n".join(explain(manifest(project, target_rows=30), store, "sampled").lines())
    assert f"goes on from sampled@{small.artifact_id[:8]}" in text
    assert "params.target_rows: 12 -> 30" in text
    grown = sampled(project, target_rows=30)
    assert asked(project) - before == 60 - 24, "ten units, four of them were there"
    assert grown.facts["reused_candidates"] == 24
    afresh = sampled(project, "other", target_rows=30)
    assert grown.artifact_id == afresh.artifact_id
    assert asked(project) == 24 + 36 + 60


def test_a_lowered_target_samples_nothing(project: Path) -> None:
    sampled(project, target_rows=30)
    before = asked(project)
    low = sampled(project, target_rows=12)
    assert asked(project) == before
    rows = Store(project / "store").output_dir(low, "rows")
    assert len(list(read_rows(rows))) == 12


@pytest.mark.parametrize("changed", [{"seed": 4}, {"temperature": 0.5}, {"max_tokens": 70}])
def test_another_configuration_takes_nothing_over(project: Path, changed: dict[str, Any]) -> None:
    sampled(project)
    before = asked(project)
    other = sampled(project, target_rows=30, **changed)
    assert asked(project) - before == 60
    assert "reused_candidates" not in other.facts


def test_a_raised_target_goes_on_from_an_unfinished_attempt(project: Path) -> None:
    killed_while_sampling(project, target_rows=30)
    before = asked(project)
    whole = sampled(project, target_rows=36)
    assert asked(project) - before < 72 - 6, "some units were there"
    assert whole.artifact_id == sampled(project, "other", target_rows=36).artifact_id


def test_a_killed_stage_resumes_to_the_same_artifact(project: Path) -> None:
    killed_while_sampling(project, target_rows=30)
    before = asked(project)
    resumed = sampled(project, target_rows=30)
    assert asked(project) - before < 60, "not from the start"
    assert resumed.artifact_id == sampled(project, "other", target_rows=30).artifact_id


def test_a_stopped_stage_keeps_all_that_was_sampled(project: Path, monkeypatch: Any) -> None:
    from r1pipe.launch.context import RunContext

    calls = []

    def stop(self: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr(RunContext, "stop_if_asked", stop)
        with pytest.raises(Interrupted, match="stopped by the test"):
            sampled(project, target_rows=30)
    assert asked(project) == 18
    sampled(project, target_rows=30)
    assert asked(project) == 60, "nothing was sampled twice"


WORK = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_sampling_growth import sampled
sampled(Path(sys.argv[1]), seconds=0.2, target_rows=30)
"""


def killed_while_sampling(project: Path, **params: Any) -> None:
    """Run the manifest in a process and kill it when some units are in its journal."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    process = subprocess.Popen([sys.executable, "-c", WORK, str(project), *folders], env=env)
    journals = project / "store" / "attempts"
    while process.poll() is None and units_written(journals) < 2:
        time.sleep(0.02)
    assert process.poll() is None, "killed before it was done"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def units_written(attempts: Path) -> int:
    """Return the units in the journal; a finished stage's folder may vanish while one looks."""
    try:
        found = list(attempts.glob("*/work-*/journal/candidates.jsonl"))
        return found[0].read_bytes().count(b'"unit"') if found else 0
    except FileNotFoundError:
        return 0
