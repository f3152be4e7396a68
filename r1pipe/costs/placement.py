"""What cannot start where it was placed: devices that are not there, heads that do not divide,
weights that fit no device, mixtures of experts too large to be gathered.

`plan` warns of it at the stage, `run` refuses it at its place in the manifest, before it begins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from r1pipe.engine_settings import EngineRun
from r1pipe.errors import Mistake
from r1pipe.generator_settings import SampleRun
from r1pipe.launch.launcher import launcher_of
from r1pipe.machine import Machine, visible_gpus
from r1pipe.text import format_bytes

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, ModelInfo
    from r1pipe.manifest import StageNode
    from r1pipe.manifest.yaml_source import Origin
    from r1pipe.settings import Placement
    from r1pipe.stage import StageModel

NODE_BYTES = 8 * 80 * 10**9
"""Memory of a node's GPUs, among which links are fast."""
ASSUMED_GPU_BYTES = 80 * 10**9
"""Of a GPU that is not here."""
ENGINE, GENERATOR = "run.engine", "run.generator"


@dataclass(frozen=True)
class Misfit:
    """What cannot work; `path` leads to the value of the stage that says so."""

    path: str
    text: str
    is_certain: bool = True
    """Whether it does not rest on what is assumed of devices that are not here."""


@dataclass(frozen=True)
class Room:
    """The devices of this machine."""

    machine: Machine

    @cached_property
    def num_gpus(self) -> int:
        """GPUs that this process may use."""
        return visible_gpus(self.machine.gpus)

    def default_seqs(self, device: str) -> int:
        """Return how many completions vLLM decodes together on a GPU unless it is told
        (`EngineArgs.get_batch_defaults` of 0.32)."""
        size, is_a100 = self.device_bytes(device), any("A100" in g.name for g in self.machine.gpus)
        return 1024 if size >= (160 if is_a100 else 70) << 30 else 256

    def device_bytes(self, device: str) -> int:
        """Return the memory of a device: this machine's, or what is assumed of a GPU."""
        if device.startswith("cpu"):
            return self.machine.memory_bytes
        return max((gpu.memory_bytes for gpu in self.machine.gpus), default=ASSUMED_GPU_BYTES)


def misfits(run: StageModel, cost: Cost | None, room: Room) -> Iterator[Misfit]:
    """Yield what of a stage cannot start; without a cost its models are not known."""
    yield from _absent_devices(run, room)
    if cost is None:
        return
    for training in cost.training:
        yield from _undivided(training.model, f"{ENGINE}.sequence_parallel", training.where)
        yield from _too_many_experts(training.model, training.where)
    for sampling in cost.sampling:
        yield from _undivided(sampling.model, f"{GENERATOR}.tensor_parallel", sampling.where)
        yield from _unheld(sampling.model, sampling.where, room, is_alone=cost.has_alone(sampling))


def mistake(node: StageNode, found: Misfit) -> Mistake:
    """Return a misfit at the place of its value, or of the nearest one around it."""
    text = f"stages.{node.name}: {found.text}"
    parts = found.path.split(".")
    while parts:
        origin: Origin | None = node.origins.get(".".join(parts))
        if origin is not None:
            return origin.mistake(text)
        parts.pop()
    return Mistake(text)


def _absent_devices(run: StageModel, room: Room) -> Iterator[Misfit]:
    """Yield what needs more GPUs of this machine than may be used."""
    device = str(getattr(run, "device", "cpu"))
    if device.startswith("cpu"):
        return
    for path, number in _gpus_here(run, device).items():
        if number > room.num_gpus:
            yield Misfit(path, _absence(path, number, device, room.num_gpus))


def _gpus_here(run: StageModel, device: str) -> dict[str, int]:
    """Return how many GPUs of this machine a stage takes at once, by the field that says so."""
    launch = run.engine.launch() if isinstance(run, EngineRun) else None
    if isinstance(run, SampleRun):
        place = run.generator.place(device, "float32")
        is_beside = isinstance(run, EngineRun)
        is_elsewhere = place.is_server or place.on_cluster
        if is_elsewhere and not is_beside:
            return {}
        if place.processes > 1 and not is_elsewhere and launch is None:
            return {
                f"{GENERATOR}.{'tensor' if place.shards > 1 else 'data'}_parallel": place.processes
            }
    if launch is None:
        return {"run.device": 1}
    if launcher_of(launch, os.environ) != "local":
        return {}
    return {f"{ENGINE}.num_processes": launch.num_processes}


def _absence(path: str, number: int, device: str, there: int) -> str:
    have = f"has {there}" if there else "has none that may be used"
    if path == "run.device":
        return f"run.device: {device} needs a GPU, and this machine {have}; set run.device: cpu"
    if path.startswith(ENGINE):
        advice = "set fewer, or start it on several nodes (a hostfile, Slurm, torchrun)"
        return f"{path}: {number} processes need a GPU each, and this machine {have}; {advice}"
    advice = "set fewer, or cluster: ray"
    what = f"{GENERATOR}: tensor_parallel x data_parallel"
    return f"{what} are {number} GPUs, and this machine {have}; {advice}"


def _undivided(model: ModelInfo, path: str, where: Placement) -> Iterator[Misfit]:
    """Yield what shares attention heads among a number of devices that does not divide them."""
    is_sampler = path.startswith(GENERATOR)
    number = where.shards if is_sampler else where.sequence_parallel
    if model.num_heads is None:
        return
    fit = [n for n in range(1, model.num_heads + 1) if model.num_heads % n == 0]
    heads = f"does not divide the model's {model.num_heads} attention heads"
    if is_sampler and model.num_kv_heads is not None and number in fit:
        kv = model.num_kv_heads  # whole ones on each device, or one of them on several
        fit = [n for n in fit if kv % n == 0 or n % kv == 0]
        heads = f"neither divides the model's {kv} key-value heads nor is a multiple of them"
    if number not in fit:
        yield Misfit(path, f"{path}: {number} {heads}; use one of {', '.join(map(str, fit))}")


def _unheld(model: ModelInfo, where: Placement, room: Room, *, is_alone: bool) -> Iterator[Misfit]:
    """Yield an engine whose weights are more than its share of the devices' memory."""
    share = where.memory_frac if is_alone else where.memory_frac_beside
    if where.is_server or where.device.startswith("cpu") or not share:
        return
    weights = (2 if where.is_bf16 else 4) * model.num_parameters / where.shards
    device = room.device_bytes(where.device)
    if weights <= share * device:
        return
    yield Misfit(
        f"{GENERATOR}.tensor_parallel",
        f"{GENERATOR}: {format_bytes(weights)} of weights do not fit {share:.0%} of a GPU's"
        f" {format_bytes(device)}; raise tensor_parallel or gpu_memory_fraction",
        is_certain=bool(room.machine.gpus) and not where.on_cluster,
    )


def _too_many_experts(model: ModelInfo, where: Placement) -> Iterator[Misfit]:
    """Yield a mixture of experts that no node holds: ZeRO 3 gathers every expert on every device
    for every micro-batch, used or not."""
    if where.zero_stage < 3 or where.device.startswith("cpu") or not model.has_experts:
        return
    weights = (2.0 if where.is_bf16 else 4.0) * model.num_parameters
    if weights > NODE_BYTES:
        yield Misfit(
            ENGINE,
            "plan only: needs expert parallelism, which r1pipe does not have; by run.engine every"
            f" device would gather {format_bytes(weights)} of weights for each micro-batch",
        )
