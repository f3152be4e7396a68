"""What `plan` and `show` say about costs, from the command line; predictions outside keys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Run
from fake_project import make_project

from r1pipe.costs.rates import Calibration, Speed, calibration_path, write_calibration
from r1pipe.costs.report import BYTE_UNITS, COUNT_UNITS, TIME_UNITS, Costs, _compared, _span
from r1pipe.costs.sources import model_source
from r1pipe.costs.work import Estimate, Range
from r1pipe.errors import ManifestError
from r1pipe.machine import read_machine
from r1pipe.manifest import SourceNode, load_manifest
from r1pipe.manifest.yaml_source import Origin

ROOT = Path(__file__).resolve().parent.parent
SMALL = "manifests/small.yaml"

COST = """

def cost(params, run, inputs):
    from r1pipe.costs.work import Cost, Range, RowsInfo, Info

    rows = RowsInfo(Range(params.count), Range(1), Range(2))
    return Cost({"rows": rows, "report": Info()}, other_s=Range(5, 10), assumes=("a guess",))
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("R1PIPE_STORE", raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "stages" / "numbers.py"
    path.write_text(path.read_text() + COST)
    return tmp_path


def test_plan_with_costs_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['r1pipe', 'plan', '--profile', 'paper', '--store', sys.argv[1]]\n"
        "from r1pipe.cli import main as cli\n"
        "try:\n    cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_plan_shows_the_table_and_what_it_rests_on(project: Path, r1pipe: Run) -> None:
    lines = r1pipe("plan", SMALL, "--verbose")[1].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("STAGE    TIME"))
    assert lines[head + 1].startswith("numbers  5.0-10 s  100-900 MiB")  # it trains no tokens
    assert "assumed: a guess (numbers)" in lines
    assert "joined: no estimate: kind join does not say what it costs" in lines
    assert "scores: no estimate: kind scoreboard does not say what it costs" in lines
    assert any("'r1pipe plan --probe' does so" in line for line in lines)


def test_what_stands_below_the_table_of_costs_fits_the_window() -> None:
    long = "lower run.micro_batch_tokens or run.max_batch, or divide it over devices (run.engine)"
    cost = Costs({"rl": Estimate()}, {}, {long: ["rl"]}, {long: ["rl"]}, "times are rough")
    assert max(map(len, cost.lines())) > 80, "a pipe has lines as they are"
    lines = cost.lines(60)
    assert max(map(len, lines)) <= 60
    text = " ".join(line.strip() for line in lines)
    assert f"tokens trained and sampled; memory per device assumed: {long} (rl)" in text


def test_a_plan_on_one_screen_has_the_sums_and_what_is_unknown(project: Path, r1pipe: Run) -> None:
    lines = r1pipe("plan", SMALL)[1].splitlines()
    assert lines[0].split() == ["STAGE", "KIND", "STATUS", "TIME", "MEMORY"]
    assert lines[1].split() == ["numbers", "numbers", "run", "5.0-10", "s", "100-900", "MiB"]
    assert lines[2].split() == ["joined", "join", "waits", "-", "-"]
    assert lines[5].startswith("time 5.0-10 s, memory 100-900 MiB, disk ")
    assert lines[6] == "tokens trained -, sampled -"
    assert "no estimate: kind join does not say what it costs (joined)" in lines
    assert not any(line.startswith("assumed") for line in lines)
    assert any("; 1 thing assumed, which 'r1pipe plan --verbose' names" in line for line in lines)


def test_nothing_to_run_costs_nothing(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    assert "TIME" not in r1pipe("plan", SMALL)[1]
    assert "TRAINS" not in r1pipe("plan", SMALL, "--verbose")[1]


def test_show_puts_predicted_and_actual_side_by_side(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    out = r1pipe("show", "numbers")[1]
    section = out[out.index("predicted and actual") :].split("\n\n")[0].splitlines()
    assert section[1].split() == ["WHAT", "PREDICTED", "ACTUAL"]
    time = next(line for line in section if line.strip().startswith("time"))
    assert "5.0-10 s" in time  # what cost() says
    assert time.rstrip().endswith("times less")
    assert "predicted:" not in out
    assert [line.split()[0] for line in section[2:]] == ["time", "peak", "disk"]  # no tokens
    record = json.loads(r1pipe("show", "numbers", "--json")[1])
    assert record["facts"]["predicted"]["seconds"] == [5.0, 10.5]
    assert record["actual"]["seconds"] == record["seconds"]
    assert "predicted and actual" not in r1pipe("show", "joined")[1]


def test_predictions_enter_neither_keys_nor_ids(project: Path, r1pipe: Run) -> None:
    before = r1pipe("run", SMALL, "--json")[1]
    path = project / "stages" / "numbers.py"
    path.write_text(path.read_text().replace("Range(5, 10)", "Range(50, 60)"))
    speeds = {"train:torch:cpu": Speed(((1.0, 1.0),))}
    found = Calibration({}, {}, "2026-01-02", speeds)
    write_calibration(calibration_path(read_machine().node), found)
    after = r1pipe("run", SMALL, "--json", "--rebuild", "numbers")[1]
    ids = [
        [(stage["key"], stage["artifact"]) for stage in json.loads(text)["stages"]]
        for text in (before, after)
    ]
    assert ids[0] == ids[1]
    facts = json.loads(r1pipe("show", "numbers", "--json")[1])["facts"]
    assert facts["predicted"]["seconds"][0] == 50
    assert facts["predicted"]["calibrated"] == "2026-01-02"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("return 5", "cost() returned 5, not a Cost"),
        (
            "from r1pipe.costs.work import Cost, Range; return Cost({}, other_s=Range(3, 2))",
            "failed: AssertionError: not a range: 3 to 2",
        ),
        ("from r1pipe.costs.work import Cost; return Cost({})", "does not name its output rows"),
    ],
)
def test_a_cost_that_fails_is_told_and_the_stage_runs_all_the_same(
    project: Path, r1pipe: Run, body: str, text: str
) -> None:
    numbers = project / "stages" / "numbers.py"
    numbers.write_text(numbers.read_text().replace(COST, f"\n\ndef cost(*_):\n    {body}\n"))
    join = project / "stages" / "join.py"
    join.write_text(join.read_text() + "\n\ndef cost(params, run, inputs):\n    pass\n")
    code, out, _ = r1pipe("plan", SMALL)
    assert code == 0
    assert text in out
    assert r1pipe("run", SMALL)[0] == 0


