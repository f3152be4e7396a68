"""Languages of programs: what a file is called, how it is compiled and started, its limits."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

_BINARY = "main"


@dataclass(frozen=True, slots=True)
class Runner:
    """One language. Commands have {tool}, its {root}, {folder} and {linker}."""

    file_name: str
    fences: frozenset[str]
    """What an opening fence may say."""
    compiler: str = ""
    """The compiler's name on PATH; none is needed if empty."""
    compile: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    """Without one the program is Python, run by the sandbox's own."""
    compile_wall_s: float = 30.0
    compile_memory_bytes: int = 4 << 30
    memory_bytes: int = 512 << 20
    """Address space of the program."""


RUNNERS: dict[str, Runner] = {
    "python": Runner("program.py", frozenset({"", "py", "python", "python3"})),
    "cpp": Runner(
        "main.cpp",
        frozenset({"cpp", "c++", "cc", "cxx"}),
        "g++",
        ("{tool}", "-O2", "-std=c++20", "-o", "{folder}/main", "{folder}/main.cpp"),
        ("{folder}/main",),
    ),
    "rust": Runner(
        "main.rs",
        frozenset({"rust", "rs"}),
        "rustc",
        (
            *("{tool}", "-O", "--edition", "2021", "-C", "linker={linker}", "-C", "strip=symbols"),
            *("--sysroot", "{root}", "-o", "{folder}/main", "{folder}/main.rs"),
        ),
        ("{folder}/main",),
    ),
}
"""Language -> how its programs are run."""
BINARY = _BINARY


@cache
def tool_of(language: str) -> str | None:
    """Return the path of a language's compiler; None where it is not installed."""
    found = shutil.which(RUNNERS[language].compiler)
    if found is None:
        return None
    if language == "rust":  # rustup puts a launcher in its place, which needs its home
        root = _output(found, "--print", "sysroot")
        found = os.path.join(root, "bin", "rustc") if root else found
    return os.path.realpath(found)


@cache
def linker() -> str:
    """Return the path of the C compiler, with which rustc links."""
    found = shutil.which("cc") or shutil.which("gcc") or ""
    return os.path.realpath(found) if found else ""


def is_runnable(language: str) -> bool:
    """Return whether programs of a language can be run here."""
    return not RUNNERS[language].compiler or tool_of(language) is not None


def tool_folders() -> list[str]:
    """Return the folders of compilers that are not among the system's."""
    found = set[str]()
    for language, runner in RUNNERS.items():
        tool = tool_of(language) if runner.compiler else None
        if tool is not None and not tool.startswith("/usr/"):
            found.add(os.path.dirname(os.path.dirname(tool)))
    return sorted(found)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
