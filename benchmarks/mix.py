"""The mix at the paper's size: 800,000 rows, with and without its options; then decontamination.

`python benchmarks/mix.py` writes about 950,000 rows of sentences (5 % exact repeats, 5 % near ones)
into a folder and runs the stages on them, each in a process of its own: wall and CPU seconds, and
the peak memory of that process. CPU time decides on a busy machine.

`--chars` is the mean length of a completion, `--rows` scales everything, `--work` keeps the data.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SENTENCE_CHARS = 60
NUM_SENTENCES = 20_000
TASKS = ("math", "code", "stem", "logic")
EVERY_OPTION: dict[str, Any] = {
    "choose": "spread",
    "near_duplicates": 0.8,
    "quotas": {"tasks": {"math": 300_000, "code": 200_000}, "levels": {"5": 100_000}},
    "card": {"title": "A benchmark"},
}


class QuietContext:
    """A stage's context in a folder, without a store."""

    def __init__(self, folder: Path) -> None:
        self.name = "benchmark"
        self.input_ids: dict[str, Any] = {}
        self.folder = folder
        self.notes: dict[str, Any] = {}

    def output(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, **facts: Any) -> None:
        self.notes.update(facts)

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        return

    def sample(self, **row: Any) -> None:
        return

    def warn(self, text: str) -> None:
        return

    def doing(self, what: str, done: int, total: int) -> None:
        return

    def stop_if_asked(self) -> None:
        return


def sentences(seed: int) -> list[str]:
    """Return different sentences of about 60 characters."""
    rng = random.Random(f"sentences:{seed}")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=SENTENCE_CHARS // 6)) for _ in range(NUM_SENTENCES)]


def rows(count: int, chars: int, tasks: tuple[str, ...], seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows of sentences; every twentieth repeats an earlier one, the next one nearly."""
    rng, pool = random.Random(f"rows:{seed}"), sentences(seed)
    size = max(2, chars // SENTENCE_CHARS)
    kept: list[dict[str, Any]] = []
    for number in range(count):
        if number % 20 == 1 and kept:
            yield rng.choice(kept)
            continue
        text = rng.choices(pool, k=rng.randrange(size // 2, 2 * size - size // 2 + 1))
        prompt = " ".join([f"question {seed} {number}:", *rng.choices(pool, k=3)])
        if number % 20 == 2 and kept:
            near = rng.choice(kept)
            prompt, text = near["prompt"], [*near["completion"].split(". ")[:-1], text[-1]]
        row = {
            "problem_id": f"p{seed}-{number}",
            "task": rng.choice(tasks),
            "language": "en",
            "format": "chat",
            "prompt": prompt,
            "completion": ". ".join(text),
            "level": rng.randrange(1, 6),
            "num_tokens": chars // 4,
        }
        if len(kept) < 1000:
            kept.append(row)
        yield row


def write_inputs(work: Path, num_rows: int, chars: int) -> None:
    """Write both parts and a held-out set, once."""
    from r1pipe.records import Problem
    from r1pipe.rows import write_problems, write_rows

    if (work / "held-out").exists():
        return
    write_rows(work / "reasoning", rows(num_rows * 7 // 8, chars, TASKS, 1))
    write_rows(work / "general", rows(num_rows * 5 // 16, chars, ("talk",), 2))
    texts = [row["prompt"] for row in rows(5_000, chars, TASKS, 3)]
    held_out = [Problem(str(i), "math", text, "1") for i, text in enumerate(texts)]
    write_problems(work / "held-out", held_out)


def run_stage(kind: str, params: dict[str, Any], inputs: dict[str, Any], out: Path) -> None:
    """Run one stage in this process and print what it took, as JSON."""
    from r1pipe.manifest.kinds import load_kinds

    stage = load_kinds(ROOT / "manifests" / "r1.yaml")[kind]
    context = QuietContext(out)
    wall, cpu = time.perf_counter(), time.process_time()
    values = stage.params.model_validate_json(json.dumps(params))
    stage.run(context, values, stage.run_model(), inputs)
    found = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "notes": context.notes,
    }
    print(json.dumps(found, default=str))


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Run a stage in a process of its own and return what it printed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def jobs(work: Path, num_rows: int) -> dict[str, dict[str, Any]]:
    """Return the stages to be measured, by name."""
    scale = num_rows / 800_000
    quotas = {"reasoning_rows": num_rows * 3 // 4, "general_rows": num_rows // 4}
    options = json.loads(json.dumps(EVERY_OPTION))
    for named in options["quotas"].values():
        named.update({name: int(count * scale) for name, count in named.items()})
    parts = {name: str(work / name) for name in ("reasoning", "general")}
    held_out = {"held_out": {"test": str(work / "held-out")}}
    return {
        "mix": {"kind": "mix", "params": {"seed": 17, **quotas}, "inputs": parts},
        "mix, every option": {
            "kind": "mix",
            "params": {"seed": 17, **quotas, **options},
            "inputs": parts,
        },
        "decontaminate": {
            "kind": "decontaminate",
            "params": {},
            "inputs": {"rows": str(work / "out" / "mix" / "rows"), **held_out},
        },
    }


def main() -> None:
    """Write the inputs, run each stage, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--chars", type=int, default=1_500)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if given.job:
        job = json.loads(given.job)
        inputs = {
            name: Path(value) if isinstance(value, str) else {k: Path(v) for k, v in value.items()}
            for name, value in job["inputs"].items()
        }
        run_stage(job["kind"], job["params"], inputs, Path(job["out"]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        write_inputs(work, given.rows, given.chars)
        print(f"{given.rows:,} rows wanted, completions of {given.chars} characters")
        print("| stage | wall s | CPU s | peak MiB |\n| --- | --- | --- | --- |")
        for name, job in jobs(work, given.rows).items():
            found = measured({**job, "out": str(work / "out" / name)})
            numbers = (f"{found[key]:.0f}" for key in ("wall_s", "cpu_s", "peak_mib"))
            print(f"| {name} | {' | '.join(numbers)} |", flush=True)
            print(json.dumps(found["notes"]), file=sys.stderr)


if __name__ == "__main__":
    main()
