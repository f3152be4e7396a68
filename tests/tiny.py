"""A tiny policy, its tokenizer and a context in a folder, for tests of the algorithms."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from r1pipe.chat import AnyFormat
from r1pipe.errors import Interrupted
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.manifest.kinds import load_kinds
from r1pipe.method_params.policies import GrpoParams
from r1pipe.models.policy import new_model, save_model
from r1pipe.models.prompts import encode_prompt
from r1pipe.models.tokenizer import train_tokenizer
from r1pipe.ranks import ALONE
from r1pipe.records import FinishReason, Problem, Rollout, RolloutBatch, TokenSequence, json_lines
from r1pipe.rl.credits import credit_of
from r1pipe.rl.grpo import Grpo
from r1pipe.settings import Aggregation, Optimizer, Precision
from r1pipe.stage import Checkpoints
from r1pipe.store.beside import SavesBeside
from r1pipe.supervision.steps import rule_steps
from r1pipe.tasks import corpus
from r1pipe.tasks.table import TASKS
from r1pipe.tasks.world import Noise, sample_problems
from r1pipe.train.batching import Batching
from r1pipe.train.engine import LocalForward
from r1pipe.train.logprobs import completion_logprobs
from r1pipe.train.loop import Trainer

torch.set_num_threads(
    1
)  # tiny tensors gain nothing from threads, and lose tenfold on a busy machine

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "manifests" / "r1.yaml"
INIT_STD = 0.25
"""Makes a fresh model's distribution peaked and its attention matter; otherwise all is uniform."""


def corpus_rows(count: int, fmt: AnyFormat = "r1-zero", seed: int = 3) -> list[dict[str, Any]]:
    """Return rows of a perfect author."""
    rng = random.Random(seed)
    mix = {"arithmetic": 1.0, "parity": 1.0, "general": 1.0}
    return [
        corpus.solution_row(p, TASKS[p.task].solve(p, rng, Noise()), fmt, rng, 1.0, 0.0)
        for p in islice(corpus.training_problems(mix, rng), count)
    ]


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """Return a tokenizer of about 320 tokens."""
    texts = [row[name] for row in corpus_rows(48) for name in ("prompt", "completion")]
    return train_tokenizer(texts, 320)


def model(seed: int = 1) -> Any:
    """Return a fresh Qwen3 of about 20,000 parameters with peaked distributions."""
    return new_model(
        tokenizer(),
        hidden_size=24,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=48,
        max_positions=128,
        init_std=INIT_STD,
        seed=seed,
    )


def save_policy(folder: Path, seed: int = 1) -> Path:
    """Write a tiny policy as a Hugging Face directory."""
    save_model(model(seed), tokenizer(), folder)
    return folder


def generator(policy: Any, end_ids: Sequence[int] = (), max_batch: int = 64) -> Any:
    """Return a sampler of a policy; the tokenizer's end is always one of `end_ids`."""
    return TransformersGenerator(
        policy,
        end_ids=[tokenizer().eos_token_id, *end_ids],
        pad_id=tokenizer().pad_token_id,
        max_batch=max_batch,
    )


def problems(count: int, seed: int = 5, **meta: Any) -> list[Problem]:
    """Return arithmetic problems of the training split, with further `meta`."""
    drawn = sample_problems(TASKS, {"arithmetic": 1.0}, count, held_out=False, seed=seed)
    return [replace(p, meta={**p.meta, **meta}) for p in drawn]


def listed(sequence: TokenSequence) -> TokenSequence:
    """Return a sequence with its tokens in lists, to compare."""
    ids = sequence.prompt_ids, sequence.completion_ids
    prompt, completion = map(list, ids)
    return replace(sequence, prompt_ids=prompt, completion_ids=completion)


def rollout(
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    sampler_logprobs: Sequence[float] = (),
    advantage: float = 0.0,
    finish_reason: FinishReason = FinishReason.STOP,
) -> Rollout:
    """Return a rollout of given tokens."""
    logprobs = list(sampler_logprobs) or [0.0] * len(token_ids)
    made = Rollout(list(prompt_ids), list(token_ids), finish_reason=finish_reason)
    made.streams["sampler_logprobs"] = logprobs
    set_advantage(made, advantage)
    return made


