"""The stage `judge` without its judge: what a candidate costs, and what it holds in memory.

`python benchmarks/judging.py` runs the stage on candidates with thoughts of about 2,000 characters
and replies that are there at once, each size in a process of its own: wall and CPU seconds, and the
peak memory of that process. CPU time decides on a busy machine. The questions become tokens by a
small tokenizer of ours, in Python's own process, as with any backend.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from canned import WORDS  # noqa: E402
from mix import QuietContext  # noqa: E402

PROBLEMS = 2_000
REPLIES = (
    '{"analysis": "Both say the same.", "correctness": "correct"}',
    '{"analysis": "They differ.", "correctness": "incorrect"}',
)


class Judged(QuietContext):
    """A stage's context with a journal in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.input_ids = {"model": "m" * 64, "template": "t" * 64}
        self._journal: Any = None

    def journal(self, name: str) -> Any:
        from r1pipe.store.journal import FileJournal

        self._journal = self._journal or FileJournal(self.folder / f"{name}.jsonl")
        return self._journal

    def previous(self, name: str) -> None:
        return


class Canned:
    """Replies at once, by a hash of each request's seed."""

    def __init__(self, tokenizer: Any) -> None:
        end = tokenizer.eos_token_id
        self.replies = [[*tokenizer(text)["input_ids"], end] for text in REPLIES]

    def generate(self, requests: Sequence[Any], sampling: Any) -> Iterator[Any]:
        from r1pipe.generate.protocol import Sampled
        from r1pipe.records import FinishReason

        for request in requests:
            yield Sampled(request.index, self.replies[request.seed % 2], [], FinishReason.STOP)


def candidates(count: int) -> Iterator[dict[str, Any]]:
    """Yield candidates of open problems, four of each before the next."""
    rng = random.Random(1)
    words = WORDS.split()
    for number in range(count):
        problem = f"open-{number // 4 % PROBLEMS}"
        thought, answer = " ".join(rng.choices(words, k=400)), " ".join(rng.choices(words, k=30))
        yield {
            "id": f"{problem}#{number}", "problem_id": problem, "task": "open", "language": "en",
            "format": "chat", "prompt": f"question {problem}", "gold": "a reference",
            "completion": f"<think>\n{thought}\n</think>\n\n{answer}", "num_tokens": 500,
            "finish_reason": "stop", "model_id": "s" * 64, "temperature": 1.0, "seed": number,
            "verifier_version": 1, "verdict": "unjudged",
            "filters": '{"format": true, "language": true, "verdict": false}', "kept": False,
        }  # fmt: skip


def write_inputs(folder: Path, count: int) -> None:
    """Write candidates, problems, a tokenizer with a config, and take the template that ships."""
    from r1pipe.models.tokenizer import train_tokenizer
    from r1pipe.records import Problem
    from r1pipe.rows import write_problems, write_rows

    write_rows(folder / "candidates", candidates(count))
    problems = [Problem(f"open-{n}", "open", f"question {n}", "x") for n in range(PROBLEMS)]
    write_problems(folder / "problems", problems)
    template = (ROOT / "manifests" / "judge-template.txt").read_text("utf-8")
    train_tokenizer([WORDS, template, *REPLIES], 600).save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text("{}")


def run_stage(folder: Path) -> dict[str, float]:
    """Run the stage on what is in a folder; return seconds and bytes."""
    from r1pipe.generate import backends
    from r1pipe.manifest.kinds import load_kinds
    from r1pipe.models.policy import load_tokenizer

    kind: Any = load_kinds(ROOT / "manifests" / "r1.yaml")["judge"]
    tokenizer = load_tokenizer(folder / "model")

    @contextmanager
    def canned(*_: Any) -> Iterator[Any]:
        yield Canned(tokenizer), tokenizer

    backends.open_generator = canned  # type: ignore[assignment]
    inputs = {name: folder / name for name in ("candidates", "problems", "model")}
    inputs["template"] = ROOT / "manifests" / "judge-template.txt"
    context = Judged(folder / "work")
    (folder / "work").mkdir()
    used, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    kind.run(context, kind.params(seed=1, max_tokens=100), kind.run_model(), inputs)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": context.notes["rows"],
        "wall_s": time.perf_counter() - began,
        "cpu_s": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
        "base_mib": used.ru_maxrss / 1024,
        "peak_mib": after.ru_maxrss / 1024,
    }


def child(folder: str, *options: str) -> str:
    """Run this file on a folder in a process of its own; return what it prints."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 40_000, 160_000])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_inputs(options.one, options.write)
        return
    if options.one:
        print(json.dumps(run_stage(options.one)))
        return
    print("candidates  kept rows   CPU s  wall s  us each  before MiB  peak MiB")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            child(name, "--write", str(size))  # not here: a child begins with its parent's peak
            found = json.loads(child(name).splitlines()[-1])
            print(
                f"{size:>10,}  {found['rows']:>9,}  {found['cpu_s']:>6.1f}  {found['wall_s']:>6.1f}"
                f"  {1e6 * found['cpu_s'] / size:>7.0f}  {found['base_mib']:>10.0f}"
                f"  {found['peak_mib']:>8.0f}"
            )


if __name__ == "__main__":
    main()
