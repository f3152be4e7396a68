"""Connecting to a Ray cluster, and placing engines on it. Ray is imported only here."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from r1pipe.errors import StageError
from r1pipe.generate.ray_actor import EngineActor, EngineSpec
from r1pipe.generate.ray_files import listed
from r1pipe.machine import shared_memory, usable_cores
from r1pipe.settings import Precision

INSTALL = "pip install 'r1pipe[ray]'"
OBJECT_STORE_BYTES = 100 << 20
"""Of a cluster on this machine, besides weights: requests and completions are small."""
STORE_FRAC = 1.25
"""Room between the objects of a store."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Of every engine's process."""
SPANNING = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Of an engine over several nodes, whose own process has no GPU: it may see those of its node."""
CLIENT = "ray://"
"""Of a run that is on none of the cluster's nodes."""
LOCAL = "local"
"""The address of a cluster that is started for one run."""
LISTEN_S = 20.0
"""Longest wait for whoever is to listen at an address. Ray itself would try it for a quarter of an
hour, in which no signal is heard: twenty times, for some forty seconds each."""
TRIES = "RAY_gcs_server_port_wait_time_s"
"""How often Ray tries an address at which something listens, such as another service."""
MAX_PORT = 65_535
MAX_SHOWN = 400
UNHEARD = "all references to the actor were removed"
"""What Ray says of an actor whose owner it cannot ask: the run keeps its references."""


@dataclass
class ClusterEngine:
    """One engine, whatever actor it is at present."""

    number: int
    group: Any
    """Its placement group."""
    restarts_left: int
    actor: Any = None
    place: str = "not placed"
    """Host and process, once it has been up."""
    is_up: bool = False
    is_gone: bool = False
    """For good; its place is given back."""


class RayCluster:
    """A connection to a cluster, which this process keeps until it ends.

    Engines belong to it: whatever ends the process, Ray ends them.
    """

    def __init__(self, address: str | None, num_cpus: int, pushed_bytes: int = 0) -> None:
        """Connect to `address`, else to RAY_ADDRESS, else start a cluster on this machine that has
        `num_cpus` cores to give, and room for so many bytes of weights in its object store.

        Raises StageError if Ray is missing or nobody answers.
        """
        self.ray = import_ray()
        self.address = address_of(address)
        if not self.ray.is_initialized():
            self._connect(num_cpus, pushed_bytes)

    @property
    def is_local(self) -> bool:
        """Whether the cluster was started for this run: it never has more than now."""
        return self.address == LOCAL

    @property
    def is_remote(self) -> bool:
        """Whether this process is on none of the cluster's nodes."""
        return self.address.startswith(CLIENT)

    def _connect(self, num_cpus: int, pushed_bytes: int) -> None:
        options: dict[str, Any] = {}
        if self.is_local:
            options = {
                "num_cpus": max(num_cpus, usable_cores()),
                "object_store_memory": store_bytes(pushed_bytes, shared_memory()),
                "include_dashboard": False,
            }
        else:
            if (why := unheard(self.address, LISTEN_S)) is not None:
                raise StageError(_no_cluster(self.address, why))
            use_own_token()
        failures = ConnectionError, RuntimeError, ValueError, self.ray.exceptions.RayError
        with own_signals(), nullcontext() if self.is_local else one_try():
            try:
                self.ray.init(self.address, log_to_driver=False, configure_logging=False, **options)
            except failures as error:
                raise StageError(_no_cluster(self.address, last_line(error))) from error

    def spec(self, run: str, folder: Path, precision: Precision) -> EngineSpec:
        """Return what engines for the model in a folder are built from, on whatever node."""
        node = None if self.is_remote else self.own_node
        whole = folder.resolve()
        return EngineSpec(run, str(whole), precision, listed(whole, node))

    @property
    def own_node(self) -> str:
        """Ray's id of the node of this process."""
        return str(self.ray.get_runtime_context().get_node_id())

    @property
    def own_host(self) -> str:
        """The address of this machine for the cluster's other nodes."""
        return str(self.ray.util.get_node_ip_address())

    @property
    def resources(self) -> Mapping[str, float]:
        """What all nodes have together."""
        found: Mapping[str, float] = self.ray.cluster_resources()
        return found

    def bundles(self, num_devices: int, *, on_gpus: bool) -> list[dict[str, float]]:
        """Return what one engine asks for: one bundle, or if no node has as many GPUs, one bundle
        for each."""
        if not on_gpus:
            return [{"CPU": num_devices}]
        gpus = [node["Resources"].get("GPU", 0) for node in self.ray.nodes() if node["Alive"]]
        if 0 < max(gpus, default=0) < num_devices:
            return [{"GPU": 1, "CPU": 1}] * num_devices
        return [{"GPU": num_devices, "CPU": 1}]

    def reserve(self, bundles: list[dict[str, float]]) -> Any:
        """Ask for a placement group; what is in it waits until there is one."""
        strategy = "STRICT_PACK" if len(bundles) == 1 else "PACK"
        return self.ray.util.placement_group(bundles, strategy=strategy)

    def start(self, group: Any, spec: EngineSpec, kind: type | None = None) -> Any:
        """Return a new actor in a placement group, an `EngineActor` or of another kind."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundles = group.bundle_specs
        spans = len(bundles) > 1
        own = {"CPU": 1, "GPU": 0} if spans else {"CPU": 0, "GPU": 0, **bundles[0]}
        if kind is None:
            actor = self.ray.remote(concurrency_groups={"orders": 1, "replies": 1})(EngineActor)
        else:
            actor = self.ray.remote(kind)
        environment = ENVIRONMENT | (SPANNING if spans else {})
        return actor.options(
            num_cpus=own["CPU"],
            num_gpus=own["GPU"],
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group,
                placement_group_bundle_index=0,
                placement_group_capture_child_tasks=spans,
            ),
            runtime_env={"env_vars": environment},
        ).remote(spec)

    def lose(self, engine: ClusterEngine, why: str, max_restarts: int) -> str:
        """End what is left of an engine; return what there is to say of it.

        It is to be started again, or `is_gone` if it was as often as it may.
        """
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(engine.actor)
        text, engine.is_up, engine.actor = f"engine {engine.number} ({why}) is lost", False, None
        if engine.restarts_left:
            engine.restarts_left -= 1
            return f"{text} and started again"
        engine.is_gone = True
        self._release(engine)
        return f"{text} after {max_restarts} restarts; run.generator.max_restarts allows no more"

    def end(self, engines: Iterable[ClusterEngine]) -> None:
        """End engines and give their places back."""
        for engine in engines:
            with suppress(self.ray.exceptions.RayError):
                if engine.actor is not None:
                    self.ray.kill(engine.actor)
                if not engine.is_gone:
                    self._release(engine)

    def _release(self, engine: ClusterEngine) -> None:
        self.ray.util.remove_placement_group(engine.group)


def store_bytes(pushed: int, shared: int) -> int:
    """Return the size of an object store that weights are pushed through, in shared memory of a
    size: the rest of them Ray keeps on a disk."""
    wanted = OBJECT_STORE_BYTES + int(STORE_FRAC * pushed)
    return max(OBJECT_STORE_BYTES, min(wanted, int(shared / STORE_FRAC)))


def address_of(given: str | None) -> str:
    """Return the address of the cluster that a run takes: the one given, that of the environment,
    or else one that it starts for itself."""
    return given or os.environ.get("RAY_ADDRESS") or LOCAL


def unheard(address: str, wait_s: float) -> str | None:
    """Return why nobody listens at `HOST:PORT` within a time in seconds; None if somebody does, or
    if the address has another form, such as `auto`, which Ray alone understands."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal():
        return None
    if int(port) > MAX_PORT:
        return f"there is no port {port}"
    end = monotonic() + wait_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=wait_s):
                return None
        except OSError as error:
            if monotonic() >= end:
                return str(error)
        sleep(0.5)


