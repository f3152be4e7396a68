"""Kill every stage of the recipe at a random moment of its work, and compare what comes out.

    python benchmarks/kills_recipe.py [--seed 0] [--rounds 1] [--work DIR]

The smoke profile runs once without interruption; its action records say how long each stage takes.
Then, in a fresh store, every stage that must run is killed with SIGKILL at a random moment after it
started, and the next process goes on. After every kill all that is visible is verified by digest;
in the end every stage must have the artifact id of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from r1pipe.store import disk
from r1pipe.store.fsck import fsck
from r1pipe.store.store import Store

MANIFEST = Path(__file__).resolve().parents[1] / "manifests" / "r1.yaml"


def command(store: Path) -> list[str]:
    """Return the command that is killed: what a user types, with frequent checkpoints."""
    options = ["--profile=smoke", "--yes", "--checkpoint-every=1", f"--store={store}"]
    return [sys.executable, "-m", "r1pipe", "run", str(MANIFEST), *options]


def finished(store: Path) -> dict[str, tuple[str, float, str]]:
    """Return {stage: (artifact id, seconds, kind)} of all that is published, oldest first."""
    records = sorted(Store(store).records(), key=lambda record: record.created)
    return {r.stage_name: (r.artifact_id, r.seconds, r.kind) for r in records}


def kill_in(stage: str, delay_s: float, store: Path) -> bool:
    """Start a run, kill it so long after `stage` starts; return whether it was still at work."""
    with subprocess.Popen(
        command(store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith((f"{stage}: starts", f"{stage}: resumes")):
                break
        else:
            raise SystemExit(f"{stage} never started; the run ended with {process.wait()}")
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return stage not in finished(store)


def main() -> None:
    """Kill every stage, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="kills of each stage")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="r1pipe-kills-"))
    rng, found, by_kind = random.Random(options.seed), Counter[str](), Counter[str]()
    subprocess.run(command(work / "whole"), check=True, capture_output=True)
    whole = finished(work / "whole")
    for stage, (_, seconds, kind) in whole.items():
        for _ in range(options.rounds):
            if stage in finished(work / "killed"):
                break
            was_at_work = kill_in(stage, rng.uniform(0, seconds), work / "killed")
            found["kills"] += 1
            found["kills while the stage was at work"] += was_at_work
            by_kind[kind] += was_at_work
            report = fsck(Store(work / "killed"), full=True)
            assert not report.damage, report.lines()
            found["artifacts verified after kills"] += report.artifacts
    subprocess.run(command(work / "killed"), check=True, capture_output=True)
    ids, expected = ({s: v[0] for s, v in finished(work / n).items()} for n in ("killed", "whole"))
    found["stages"] = len(expected)
    found["stages with another artifact id"] = sum(ids[s] != expected[s] for s in expected)
    for name, value in found.items():
        print(f"{name:40} {value}")
    print("kills at work by kind:", ", ".join(f"{k} {n}" for k, n in sorted(by_kind.items())))
    if not options.work:
        disk.remove_tree(work)


if __name__ == "__main__":
    main()
