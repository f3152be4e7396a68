"""One side of `benchmarks/trainers.py`: r1pipe, TRL or plain matrix products, a step at a time.

A process of its own: it says that it is ready, makes one step for every line it is given, and
answers with what the step took. So the sides take turns, and processor time is that of one side.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainers_data import (
    GROUP_SIZE,
    GRPO_RATE,
    LEARNING_RATE,
    MAX_STEPS,
    MAX_TOKENS,
    NUM_PROMPTS,
    NUM_SAMPLED,
    SEED,
    problems,
    sequences,
    supervised_params,
)

from r1pipe.launch.process import prepare_process


class Turns:
    """Waits for the word to make a step, and tells what it took."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self._began = (0.0, 0.0)
        self._parts: dict[str, list[float]] = {}
        self.facts: dict[str, float] = {}
        self._is_running = False

    def next(self) -> None:
        """Answer for the step that ended, if any did, and wait; ends the process at the end."""
        if self._is_running:
            wall, cpu = (now - then for now, then in zip(_now(), self._began, strict=True))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            measured = {"wall": wall, "cpu": cpu, "peak_mib": peak, "gpu_mib": _gpu_mib()}
            self._say({**measured, "parts": self._parts, "facts": self.facts})
        else:
            self._say({"ready": True})
        if not sys.stdin.readline():
            os._exit(0)
        self._is_running, self._parts, self._began = True, {}, _now()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its wall and CPU seconds added to a part of the step."""

        def run(*args: Any, **options: Any) -> Any:
            began = _now()
            found = function(*args, **options)
            spent = [now - then for now, then in zip(_now(), began, strict=True)]
            before = self._parts.get(name, [0.0, 0.0])
            self._parts[name] = [a + b for a, b in zip(before, spent, strict=True)]
            return found

        return run

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def _now() -> tuple[float, float]:
    """Return both clocks, once a GPU has done what it was given."""
    if (cuda := _cuda()) is not None:
        cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _cuda() -> Any:
    """Return torch's GPU if this process uses one."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _gpu_mib() -> float:
    """Return the most MiB that PyTorch took of a GPU for this process; 0 without one."""
    return 0.0 if (cuda := _cuda()) is None else float(cuda.max_memory_reserved()) / 2**20


class StepContext:
    """A stage's context that keeps nothing; every rollout or supervised step is a turn."""

    def __init__(self, turns: Turns) -> None:
        from r1pipe.ranks import ALONE

        self.ranks, self.checkpoints, self.turns = ALONE, self, turns

    def latest(self) -> None:
        """There are no checkpoints."""

    def check(self) -> None:
        """None is being written."""

    def checkpoint_due(self) -> bool:
        """Never."""
        return False

    def stop_if_asked(self) -> None:
        """Called by both loops after each step."""
        self.turns.next()

    def interruptible(self) -> AbstractContextManager[None]:
        """Nothing ends it early."""
        return nullcontext()

    def log(self, step: int, total: int, **measures: float) -> None:
        """Tell what both sides must agree on."""
        kept = ("loss", "completion_tokens", "flat_group_frac", "trained_frac")
        self.turns.facts = {name: measures[name] for name in kept if name in measures}

    def sample(self, **row: Any) -> None:
        """Keep none."""

    def note(self, **facts: Any) -> None:
        """Keep none."""

    def warn(self, text: str) -> None:
        """Keep none."""

    def doing(self, what: str, done: int, total: int) -> None:
        """Show none."""


# ---- r1pipe --------------------------------------------------------------------------------------