def set_advantage(made: Rollout, advantage: float) -> None:
    """Give every token of a rollout the same advantage."""
    made.streams["advantage"] = [advantage] * len(made.completion_ids)


def advantage_of(made: Rollout) -> float:
    """Return the advantage that all tokens of a rollout have."""
    (advantage,) = set(made.streams["advantage"])
    return advantage


def frozen_logprobs(
    policy: Any,
    sequences: Sequence[TokenSequence],
    temperature: float,
    batching: Batching,
    precision: Precision = "float32",
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under a model of this process."""
    forward = LocalForward(policy, precision, batching.workers)
    return completion_logprobs(forward, sequences, temperature, batching)


def stage(kind: str) -> Any:
    """Return a kind of stage of the recipe; a type checker knows nothing of its `Params`."""
    return load_kinds(MANIFEST)[kind]


MAX_CHARS = 18
"""Of the length reward: random completions of twelve tokens have 10 to 31 characters."""


SMALL_RUN: dict[str, Any] = {
    "seed": 3,
    "format": "chat",
    "num_steps": 6,
    "problems_per_step": 2,
    "group_size": 4,
    "minibatches_per_rollout": 2,
    "optimizer": {"lr": 1e-2, "schedule": "cosine", "warmup_steps": 1},
    "rewards": {"length": 1.0},
    "max_tokens": 12,
}
"""Of a method that samples: a reward that a random policy can move."""


def grpo_params(**changes: Any) -> Any:
    """Return the parameters of a small run."""
    own = {"clip_low": 10.0, "clip_high": 10.0, "kl_coef": 0.05, "reference_refresh_steps": 3}
    return stage("grpo").params(**(SMALL_RUN | own | changes))


def general_problem(task: str) -> Problem:
    checker, gold = ("contains", "cat") if task == "general" else ("refusal", "sorry")
    meta = {"refusal": ["sorry"], "max_chars": MAX_CHARS}
    return Problem(f"{task}-1", task, f"a {task} prompt", gold, checker=checker, meta=meta)


def objective(
    temperature: float,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    aggregation: Aggregation,
    max_tokens: int,
    truncation: float | None = None,
) -> GrpoParams:
    """Return parameters that decide the loss of one update."""
    chosen: GrpoParams = grpo_params(
        temperature=temperature,
        clip_low=clip_low,
        clip_high=clip_high,
        kl_coef=kl_coef,
        aggregation=aggregation,
        max_tokens=max_tokens,
        sampler_truncation=truncation,
    )
    return chosen


def grpo_of(
    chosen: GrpoParams,
    engine: Any = None,
    sampler: Any = None,
    context: Any = None,
    batching: Batching | None = None,
) -> Grpo:
    """Return a run without a reference, in a folder of its own where no context is given."""
    engine = engine or SimpleNamespace(parameters={"weight": torch.zeros(1)})
    context = context or FakeContext(Path(tempfile.mkdtemp()))
    trainer = Trainer(context, engine, chosen.optimizer, chosen.num_steps)
    batching = batching or Batching(4096, "padded", tokenizer().pad_token_id)
    credit = credit_of(chosen, tokenizer(), rule_steps, None, batching)
    return Grpo(context, chosen, tokenizer(), batching, trainer, sampler, None, credit)


def update_policy(
    engine: Any,
    rollouts: Sequence[Rollout],
    reference_rows: Sequence[Sequence[float]] | None,
    chosen: GrpoParams,
    batching: Batching,
    rate: float,
    old_rows: Sequence[Sequence[float]] | None = None,
) -> dict[str, float]:
    """Make one update on given rollouts; return its measures."""
    optimizer = Optimizer(lr=rate or 1e-30)
    run = grpo_of(chosen.model_copy(update={"optimizer": optimizer}), engine, batching=batching)
    made = [replace(each, streams=dict(each.streams)) for each in rollouts]
    for name, rows in (("reference_logprobs", reference_rows), ("old_logprobs", old_rows)):
        for each, row in zip(made, rows or [], strict=bool(rows)):
            each.streams[name] = list(row)
    run.update(made, RolloutBatch(0, [], [], {}))
    logged: Any = run.context
    (row,) = logged.logged
    return {n: v for n, v in row.items() if n not in ("step", "lr", "tokens_per_s")}


class ScriptedGenerator:
    """Answers each prompt with given texts, in the order of its requests; counts its calls."""

    def __init__(self, answers: Mapping[str, Sequence[str]], fmt: AnyFormat) -> None:
        self.answers = {
            tuple(encode_prompt(tokenizer(), p, fmt)): list(a) for p, a in answers.items()
        }
        self.asked: list[SamplingParams] = []

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        self.asked.append(sampling)
        seen: dict[tuple[int, ...], int] = {}
        for request in requests:
            place = seen.setdefault(request.prompt_ids, 0)
            seen[request.prompt_ids] += 1
            ids = tokenizer()(self.answers[request.prompt_ids][place])["input_ids"]
            is_cut = len(ids) >= sampling.max_tokens
            ids = ids[: sampling.max_tokens] if is_cut else [*ids, tokenizer().eos_token_id]
            reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
            yield Sampled(request.index, ids, [-1.0] * len(ids), reason)

    def load_weights(self, tensors: Any) -> None:
        return

    def sleep(self) -> None:
        return

    def close(self) -> None:
        return


class FolderCheckpoints(SavesBeside):
    """Checkpoints as folders, named when they are whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> tuple[int, Path] | None:
        self.wait()
        found = sorted(self.folder.glob("step-*"))
        return (int(found[-1].name[5:]), found[-1]) if found else None

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        writing = self.folder / "writing"
        writing.mkdir(parents=True)
        yield writing
        writing.rename(self.folder / f"step-{step:08d}")


class LinesJournal:
    """A journal as lines of JSON, one unit each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, unit: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([unit, list(rows)]) + "\n")

    def _units(self) -> list[Any]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def done(self) -> frozenset[str]:
        return frozenset(unit for unit, _ in self._units())

    def append_lines(self, unit: str, num_rows: int, payload: bytes) -> None:
        rows = [json.loads(line) for line in payload.splitlines()]
        assert len(rows) == num_rows, "the count is that of the lines"
        self.append(unit, rows)

    def lines(self, unit: str) -> bytes:
        return json_lines(dict(self._units())[unit])

    def rows(self) -> Iterator[dict[str, Any]]:
        for _, rows in self._units():
            yield from rows


class FakeContext:
    """A stage's context in a folder; a second one in the same folder resumes the first.

    `stop_after` raises `Interrupted` at that call of `stop_if_asked`; `saves` makes every
    checkpoint due.
    """

    def __init__(self, folder: Path, *, stop_after: int = 0, saves: bool = False) -> None:
        self.name = "tested"
        self.input_ids: Mapping[str, Any] = {"model": "m" * 8}
        self.ranks = ALONE
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints: Checkpoints = FolderCheckpoints(folder / "checkpoints")
        self.logged: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.done: list[tuple[str, int, int]] = []
        self.earlier_result: Path | None = None
        self._stop_after = stop_after
        self._saves = saves
        self._stops = 0

    def output(self, name: str) -> Path:
        path = self.folder / "out" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def previous(self, name: str) -> Path | None:
        return self.earlier_result / name if self.earlier_result else None

    def journal(self, name: str) -> LinesJournal:
        return LinesJournal(self.folder / f"{name}.jsonl")

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        self.logged.append({"step": step, **values})

    def sample(self, **row: Any) -> None:
        self.samples.append(row)

    def note(self, **facts: Any) -> None:
        self.notes.update(facts)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def doing(self, what: str, done: int, total: int) -> None:
        self.done.append((what, done, total))

    def checkpoint_due(self) -> bool:
        return self._saves

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stop_if_asked(self) -> None:
        self._stops += 1
        if self._stops == self._stop_after:
            raise Interrupted("stopped by the test")

    def column(self, name: str) -> list[float]:
        """Return one metric of every logged step."""
        return [row[name] for row in self.logged]


def assert_same_weights(one: Any, other: Any) -> None:
    """Compare two models bit by bit."""
    theirs = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, theirs[name]), f"{name} differs"