def _no_cluster(address: str, why: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({why}); start one with `ray start --head`, or"
        " correct run.generator.address or RAY_ADDRESS"
    )


@contextmanager
def one_try() -> Iterator[None]:
    """Have Ray try an address once inside the block, unless the environment says how often."""
    is_ours = TRIES not in os.environ
    os.environ.setdefault(TRIES, "1")
    try:
        yield
    finally:
        if is_ours:
            os.environ.pop(TRIES, None)


def import_ray() -> Any:
    """Return the module `ray`; StageError with the command that installs it if it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray._private.worker
        import ray.util
    except ImportError:
        raise StageError(
            f"run.generator.cluster is ray, which is not installed here; install it with\n"
            f"    {INSTALL}\n(docs/scale.md), or leave the option out"
        ) from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    # what raylets say of workers that died would come between our lines; engines' ends are told
    ray._private.worker.print_to_stdstream = _unsaid
    return ray


def _unsaid(data: object, ignore_prefix: bool) -> None:
    return None


@contextmanager
def own_signals() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray takes for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def use_own_token() -> None:
    """Show the token of this user to the cluster, as `ray start` does if there is one.

    Ray 2.60 does so by itself only where it looks for the address.
    """
    with suppress(ImportError):
        from ray._private.authentication import authentication_token_setup as tokens

        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def last_line(error: BaseException) -> str:
    """Return the end of what Ray says, which has the cause, on one line, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    for line in lines:
        if line.startswith("The actor is dead because"):
            text = line.partition("Worker exit detail: ")[2] or line
    text = text.partition(" Some common causes")[0]
    if UNHEARD in text:
        return (
            "the cluster cannot speak to this run, which has another token (RAY_AUTH_TOKEN,"
            " ~/.ray/auth_token); give all nodes the same, or set RAY_AUTH_MODE=disabled where the"
            " cluster has none"
        )
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
