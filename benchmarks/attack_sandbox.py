"""Attack the sandbox with all layers on, then with each taken away; print what got in.

    python benchmarks/attack_sandbox.py [--only NAME] [--without LAYER] [--json]

Needs the standard library only, about a minute, and touches nothing but a folder of its own. Run it
as root and as an ordinary user: the layers differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from sandbox_attacks import (
    ATTACKS,
    CLAIM,
    FAMILIES,
    KEY,
    LEFT_FILES,
    SECRET,
    World,
    make_world,
    processes_of,
)

from r1pipe.sandbox.layers import OUTER, REQUIRED, missing
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Limits, Sandbox

LIMITS = Limits(wall_s=3.0, cpu_s=2, processes=16)


@dataclass
class Found:
    """What came of all attacks with some layers taken away."""

    without: str
    layers: dict[str, bool] = field(default_factory=dict)
    num_tried: int = 0
    got_in: list[str] = field(default_factory=list)
    broke: list[str] = field(default_factory=list)
    """Attacks after which a good program was not right."""


def attack(without: Collection[str] = (), names: Sequence[str] = tuple(ATTACKS)) -> Found:
    """Let attacks loose on one sandbox; the world is mended after each that got in."""
    found = Found(", ".join(sorted(without)) or "nothing")
    sandbox, world = Sandbox(without), make_world()
    try:
        found.layers = run_python("pass", sandbox=sandbox).layers
        before, num_before = world.state(), processes_of([sandbox.pid])
        for name in names:
            found.num_tried += 1
            is_in = _is_in(name, sandbox, world, before)
            if is_in or processes_of([sandbox.pid]) > num_before:
                found.got_in.append(name)
            if run_python("print(6)", sandbox=sandbox).stdout != "6\n":
                found.broke.append(name)
            if is_in:
                world.close()
                world = make_world()
                before = world.state()
    finally:
        sandbox.close()
        world.close()
        _clean()
    return found


def _is_in(name: str, sandbox: Sandbox, world: World, before: dict[str, object]) -> bool:
    outcome = run_python(world.program(ATTACKS[name]), sandbox=sandbox, limits=LIMITS)
    said = outcome.stdout + outcome.stderr
    return world.state() != before or CLAIM in outcome.stdout or SECRET in _without_paths(said)


def _without_paths(text: str) -> str:
    """Return an output without the folder's own name, which the program was told."""
    return text.replace(f"folder-{SECRET}", "folder")


def _clean() -> None:
    """Remove what attacks that got in have left."""
    for path in (*LEFT_FILES, "/dev/mqueue/r1pipe-attack"):
        Path(path).unlink(missing_ok=True)
    for flag, name in (("-M", "shm"), ("-S", "sem"), ("-Q", "msg")):
        table = Path(f"/proc/sysvipc/{name}")
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        if any(int(line.split()[0]) == KEY for line in lines):
            subprocess.run(["/usr/bin/ipcrm", flag, str(KEY)], check=False)


def main() -> int:
    """Print one line for each layer that is taken away; return 1 if anything got in with all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="attacks whose name holds this")
    parser.add_argument("--without", help="take this layer away, and no other")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    names = [name for name in ATTACKS if given.only is None or given.only in name]
    each = [(), *((name,) for name in (*REQUIRED, OUTER))]
    rows = [
        attack(without, names)
        for without in (each if given.without is None else [(given.without,)])
    ]
    if given.json:
        print(json.dumps([vars(row) for row in rows], indent=1))
        return bool(rows[0].got_in or rows[0].broke)
    counts = ", ".join(f"{len(table)} {family}" for family, table in FAMILIES.items())
    print(f"user {os.geteuid()}, {len(names)} attacks ({counts})")
    print(f"{'taken away':<16}{'tried':>6}{'got in':>8}{'broke':>7}  which")
    for row in rows:
        gone = [name for name in missing(row.layers) if name != row.without]
        also = f" (also gone: {', '.join(gone)})" if gone else ""
        which = "; ".join([*row.got_in, *(f"{name} (broke)" for name in row.broke)])
        counts = f"{row.num_tried:>6}{len(row.got_in):>8}{len(row.broke):>7}"
        print(f"{row.without:<16}{counts}  {which}{also}")
    return bool(rows[0].got_in or rows[0].broke)


if __name__ == "__main__":
    sys.exit(main())