def test_a_cost_that_is_no_function_is_a_mistake_of_the_stage_file(
    project: Path, r1pipe: Run
) -> None:
    numbers = project / "stages" / "numbers.py"
    numbers.write_text(numbers.read_text().replace(COST, "\ncost = 3\n"))
    line = numbers.read_text().splitlines().index("cost = 3") + 1
    code, _, err = r1pipe("plan", SMALL)
    assert code == 2
    assert f"{numbers}:{line}:1: cost must be a function: def cost(params, run, inputs)" in err


def test_times_say_on_what_they_rest(project: Path, r1pipe: Run) -> None:
    path = calibration_path(read_machine().node)
    speeds = {"train:torch:cpu": Speed(((1.0, 1.0),))}
    found = Calibration({}, {"torch": "1.0", "odd": "2"}, "2026-01-02T03:04", speeds, {}, 3.0)
    write_calibration(path, found)
    out = r1pipe("plan", SMALL)[1]
    assert "times from train:torch:cpu, measured here on 2026-01-02" in out
    assert "the machine was busy then" in out
    (changed,) = re.findall(r"([a-z, ]+) changed since", out)
    assert {"odd", "torch", "transformers"} <= set(changed.strip().split(", "))


def source(**values: Any) -> SourceNode:
    node = SourceNode("m", None, None, None, "model", Origin("m.yaml", 1, 1))
    return node._replace(**values)


def test_a_models_size_is_its_configs_else_stated_else_named_else_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Qwen2.5-7B"
    path.mkdir()
    assert model_source(source(path=path))[1] == "the size that the name Qwen2.5-7B states"
    info, text = model_source(source(path=path, size="0.5B"))
    assert (info.num_parameters, text) == (
        500_000_000,
        "a model of 0.5B parameters, as its 'size' says",
    )
    assert "1.5B parameters; 'size'" in model_source(source(path=tmp_path / "base"))[1]
    config = {
        "model_type": "qwen3",
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 384,
        "vocab_size": 765,
        "tie_word_embeddings": True,
    }
    (path / "config.json").write_text(json.dumps(config))
    info, text = model_source(source(path=path, size="0.5B"))
    assert (info.num_parameters, text) == (885_760, "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hub = tmp_path / "models--a--b"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc\n")
    (hub / "snapshots" / "abc").mkdir(parents=True)
    (hub / "snapshots" / "abc" / "config.json").write_text(json.dumps(config))
    for revision in ("main", "abc"):
        info, text = model_source(source(hf="a/b", revision=revision))
        assert (info.num_parameters, text) == (885_760, "")


def test_a_size_that_is_none_is_a_mistake_of_the_manifest(tmp_path: Path) -> None:
    make_project(tmp_path)
    path = tmp_path / "manifests" / "small.yaml"
    text = path.read_text().replace("as: dataset}", "as: dataset, size: big}")
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"small\.yaml:6:\d+: sources\.prompts\.size is 'big'"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("low", "high", "units", "text"),
    [
        (0, 0, COUNT_UNITS, "-"),
        (1500, 250_000, COUNT_UNITS, "1.5-250 k"),
        (2e6, 2e6, COUNT_UNITS, "2.0 M"),
        (0.001, 0.2, TIME_UNITS, "0-0.2 s"),
        (30, 5400, TIME_UNITS, "0-1.5 h"),
        (90, 150, TIME_UNITS, "1.5-2.5 min"),
        (1 << 30, 5 << 30, BYTE_UNITS, "1.0-5.0 GiB"),
        (3e9, 3e11, TIME_UNITS, "95-9,506 y"),
    ],
)
def test_a_range_is_written_in_the_unit_of_its_upper_end(
    low: float, high: float, units: Any, text: str
) -> None:
    assert _span(low, high, units) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(15.0, "inside"), (5.0, "2 times less"), (40.0, "2 times more"), (None, ""), (0.0, "less")],
)
def test_an_actual_value_is_compared_with_its_range(value: float | None, text: str) -> None:
    assert _compared(10.0, 20.0, value) == text


def test_the_total_adds_time_and_takes_the_largest_memory() -> None:
    one = Estimate(seconds=Range(1, 2), peak_bytes=Range(10, 30), disk_bytes=Range(5))
    two = Estimate(seconds=Range(10, 20), peak_bytes=Range(20, 25), disk_bytes=Range(7), devices=4)
    total = Costs({"a": one, "b": two}).total()
    assert total.seconds == Range(11, 22)
    assert total.peak_bytes == Range(20, 30)
    assert total.disk_bytes == Range(12)
    assert total.devices == 4