def our_grpo(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Run the algorithm of the stage `grpo`, its parts timed."""
    import torch

    from r1pipe.manifest.kinds import load_kinds
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.policies.setup import opened, with_room_for
    from r1pipe.policies.training import train_policy
    from r1pipe.train.backends import load_trained

    torch.set_num_threads(1)
    stage = load_kinds(Path(__file__).parents[1] / "manifests" / "r1.yaml")["grpo"]
    params: Any = grpo_params(stage, options)
    asked = problems(options.pop("mean_chars"))
    run: Any = stage.run_model(**options)
    context: Any = StepContext(turns)
    model, tokenizer = load_trained(folder, run, params.precision), load_tokenizer(folder)
    run = with_room_for(asked, run, params, folder, tokenizer)
    with timed_setup(turns), opened(context, model, tokenizer, params, run) as grpo:
        if not run.generator.samples_policy:
            grpo.generator.load_weights(grpo.trainer.engine.weights())
        train_policy(grpo, asked)


def grpo_params(stage: Any, options: dict[str, Any]) -> Any:
    """Return the parameters of the stage; what decides them is taken out of the options."""
    return stage.params(
        seed=SEED,
        format="chat",
        num_steps=MAX_STEPS,
        problems_per_step=NUM_PROMPTS,
        group_size=GROUP_SIZE,
        optimizer={"lr": GRPO_RATE},
        rewards={"length": 1.0},
        clip_low=0.2,
        clip_high=0.2,
        kl_coef=options.pop("kl_coef"),
        reference_refresh_steps=400,
        aggregation="token-mean",
        max_tokens=MAX_TOKENS,
        precision=options.pop("precision", "float32"),
    )


@contextmanager
def timed_setup(turns: Turns) -> Iterator[None]:
    """Time the parts of what a GRPO run opens inside the block; the first turn begins there."""
    from r1pipe.policies import setup

    make_engine, generator_of, make_reference = (
        setup.make_engine,  # type: ignore[attr-defined]
        setup.generator_of,  # type: ignore[attr-defined]
        setup.make_reference,  # type: ignore[attr-defined]
    )

    def engine(*args: Any) -> Any:
        return time_engine(turns, make_engine(*args))

    def generator(*args: Any, **rest: Any) -> Any:
        made = generator_of(*args, **rest)
        whole = turns.timed("generation", lambda *a, f=made.generate: list(f(*a)))
        made.generate = whole  # type: ignore[method-assign]
        turns.next()
        return made

    def reference(*args: Any) -> Any:
        made = make_reference(*args)
        made.logprobs = turns.timed("reference", made.logprobs)  # type: ignore[method-assign]
        return made

    with (
        patch.object(setup, "make_engine", engine),
        patch.object(setup, "generator_of", generator),
        patch.object(setup, "make_reference", reference),
    ):
        yield


def our_sft(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Run the supervised loop."""
    import torch

    from r1pipe.engine_settings import TrainRun
    from r1pipe.settings import Optimizer
    from r1pipe.train.backends import load_trained, make_engine
    from r1pipe.train.batching import batching_of
    from r1pipe.train.supervised import train_supervised

    torch.set_num_threads(1)
    precision = options.pop("precision", "float32")
    run = TrainRun(**options)
    model = load_trained(folder, run, precision)
    made = make_engine(model, Optimizer(lr=LEARNING_RATE), run, precision=precision)
    engine = time_engine(turns, made)
    batching = batching_of(run, model.config.pad_token_id)
    rows = sequences(model.config.vocab_size)
    context: Any = StepContext(turns)
    turns.next()
    train_supervised(context, engine, rows, supervised_params(), batching)


def time_engine(turns: Turns, engine: Any) -> Any:
    """Time an engine's two parts of a step."""
    engine.accumulate = turns.timed("forward and backward", engine.accumulate)
    engine.step = turns.timed("optimizer", engine.step)
    return engine


# ---- sampling only -------------------------------------------------------------------------------


def prompts_of(folder: Path) -> list[list[int]]:
    """Return the prompts of all steps as tokens."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.models.prompts import encode_prompt

    tokenizer = load_tokenizer(folder)
    return [encode_prompt(tokenizer, problem.prompt, "chat") for problem in problems(1.0)]


def our_sampling(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Sample groups by the backend `transformers`."""
    import torch

    from r1pipe.generate.protocol import Request, SamplingParams
    from r1pipe.generate.transformers_backend import TransformersSettings
    from r1pipe.generator_settings import SampleRun
    from r1pipe.models.policy import load_tokenizer

    torch.set_num_threads(1)
    run = SampleRun(**options.pop("run", {}))
    generator = TransformersSettings().open_sealed(
        folder, load_tokenizer(folder), run, options["precision"]
    )
    prompts = prompts_of(folder)
    for start in range(0, len(prompts), NUM_SAMPLED):
        turns.next()
        chosen = prompts[start : start + NUM_SAMPLED]
        requests = [
            Request(tuple(prompt), SEED * start + number, number)
            for number, prompt in enumerate(p for p in chosen for _ in range(GROUP_SIZE))
        ]
        sampling = SamplingParams(1.0, 1.0, MAX_TOKENS)
        turns.facts = {
            "tokens": sum(len(s.token_ids) for s in generator.generate(requests, sampling))
        }
    turns.next()


# ---- matrix products -----------------------------------------------------------------------------


def gemm(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Multiply square matrices (of 1024), for the rate that the machine has to give."""
    import torch

    kind = torch.bfloat16 if options["bf16"] else torch.float32
    size, device = options.get("size", 1024), options.get("device", "cpu")
    one, other = torch.randn(2, size, size).to(device, kind).unbind()
    for _ in range(options["products"]):
        torch.mm(one, other)

    while True:
        turns.next()
        for _ in range(options["products"]):
            torch.mm(one, other)
        turns.facts = {"gflop": options["products"] * 2 * size**3 / 1e9}


def side_of(name: str) -> Callable[[Path, Turns, dict[str, Any]], None]:
    """Return what a side does."""
    if "TRL" in name:
        import trainers_trl

        return trainers_trl.trl_grpo if name.startswith("grpo") else trainers_trl.trl_sft
    if name != "gemm" and "r1pipe" not in name:
        import trainers_plain

        return trainers_plain.SIDES[name]
    return {
        "grpo:r1pipe": our_grpo,
        "sft:r1pipe": our_sft,
        "sample:r1pipe": our_sampling,
        "gemm": gemm,
    }[name]


def main() -> None:
    """Be the side that the command line names: side, folder of the model, options as JSON."""
    side, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    turns = Turns()
    if "r1pipe" in side:
        prepare_process()
    side_of(side)(folder, turns, options)


if __name__ == "__main__":
    main()
