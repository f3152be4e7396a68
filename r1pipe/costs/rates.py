"""How fast a machine trains and samples: measured points, or stated assumptions.

A point is (operations of a token's forward pass, seconds per token). Between points the line
between them holds, above the largest the slope of the last two, below the smallest its value: small
models pay for calls, large ones for operations, and the points show where one turns into the other.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from r1pipe.costs.memory import cache_bytes_of_token
from r1pipe.costs.models import forward_flops
from r1pipe.costs.work import Range, SamplingWork, Training
from r1pipe.keys import JsonObject
from r1pipe.settings import Placement

FORMAT = 1
MEASURED = Range(0.7, 1.5)
"""Around a prediction from points: other lengths, a busy machine."""
ADAPTER_FRAC = Range(2 / 3, 1.0)
"""Of the time of a training token, if the weights are frozen: they need no own gradient."""
SCORE_FRAC = 1 / 3
"""Time of a forward pass, as a share of forward and backward."""
PARALLEL_FRAC = Range(0.75, 0.95)
"""Share of its speed that each of several devices keeps."""
TRAINER_FRAC = Range(0.9, 1.0)
"""The same of trainers on GPUs, whose assumed speed was measured on eight: from 8 or 16 to 64 of
them each lost 0 to 7 % (MosaicML's llm-foundry, scripts/train/benchmarking, H100 80GB BF16)."""

READ_FRAC = Range(1.0, 1.5)
"""Of the time in which memory could be read. vLLM decodes one completion at about 77 % of the
bandwidth."""
SERVER_TOKEN_S = Range(0.005, 0.05)
"""Seconds per token of each request that a server works on at once."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Speed:
    """One engine on one device: points of training or of sampling in full batches.

    `step_layer_s` is one layer of one decoding step of very few completions: what a batch that is
    not full still pays.
    """

    points: tuple[Point, ...]
    step_layer_s: float = 0.0

    def token_s(self, flops: float) -> float:
        """Return seconds per token for so many operations."""
        points = sorted(self.points)
        if len(points) == 1:
            return points[0][1] * max(1.0, flops / points[0][0])
        if flops <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if flops <= x1:
                return y0 + (y1 - y0) * (flops - x0) / (x1 - x0)
        (x0, y0), (x1, y1) = points[-2:]
        slope = (y1 - y0) / (x1 - x0)
        # noise may have made the line flat: never less than a third of what the ratio gives
        return max(y1 + slope * (flops - x1), y1 * flops / x1 / 3)


@dataclass(frozen=True)
class Calibration:
    """Measurements on a machine; `speeds` by 'train:torch:cpu', 'sample:vllm:cuda', ...

    `failed` says, by the same names, why an engine that is there could not be measured; `load` is
    how many processes wanted a core before it began, for each core.
    """

    machine: JsonObject
    versions: Mapping[str, str]
    made: str
    speeds: Mapping[str, Speed] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    load: float = 0.0

    def to_json(self) -> JsonObject:
        """Return plain values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: JsonObject) -> Calibration:
        """Read what `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        if value["format"] != FORMAT:
            raise ValueError(f"calibration format {value['format']}")
        speeds = {
            name: Speed(points_of(speed["points"]), float(speed["step_layer_s"]))
            for name, speed in value["speeds"].items()
        }
        names = ("machine", "versions", "made", "failed", "load")
        return cls(**{name: value[name] for name in names}, speeds=speeds)


@dataclass(frozen=True)
class Assumed:
    """Speed if nothing was measured: per token, operation (training and sampling), decoding step of
    a layer, byte read, and parameter of an update."""

    token_s: Range
    flops_per_s: Range
    sampling_flops_per_s: Range
    step_layer_s: Range
    bytes_per_s: float
    update_s: Range
    words: str

    def training_s(self, flops: float) -> Range:
        """Return seconds per token for so many operations of training."""
        return self.token_s + _time(flops, self.flops_per_s)

    def sampling_s(self, flops: float) -> Range:
        """Return seconds per token for so many operations of sampling."""
        return self.token_s + _time(flops, self.sampling_flops_per_s)


def _time(flops: float, flops_per_s: Range) -> Range:
    return Range(flops / flops_per_s.high, flops / flops_per_s.low)


CPU = Assumed(
    Range(15e-6, 120e-6),
    Range(10e9, 150e9),
    Range(10e9, 150e9),
    Range(5e-5, 6e-4),
    20e9,
    Range(1e-9, 6e-9),
    "a processor of a few cores",
)
GPU = Assumed(
    Range(1e-6, 1e-5),
    Range(200e12, 425e12),
    Range(200e12, 450e12),
    Range(2e-5, 1e-4),
    3e12,
    Range(1e-11, 1e-10),
    "GPUs of the H100 class (80 GB, 990 TFLOP/s in bf16) at 20 to 43 % of their peak",
)
"""Training: on eight H100, models of 0.76 to 30B reach 30 to 46 % of the peak with sequences of up
to 8,192 tokens, of 7B 37 to 43 % with checkpointed activations (llm-foundry, as above). The slow
end is two thirds of the slowest, since none of them is this trainer.
Sampling: vLLM 0.6.0 writes 8,088 tokens/s of Llama 3.1 8B on one, 256 at once (Lambda's
vllm-benchmark, benchmark_v0.md); by these numbers it is about 3,900 to 8,700."""


def training_seconds(work: Training, calibration: Calibration | None) -> tuple[Range, bool]:
    """Return the time of a training work, and whether it comes from a measurement."""
    flops = forward_flops(work.model, work.mean_tokens / 2)
    trained = work.tokens if work.adapter_parameters is None else work.tokens * ADAPTER_FRAC
    tokens = trained + work.scored_tokens * SCORE_FRAC
    speed = _speed("train", work.where, calibration)
    if speed is not None:
        return _shared(tokens * MEASURED * speed.token_s(flops), work.where), True
    assumed = assumed_for(work.where)
    seconds = tokens * assumed.training_s(3 * flops)
    update_s = assumed.update_s * float(work.trained_parameters) * work.updates
    return _shared(seconds + update_s, work.where, TRAINER_FRAC), False


def sampling_seconds(
    work: SamplingWork, calibration: Calibration | None, slots: Range | None = None
) -> tuple[Range, bool]:
    """Return the time of a sampling work, and whether it comes from a measurement.

    Each step of an engine with `slots` completions (default: all `at_once`) reads the weights, and
    the keys and values of the tokens before. A round that is waited for may end with one completion
    of the greatest length alone.
    """
    mean = (work.prompt_tokens + work.completion_tokens).high
    flops = forward_flops(work.model, mean)
    tokens = work.tokens + work.prompts * work.prompt_tokens + work.extra_tokens
    layers = work.model.num_layers
    speed = _speed("sample", work.where, calibration)
    if speed is not None:
        thin = work.rounds * work.completion_tokens * (layers * speed.step_layer_s)
        full = tokens * speed.token_s(flops)
        seconds = Range(max(full.low, thin.low), max(full.high, thin.high))
        alone = _steps_alone(work) * (layers * speed.step_layer_s)
        return _shared(seconds * MEASURED, work.where) + alone * MEASURED, True
    if work.where.is_server:
        return work.tokens * SERVER_TOKEN_S * (1 / work.at_once), False
    assumed = assumed_for(work.where)
    width = 2.0 if work.where.is_bf16 else 4.0
    together = slots or Range(work.at_once)
    batches = Range(
        max(work.rounds.low, work.completions.low / together.high),
        max(work.rounds.high, work.completions.high / together.low),
    )
    steps = batches * work.completion_tokens
    before = work.prompt_tokens + work.completion_tokens * 0.5
    cached = work.tokens * before * cache_bytes_of_token(work)
    weights = width * work.model.active_parameters
    read_s = READ_FRAC * (1 / assumed.bytes_per_s)
    step_s = assumed.step_layer_s * layers + read_s * weights
    seconds = tokens * assumed.sampling_s(flops) + steps * step_s + cached * read_s
    alone_s = assumed.step_layer_s * layers + read_s * (weights / work.where.shards)
    return _shared(seconds, work.where) + _steps_alone(work) * alone_s, False


def _steps_alone(work: SamplingWork) -> Range:
    """Return the decoding steps in which an engine has one completion left, or none, in the rounds
    that are waited for: every engine then waits, so devices do not share them."""
    most = max(0.0, work.longest - work.completion_tokens.low)
    return Range(0, work.waits.high * most)


def overlapped(training: Range, sampling: Range, num_rollouts: int, *, is_apart: bool) -> Range:
    """Return the time of rollouts that are sampled while the policy trains on earlier ones.

    Of R rollouts, each of which takes s to sample and t to train on, the first is sampled before
    anything is trained and the last is trained on when all is sampled; between, whoever is faster
    waits: s + (R - 1) max(s, t) + t. With S = R s and T = R t that is

        max(S, T) + min(S, T) / R.

    Where both share the same devices each may take all of them, and the sum is possible too.
    """
    low, high = (
        max(t, s) + min(t, s) / num_rollouts
        for t, s in ((training.low, sampling.low), (training.high, sampling.high))
    )
    return Range(low, high if is_apart else training.high + sampling.high)


def assumption(where: Placement) -> str:
    """Say what is assumed of an engine that was not measured."""
    if where.is_server:
        low, high = SERVER_TOKEN_S.low * 1000, SERVER_TOKEN_S.high * 1000
        return f"a server that needs {low:.0f} to {high:.0f} ms for each token of a request"
    return f"the speed of {assumed_for(where).words}"


def assumed_for(where: Placement) -> Assumed:
    """Return what is assumed of a device that was not measured."""
    return CPU if where.device.startswith("cpu") else GPU


def speed_name(role: str, where: Placement) -> str:
    """Return the name of an engine on a device in a calibration."""
    device = where.device.partition(":")[0]
    return f"{role}:{where.backend}:{device}"


def read_calibration(path: Path) -> Calibration | None:
    """Return a machine's calibration, or None without one; an unreadable file counts as none."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
    return None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Place a calibration whole; OSError if it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(calibration.to_json(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def calibration_path(node: str, environ: Mapping[str, str] | None = None) -> Path:
    """Return where a machine's calibration is kept: the user's cache, a file for each machine."""
    settings = os.environ if environ is None else environ
    cache = settings.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    safe = "".join(char if char.isalnum() or char in "-." else "_" for char in node) or "machine"
    return Path(cache) / "r1pipe" / f"calibration-{safe}.json"


def _speed(role: str, where: Placement, calibration: Calibration | None) -> Speed | None:
    if calibration is None:
        return None
    return calibration.speeds.get(speed_name(role, where))


def _shared(seconds: Range, where: Placement, kept: Range = PARALLEL_FRAC) -> Range:
    """Divide a time among several devices, each of which keeps a share of its speed. On a CPU
    processes share the cores: nothing is won."""
    if where.processes == 1 or where.device.startswith("cpu"):
        return seconds
    low = seconds.low / (where.processes * kept.high)
    return Range(low, seconds.high / (where.processes * kept.low))


def points_of(pairs: Sequence[Point]) -> tuple[Point, ...]:
    """Return measured points in order, one for each number of operations (the faster one)."""
    best: dict[float, float] = {}
    for flops, seconds in pairs:
        best[flops] = min(seconds, best.get(flops, seconds))
    return tuple(sorted(best.items()))
