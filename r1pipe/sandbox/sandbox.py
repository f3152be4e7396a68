"""Run model-written programs: each in a process of its own, confined, that is always ended.

Warm sandboxes (`server`) fork a process for every program, which confines itself (`program`).
Whatever a program does is an `Outcome`, never an exception.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from r1pipe.sandbox.pool import shared
from r1pipe.sandbox.runners import BINARY, RUNNERS, Runner, linker, tool_of
from r1pipe.sandbox.session import Limits, Outcome, Sandbox, Status
from r1pipe.sandbox.warm import Order

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}


def run_python(
    program: str,
    stdin: str = "",
    *,
    calls: Sequence[str] | None = None,
    limits: Limits | None = None,
    files: Mapping[str, bytes] | None = None,
    fetch: Sequence[str] = (),
    sandbox: Sandbox | None = None,
) -> Outcome:
    """Run a Python program; with `calls`, evaluate those expressions in it afterwards.

    Values come back as JSON, so an object that claims to equal everything is an error, not a match.
    """
    header = {"profile": "python", "program": "program.py", "command": None}
    given = {"program.py": _bytes(program), "": _bytes(stdin)}
    given = {**(files or {}), **given}
    order = _order(header, given, limits or Limits(), calls, fetch)
    return _in(sandbox, order, calls)


def compile_program(
    language: str, program: str, *, limits: Limits | None = None, sandbox: Sandbox | None = None
) -> Outcome:
    """Compile a program; its binary is among the files of the outcome if that went well."""
    runner, tool = RUNNERS[language], tool_of(language)
    if tool is None:
        return Outcome(Status.CRASHED, "", f"{runner.compiler} is not installed")
    limits = limits or Limits(
        wall_s=runner.compile_wall_s,
        cpu_s=int(runner.compile_wall_s),
        memory_bytes=runner.compile_memory_bytes,
        file_bytes=64 << 20,
        total_bytes=256 << 20,
    )
    root = os.path.dirname(os.path.dirname(tool))
    fill = {"tool": tool, "linker": linker(), "folder": "{folder}", "root": root}
    command = [word.format(**fill) for word in runner.compile]
    header = {"profile": "compiler", "program": runner.file_name, "command": command}
    given = {runner.file_name: _bytes(program)}
    order = _order(header, given, limits, None, (BINARY,), {"LD_LIBRARY_PATH": f"{root}/lib"})
    return _in(sandbox, order, None)


def run_binary(
    runner: Runner,
    binary: bytes,
    stdin: str = "",
    *,
    limits: Limits | None = None,
    files: Mapping[str, bytes] | None = None,
    fetch: Sequence[str] = (),
    sandbox: Sandbox | None = None,
) -> Outcome:
    """Run a compiled program."""
    header = {"profile": "native", "program": BINARY, "command": list(runner.run)}
    given = {**(files or {}), BINARY: binary, "": _bytes(stdin)}
    return _in(sandbox, _order(header, given, limits or Limits(), None, fetch), None)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _in(sandbox: Sandbox | None, order: Order, calls: Sequence[str] | None) -> Outcome:
    if sandbox is not None:
        return sandbox.run(order, calls)
    with shared().taken() as taken:
        return taken.run(order, calls)


def _order(
    header: Mapping[str, object],
    files: Mapping[str, bytes],
    limits: Limits,
    calls: Sequence[str] | None,
    fetch: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Order:
    whole = {
        **header,
        "calls": None if calls is None else list(calls),
        "limits": limits.rlimits(),
        "processes": limits.processes,
        "environment": {**_ENVIRONMENT, **(environment or {})},
    }
    return Order(whole, files, limits.wall_s, limits.output_bytes, limits.total_bytes, tuple(fetch))
