"""The rejection-sampling stage beside its own generator, on the same requests, with a real model.

`python benchmarks/rejection.py engine --model DIR --problems DIR` runs it.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canned import SAMPLES

from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import Problem
from r1pipe.stage import Inputs


def engine(model: Path, folder: Path, repeats: int, num_problems: int) -> dict[str, Any]:
    """Compare the stage with only its generator on the same requests, in turns.

    The stage's time is all of it but loading the model: the check of the gold answers, the
    candidate writer's start, sampling, verifying, writing candidates and rows. `ratio` is of
    samples per second; `main_cpu` is the CPU time of the stage's own process over the generator's,
    and `all_cpu` counts the candidate writer too.
    """
    from r1pipe.generate.backends import open_generator
    from r1pipe.generator_settings import SampleRun
    from r1pipe.launch.process import prepare_process
    from r1pipe.rows import read_problems, write_problems

    prepare_process()
    problems = read_problems(folder)[:num_problems]
    runs: list[dict[str, float]] = []
    with open_generator(model, SampleRun()) as opened, tempfile.TemporaryDirectory() as root:
        write_problems(Path(root) / "problems", problems)
        only_generator(opened, problems[:64])  # warm
        for number in range(repeats):
            own, own_cpu, _ = measured(lambda: only_generator(opened, problems))
            to = Path(root) / str(number)
            stage, cpu, below = measured(lambda to=to: staged(opened, to.parent / "problems", to))  # type: ignore[misc]
            figures = {"engine": own, "stage": stage, "ratio": stage / own}
            cpus = {"main_cpu": cpu / own_cpu, "all_cpu": (cpu + below) / own_cpu}
            runs.append({name: round(x, 3) for name, x in (figures | cpus).items()})
    ratios = sorted(run["ratio"] for run in runs)
    return {"runs": runs, "median_ratio": ratios[len(ratios) // 2]}


def measured(function: Callable[[], float]) -> tuple[float, float, float]:
    """Return a result, the CPU seconds that it took here, and those of ended processes below."""
    own, below = time.process_time(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    result = function()
    below = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - below
    return result, time.process_time() - own, below


def sample_params() -> Any:
    from r1pipe.rejection.params import SampleParams

    return SampleParams(seed=1, target_rows=10**9, samples_per_problem=SAMPLES, max_tokens=80)


def only_generator(opened: tuple[Any, Any], problems: Sequence[Problem]) -> float:
    """Return samples/s of the generator on the requests of the stage, unit by unit."""
    from r1pipe.rejection.schedule import Schedule
    from r1pipe.rejection.sources import sample_seed

    generator, tokenizer = opened
    params, count = sample_params(), 0
    began = time.perf_counter()
    for unit in Schedule(problems, params).units(lambda _: None):
        asked = [problems[place] for place in unit.places]
        prompts = [tuple(encode_prompt(tokenizer, p.prompt, "chat")) for p in asked]
        seeds = [sample_seed(1, p, i) for p in asked for i in range(SAMPLES)]
        requests = [Request(prompts[i // SAMPLES], seed, i) for i, seed in enumerate(seeds)]
        count += sum(1 for _ in generator.generate(requests, SamplingParams(1.0, 1.0, 80)))
    return count / (time.perf_counter() - began)


def staged(opened: tuple[Any, Any], problems: Path, folder: Path) -> float:
    """Return samples/s of the stage from its first to its last line, the model being loaded."""
    from r1pipe.cli.console import PlainConsole
    from r1pipe.launch.context import RunContext
    from r1pipe.launch.stopping import Stopper
    from r1pipe.rejection import collecting
    from r1pipe.rejection.params import CollectRun
    from r1pipe.rows import count_rows

    @contextmanager
    def already(model: Path, run: Any, precision: Any) -> Iterator[tuple[Any, Any]]:
        yield opened

    collecting.open_generator = already  # type: ignore[assignment,attr-defined]
    for name in ("journal", "logs", "checkpoints"):
        (folder / name).mkdir(parents=True)
    outputs, ids = ("rows", "candidates"), {"model": "m"}
    console = PlainConsole(sys.stderr)
    context = RunContext("bench", folder, outputs, ids, console.progress, Stopper(console.message))
    began = time.perf_counter()
    inputs = Inputs({"model": folder, "problems": problems})
    rows = collecting.collect(context, sample_params(), CollectRun(), inputs, "chat")
    collecting.write_training_rows(context, rows)
    seconds = time.perf_counter() - began
    context.close()
    return count_rows(folder / "out" / "candidates") / seconds
