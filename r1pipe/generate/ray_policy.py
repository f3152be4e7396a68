"""Engines on a Ray cluster that sample a policy in training.

Requests are cut into batches, and an engine that is free takes the next one. transformers has those
of the backend in one process: what is sampled together never depends on the number of engines, on
their speed or on their deaths, and neither do log-probabilities in their last bits. vLLM, whose
tokens do not depend on that as far as it can help it, has one batch for each engine: slots are
empty at a batch's end.

Weights come to them in one of two ways (`r1pipe.generate.ray_pushes`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights, in_prompt_order
from r1pipe.generate.ray_cluster import LOCAL, RayCluster, address_of
from r1pipe.generate.ray_engines import of_one_engine
from r1pipe.generate.ray_policy_engines import PolicyEngine, PolicyEngines
from r1pipe.generate.ray_pushes import BroadcastPushes, Pushes, StoredPushes
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import Precision

if TYPE_CHECKING:
    from r1pipe.generate.clusters import ClusterBackend


def batches(
    requests: Sequence[Request], slots: int, num_engines: int | None = None
) -> list[list[Request]]:
    """Return requests in batches of as many as an engine has slots; or, with `num_engines`, whose
    engines keep their slots full inside a batch, in no more batches than engines if they have so
    many slots."""
    ordered = sorted(requests, key=in_prompt_order)
    size = slots if num_engines is None else max(slots, math.ceil(len(ordered) / num_engines))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def refuse_own_gpus(address: str | None) -> None:
    """Raise StageError if samplers would be given the GPUs of the trainer, which is this run."""
    if address_of(address) == LOCAL:
        raise StageError(
            "run.generator.cluster: a cluster that this run starts would give the samplers the"
            " trainer's GPUs; set run.generator.address or RAY_ADDRESS to one that has others"
            " (CUDA_VISIBLE_DEVICES=1,2,3 ray start --head), or leave the cluster out"
        )


def weight_bytes(folder: Path) -> int:
    """Return what the weights of a model's folder take in float32, as a trainer has them."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
            count += sum(map(math.prod, shapes))
    return 4 * count


class RayPolicy:
    """A generator whose engines are elsewhere, and are given the weights of a policy."""

    def __init__(
        self, settings: ClusterBackend, folder: Path, run: SampleRun, precision: Precision
    ) -> None:
        """Start `data_parallel` engines; return as soon as the first is up.

        Raises StageError if none can be.
        """
        self.settings = settings
        self._size = settings.concurrency(run.max_batch)
        self._sampling = 0
        on_gpus = not run.device.startswith("cpu")
        if on_gpus:
            refuse_own_gpus(settings.address)
        devices = settings.devices_per_engine if on_gpus else (run.workers or 1)
        num_cpus, size = devices * settings.data_parallel, weight_bytes(folder)
        cluster = RayCluster(settings.address, num_cpus, size)
        spec = cluster.spec(of_one_engine(settings, run), folder, precision)
        bundles = cluster.bundles(devices, on_gpus=on_gpus)
        self.engines = PolicyEngines(settings, cluster, spec, bundles)
        self.losses = self.engines.losses
        self._pushes: Pushes = StoredPushes(self.engines)
        if settings.weight_transfer == "broadcast":
            self._pushes = BroadcastPushes(self.engines, run.device)

    @property
    def pushed_bytes(self) -> int:
        """Of the last push."""
        return self._pushes.num_bytes

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion, batch by batch, as engines end them.

        Raises StageError when an engine refuses a request, when the last one is gone for good, or
        when none has been up for too long.
        """
        self._sampling += 1
        num_engines = self.settings.data_parallel if self.settings.fills_slots else None
        waiting = deque(batches(requests, self._size, num_engines))
        for engine in self.engines.all:
            engine.batch = []  # of a sampling that was left; what comes of it is not used
        num_left = len(waiting)
        while num_left:
            for engine in self._free():
                if waiting:
                    self._begin(engine, waiting.popleft(), sampling)
            heard = self.engines.wait()
            engine = heard.engine
            if heard.found is None:
                if engine.batch:
                    waiting.appendleft(engine.batch)
                    engine.batch = []
            elif heard.call == self._sampling:
                engine.batch, num_left = [], num_left - 1
                yield from heard.found

    def _free(self) -> list[PolicyEngine]:
        """Return the engines that can sample now.

        Raises StageError if none ever will with the weights that were pushed.
        """
        usable = [engine for engine in self.engines.up() if self._pushes.reached(engine)]
        if not usable and self.engines.up():
            raise StageError(
                f"{self.engines.last_loss}; no engine that is up has the weights of the policy,"
                " which a broadcast gives to those that are up at a push"
                " (run.generator.weight_transfer); what was trained so far is saved, and the stage"
                " can be resumed"
            )
        return [engine for engine in usable if not engine.batch]

    def load_weights(self, tensors: Weights) -> None:
        """Give the engines the weights of the policy, or put them where engines take them from."""
        self._pushes.push(tensors)

    def sleep(self) -> None:
        """Engines have their devices to themselves."""

    def close(self) -> None:
        """End the engines and give their places back; who waits for them in another thread is told
        so."""
        self._pushes.close()
        self.engines.close()

    def _begin(self, engine: PolicyEngine, batch: list[Request], sampling: SamplingParams) -> None:
        engine.batch = batch
        reply = engine.actor.sample.remote(self._pushes.pushed, batch, sampling)
        self.engines.ask(engine, self._sampling, reply)
