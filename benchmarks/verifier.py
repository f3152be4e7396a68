"""Measure the verifier: real data, throughput beside plain math-verify, hostile answers, memory.

    python benchmarks/verifier.py --data ../shared/data --pairs 2000 --memory-pairs 100000

Every pair of the throughput part is different and every cache is cold. Plain math-verify runs in a
process of its own, one pair after the other, with its default settings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostile import GOLDS, hostile_completions

from r1pipe.audit.golds import check_golds
from r1pipe.records import Problem, Verdict
from r1pipe.verify import VERIFIER_VERSION, verify_many, verify_stream
from r1pipe.verify.workers.pool import Pool

Pair = tuple[str, str, bool]
THOUGHT = "<think>\nLet us see. First 12 and 7, then x = 3, so it must be\n</think>\n\n"


def main() -> None:
    """Run the parts asked for and print one JSON report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with gsm8k/ and deepseek_math/")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--memory-pairs", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "verifier_version": VERIFIER_VERSION}
    if options.data is not None:
        report["real_data"] = real_data(options.data)
    pairs = mixed_pairs(options.pairs, random.Random(options.seed))
    report["throughput"] = throughput(pairs, options.workers)
    report["hostile"] = hostile(options.workers)
    if options.memory_pairs:
        report["memory"] = memory(options.memory_pairs, random.Random(options.seed + 1))
    print(json.dumps(report, indent=2, ensure_ascii=False))


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import math_verify
    import sympy
    from sympy.external.gmpy import GROUND_TYPES

    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sympy": sympy.__version__,
        "integers": GROUND_TYPES,
        "math_verify": getattr(math_verify, "__version__", "0.9"),
    }


def real_data(folder: Path) -> dict[str, Any]:
    """Verify gold answers against themselves, and real completions against human grades."""
    report: dict[str, Any] = {}
    for name in ("train", "test"):
        rows = read(folder / "gsm8k" / f"{name}.jsonl")
        golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
        own = [(problem(gold), f"\\boxed{{{gold}}}") for gold in golds]
        solutions = [(problem(gold), row["answer"]) for gold, row in zip(golds, rows, strict=True)]
        report[f"gsm8k/{name}"] = {
            "golds": len(golds),
            "against_themselves": count(verify_many(own)),
            "against_their_solutions": count(verify_many(solutions)),
        }
    report["gsm8k/completions"] = graded(folder / "gsm8k")
    for path, field, checker in (
        ("agieval_gaokao-mathcloze", "answer", "math"),
        ("ocw_test", "answer", "math"),
        ("cmath_test", "golden", "math"),
        ("mgsm_zh_mgsm_zh", "answer", "math"),
        ("sat_test", "Answer", "choice"),
    ):
        rows = read(folder / "deepseek_math" / f"{path}.jsonl")
        problems = [problem(str(row[field]), checker) for row in rows]
        checked = check_golds(problems, max_unusable_frac=1.0)
        unusable = [one.gold for one, _ in checked.quarantined]
        report[path] = {"golds": len(rows), "usable": len(checked.usable), "not": unusable}
    return report


def graded(folder: Path) -> dict[str, Any]:
    """Compare our verdicts with the human grades of GSM8K's model solutions."""
    tests = read(folder / "test.jsonl")
    pairs, grades, rows = [], [], read(folder / "example_model_solutions.jsonl")
    for row, test in zip(rows, tests, strict=True):
        assert row["question"] == test["question"], "the two files list the same problems"
        gold = test["answer"].rpartition("####")[2].strip()
        for model, given in row.items():
            if isinstance(given, dict):
                pairs.append((problem(gold), given["solution"]))
                grades.append((model, given["is_correct"]))
    started = time.perf_counter()
    verdicts = verify_many(pairs)
    seconds = time.perf_counter() - started
    differ = [
        {"model": grade[0], "human": grade[1], "ours": verdict.value, "gold": pair[0].gold}
        for verdict, grade, pair in zip(verdicts, grades, pairs, strict=True)
        if (verdict is Verdict.CORRECT) != grade[1]
    ]
    return {"completions": len(pairs), "disagreements": differ, "seconds": round(seconds, 3)}


def throughput(pairs: list[Pair], workers: int) -> dict[str, Any]:
    """Time ours and plain math-verify on the same pairs, numeric ones apart."""
    numeric = [pair for pair in pairs if is_numeric(pair)]
    report: dict[str, Any] = {}
    for name, part in (("numeric", numeric), ("all", pairs)):
        ours, right, slowest = time_ours(part, workers)
        plain, plain_right = time_plain(part)
        report[name] = {
            "pairs": len(part),
            "ours_per_s": round(len(part) / ours),
            "math_verify_per_s": round(len(part) / plain),
            "ratio": round(plain / ours, 1),
            "ours_as_built": f"{right}/{len(part)}",
            "math_verify_as_built": f"{plain_right}/{len(part)}",
            "slowest_ms": round(slowest, 1),
        }
    return report


