"""Checks of packages, GPUs, memory and disk, threads, the hub."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from r1pipe import machine
from r1pipe.doctor.checks import Check, Status
from r1pipe.doctor.packages import PYTHON_LOW, Found, Version, is_supported, parse_version
from r1pipe.text import format_bytes

GIB = 1 << 30
MIN_MEMORY_BYTES = 2 * GIB
"""The laptop profile's stages have had up to 1 GiB each."""
MIN_DISK_BYTES = GIB
"""A store of the laptop profile takes about 100 MiB with its attempts."""
HUB_URL = "https://huggingface.co"
HUB_TIMEOUT_S = 3.0
TRUE_WORDS = frozenset({"1", "ON", "YES", "TRUE"})


def check_python(version: str) -> Check:
    """Check the Python that runs this."""
    low = ".".join(map(str, PYTHON_LOW))
    if parse_version(version) >= PYTHON_LOW:
        return Check("core", "python", "ok", version, f">={low}")
    return Check("core", "python", "error", version, f">={low}", f"use Python {low} or newer")


def check_package(one: Found) -> Check:
    """Check one package: there, of a supported version, importable."""
    package = one.package
    group, wanted = ("core" if package.is_core else "engine"), package.wanted
    if package.tested:
        wanted += f" (tested: {package.tested})"
    if one.version is None:
        advice = package.advice if package.is_core else f"optional; {package.advice}"
        absent: Status = "error" if package.is_core else "note"
        return Check(group, package.label, absent, "not installed", wanted, advice)
    if len(others := [name for name in package.names if name in one.beside]) > 1:
        advice = f"take one of them away: both are the same module; {package.advice}"
        return Check(group, package.label, "warning", " and ".join(others), wanted, advice)
    found = one.version if one.name == package.label else f"{one.name} {one.version}"
    if one.works is False:
        advice = f"it cannot be imported ({one.error}); install it again: {package.advice}"
        broken: Status = "error" if package.is_core else "warning"
        return Check(group, package.label, broken, f"{found}, broken", wanted, advice)
    if not is_supported(one.version, package):
        status, advice = _unsupported(one, parse_version(one.version))
        return Check(group, package.label, status, found, wanted, advice)
    return Check(group, package.label, "ok", found, wanted)


def _unsupported(one: Found, version: Version) -> tuple[Status, str]:
    """Return how much a version that is not supported matters, and what is known of it."""
    package, newer = one.package, one.package.newer
    if one.works is None or not package.below or version < package.below:
        return "warning", f"not a supported version; {package.advice} brings one"
    if newer and version < newer.below:
        return (
            "note" if newer.was_run else "warning",
            f"newer than what is supported: {newer.known}; {package.advice} brings a supported one",
        )
    first = ".".join(map(str, newer.below if newer else package.below))
    return "warning", (
        f"it can be imported here, and nothing else is known: no version from {first} on was run;"
        " `r1pipe try STAGE` shows whether it works;"
        f" {package.advice} brings one that was run"
    )


def check_room(found: machine.Machine, store: Path) -> list[Check]:
    """Check free memory, free disk below the store, and whether the store can be written."""
    free = machine.free_memory()
    needed = f">={format_bytes(MIN_MEMORY_BYTES)} for the laptop profile"
    is_enough = free >= MIN_MEMORY_BYTES or free == 0
    text = f"{format_bytes(free)} free of {format_bytes(found.memory_bytes)}"
    advice = "" if is_enough else "end other programs, or lower run.micro_batch_tokens"
    checks = [
        Check("memory", "memory", "ok" if is_enough else "warning", text, needed, advice),
    ]
    folder, room = machine.free_disk(store)
    is_enough = room >= MIN_DISK_BYTES
    advice = "" if is_enough else "'r1pipe gc' says what can go; or choose --store elsewhere"
    checks.append(
        Check(
            "disk",
            "disk of the store",
            "ok" if is_enough else "warning",
            f"{format_bytes(room)} free at {folder}",
            f">={format_bytes(MIN_DISK_BYTES)}",
            advice,
        )
    )
    return [*checks, _check_writable(store, folder)]


def _check_writable(store: Path, folder: Path) -> Check:
    """Write a file where the store is or would be, and remove it."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".r1pipe-doctor-"):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        advice = f"{folder}: {reason}; choose another with --store, or give yourself the right"
        return Check("store", "store", "error", f"{store}: cannot be written", "", advice)
    state = "can be written" if store.exists() else "will be made by the first run"
    return Check("store", "store", "ok", f"{store}: {state}")


def check_threads(cores: int, environ: Mapping[str, str] | None = None) -> list[Check]:
    """Check the thread settings that a run would have."""
    settings = os.environ if environ is None else environ
    policy = settings.get("OMP_WAIT_POLICY")
    checks = []
    if policy is not None and policy.upper() != "PASSIVE":
        advice = "unset it: OpenMP threads that spin on shared cores slow everything tenfold"
        checks.append(Check("threads", "OMP_WAIT_POLICY", "warning", policy, "PASSIVE", advice))
    else:
        found = policy or "not set; a run sets PASSIVE"
        checks.append(Check("threads", "OMP_WAIT_POLICY", "ok", found, "PASSIVE"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = settings.get(name)
        if value is None:
            continue
        count = int(value) if value.isdecimal() else 0
        is_right = 0 < count <= cores
        advice = "" if is_right else f"unset it, or set 1 to {cores}: this process has that many"
        status: Status = "ok" if is_right else "warning"
        checks.append(Check("threads", name, status, value, f"1 to {cores}", advice))
    if settings.get("PYTHONDONTWRITEBYTECODE"):
        advice = "unset it, or set PYTHONPYCACHEPREFIX: every process compiles all imports again"
        checks.append(
            Check("threads", "PYTHONDONTWRITEBYTECODE", "warning", "set", "not set", advice)
        )
    return checks


def check_hub(is_online: bool, environ: Mapping[str, str] | None = None) -> list[Check]:
    """Check how models and data sets of the hub can be had; the network only when asked for."""
    settings = os.environ if environ is None else environ
    home = Path(settings.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"))
    cache = Path(settings.get("HF_HUB_CACHE") or home / "hub")
    count = len(list(cache.glob("models--*"))) + len(list(cache.glob("datasets--*")))
    what = f"{cache}: {count} repositories" if cache.is_dir() else f"{cache}: not made yet"
    checks = [Check("hub", "hub cache", "ok", what)]
    is_offline = settings.get("HF_HUB_OFFLINE", "").upper() in TRUE_WORDS
    if is_offline:
        advice = "sources with 'hf' come from the cache only; unset it to fetch others"
        checks.append(Check("hub", "HF_HUB_OFFLINE", "note", "set", "", advice))
    if is_online:
        checks.append(_check_reachable(settings.get("HF_ENDPOINT") or HUB_URL))
    return checks


def _check_reachable(url: str) -> Check:
    agent = {"User-Agent": "r1pipe-doctor"}
    request = urllib.request.Request(url, method="HEAD", headers=agent)  # noqa: S310 - checked below
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("not an address")
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as answer:  # noqa: S310
            return Check("hub", "hub", "ok", f"{url} answers {answer.status}")
    except urllib.error.HTTPError as error:
        return Check("hub", "hub", "ok", f"{url} answers {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = (
            "put models and data in local folders and give sources a 'path', or fill the cache"
            " on a machine that reaches the hub; HTTPS_PROXY names a proxy"
        )
        found = f"{url} cannot be reached: {reason}"
        return Check("hub", "hub", "warning", found, "", advice)
