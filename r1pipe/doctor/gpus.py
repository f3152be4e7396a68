"""Checks of GPUs: whether torch can use them, and what several of them need to work together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from r1pipe.doctor.checks import Check
from r1pipe.doctor.packages import Found, parse_version
from r1pipe.text import format_bytes

if TYPE_CHECKING:
    from r1pipe.keys import JsonObject
    from r1pipe.machine import Gpu

LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Major version of CUDA -> the oldest branch of the driver that runs it (NVIDIA, CUDA
Compatibility, minor version compatibility)."""
MIN_SHARED_BYTES = 1 << 30
"""Of /dev/shm: weights on their way to an engine of several processes are files there."""


def check_gpus(gpus: Sequence[Gpu], torch: Found | None, shared_bytes: int) -> list[Check]:
    """Check the GPUs that the driver lists, whether torch can use them, and what they share."""
    facts: JsonObject = (torch.facts if torch else None) or {}
    seen = facts.get("gpus", [])
    checks = [
        Check(
            "gpu",
            f"gpu {index}",
            "ok",
            f"{gpu.name}, {format_bytes(gpu.memory_bytes)}, driver {gpu.driver}",
        )
        for index, gpu in enumerate(gpus)
    ]
    if not gpus:
        checks = [
            Check(
                "gpu",
                f"gpu {index}",
                "ok",
                f"{gpu['name']}, {format_bytes(gpu['memory_bytes'])}, "
                f"{format_bytes(gpu['free_bytes'])} free",
            )
            for index, gpu in enumerate(seen)
        ]
    none = Check("gpu", "gpu", "note", "none; stages run on the CPU (run.device: cpu)", "")
    return [
        *(checks or [none]),
        *(_check_cuda(gpus, facts) if gpus and facts else ()),
        *_check_alike([(gpu.name, gpu.memory_bytes) for gpu in gpus]),
        *(_check_nccl(facts) if max(len(gpus), len(seen)) > 1 else ()),
        *check_shared_memory(shared_bytes),
    ]


def _check_cuda(gpus: Sequence[Gpu], facts: JsonObject) -> Iterator[Check]:
    """Yield what keeps torch from the GPUs: the CUDA that it is built for, or the driver."""
    build = facts.get("cuda_build")
    what = f"CUDA {build}" if build else "the CPU only"
    least = LEAST_DRIVERS.get(_major(build), 0)
    oldest = min((gpu.driver for gpu in gpus), key=_major)
    if build and _major(oldest) < least:
        fits = max((c for c, d in LEAST_DRIVERS.items() if _major(oldest) >= d), default=None)
        advice = f"torch is built for {what}; install driver {least} or newer"
        if fits is not None:
            advice += f", or a torch that is built for CUDA {fits}"
        yield Check("gpu", "driver", "warning", oldest, f">={least} for {what}", advice)
    elif not facts.get("cuda_works"):
        advice = (
            f"torch is built for {what} and cannot use the GPUs; install a build for the CUDA of"
            " this driver"
        )
        yield Check("gpu", "torch and GPUs", "warning", what, "CUDA", advice)


def _major(version: str | None) -> int:
    return next(iter(parse_version(version or "")), 0)


def _check_alike(gpus: Sequence[tuple[str, int]]) -> Iterator[Check]:
    """Yield a warning if GPUs differ."""
    kinds = sorted(set(gpus))
    if len(kinds) < 2:
        return
    found = ", ".join(f"{gpus.count(kind)} x {kind[0]} ({format_bytes(kind[1])})" for kind in kinds)
    advice = (
        "processes that share a stage wait for the slowest GPU, and what fits is decided by the"
        " smallest; name equal ones in CUDA_VISIBLE_DEVICES, with CUDA_DEVICE_ORDER=PCI_BUS_ID so"
        " that the numbers are those of nvidia-smi"
    )
    yield Check("gpu", "GPUs that differ", "warning", found, "equal ones", advice)


def _check_nccl(facts: JsonObject) -> Iterator[Check]:
    """Yield whether torch has NCCL, by which GPUs exchange data."""
    if "nccl" not in facts:
        return
    version = cast("list[int] | None", facts["nccl"])
    if version:
        yield Check("gpu", "NCCL", "ok", ".".join(map(str, version)))
        return
    advice = (
        "engines of several GPUs (DeepSpeed, run.generator.tensor_parallel) exchange data by NCCL;"
        " install a torch that is built for CUDA, which brings it"
    )
    yield Check("gpu", "NCCL", "warning", "not in this torch", "any version", advice)


def check_shared_memory(size: int) -> Iterator[Check]:
    """Yield how much shared memory there is; nothing where the system has no /dev/shm."""
    if not size:
        return
    wanted, found = f">={format_bytes(MIN_SHARED_BYTES)}", f"{format_bytes(size)} in /dev/shm"
    if size >= MIN_SHARED_BYTES:
        yield Check("memory", "shared memory", "ok", found, wanted)
        return
    advice = (
        "processes of one engine, and NCCL, exchange data there; start a container with"
        " --shm-size=8g or --ipc=host, in Kubernetes mount an emptyDir with medium: Memory at"
        " /dev/shm; on a machine of your own: mount -o remount,size=8g /dev/shm"
    )
    yield Check("memory", "shared memory", "warning", found, wanted, advice)