def time_ours(pairs: list[Pair], workers: int) -> tuple[float, int, float]:
    """Return seconds, verdicts that are as the pair was built, and the slowest pair in ms."""
    code = (
        "import json, sys, time\n"
        "from r1pipe.records import Problem\n"
        "from r1pipe.verify import verify_stream\n"
        "pairs, workers = json.load(sys.stdin)\n"
        "warm = [(Problem('', 'm', '', 'x+y'), '\\\\boxed{z+y}')] * 1\n"
        "list(verify_stream(warm, workers=workers))\n"
        "started = time.perf_counter()\n"
        "given = ((Problem('', 'm', '', gold), text) for gold, text, _ in pairs)\n"
        "judged = list(verify_stream(given, workers=workers))\n"
        "seconds = time.perf_counter() - started\n"
        "right = sum((j.verdict == 'correct') == p[2] for j, p in zip(judged, pairs))\n"
        "print(json.dumps([seconds, right, max(j.ms for j in judged)]))\n"
    )
    seconds, right, slowest = run(code, [pairs, workers])
    return seconds, right, slowest


def time_plain(pairs: list[Pair]) -> tuple[float, int]:
    """Return seconds and verdicts as built of plain math-verify, its start not counted."""
    code = (
        "import json, logging, sys, time\n"
        "logging.disable(logging.CRITICAL)\n"
        "from math_verify import parse, verify\n"
        "pairs, _ = json.load(sys.stdin)\n"
        "verify(parse('\\\\boxed{x+y}'), parse('\\\\boxed{\\\\frac{1}{2}}'))\n"
        "started = time.perf_counter()\n"
        "right = 0\n"
        "for gold, text, built in pairs:\n"
        "    said = verify(parse('\\\\boxed{' + gold + '}'), parse(text))\n"
        "    right += bool(said) == built\n"
        "print(json.dumps([time.perf_counter() - started, right]))\n"
    )
    seconds, right = run(code, [pairs, 0])
    return seconds, right


def run(code: str, payload: Any) -> Any:
    """Run code in a fresh interpreter, so that every cache is cold."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(payload),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def hostile(workers: int, limit_s: float = 3.0) -> dict[str, Any]:
    """Verify every hostile answer for every gold, with a good pair beside each."""
    pairs = []
    for index, (gold, (_, text)) in enumerate((g, h) for g in GOLDS for h in hostile_completions()):
        pairs += [(problem(gold), text), (problem(f"a+{index}"), f"\\boxed{{{index}+a}}")]
    judged = list(verify_stream(pairs, timeout_s=limit_s, workers=workers))
    bad, good = judged[0::2], judged[1::2]
    return {
        "answers": len(list(hostile_completions())),
        "golds": len(GOLDS),
        "verdicts": count([judgement.verdict for judgement in bad]),
        "slowest_s": round(max(judgement.ms for judgement in judged) / 1000, 3),
        "neighbours": count([judgement.verdict for judgement in good]),
        "limit_s": limit_s,
    }


def memory(num_pairs: int, rng: random.Random) -> dict[str, Any]:
    """Follow one worker's resident memory over many different algebraic pairs."""
    pool = Pool(1)
    samples: list[dict[str, float]] = []
    pids = set()
    started = time.perf_counter()
    for start in range(0, num_pairs, 10_000):
        promises = []
        for _ in range(10_000):
            gold, text, _ = rng.choice(ALGEBRA)(rng)
            promises.append(pool.submit(gold, text))
        for promise in promises:
            promise.result()
        pid = pool._dispatcher.workers[0].pid
        pids.add(pid)
        samples.append({"pairs": start + 10_000, "resident_mib": round(resident(pid), 1)})
    pool.close()
    seconds = time.perf_counter() - started
    return {
        "samples": samples,
        "workers_used": len(pids),
        "pairs_per_s": round(num_pairs / seconds),
    }


