"""Ask a server that misbehaves in every mode of its table, and count what becomes of it.

    PYTHONPATH=. python benchmarks/attack_server.py [--events]

With `--events` each completion is asked for in events, as a chat does, which no mode sends.
The server runs in a process of its own, so that the memory here is the client's. `tests` has the
table of modes (`hostile_server.MODES`) and what each should end in.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from attacking import AT_ONCE, attacks
from hostile_server import KEY, MODES, Hostile, hostile_server

from r1pipe.generate import openai_server
from r1pipe.text import visible

DELAYS = {"FIRST_DELAY_S": 0.02, "MAX_DELAY_S": 0.02, "CONNECT_TIMEOUT_S": 6.0}


def serve(line: Connection) -> None:
    """Run the server until the other end says so; then tell what it saw."""
    with hostile_server() as server:
        line.send((server.port, server.elsewhere))
        line.recv()
        line.send((server.connections, len(server.led_away), sum(server.sent.values())))


def peak_mb() -> float:
    """Return this process's largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Attack, and print the counts as JSON."""
    for name, value in DELAYS.items():
        setattr(openai_server, name, value)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    server = Hostile()
    server.port, server.elsewhere = here.recv()
    before, began = peak_mb(), time.monotonic()
    outcomes = list(attacks(server, listens="--events" in sys.argv[1:]))
    seconds, grown = time.monotonic() - began, peak_mb() - before
    here.send("end")
    connections, led_away, sent = here.recv()
    unlike = {o.mode: f"{o.end}: {o.message}" for o in outcomes if o.end != MODES[o.mode].end}
    report = {
        "modes": len(MODES),
        "ends": dict(Counter(o.end for o in outcomes)),
        "not_as_expected": unlike,
        "messages_with_the_key": sum(KEY in o.message for o in outcomes),
        "messages_that_move_a_cursor": sum(visible(o.message) != o.message for o in outcomes),
        "requests_led_to_another_server": led_away,
        "connections": connections,
        "mb_sent": round(sent / 2**20, 1),
        "seconds": round(seconds, 1),
        "slowest": max((round(o.seconds, 1), o.mode) for o in outcomes),
        "modes_at_once": AT_ONCE,
        "memory_grown_mb": round(grown, 1),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
