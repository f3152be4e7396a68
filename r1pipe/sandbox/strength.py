"""How strong the sandbox is here, and how strong it must be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Literal, TypeAlias

from r1pipe.errors import StageError
from r1pipe.sandbox import landlock, system
from r1pipe.sandbox.layers import lost, missing
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Outcome

Strength: TypeAlias = Literal["full", "weak"]
VARIABLE = "R1PIPE_SANDBOX"
"""The strength that is asked for here, for this process and those that it starts."""
_found: dict[int, Outcome] = {}


def found() -> Outcome:
    """Return how an empty program ran here: its layers; found out once for each process."""
    if os.getpid() not in _found:
        _found[os.getpid()] = run_python("pass")
    return _found[os.getpid()]


@contextlib.contextmanager
def using(strength: Strength) -> Iterator[None]:
    """Ask for a strength for a block, in this process and those that it starts."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = strength
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def require() -> list[str]:
    """Return the layers that are missing where that is allowed. Raises StageError elsewhere."""
    gone = missing(found().layers)
    if not gone:
        return []
    if os.environ.get(VARIABLE) != "weak":
        raise StageError(
            f"the sandbox for programs lacks {', '.join(gone)} on this machine, and model-written"
            " code is not run in less; 'r1pipe doctor' says why, and run.sandbox: weak does without"
        )
    if {"mounts", "files"} <= set(gone) and system.IS_LINUX:
        system.prctl(system.PR_SET_DUMPABLE, 0)  # else this process's memory is a file to them
    return gone


def weakness() -> str:
    """Return what a weak sandbox does not defend, in words; empty for a full one."""
    return lost(require())


def as_text() -> str:
    """Return the layers that hold, in words."""
    layers = found().layers
    names = [name for name, holds in layers.items() if holds]
    version = f" (Landlock ABI {landlock.abi()})" if layers.get("files") else ""
    return f"{', '.join(names) or 'limits only'}{version}"