def resident(pid: int) -> float:
    """Return a process's resident memory in MiB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def mixed_pairs(num_pairs: int, rng: random.Random) -> list[Pair]:
    """Return different pairs, 61 % of them numbers, about half of them right."""
    pairs: dict[tuple[str, str], Pair] = {}
    while len(pairs) < num_pairs:
        make = rng.choice(NUMBERS if rng.random() < 0.61 else OTHERS)
        gold, answer, is_right = make(rng)
        text = f"{THOUGHT}So the answer is $\\boxed{{{answer}}}$."
        pairs[gold, answer] = (gold, text, is_right)
    return list(pairs.values())


def is_numeric(pair: Pair) -> bool:
    """True for a pair that one of the makers of numbers built."""
    plain = pair[0].replace(r"\frac", "")
    return not any(mark in plain for mark in ("x", "p", "s", "(", "[", r"\{"))


def integers(rng: random.Random) -> Pair:
    """5 or 5.0, 1234 or 1,234; wrong: off by one."""
    value = rng.randrange(-(10**6), 10**6)
    is_right = rng.random() < 0.5
    other = value if is_right else value + rng.choice((-1, 1, 10))
    return str(value), rng.choice((str(other), f"{other:,}", f"{other}.0")), is_right


def decimals(rng: random.Random) -> Pair:
    """12.34 or 12.340; wrong: another last digit."""
    value = rng.randrange(1, 10**6)
    is_right = rng.random() < 0.5
    other = value if is_right else value + 1
    return f"{value / 100:.2f}", f"{other / 100:.3f}", is_right


def fractions(rng: random.Random) -> Pair:
    """A fraction and the same one unreduced; wrong: another numerator."""
    top, bottom, factor = rng.randrange(1, 200), rng.randrange(2, 200), rng.randrange(2, 9)
    is_right = rng.random() < 0.5
    answer = rf"\dfrac{{{top * factor + (not is_right)}}}{{{bottom * factor}}}"
    return rf"\frac{{{top}}}{{{bottom}}}", answer, is_right


def polynomials(rng: random.Random) -> Pair:
    """(x+a)(x+b) expanded."""
    a, b = rng.randrange(-50, 50), rng.randrange(-50, 50)
    is_right = rng.random() < 0.5
    return f"x^2{a + b:+d}x{a * b + (not is_right):+d}", f"(x{a:+d})(x{b:+d})", is_right


def surds(rng: random.Random) -> Pair:
    """The root of a^2 b taken apart; wrong: another factor."""
    a, b = rng.randrange(2, 99), rng.choice((2, 3, 5, 6, 7, 10, 11))
    is_right = rng.random() < 0.5
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + (not is_right)}}}", is_right


def angles(rng: random.Random) -> Pair:
    """Multiples of pi as fractions; wrong: another multiple."""
    top, bottom = rng.randrange(1, 99), rng.randrange(2, 99)
    is_right = rng.random() < 0.5
    gold = rf"\frac{{{top}\pi}}{{{bottom}}}"
    return gold, rf"\frac{{{top + (not is_right)}}}{{{bottom}}}\pi", is_right


def sets(rng: random.Random) -> Pair:
    """A set in another order; wrong: one other element."""
    items = rng.sample(range(-99, 99), 3)
    is_right = rng.random() < 0.5
    other = [*items[1:], items[0] if is_right else items[0] + 200]
    return rf"\{{{', '.join(map(str, items))}\}}", rf"\{{{','.join(map(str, other))}\}}", is_right


def tuples(rng: random.Random) -> Pair:
    """A pair; wrong: its parts changed over."""
    a, b = rng.sample(range(-99, 99), 2)
    is_right = rng.random() < 0.5
    answer = rf"\left({a}, {b}\right)" if is_right else f"({b},{a})"
    return f"({a},{b})", answer, is_right


def intervals(rng: random.Random) -> Pair:
    """A half-open interval as an inequality; wrong: the other end open."""
    low, high = sorted(rng.sample(range(-99, 99), 2))
    is_right = rng.random() < 0.5
    answer = rf"{low}\le x<{high}" if is_right else rf"{low}<x\le {high}"
    return f"[{low},{high})", answer, is_right


def equations(rng: random.Random) -> Pair:
    """A line in two forms; wrong: another intercept."""
    slope, shift = rng.randrange(2, 99), rng.randrange(1, 99)
    is_right = rng.random() < 0.5
    return f"y={slope}x+{shift}", f"{slope}x-y+{shift + (not is_right)}=0", is_right


NUMBERS: list[Callable[[random.Random], Pair]] = [integers, integers, decimals, fractions]
OTHERS: list[Callable[[random.Random], Pair]] = [
    polynomials,
    polynomials,
    surds,
    angles,
    sets,
    tuples,
    intervals,
    equations,
]
ALGEBRA: list[Callable[[random.Random], Pair]] = [polynomials, surds, angles, equations]


def problem(gold: str, checker: str = "math") -> Problem:
    """Return a problem that has only a gold answer."""
    return Problem("", "math", "", gold, checker=checker)


def count(verdicts: list[Verdict]) -> dict[str, int]:
    """Return how often each verdict came."""
    return dict(Counter(verdict.value for verdict in verdicts))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main()
