"""Run r1.yaml with several seeds, each in a fresh store, and tabulate what each stage bought.

usage: python benchmarks/effects.py OUT_DIR [--seeds 17 18 19] [--table FILE.md] [--read]

Each seed's run is the command a user types; times and peak memory are those in its action records.
The ablation without the language reward runs in the same store. What is in a store already is not
run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1pipe.evaluation.metrics import paired_difference
from r1pipe.store.store import Store

EFFECTS = (
    # name, model, against, benchmark, per-problem score, what is asked of the mean
    ("base -> zero: pass@1", "zero", "base", "reasoning", "pass@1", ">= +0.15"),
    ("dev1 -> dev2: pass@1", "dev2", "dev1", "reasoning", "pass@1", ">= +0.10"),
    ("dev2 -> dev3: reasoning", "dev3", "dev2", "reasoning", "pass@1", "within 0.05"),
    ("dev2 -> dev3: general", "dev3", "dev2", "general", "pass@1", ">= +0.30"),
    ("dev3 -> r1: reasoning", "r1", "dev3", "reasoning", "pass@1", "within 0.05"),
    ("dev3 -> r1: helpful", "r1", "dev3", "general", "helpful", "> 0"),
    ("dev3 -> r1: refusal", "r1", "dev3", "safety", "pass@1", "> 0"),
    ("student RL -> distilled", "r1-distill", "student-rl", "reasoning", "pass@1", ">= +0.10"),
)
MANIFESTS = ("manifests/r1.yaml", "manifests/r1-no-language.yaml")
MODELS = ("base", "zero", "dev1", "dev2", "dev3", "r1", "student-base", "student-rl", "r1-distill")


def run(manifest: str, store: Path, seed: int) -> None:
    """Run a manifest; a store that holds everything is left as it is."""
    command = [sys.executable, "-m", "r1pipe.cli", "run", manifest, "--store", str(store), "--yes"]
    subprocess.run(
        [*command, "--set", f"params.seed={seed}"], check=True, stdout=subprocess.DEVNULL
    )


def cost(store: Store, manifest: str) -> tuple[float, int]:
    """Return the seconds of all stages of a manifest's newest results, and the peak memory."""
    newest = {
        record.stage_name: record
        for record in sorted(store.records(), key=lambda r: r.created)
        if record.manifest_name == manifest
    }
    peak = max(record.peak_rss_bytes or 0 for record in newest.values())
    return sum(record.seconds for record in newest.values()), peak


def reports(store: Store, manifest: str) -> dict[str, Any]:
    """Return every model's newest evaluation in one manifest's runs."""
    found: dict[str, Any] = {}
    for record in sorted(store.records(), key=lambda r: r.created):
        if record.kind == "evaluate" and record.manifest_name == manifest:
            folder = store.output_dir(record, "report")
            found[record.stage_name.removeprefix("eval-")] = json.loads(
                (folder / "summary.json").read_text()
            )
    return found


def effect_rows(all_reports: dict[int, dict[str, Any]], plain: dict[int, Any]) -> list[list[str]]:
    """Return one row per effect: the paired difference of every seed."""
    rows = []
    for name, model, against, benchmark, score, wanted in EFFECTS:
        cells = []
        for found in all_reports.values():
            new, old = (
                found[m]["benchmarks"][benchmark]["by_problem"][score] for m in (model, against)
            )
            d = paired_difference(new, old)
            cells.append(f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]")
        rows.append([name, wanted, *cells])
    measured: tuple[tuple[str, dict[int, Any], str], ...] = (
        ("dev1: format validity", all_reports, "dev1"),
        ("dev2: language consistency", all_reports, "dev2"),
        ("dev2 without the language reward", plain, "dev2"),
    )
    for name, reports, model in measured:
        measure = "format_validity" if "format" in name else "language_consistency"
        cells = [_measure(r.get(model), measure) for r in reports.values()]
        wanted = (
            ">= 0.95"
            if "format" in name
            else "above the ablation"
            if reports is all_reports
            else ""
        )
        rows.append([name, wanted, *cells])
    return rows


def _measure(report: dict[str, Any] | None, measure: str) -> str:
    if report is None:
        return "not run"
    value = report["benchmarks"]["reasoning"][measure]
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def model_rows(all_reports: dict[int, dict[str, Any]]) -> list[list[str]]:
    """Return pass@1, pass@8 and maj@8 of every model, seeds side by side."""
    rows = []
    for model in MODELS:
        row = [model]
        for measure in ("pass@1", "pass@8", "maj@8", "format_validity", "language_consistency"):
            values = [r[model]["benchmarks"]["reasoning"][measure] for r in all_reports.values()]
            row.append(" / ".join(f"{v['value']:.3f}" for v in values))
        rows.append(row)
    return rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--read", action="store_true", help="run nothing, read what is there")
    arguments = parser.parse_args()
    costs, found, plain = [], {}, {}
    for seed in arguments.seeds:
        root = arguments.out / str(seed)
        for manifest in () if arguments.read else MANIFESTS:
            run(manifest, root, seed)
        store = Store(root)
        seconds, peak = cost(store, "r1")
        costs.append([str(seed), f"{seconds:.0f} s", f"{peak / 2**30:.2f} GiB"])
        found[seed], plain[seed] = reports(store, "r1"), reports(store, "r1-no-language")
    seeds = [f"seed {seed}" for seed in arguments.seeds]
    text = "\n\n".join(
        [
            f"Cores: {len(os.sched_getaffinity(0))}.",
            table(["seed", "time of all stages", "peak memory"], costs),
            table(["effect", "wanted", *seeds], effect_rows(found, plain)),
            table(["model", "pass@1", "pass@8", "maj@8", "format", "language"], model_rows(found)),
        ]
    )
    print(text)
    if arguments.table:
        arguments.table.write_text(text + "\n")


if __name__ == "__main__":
    main()
