"""Audit: the shipped regression corpus, verified by r1pipe and by plain math-verify.

Each case has a gold answer, a completion, the verdict that the contract demands, and the reason. A
false positive is a wrong completion called correct; a false negative is the reverse.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

from r1pipe.errors import StageError
from r1pipe.files import Record
from r1pipe.keys import JsonObject
from r1pipe.verify.cases import verify_cases

_Z_95 = 1.959963984540054


VerifierRates: TypeAlias = dict[str, dict[str, float]]
"""`false_positive` and `false_negative` of one verifier, each a `Rate.row`."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Errors among cases, with a 95 % Wilson interval."""

    errors: int
    cases: int

    @property
    def value(self) -> float:
        """The observed rate; 0 where there are no cases."""
        return self.errors / self.cases if self.cases else 0.0

    def interval(self) -> tuple[float, float]:
        """Return the Wilson score interval, which stays sensible at 0 errors."""
        if not self.cases:
            return 0.0, 1.0
        n, p, z2 = self.cases, self.value, _Z_95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def row(self) -> dict[str, float]:
        """Return plain JSON values."""
        low, high = self.interval()
        return {"errors": self.errors, "cases": self.cases, "rate": self.value} | {
            "low": low,
            "high": high,
        }


def corpus() -> list[JsonObject]:
    """Return every case of the shipped corpus, by file and line."""
    folder = resources.files("r1pipe.verify") / "corpus"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name)
    lines = (line for file in files for line in file.read_text("utf-8").splitlines())
    return [json.loads(line) for line in lines]


def audit(*, jobs: int = 0, timeout_s: float = 3.0, with_math_verify: bool = True) -> JsonObject:
    """Verify the corpus; return rates by kind for each verifier, and our disagreements.

    The report holds `kinds` (kind -> verifier -> false_positive, false_negative), `total`, and
    `disagreements`: rows of our verifier whose verdict is not the expected one.
    """
    cases = corpus()
    numbered = (Record("corpus", row, case) for row, case in enumerate(cases, start=1))
    rows = list(verify_cases(numbered, jobs=jobs, timeout_s=timeout_s))
    ours = [row["verdict"] for row in rows]
    verdicts: dict[str, list[bool | None]] = {"r1pipe": [said == "correct" for said in ours]}
    if with_math_verify:
        verdicts["math-verify"] = _by_math_verify(cases)
    kinds = sorted({case["kind"] for case in cases})
    report: JsonObject = {
        "num_cases": len(cases),
        "kinds": {kind: _rates(cases, verdicts, kind) for kind in kinds},
        "total": _rates(cases, verdicts, None),
        "disagreements": [
            case | {"verdict": row["verdict"], "extracted": row["extracted"]}
            for case, row in zip(cases, rows, strict=True)
            if row["verdict"] != case["expected"]
        ],
    }
    return report


def _rates(
    cases: Sequence[JsonObject], verdicts: dict[str, list[bool | None]], kind: str | None
) -> dict[str, VerifierRates]:
    """Return both error rates of each verifier on one kind (None: all)."""
    rates: dict[str, VerifierRates] = {}
    for name, said in verdicts.items():
        counts: dict[bool, list[int]] = defaultdict(lambda: [0, 0])
        for case, is_said in zip(cases, said, strict=True):
            if is_said is not None and kind in (None, case["kind"]):
                is_right = case["expected"] == "correct"
                counts[is_right][0] += is_said != is_right
                counts[is_right][1] += 1
        rates[name] = {
            "false_positive": Rate(*counts[False]).row(),
            "false_negative": Rate(*counts[True]).row(),
        }
    return rates


def _by_math_verify(cases: Sequence[JsonObject]) -> list[bool | None]:
    """Verify with plain math-verify in a process of its own: it sets signal handlers.

    The gold answer is boxed, which is the reading that favours it; Countdown cases, which it does
    not know, are left out (None).
    """
    payload = json.dumps([[case["gold"], case["completion"], case["kind"]] for case in cases])
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN], input=payload, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"audit: math-verify failed: {done.stderr.strip()[-500:]}")
    return [None if said is None else bool(said) for said in json.loads(done.stdout)]


_PLAIN = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from math_verify import parse, verify
said = []
for gold, completion, kind in json.load(sys.stdin):
    try:
        right = bool(verify(parse("\\\\boxed{" + gold + "}"), parse(completion)))
    except Exception:
        right = False
    said.append(None if kind == "countdown" else right)
print(json.dumps(said))
"""


def audit_lines(report: JsonObject) -> Iterator[str]:
    """Yield the report as a table of text: rates in percent, with intervals, by kind."""
    names = list(report["total"])
    yield f"{'kind':16}" + "".join(f"{name + ' ' + e:>34}" for name in names for e in ("f+", "f-"))
    for kind, rates in [*report["kinds"].items(), ("total", report["total"])]:
        cells = (rates[n][e] for n in names for e in ("false_positive", "false_negative"))
        yield f"{kind:16}" + "".join(f"{_cell(cell):>34}" for cell in cells)


def _cell(rate: Mapping[str, float]) -> str:
    if not rate["cases"]:
        return "-"
    interval = f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    return f"{rate['errors']}/{rate['cases']} {100 * rate['rate']:.1f}% {interval}"
