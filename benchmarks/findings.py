"""Run the published comparisons of `manifests/findings/` and write docs/findings.md's tables.

usage: python benchmarks/findings.py STORE [--seeds 201 202 203] [--only NAME ...] [--profile smoke]
           [--read] [--set PATH=VALUE] [--page docs/findings.md] [--pictures docs/findings]
           [--jobs N]

Every seed's runs share the store, so what several findings need is made once; what is there is not
run again. Seeds run side by side, `--jobs` of them, by default as many as there are cores.
`--read` runs nothing that is not there. The page keeps its text: what stands between
`<!-- NAME -->` and `<!-- end -->` is written anew. Pictures need matplotlib, which is optional.

Each claim is a paired difference by problem in every seed. With several seeds the interval is that
of Student's t over the seeds, whose held-out problems differ; with one it is the bootstrap over its
problems.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from findings_jobs import side_by_side, usable_cores
from findings_list import FINDINGS, Claim, Finding

from r1pipe.evaluation.metrics import bootstrap_interval, maj_at_k, pass_at_k
from r1pipe.evaluation.votes import votes
from r1pipe.keys import JsonObject
from r1pipe.records import Problem, Row
from r1pipe.rewards.language import language
from r1pipe.rows import read_rows
from r1pipe.store.store import Store
from r1pipe.tasks import arithmetic, parity
from r1pipe.verify.reading.recast import recast

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (201, 202, 203)
"""Seeds that are reported; settings were found on others."""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Number of values -> Student's 97.5 % quantile of one degree of freedom less."""
REACHED = 0.9
"""Pass rate of whole problems from which a policy is said to solve them."""
Values = Mapping[str, float]
"""Problem -> value."""


@dataclass
class Measured:
    """What one seed's runs of one finding gave."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    """Model -> its samples."""
    metrics: dict[str, list[JsonObject]] = field(default_factory=dict)
    """Training stage -> what it logged, step by step."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Key of a stage -> its seconds, as its record has them; shared ones too."""
    stopped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if max(abs(self.low), abs(self.high)) > 2 else 3
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


# ---- running -------------------------------------------------------------------------------------


def run_seed(
    name: str, store: Path, seed: int, profile: str | None, read: bool, given: Sequence[str] = ()
) -> Measured:
    """Run one finding with one seed and read what it gave; `given` is set besides."""
    finding, found = FINDINGS[name], Measured()
    for variant, sets in (finding.variants or {"": ()}).items():
        chosen = ["--profile", profile] if profile else []
        texts = (f"params.seed={seed}", *sets, *given)
        chosen += [part for text in texts for part in ("--set", text)]
        document = _command(finding, name, store, chosen, read)
        end = f"@{variant}" if variant else ""
        _collect(document, Store(store), end, found)
    return found


