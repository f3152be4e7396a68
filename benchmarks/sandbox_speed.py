"""How many programs a second the code checker runs: different programs, one test each.

    python benchmarks/sandbox_speed.py [--programs 300]

Each program reads a number and prints its double. Prints programs per second of wall and of CPU
time, this process and its sandboxes together.
"""

from __future__ import annotations

import argparse
import os
import time

from r1pipe.records import Problem, Verdict
from r1pipe.verify import close_shared, verify_many

TEXT = "<think>double</think>\n```python\nprint(int(input()) * 2)  # {}\n```"


def problem(number: int) -> Problem:
    """Return a problem that asks for the double of one number."""
    tests = [{"input": f"{number}\n", "output": f"{2 * number}\n"}]
    return Problem(str(number), "code", "", "", checker="code", meta={"tests": tests})


def measure(count: int) -> tuple[float, float]:
    """Verify programs; return how many a second, and CPU milliseconds of this process for each."""
    verify_many([(problem(0), TEXT.format("warm"))])
    started, used = time.perf_counter(), time.process_time()
    verdicts = verify_many([(problem(n), TEXT.format(n)) for n in range(count)])
    assert set(verdicts) == {Verdict.CORRECT}
    return count / (time.perf_counter() - started), 1000 * (time.process_time() - used) / count


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=300)
    rate, own_ms = measure(parser.parse_args().programs)
    load = os.getloadavg()[0]
    print(f"{rate:.1f} programs/s, {own_ms:.2f} ms of CPU here for each; load {load:.1f}")
    close_shared()


if __name__ == "__main__":
    main()
