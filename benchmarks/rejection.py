"""Measure rejection sampling without a model, and with one.

    python benchmarks/rejection.py scale [--candidates 2000000] [--json FILE]
    python benchmarks/rejection.py reverify [--candidates 2000000] [--json FILE]
    python benchmarks/rejection.py parts [--candidates 20000]
    python benchmarks/rejection.py engine --model DIR --problems DIR

`scale` runs the stage in a store of its own on canned completions, once as it is and once killed
(SIGKILL to the stage's process) and resumed, and compares artifact ids. `reverify` has such
candidates verified again, with and without thresholds that decide all filters again, the first of
them killed and resumed too. `parts` says what each candidate costs, and where. `engine` compares
the stage with its own generator on the same requests (`rejection_engine.py`).

`canned.py` says what the canned completions are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canned import SAMPLES, Canned
from memory import descendants, proportional_bytes, resident_bytes

from r1pipe.records import Problem

KILL_AT_BYTES = {"rejection-sample": 550, "reverify": 20}
"""Bytes of journal for each candidate at which a stage is killed: about halfway."""
PROBLEMS_KIND = '''
"""Problems whose completions are canned."""
from r1pipe.stage import StageModel
VERSION = 1
class Params(StageModel):
    num_problems: int
class Run(StageModel):
    pass
INPUTS = {}
OUTPUTS = {"problems": "problems", "model": "model"}
def run(context, params, run, inputs):
    from canned import canned_problem
    from r1pipe.rows import write_problems
    write_problems(context.output("problems"), map(canned_problem, range(params.num_problems)))
    (context.output("model") / "canned").write_text("no model")
'''
MANIFEST = """
r1pipe: 1
name: bench
stages:
  canned: {{kind: canned-set, params: {{num_problems: {problems}}}}}
  rejection-sample:
    kind: rejection-sample
    inputs: {{model: canned.model, problems: canned.problems}}
    params: {{seed: 1, target_rows: {target}, samples_per_problem: {samples}, max_tokens: 4096}}
"""
AGAIN = """
  reverify:
    kind: reverify
    inputs: {{candidates: rejection-sample.candidates, problems: canned.problems}}
    params: {{target_rows: {target}{keep}}}