def _command(
    finding: Finding, name: str, store: Path, chosen: Sequence[str], read: bool
) -> JsonObject:
    """Return the JSON of `r1pipe run` or `r1pipe ablate`; raise if it would have to build."""
    manifest = str(ROOT / "manifests" / "findings" / f"{name}.yaml")
    base = [sys.executable, "-m", "r1pipe.cli"]
    options = [manifest, "--store", str(store), *chosen]
    if read:
        plan = subprocess.run(
            [*base, "plan", *options, "--json"], check=True, capture_output=True, text=True
        )
        waiting = [s["name"] for s in json.loads(plan.stdout)["stages"] if s["status"] == "run"]
        if waiting:
            raise SystemExit(f"{name}: not run yet: {', '.join(waiting)}; leave out --read")
    verb = "ablate" if finding.is_ablation else "run"
    done = subprocess.run(
        [*base, verb, *options, "--yes", "--json"], check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode and not (finding.is_ablation and done.stdout):
        raise SystemExit(f"{name}: {verb} ended with {done.returncode}; run again to go on")
    document: JsonObject = json.loads(done.stdout)
    return document


def _collect(document: JsonObject, store: Store, end: str, found: Measured) -> None:
    """Add the samples and logs of one command's stages."""
    keys = {f"eval-{name}": key for name, key in document.get("keys", {}).items()}
    keys |= {stage["name"]: stage["key"] for stage in document.get("stages", ())}
    found.stopped |= document.get("stopped", {})
    for stage, key in keys.items():
        record = store.lookup(key)
        assert record is not None, f"{stage} was just there"
        found.seconds[key] = record.seconds
        if record.kind == "evaluate":
            rows = list(read_rows(store.output_dir(record, "samples")))
            found.rows[stage.removeprefix("eval-") + end] = rows
        elif record.kind in ("grpo", "online-rft", "on-policy-distil"):
            found.metrics[stage + end] = store.metrics(record)


# ---- measuring -----------------------------------------------------------------------------------


def measured(rows: Sequence[Row], measure: str) -> dict[str, float]:
    """Return a measure of each problem; those that it does not fit are left out.

    A measure is of reasoning, or of the benchmark that is named before a colon: `safety: pass@1`.
    """
    benchmark, _, name = measure.rpartition(": ")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["benchmark"] == (benchmark or "reasoning"):
            groups[row["problem_id"]].append(row)
    of = _measure(name)
    values = {problem: of(group) for problem, group in groups.items()}
    return {problem: value for problem, value in values.items() if value is not None}


def _measure(name: str) -> Callable[[Sequence[Row]], float | None]:
    if (match := re.fullmatch(r"(pass|maj)@(\d+)", name)) is not None:
        k = int(match[2])
        return (lambda g: _pass(g, k)) if match[1] == "pass" else (lambda g: _maj(g, k))
    return _MEASURES[name]


def _right(group: Sequence[Row]) -> list[bool]:
    return [row["verdict"] == "correct" for row in group]


def _pass(group: Sequence[Row], k: int) -> float | None:
    return pass_at_k(len(group), sum(_right(group)), k) if k <= len(group) else None


def _maj(group: Sequence[Row], k: int) -> float | None:
    return maj_at_k(votes(group), _right(group), k) if k <= len(group) else None


def _tokens(group: Sequence[Row], verdict: bool | None = None) -> float | None:
    fitting = [
        float(row["num_tokens"])
        for row in group
        if verdict is None or (row["verdict"] == "correct") is verdict
    ]
    return statistics.fmean(fitting) if fitting else None


def _steps(group: Sequence[Row]) -> float:
    return statistics.fmean(len(_STEP[row["task"]].findall(row["completion"])) for row in group)


def _language(group: Sequence[Row]) -> float:
    problem = Problem(
        id="", task=group[0]["task"], prompt="", gold="", language=group[0]["language"], checker=""
    )
    texts = [recast(row["completion"], row.get("format", "chat")) for row in group]
    return statistics.fmean(language(problem, text) for text in texts)


_STEP = {"arithmetic": arithmetic.STEP, "parity": parity.STEP}
"""What a written step of a task looks like: operands, and the result."""
_MEASURES: Mapping[str, Callable[[Sequence[Row]], float | None]] = {
    "tokens": _tokens,
    "tokens of wrong ones": lambda group: _tokens(group, verdict=False),
    "tokens of right ones": lambda group: _tokens(group, verdict=True),
    "steps": _steps,
    "truncated": lambda g: statistics.fmean(row["finish_reason"] == "length" for row in g),
    "language": _language,
}


def difference(new: Values, old: Values) -> list[float]:
    """Return new - old of every problem that both have."""
    return [new[problem] - old[problem] for problem in sorted(new.keys() & old.keys())]


def over_seeds(by_seed: Sequence[Sequence[float]]) -> Interval | None:
    """Return the mean of what each seed gave by problem, with its interval; None without any."""
    given = [values for values in by_seed if values]
    if not given:
        return None
    means = [statistics.fmean(values) for values in given]
    if len(means) == 1:
        return Interval(means[0], *bootstrap_interval(given[0], seed=0))
    mean = statistics.fmean(means)
    half = T_95[min(len(means), max(T_95))] * statistics.stdev(means) / math.sqrt(len(means))
    return Interval(mean, mean - half, mean + half)


def verdict(claim: Claim, found: Interval | None) -> str:
    """Say whether a claim came out: the interval excludes zero on its side, or holds zero."""
    if found is None:
        return "not measured"
    if claim.sign == "0":
        return "level" if found.low <= 0 <= found.high else "not level"
    up, down = found.low > 0, found.high < 0
    if (up, down) == (claim.sign == "+", claim.sign == "-"):
        return "as published"
    return "the opposite" if up or down else "not shown"


def updates_to(metrics: Sequence[JsonObject], level: float = REACHED) -> int | None:
    """Return the first update whose rollout has this pass rate on problems that are shown whole."""
    for row in metrics:
        whole = "pass_rate" if "revealed_frac" not in row else "pass_rate_unrevealed"
        if row.get(whole, 0.0) >= level:
            return int(row["step"])
    return None


# ---- the page ------------------------------------------------------------------------------------


def section(name: str, by_seed: Mapping[int, Measured]) -> str:
    """Return a finding's tables as Markdown."""
    finding = FINDINGS[name]
    rows = []
    for claim in finding.claims:
        values = [
            difference(
                measured(each.rows.get(claim.new, ()), claim.measure),
                measured(each.rows.get(claim.old, ()), claim.measure),
            )
            for each in by_seed.values()
        ]
        found = over_seeds(values)
        each = " / ".join(f"{statistics.fmean(v):+.3f}" if v else "-" for v in values)
        rows.append(
            [claim.text, claim.measure, claim.published, str(found or "-"), each,
             verdict(claim, found)]
        )  # fmt: skip
    seeds = ", ".join(map(str, by_seed))
    header = ["claim", "measure", "the paper", "ours: difference, 95 %", "by seed", ""]
    models = dict.fromkeys(model for each in by_seed.values() for model in each.rows)
    levels = [
        [model, *[_level(model, measure, by_seed) for measure in finding.measures]]
        for model in models
    ]
    seconds = statistics.fmean(sum(each.seconds.values()) for each in by_seed.values())
    took = f"; {seconds / 60:.1f} minutes of stages in each, shared ones counted"
    said = [f"Seeds {seeds}{'' if finding.is_ablation else took}."]
    said += [
        f"Seed {seed}: without {part} there is no score: {text.splitlines()[0]}"
        for seed, each in by_seed.items()
        for part, text in each.stopped.items()
    ]
    tables = [table(header, rows), table(["model", *finding.measures], levels)]
    if finding.variants:
        tables.append(_updates(by_seed))
    return "\n\n".join([*tables, *said])


def _updates(by_seed: Mapping[int, Measured]) -> str:
    """Return a table of how many updates each policy took, seed by seed."""
    policies = dict.fromkeys(stage for each in by_seed.values() for stage in each.metrics)
    found = [
        [
            stage,
            " / ".join(str(updates_to(e.metrics.get(stage, ())) or "-") for e in by_seed.values()),
        ]
        for stage in policies
    ]
    return table(["policy", f"updates until {REACHED:.0%} of whole problems are right"], found)


def _level(model: str, measure: str, by_seed: Mapping[int, Measured]) -> str:
    values = [
        list(measured(each.rows.get(model, ()), measure).values()) for each in by_seed.values()
    ]
    found = over_seeds(values)
    return "-" if found is None else str(found).replace("+", "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def placed(page: str, name: str, text: str) -> str:
    """Return a page with a finding's part written anew; one without a place gets it at its end."""
    start, end = f"<!-- {name} -->", "<!-- end -->"
    part = f"{start}\n{text}\n{end}"
    before, found, rest = page.partition(start)
    if not found:
        return f"{page.rstrip()}\n\n## {FINDINGS[name].title}\n\n{part}\n"
    return before + part + rest.partition(end)[2]


def main() -> None:
    """Run, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", nargs="+", choices=list(FINDINGS), default=list(FINDINGS))
    parser.add_argument("--profile")
    parser.add_argument("--read", action="store_true", help="run nothing")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--jobs", type=int, help="commands at once, one core each")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--pictures", type=Path)
    chosen = parser.parse_args()
    minutes = {name: FINDINGS[name].minutes for name in chosen.only}
    cores = usable_cores()[: chosen.jobs]
    if not chosen.read and not chosen.profile:
        total = sum(minutes.values()) * len(chosen.seeds) / len(cores)
        print(f"about {total:.0f} minutes, if {len(cores)} cores are idle", file=sys.stderr)

    def run(name: str, seed: int) -> Measured:
        return run_seed(name, chosen.store, seed, chosen.profile, chosen.read, chosen.set)

    found = side_by_side(chosen.seeds, minutes, run, cores)
    for name in chosen.only:
        by_seed = {seed: found[name, seed] for seed in chosen.seeds}
        text = section(name, by_seed)
        print(f"## {FINDINGS[name].title}\n\n{text}\n", flush=True)
        if chosen.pictures is not None:
            from findings_pictures import draw

            chosen.pictures.mkdir(parents=True, exist_ok=True)
            draw(FINDINGS[name], by_seed, chosen.pictures / f"{name}.png")
        if chosen.page is not None:
            page = (
                chosen.page.read_text(encoding="utf-8") if chosen.page.exists() else "# Findings\n"
            )
            chosen.page.write_text(placed(page, name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
