"""The cores, memory and GPUs of this machine, asked with the standard library only.

A container's limits count: the cores and the memory are those that this process may use.
"""

from __future__ import annotations

import csv
import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only asked for its size
MEMINFO = Path("/proc/meminfo")
DEVICES = Path("/dev")
CPUINFO = Path("/proc/cpuinfo")
NVIDIA_SMI = "nvidia-smi"
NVIDIA_TIMEOUT_S = 20.0
MIB = 1 << 20
WORTH_GIVING_BACK = 512 * MIB
"""Freed bytes from which the system gets them: to fault them in again takes a moment."""
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Gpu:
    """One accelerator as its driver names it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class Machine:
    """This machine; `memory_bytes` is all that this process may have."""

    node: str
    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    has_bfloat16: bool = False
    """Whether the processor multiplies in bfloat16."""


def read_machine() -> Machine:
    """Return what this machine has."""
    return Machine(
        platform.node(),
        cpu_name(),
        usable_cores(),
        total_memory(),
        read_gpus(),
        has_bfloat16_units(),
    )


def cpu_name() -> str:
    """Return the processor's name, or its architecture if unknown."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def has_bfloat16_units() -> bool:
    """Return whether the processor says that it multiplies in bfloat16 (x86 or ARM)."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return not BFLOAT16_FLAGS.isdisjoint(value.split())
    return False


def usable_cores() -> int:
    """Return how many cores this process may use: affinity, and a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            return max(1, min(cores or 1, -(-int(quota) // int(period))))
    return cores or 1


def total_memory() -> int:
    """Return the bytes of memory that this process may have, or 0 if unknown."""
    found = _meminfo("MemTotal")
    limit = _cgroup_bytes("memory.max")
    return min(found, limit) if limit is not None and found else found or limit or 0


def free_memory() -> int:
    """Return the bytes of memory that are free, or 0 if unknown."""
    found = _meminfo("MemAvailable")
    limit, used = _cgroup_bytes("memory.max"), _cgroup_bytes("memory.current")
    if limit is None or used is None:
        return found
    return min(found, max(0, limit - used)) if found else max(0, limit - used)


def shared_memory() -> int:
    """Return the bytes that all processes together may have in shared memory, or 0 if there is no
    place for it."""
    with suppress(OSError):
        return shutil.disk_usage(SHARED_MEMORY).total
    return 0


def free_disk(path: Path) -> tuple[Path, int]:
    """Return the nearest folder above `path` that exists, and the bytes free there."""
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free


def read_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that the driver's own tool lists; none if there is no such tool."""
    command = [
        NVIDIA_SMI,
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=NVIDIA_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:
        return ()
    gpus = []
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        with suppress(ValueError):
            name, memory, driver = row
            gpus.append(Gpu(name, int(memory) * MIB, driver))
    return tuple(gpus)


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str] | None = None) -> int:
    """Return how many of a machine's GPUs this process may use, by CUDA_VISIBLE_DEVICES.

    Without the driver's own tool its device files are counted.
    """
    settings = os.environ if environ is None else environ
    there = len(gpus) or len(list(DEVICES.glob("nvidia[0-9]*")))
    told = settings.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return there
    named = 0
    for name in filter(None, map(str.strip, told.split(","))):
        if name.startswith("-"):  # CUDA ends the list at the first that is none
            break
        named += 1
    return min(named, there) if not told.startswith("MIG") else named


def _meminfo(name: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _cgroup_bytes(name: str) -> int | None:
    with suppress(OSError, ValueError):
        return int((CGROUP / name).read_text(encoding="utf-8"))  # "max" is no number
    return None


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("in_use", "freed", "top"),
        )
    ]


def give_back_memory(worth: int = WORTH_GIVING_BACK) -> bool:
    """Give memory that this process has freed back to the system if it is much; return whether.

    Does nothing where the C library is not glibc 2.33 or newer.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = _MallocInfo
        if libc.mallinfo2().freed >= worth:
            return bool(libc.malloc_trim(0))
    return False