"""
KEEP = ", keep: {max_repeats: 3}"
"""Thresholds other than those that the candidates were decided with."""
JOURNALS = {"rejection-sample": "candidates", "reverify": "verdicts"}


# ---- the stage -----------------------------------------------------------------------------------


def work(folder: Path, name: str) -> None:
    """Run a manifest in `folder`; what is sampled in it are canned completions."""
    from r1pipe.cli.console import PlainConsole
    from r1pipe.manifest import load_manifest
    from r1pipe.pipeline.run import run
    from r1pipe.store.store import Store

    if name == "bench":
        sample_canned()
    manifest = load_manifest(folder / "manifests" / f"{name}.yaml")
    run(manifest, Store(folder / "store"), PlainConsole(sys.stderr))


def sample_canned() -> None:
    """Put canned completions into the place of a generator."""
    from r1pipe.rejection import collecting, sources

    canned = Canned()

    @contextmanager
    def opened(model: Path, run: Any, precision: Any, prompts: Any) -> Iterator[tuple[Canned, Any]]:
        yield canned, canned.tokenizer

    plain = sources.GeneratedSamples.requests

    def requests(self: Any, unit: Any, problems: Sequence[Problem]) -> Any:
        canned.learn(problems)
        return plain(self, unit, problems)

    collecting.open_generator = opened  # type: ignore[assignment,attr-defined]
    sources.GeneratedSamples.requests = requests  # type: ignore[method-assign]


def prepare(folder: Path, candidates: int) -> None:
    (folder / "stages").mkdir(parents=True)
    (folder / "manifests").mkdir()
    (folder / "stages" / "canned_set.py").write_text(PROBLEMS_KIND)
    problems, target = candidates // SAMPLES, int(candidates * 0.3)
    text = MANIFEST.format(problems=problems, target=target, samples=SAMPLES)
    again = text + AGAIN.format(target=target, keep="")
    with_keep = text + AGAIN.format(target=target, keep=KEEP)
    for name, document in (("bench", text), ("again", again), ("filters", with_keep)):
        (folder / "manifests" / f"{name}.yaml").write_text(document)


class Watched:
    """A `work` process. Its memory is that of all processes below it: resident bytes, read ten
    times a second, and their proportional shares of it, every five seconds."""

    def __init__(self, folder: Path, manifest: str = "bench") -> None:
        here = Path(__file__).resolve()
        path = os.pathsep.join([str(here.parent.parent), str(here.parent)])
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(here), "work", str(folder), "--manifest", manifest]
        self.process = subprocess.Popen(command, env=env)
        self.peak_rss = self.peak_pss = 0
        self.began = time.monotonic()
        self.seconds = self.cpu_seconds = 0.0
        self.cpu_before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        self.attempts = folder / "store" / "attempts"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        for count in itertools.count():
            if self.process.poll() is not None:
                return
            pids = descendants(self.process.pid)
            self.peak_rss = max(self.peak_rss, sum(map(resident_bytes, pids)))
            if count % 50 == 0:  # dear: the kernel walks every page
                self.peak_pss = max(self.peak_pss, sum(map(proportional_bytes, pids)))
            time.sleep(0.1)

    def kill_halfway(self, kind: str, candidates: int) -> int:
        """Kill the process when a stage has journaled about half; return how many bytes it has."""
        paths = f"*/work-*/journal/{JOURNALS[kind]}.jsonl"
        while self.process.poll() is None:
            size = sum(path.stat().st_size for path in self.attempts.glob(paths))
            if size >= KILL_AT_BYTES[kind] * candidates:
                os.kill(self.process.pid, signal.SIGKILL)
                self.process.wait()
                self._end()
                return size
            time.sleep(0.02)
        raise SystemExit("the stage ended before it could be killed")

    def wait(self) -> None:
        if self.process.wait():
            raise SystemExit(f"the stage failed: {self.process.returncode}")
        self._end()

    def _end(self) -> None:
        self.seconds = time.monotonic() - self.began
        now = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        self.cpu_seconds = now - self.cpu_before

    def figures(self) -> dict[str, float]:
        """Return time and memory; CPU time leaves out processes that outlived their parent."""
        return {
            "s": round(self.seconds, 1),
            "cpu_s": round(self.cpu_seconds, 1),
            "peak_rss_mb": round(self.peak_rss / 1e6),
            "peak_pss_mb": round(self.peak_pss / 1e6),
        }


def outcome(folder: Path, kind: str = "rejection-sample") -> dict[str, Any]:
    """Return what the finished stage of a folder says about itself."""
    from r1pipe.store.store import Store

    records = sorted(Store(folder / "store").records(), key=lambda record: record.created)
    record = next(r for r in reversed(records) if r.kind == kind)
    return {"artifact": record.artifact_id, "outputs": record.outputs, "bytes": record.size,
            **record.facts}  # fmt: skip


def scale(candidates: int, root: Path) -> dict[str, Any]:
    """Run the stage whole, then killed in its midst and resumed, and compare."""
    prepare(root / "whole", candidates)
    prepare(root / "killed", candidates)
    whole = Watched(root / "whole")
    whole.wait()
    one = outcome(root / "whole")
    print(json.dumps(one | whole.figures()), file=sys.stderr, flush=True)
    first = Watched(root / "killed")
    journaled = first.kill_halfway("rejection-sample", one["sampled"])
    second = Watched(root / "killed")
    second.wait()
    other = outcome(root / "killed")
    return {
        **{name: value for name, value in one.items() if isinstance(value, int)},
        "artifact": one["artifact"],
        "is_same_artifact": one["artifact"] == other["artifact"],
        "whole": whole.figures(),
        "until_kill": first.figures() | {"journal_bytes": journaled},
        "resumed": second.figures(),
    }


def reverify(candidates: int, root: Path) -> dict[str, Any]:
    """Have the stage's candidates verified again, whole and killed in its midst, and compare."""
    prepare(root / "whole", candidates)
    Watched(root / "whole").wait()
    sampled = outcome(root / "whole")
    shutil.copytree(root / "whole", root / "killed")
    whole = Watched(root / "whole", "again")
    whole.wait()
    one = outcome(root / "whole", "reverify")
    filters = Watched(root / "whole", "filters")
    filters.wait()
    first = Watched(root / "killed", "again")
    journaled = first.kill_halfway("reverify", sampled["sampled"])
    second = Watched(root / "killed", "again")
    second.wait()
    other = outcome(root / "killed", "reverify")
    count = sampled["sampled"]
    return {
        "candidates": count,
        "rows": one["rows"],
        "is_same_as_sampled": all(
            sampled["outputs"][name] == one["outputs"][name] for name in ("rows", "candidates")
        ),
        "is_same_artifact": one["artifact"] == other["artifact"],
        "candidates_per_cpu_s": round(count / whole.cpu_seconds),
        "whole": whole.figures(),
        "until_kill": first.figures() | {"journal_bytes": journaled},
        "resumed": second.figures(),
        "all_filters": filters.figures()
        | {"candidates_per_cpu_s": round(count / filters.cpu_seconds)},
    }


# ---- what a candidate costs ----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["scale", "reverify", "parts", "engine", "work"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--problems", type=Path)
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--manifest", default="bench")
    parser.add_argument("--scratch", type=Path, help="where the stores are made")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.what == "work":
        work(args.folder, args.manifest)
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        if args.what == "scale":
            found: Any = scale(args.candidates or 2_000_000, Path(scratch))
        elif args.what == "reverify":
            found = reverify(args.candidates or 2_000_000, Path(scratch))
        elif args.what == "parts":
            from rejection_parts import parts

            found = parts(args.candidates or 20_000, Path(scratch))
        else:
            from rejection_engine import engine

            found = engine(args.model, args.problems, args.repeats, args.num_problems)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
