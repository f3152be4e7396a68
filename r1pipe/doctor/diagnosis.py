"""The diagnosis of a machine: what r1pipe needs, what it finds, and advice on each difference.

It needs only the standard library, so `python -m r1pipe.doctor` works where nothing else does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from r1pipe import __version__, machine
from r1pipe.doctor import environment, gpus, packages
from r1pipe.doctor.checks import Check
from r1pipe.doctor.confinement import check_sandbox
from r1pipe.errors import StageError, StoreError
from r1pipe.fitting import fitted_lines, window_width, wrapped_lines
from r1pipe.text import format_bytes, visible


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order in which they are shown."""

    machine: machine.Machine
    checks: list[Check]

    @property
    def exit_code(self) -> int:
        """0 where the core works; 8 where only the store cannot be written; else 1."""
        broken = {check.group for check in self.checks if check.status == "error"}
        if not broken:
            return 0
        return StoreError.exit_code if broken == {"store"} else StageError.exit_code

    def to_json(self) -> dict[str, object]:
        """Return one JSON document."""
        return {
            "r1pipe": __version__,
            "works": self.exit_code == 0,
            "machine": asdict(self.machine),
            "checks": [asdict(check) for check in self.checks],
        }

    def lines(self) -> list[str]:
        """Return a table of all checks, then what to do."""
        rows = [("", "WHAT", "FOUND", "WANTED")]
        rows += [
            (check.status, check.name, visible(check.found), check.wanted) for check in self.checks
        ]
        width = window_width(sys.stdout)
        head = f"r1pipe {__version__} on {self._machine_text()}"
        table = fitted_lines(rows, width, spare=("WANTED",))
        todo = [f"  {each.name}: {visible(each.advice)}" for each in self.checks if each.advice]
        lines = [*wrapped_lines([head], width), "", *table, ""]
        if todo:
            lines += ["What to do:", *wrapped_lines(todo, width)]
        verdict = "the core works" if self.exit_code == 0 else "the core does not work"
        if self.exit_code == StoreError.exit_code:
            verdict = "the core works, but the store cannot be written"
        return [*lines, verdict]

    def _machine_text(self) -> str:
        found = self.machine
        memory = format_bytes(found.memory_bytes)
        return f"{found.node}: {found.cores} cores ({found.cpu}), {memory} of memory"


def diagnose(
    store: Path,
    *,
    is_online: bool = False,
    is_quick: bool = False,
    environ: Mapping[str, str] | None = None,
    find: Callable[[bool], Sequence[packages.Found]] = packages.find_packages,
) -> Diagnosis:
    """Run every check; only a probe file is written, in a store that exists."""
    found = find(is_quick)
    seen = machine.read_machine()
    torch = next((one for one in found if one.package.module == "torch"), None)
    checks = [
        environment.check_python(packages.python_version()),
        *[environment.check_package(one) for one in found],
        *gpus.check_gpus(seen.gpus, torch, machine.shared_memory()),
        *environment.check_room(seen, store),
        *environment.check_threads(seen.cores, environ),
        *environment.check_hub(is_online, environ),
        *([] if is_quick else check_sandbox()),
    ]
    return Diagnosis(seen, checks)
