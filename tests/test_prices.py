"""GPU-hours and what they come to: by stage, by the manifest, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run

from r1pipe.cli.plan_view import short_plan_lines
from r1pipe.costs.report import Costs
from r1pipe.costs.work import Estimate, Range
from r1pipe.pipeline.planning import Plan, PlannedStage

R1 = Path(__file__).resolve().parent.parent / "manifests" / "r1.yaml"


def test_gpu_hours_are_counted_on_gpus_alone_and_priced() -> None:
    gpu = Estimate(seconds=Range(3600, 7200), device="cuda", devices=4)
    estimates = {"a": gpu, "b": Estimate(seconds=Range(3600))}
    costs = Costs(estimates, prices={"a": 2.5, "b": 2.5})
    assert costs.gpu_hours() == Range(4, 8)
    lines = [line.split() for line in costs.lines() if line]
    assert lines[0][-2:] == ["GPU-HOURS", "PRICE"]
    assert [line[-2:] for line in lines[1:4]] == [
        ["4.0-8.0", "10-20"],
        ["-", "-"],
        ["4.0-8.0", "10-20"],
    ]
    assert costs.to_json()["price"] == [10.0, 20.0]
    assert "GPU-HOURS" not in "".join(Costs({"b": Estimate(seconds=Range(3600))}).lines())


def test_gpus_of_different_stages_have_prices_of_their_own() -> None:
    gpu = Estimate(seconds=Range(3600, 7200), device="cuda", devices=4)
    costs = Costs({"a": gpu, "b": gpu, "c": gpu}, prices={"a": 2.5, "b": 1.0})
    lines = [line for line in costs.lines() if line]
    assert [line.split()[-1] for line in lines[1:5]] == ["10-20", "4.0-8.0", "-", "14-28"]
    assert costs.to_json()["price"] == [14.0, 28.0]
    note = "no price: set run.price_per_gpu_hour, or --price for all (c)"
    assert note in costs.lines()
    assert note in costs.short_lines()
    assert Costs({"a": gpu}).to_json()["price"] is None


def test_a_manifest_says_the_price_of_its_gpus(r1pipe: Run, tmp_path: Path) -> None:
    arguments = ("plan", str(R1), "--profile", "node8", "--json", "--store", str(tmp_path))
    stages = "stages.zero.run.price_per_gpu_hour"
    own = json.loads(r1pipe(*arguments, "--set", f"{stages}=2.0")[1])["costs"]
    zero = own["stages"]["zero"]
    hours = [seconds * zero["devices"] / 3600 for seconds in zero["seconds"]]
    assert own["price"] == pytest.approx([2.0 * each for each in hours])
    over = json.loads(r1pipe(*arguments, "--set", f"{stages}=2.0", "--price", "3")[1])["costs"]
    assert over["price"] == pytest.approx([3.0 * each for each in over["gpu_hours"]])
    code, _, err = r1pipe(*arguments, "--set", f"{stages}=-1")
    assert code == 2
    assert "price_per_gpu_hour should be at least 0" in err


def test_one_screen_has_the_price_of_each_stage_where_it_fits() -> None:
    gpu = Estimate(seconds=Range(3600, 7200), device="cuda", devices=4)
    costs = Costs({"a": gpu, "b": Estimate(seconds=Range(60))}, prices={"a": 2.5, "b": 2.5})
    plan = Plan([PlannedStage("a", "grpo", "run"), PlannedStage("b", "mix", "run")])
    lines = [line.split() for line in short_plan_lines(plan, costs, None)]
    assert lines[0] == ["STAGE", "KIND", "STATUS", "TIME", "MEMORY", "GPU-HOURS", "PRICE"]
    assert lines[1][-2:] == ["4.0-8.0", "10-20"]
    assert lines[2][-2:] == ["-", "-"]
    narrow = short_plan_lines(plan, costs, 38)[0].split()
    assert narrow == ["STAGE", "STATUS", "TIME", "PRICE"]
    unpriced = short_plan_lines(plan, Costs(costs.estimates), None)[0].split()
    assert unpriced == ["STAGE", "KIND", "STATUS", "TIME", "MEMORY", "GPU-HOURS"]


def test_a_plan_of_gpus_shows_what_each_stage_costs(r1pipe: Run, tmp_path: Path) -> None:
    arguments = ("--profile", "node8", "--store", str(tmp_path), "--price", "2.5")
    lines = r1pipe("plan", str(R1), *arguments)[1].splitlines()
    assert "PRICE" in lines[0].split()
    zero = next(line for line in lines if line.startswith("zero "))
    price = zero[lines[0].index("PRICE") :].split("  ")[0]
    low, high = (float(each.replace(",", "")) for each in price.removesuffix(" k").split("-"))
    assert 0 < low < high
