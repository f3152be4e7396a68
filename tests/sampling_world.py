"""Sampling stages with scripted generators, for the tests of sampling."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import FakeContext, ScriptedGenerator, problems, stage, tokenizer

from r1pipe.chat import boxed, render_completion
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request
from r1pipe.records import Problem
from r1pipe.rejection import collecting
from r1pipe.rejection.sources import sample_seed
from r1pipe.rows import read_rows, write_problems
from r1pipe.stage import Inputs


def right(problem: Problem, thought: str = "a sum") -> str:
    return render_completion(thought, "", "chat", f"It is {boxed(problem.gold)}")


def wrong(problem: Problem) -> str:
    return render_completion("a sum", "", "chat", f"It is {boxed(str(int(problem.gold) + 1))}")


def english(count: int) -> list[Problem]:
    return [replace(p, language="en") for p in problems(count)]


class BySample(ScriptedGenerator):
    """Answers by sample index, whatever round a sample is asked for in."""

    def __init__(self, answers: dict[str, list[str]], asked: Sequence[Problem], seed: int) -> None:
        super().__init__(answers, "chat")
        self.by_seed = {
            sample_seed(seed, p, i): text for p in asked for i, text in enumerate(answers[p.prompt])
        }
        self.units: list[int] = []

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        self.units.append(len(requests))
        self.answers = {}
        for request in requests:
            self.answers.setdefault(request.prompt_ids, []).append(self.by_seed[request.seed])
        return super().generate(requests, sampling)


class Streamed:
    """A script as a generator that streams: it answers the oldest or the newest request that it
    has, as `rng` says."""

    def __init__(self, script: Any, num_slots: int, rng: random.Random | None = None) -> None:
        self.script = script
        self.num_slots = num_slots
        self.losses: list[str] = []
        self.rng = rng
        self.most_under_way = 0

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        raise AssertionError("it is to be given a stream")

    def load_weights(self, tensors: Any) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...

    def stream(self, requests: Iterator[Request | None], sampling: Any) -> Any:
        held: list[Request] = []
        while True:
            while len(held) < self.num_slots and (request := next(requests, None)) is not None:
                held.append(request)
            if not held:
                return
            self.most_under_way = max(self.most_under_way, len(held))
            request = held.pop(self.rng.choice([0, -1]) if self.rng else 0)
            try:
                yield from self.script.generate([request], sampling)
            except SamplingFailed as failure:
                raise SamplingFailed(str(failure), request.index) from None


def half_texts(asked: list[Problem]) -> dict[str, list[str]]:
    return {p.prompt: [right(p), wrong(p), right(p, "a sum of two")] for p in asked}


def half_right(asked: list[Problem]) -> BySample:
    return BySample(half_texts(asked), asked, 3)


def sample(
    tmp_path: Path,
    script: Any,
    asked: list[Problem],
    monkeypatch: Any,
    *,
    kind: str = "rejection-sample",
    context: FakeContext | None = None,
    **changes: Any,
) -> FakeContext:
    """Run a sampling stage on scripted completions."""

    @contextmanager
    def scripted(folder: Path, run: Any, precision: Any, prompts: Any) -> Any:
        yield script, tokenizer()

    monkeypatch.setattr(collecting, "open_generator", scripted)
    write_problems(tmp_path / "problems", asked)
    chosen = stage(kind)
    values = {
        "seed": 3, "target_rows": 1000, "samples_per_problem": 2, "max_tokens": 100,
        "problems_per_unit": 2, **changes,
    }  # fmt: skip
    context = context or FakeContext(tmp_path / "work")
    inputs = {"model": tmp_path / "model", "problems": tmp_path / "problems"}
    names = ("stop_without_rows",)
    run = chosen.run_model(**{name: values.pop(name) for name in names if name in values})
    params = chosen.params.model_validate_json(json.dumps(values))
    chosen.run(context, params, run, Inputs(inputs))
    return context


def table(context: FakeContext, name: str = "candidates") -> list[dict[str, Any]]:
    return list(read_rows(context.folder / "out" / name))


def files(context: FakeContext) -> dict[str, bytes]:
    root = context.folder / "out"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
