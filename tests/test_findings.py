"""benchmarks/findings.py: its manifests, what it measures and says, one finding at smoke size."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from test_methods import SMALL

from r1pipe.manifest import load_manifest

sys.path.append(str(ROOT / "benchmarks"))

from findings import Interval, difference, measured, over_seeds, placed, updates_to, verdict
from findings_jobs import side_by_side, usable_cores
from findings_list import FINDINGS, Claim

MANIFESTS = ROOT / "manifests" / "findings"


def row(problem: str, verdict: str, tokens: int = 5, answer: str | None = "1") -> dict[str, Any]:
    return {
        "benchmark": "reasoning",
        "problem_id": problem,
        "task": "arithmetic",
        "language": "en",
        "checker": "number",
        "verdict": verdict,
        "extracted": answer,
        "num_tokens": tokens,
        "finish_reason": "stop",
        "completion": "<think>\nso 3+4=7\n</think>\n\n\\boxed{7}",
    }


def test_every_manifest_is_a_finding_and_measures_the_models_of_its_claims() -> None:
    assert {path.stem for path in MANIFESTS.glob("*.yaml")} == set(FINDINGS)
    for name, finding in FINDINGS.items():
        path = MANIFESTS / f"{name}.yaml"
        manifest = load_manifest(path)
        variants = [f"@{each}" for each in finding.variants] if finding.variants else [""]
        if finding.is_ablation:
            assert manifest.ablations is not None
            models = {"nothing", *manifest.ablations.without}
        else:
            stages = [n for n, node in manifest.stages.items() if node.kind.kind == "evaluate"]
            models = {n.removeprefix("eval-") + end for n in stages for end in variants}
        for claim in finding.claims:
            assert {claim.new, claim.old} <= models, f"{name}: {claim.text}"
        shown = {model + end for model in finding.picture.models for end in variants}
        if finding.picture.kind != "steps":
            assert shown <= models, name


def test_every_seed_has_problems_of_its_own_and_every_smoke_profile_is_small() -> None:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        held_out = load_manifest(path, overrides=["params.seed=5"]).stages["held-out"]
        assert held_out.key_params()["seed"] == 5, path.name
        for node in load_manifest(path, profile="smoke").stages.values():
            assert node.key_params().get("num_steps", 0) <= 4, f"{path.name}: {node.name}"


def test_measures_are_of_single_problems() -> None:
    rows = [
        row("a", "correct", 4),
        row("a", "wrong", 8, "2"),
        row("b", "wrong", 6, "3"),
        row("b", "wrong", 10, "3"),
        row("c", "correct") | {"benchmark": "general"},
    ]
    assert measured(rows, "pass@1") == {"a": 0.5, "b": 0.0}
    assert measured(rows, "pass@2") == {"a": 1.0, "b": 0.0}
    assert measured(rows, "pass@4") == {}
    assert measured(rows, "maj@2") == {"a": 0.5, "b": 0.0}
    assert measured(rows, "tokens of wrong ones") == {"a": 8.0, "b": 8.0}
    assert measured(rows, "tokens of right ones") == {"a": 4.0}
    assert measured(rows, "general: pass@1") == {"c": 1.0}
    assert measured(rows, "language") == {"a": 1.0, "b": 1.0}
    assert difference({"a": 1.0, "b": 0.5}, {"b": 0.25, "c": 9.0}) == [0.25]


def test_the_interval_over_seeds_is_students_and_that_of_one_seed_the_bootstraps() -> None:
    found = over_seeds([[0.0, 0.2], [0.2], [0.3]])  # means 0.1, 0.2, 0.3
    assert found is not None
    half = 4.303 * 0.1 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    alone = over_seeds([[0.5, 0.5, 0.5], []])
    assert alone == Interval(0.5, 0.5, 0.5)
    assert over_seeds([[], []]) is None


@pytest.mark.parametrize(
    ("sign", "low", "high", "said"),
    [
        ("+", 0.1, 0.2, "as published"),
        ("+", -0.1, 0.2, "not shown"),
        ("+", -0.2, -0.1, "the opposite"),
        ("-", -0.2, -0.1, "as published"),
        ("-", 0.1, 0.2, "the opposite"),
        ("0", -0.1, 0.1, "level"),
        ("0", 0.1, 0.2, "not level"),
    ],
)
def test_a_claim_came_out_if_its_interval_says_so(
    sign: Any, low: float, high: float, said: str
) -> None:
    claim = Claim("x", "pass@1", "a", "b", sign)
    assert verdict(claim, Interval((low + high) / 2, low, high)) == said
    assert verdict(claim, None) == "not measured"


def test_a_policy_solves_problems_when_it_is_shown_none_of_the_solution() -> None:
    plain = [{"step": 1, "pass_rate": 0.5}, {"step": 2, "pass_rate": 0.9}]
    shown = [
        {"step": 1, "pass_rate": 1.0, "revealed_frac": 0.8, "pass_rate_unrevealed": 0.1},
        {"step": 2, "pass_rate": 1.0, "revealed_frac": 0.9},  # none was shown whole
        {"step": 3, "pass_rate": 0.5, "revealed_frac": 0.1, "pass_rate_unrevealed": 0.95},
    ]
    assert updates_to(plain) == 2
    assert updates_to(shown) == 3
    assert updates_to(plain[:1]) is None


def test_only_a_findings_own_part_of_the_page_is_written_anew() -> None:
    page = placed("# Findings\n\nText.\n", "figure-6", "first")
    assert page.startswith("# Findings\n\nText.\n\n## DeepSeekMath, figure 6")
    mine = page + "\nWhy it is so.\n"
    again = placed(mine, "figure-6", "second")
    assert again == mine.replace("first", "second")
    assert placed(again, "length", "x").count("<!-- end -->") == 2


@pytest.mark.slow
def test_a_finding_runs_at_smoke_size_and_draws_its_picture(tmp_path: Path) -> None:
    sets = [part for each in SMALL for part in ("--set", each)]
    page, pictures = tmp_path / "page.md", tmp_path / "pictures"
    command = [sys.executable, "benchmarks/findings.py", str(tmp_path / "store")]
    command += ["--seeds", "7", "--only", "figure-7", "--profile", "smoke", "--page", str(page)]
    subprocess.run([*command, *sets], cwd=ROOT, check=True, capture_output=True)
    assert "| pass@1 rises | pass@1 |" in page.read_text()
    pytest.importorskip("matplotlib")
    command += ["--read", "--pictures", str(pictures)]
    subprocess.run([*command, *sets], cwd=ROOT, check=True, capture_output=True)
    assert (pictures / "figure-7.png").stat().st_size > 1000


def test_seeds_run_side_by_side_and_the_findings_of_one_seed_do_not() -> None:
    cores = usable_cores()[:1] * 2  # two commands at once, also where there is one core
    both, order, lock = threading.Barrier(2), list[tuple[str, int]](), threading.Lock()
    running = set[int]()

    def run(name: str, seed: int) -> str:
        with lock:
            assert seed not in running
            running.add(seed)
            order.append((name, seed))
        if name == "long":
            both.wait(60)  # ends only when the other seed's has begun
        with lock:
            running.remove(seed)
        return f"{name}{seed}"

    found = side_by_side((1, 2), {"long": 5.0, "short": 1.0}, run, cores)
    assert found == {(name, seed): f"{name}{seed}" for name in ("long", "short") for seed in (1, 2)}
    assert {task[0] for task in order[:2]} == {"long"}


def test_a_finding_that_fails_ends_the_rest() -> None:
    begun = list[str]()

    def run(name: str, seed: int) -> str:
        begun.append(name)
        raise SystemExit(f"{name}: ended with 3")

    with pytest.raises(SystemExit, match="first: ended with 3"):
        side_by_side((1,), {"first": 1.0, "second": 1.0}, run, usable_cores()[:1])
    assert begun == ["first"]
