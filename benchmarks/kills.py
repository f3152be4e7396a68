"""Kill a run at random moments, many times, and count what is lost.

    python benchmarks/kills.py [--kills 500] [--seed 0]

A child process runs a small manifest (a stage that trains with checkpoints, one that samples into a
journal, one that writes many files) and is killed with SIGKILL after a random time; the next child
goes on. After every kill all that is visible is verified by digest. A finished store must hold the
artifact ids of an uninterrupted run, and no step may be computed more often than kills account for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from killing import start
from store_world import Params, QuietConsole, flat, kind, manifest, read_number, stage

from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.stage import Inputs
from r1pipe.store import disk
from r1pipe.store.fsck import fsck
from r1pipe.store.store import Store

STEPS = 40
STEP_S = 0.004
MAX_WAIT_S = 0.6


def train(context: Any, params: Params, run: Any, inputs: Mapping[str, Any]) -> None:
    """Fold step numbers; a checkpoint at every fourth step."""
    found = context.checkpoints.latest()
    done, value = (found[0], int((found[1] / "state").read_text())) if found else (0, 1)
    for step in range(done + 1, STEPS + 1):
        value = (value * 31 + step) % 1_000_003
        time.sleep(STEP_S)
        context.log(step, STEPS, loss=float(value))
        count("train")
        if step % 4 == 0:
            with context.checkpoints.saving(step) as folder:
                (folder / "state").write_text(str(value))
                (folder / "weights").write_bytes(bytes([value % 256]) * 300_000)
    (context.output("data") / "number.json").write_text(str(value))


def sample(context: Any, params: Params, run: Any, inputs: Mapping[str, Any]) -> None:
    """Journal a unit per step, then write all rows."""
    journal = context.journal("rows")
    done = journal.done()
    for unit in range(STEPS):
        if str(unit) not in done:
            time.sleep(STEP_S)
            journal.append(str(unit), [{"unit": unit, "text": "x" * 500}] * 8)
            count("sample")
    with (context.output("data") / "rows.jsonl").open("w") as file:
        for row in journal.rows():
            file.write(json.dumps(row) + "\n")
    (context.output("data") / "number.json").write_text("1")


def spread(context: Any, params: Params, run: Any, inputs: Inputs) -> None:
    """Write many files in folders, from the inputs' numbers."""
    total = sum(read_number(path) for path in flat(inputs))
    for index in range(60):
        path = context.output("data") / f"d{index % 7}" / f"f{index}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(total + index))
    (context.output("data") / "number.json").write_text(str(total))
    count("spread")


def count(what: str) -> None:
    """Note one unit of work where it survives a kill."""
    handle = os.open(os.environ["KILLS_COUNT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{what}\n".encode())
    os.close(handle)


def world() -> Manifest:
    """Return the manifest that is killed."""
    return manifest(
        stage("train", kind(train)),
        stage("sample", kind(sample)),
        stage("spread", kind(spread), {"many": {"x": "train", "y": "sample"}}),
    )


def ids(root: Path) -> dict[str, str]:
    """Return {stage: artifact id}."""
    return {record.stage_name: record.artifact_id for record in Store(root).records()}


def main() -> None:
    """Kill until enough was killed, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, base = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="r1pipe-kills-"))
    os.environ["KILLS_COUNT"] = str(base / "whole.count")
    run(world(), Store(base / "whole"), QuietConsole())
    expected = ids(base / "whole")
    found: Counter[str] = Counter()
    began = time.monotonic()
    while found["kills"] < options.kills:
        found["stores"] += 1
        root = base / f"store{found['stores']}"
        os.environ["KILLS_COUNT"] = str(base / "count")
        kills = kill_until_done(root, rng, found)
        assert ids(root) == expected, "the result is not that of an uninterrupted run"
        check_work(base / "count", kills, found)
        disk.remove_tree(root)
    disk.remove_tree(base)
    found["seconds"] = round(time.monotonic() - began)
    for name, value in found.items():
        print(f"{name:40} {value}")


def kill_until_done(root: Path, rng: random.Random, found: Counter[str]) -> int:
    """Start and kill children until one ends by itself; return the number of kills."""
    kills = 0
    while True:
        pid = start(lambda: run(world(), Store(root), QuietConsole()))
        time.sleep(rng.uniform(0, MAX_WAIT_S))
        try:
            os.kill(pid, signal.SIGKILL)
        finally:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL), f"a run ended with {code}"
        report = fsck(Store(root), full=True)
        assert not report.damage, report.lines()
        found["artifacts verified after kills"] += report.artifacts
        if code == 0:
            return kills
        kills += 1
        found["kills"] += 1


def check_work(path: Path, kills: int, found: Counter[str]) -> None:
    """Check that no more was computed twice than the kills account for."""
    done = Counter(path.read_text().split())
    path.unlink()
    # a kill costs at most the steps since the last checkpoint, three and the one at work
    assert done["train"] <= STEPS + 4 * kills, (done, kills)
    assert done["sample"] <= STEPS + kills, (done, kills)
    found["training steps redone"] += done["train"] - STEPS
    found["sampling units redone"] += done["sample"] - STEPS


if __name__ == "__main__":
    main()
