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
from ruamel.yaml import YAML

from r1pipe.costs import memory, rates
from r1pipe.costs.models import model_of_size
from r1pipe.costs.rates import Calibration, Speed, calibration_path, write_calibration
from r1pipe.costs.report import BYTE_UNITS, COUNT_UNITS, TIME_UNITS, Costs, _compared, _span
from r1pipe.costs.sources import model_source
from r1pipe.costs.work import Cost, Estimate, ProblemsInfo, Range
from r1pipe.errors import ManifestError
from r1pipe.machine import read_machine
from r1pipe.manifest import SourceNode, load_manifest
from r1pipe.manifest.yaml_source import Origin
from r1pipe.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
R1 = str(ROOT / "manifests" / "r1.yaml")
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


def planned(r1pipe: Run, tmp_path: Path, profile: str) -> dict[str, Any]:
    store = str(tmp_path / "store")
    code, out, _ = r1pipe("plan", R1, "--profile", profile, "--json", "--store", store)
    assert code == 0
    document: dict[str, Any] = json.loads(out)
    return document


PROFILES = list(YAML(typ="safe").load(Path(R1))["profiles"])


def test_the_profiles_that_the_recipe_promises_are_there() -> None:
    assert {"laptop", "smoke", "gpu", "node8", "paper"} <= set(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_of_every_profile_has_an_estimate(
    profile: str, r1pipe: Run, tmp_path: Path
) -> None:
    document = planned(r1pipe, tmp_path, profile)
    costs = document["costs"]
    assert costs["unknown"] == {}
    assert list(costs["stages"]) == [stage["name"] for stage in document["stages"]]
    for name, found in costs["stages"].items():
        for field in ("seconds", "peak_bytes", "disk_bytes"):
            low, high = found[field]
            assert 0 <= low <= high, (name, field)
            assert high > 0, (name, field)
    trained = [n for n, found in costs["stages"].items() if found["trained_tokens"][1]]
    sampled = [n for n, found in costs["stages"].items() if found["sampled_tokens"][1]]
    assert {"zero", "cold-start-sft", "second-sft", "helpful-rm", "distil"} <= set(trained)
    assert {"zero", "rejection-sample", "eval-r1", "student-rl"} <= set(sampled)


def test_the_larger_the_profile_the_more_it_costs(r1pipe: Run, tmp_path: Path) -> None:
    totals = [
        planned(r1pipe, tmp_path, profile)["costs"]["total"]
        for profile in ("smoke", "laptop", "gpu", "node8", "paper")
    ]
    for field in ("trained_tokens", "sampled_tokens", "disk_bytes"):
        ends = [total[field][1] for total in totals]
        assert ends == sorted(ends), field


def test_models_from_outside_have_the_size_that_the_manifest_states(
    r1pipe: Run, tmp_path: Path
) -> None:
    for profile, size in (("gpu", 1.5e9), ("node8", 7e9), ("paper", 671e9)):
        costs = planned(r1pipe, tmp_path, profile)["costs"]
        low, high = costs["stages"]["base"]["disk_bytes"]
        assert low <= 4 * size <= high, profile
        assert any("as its 'size' says" in text for text in costs["assumed"])
    assert (
        "source base-model"
        in costs["assumed"]["a model of 671B-A37B parameters, as its 'size' says"]
    )


def test_grpo_of_the_paper_samples_what_its_numbers_say(r1pipe: Run, tmp_path: Path) -> None:
    zero = planned(r1pipe, tmp_path, "paper")["costs"]["stages"]["zero"]
    completions = 10_400 * 32 * 16
    assert zero["sampled_tokens"] == [
        pytest.approx(completions * 0.1 * 32_768),
        pytest.approx(completions * 0.6 * 32_768),
    ]


def parts_of(profile: str, expect: str = "") -> tuple[Range, Range]:
    """Return hours of training and of sampling of `zero`, on GPUs of the H100 class."""
    overrides = [f"stages.zero.run.expect.completion_tokens={expect}"] if expect else []
    manifest = load_manifest(Path(R1), profile=profile, overrides=overrides)
    node = manifest.stages["zero"]
    problems = ProblemsInfo(Range(80_000), Range(60, 120), None)
    model = model_of_size({"node8": "7B", "gpu": "1.5B"}[profile])
    assert model is not None
    assert node.kind.cost is not None
    cost = node.kind.cost(node.params, node.run, {"model": model, "problems": problems})
    assert isinstance(cost, Cost)
    training = sum((rates.training_seconds(each, None)[0] for each in cost.training), Range(0))
    (work,) = cost.sampling
    slots = memory.slots(work, H100_BYTES, 1024, is_alone=False)
    sampling, _ = rates.sampling_seconds(work, None, slots)
    return training * (1 / 3600), sampling * (1 / 3600)


H100_BYTES = 80 * 10**9


def sampling_by_hand(
    completions: float,
    lengths: tuple[float, float],
    slots: float,
    model: tuple[float, float, float],
    speed: tuple[float, float, float, float],
) -> float:
    """Return hours of one GPU: operations, weights once a step, and the cache for each token.

    `lengths` of prompt and completion; `model`: operations of a token, bytes of weights, bytes of a
    token's keys and values; `speed`: operations/s, s for each token, bytes/s, s for each step.
    """
    prompt, length = lengths
    operations, weights, cached = model
    flops, token_s, bandwidth, step_s = speed
    tokens = completions * length
    computed = (tokens + completions / 16 * prompt) * (operations / flops + token_s)
    read = completions / slots * length * weights / bandwidth
    read += tokens * (prompt + length / 2) * cached / bandwidth
    return (computed + read + step_s) / 3600


def test_zero_of_node8_costs_what_it_does_by_hand() -> None:
    """819,200 completions of 819 to 4,915 tokens after 60 to 120, a 7B model, 8 x 990 TFLOP/s.

    Training: 6 x 7e9 operations a token and 2 x 7e9 for the reference, at 40 % of the peak on 0.95
    of 8 devices to 15 % on 0.75 of them.

    Sampling: of 45 % of 80 GB, 2 GiB and 14 GB of weights leave 19.9 GB for keys and values, 57,344
    bytes (28 layers x 1,024 x 2) a token: 346,000 tokens, or 737 completions of 60 + 819 / 2 under
    way to 69 of 120 + 4,915. With 256 taken for granted, and the cache read for nothing, it was 1.5
    to 31 h; 14 GB read in each step of 69, and 2,577 tokens' cache for each token, take longer.
    """
    training, sampling = parts_of("node8")
    fewest, most = (819_200 * tokens for tokens in (60 + 819.2, 120 + 4915.2))
    operations = 8 * 7e9
    low = fewest * operations / (400e12 * 8 * 0.95) / 3600
    high = most * operations / (150e12 * 8 * 0.75) / 3600
    assert low == pytest.approx(3.7, abs=0.1)
    assert high == pytest.approx(71, abs=1)
    assert low <= training.low <= 1.2 * low
    assert high <= training.high <= 1.3 * high
    room = (0.45 * H100_BYTES - (2 << 30) - 14e9) / 57_344
    fast, slow = room / (60 + 819.2 / 2), room / (120 + 4915.2)
    assert fast == pytest.approx(737, abs=1)
    assert slow == pytest.approx(68.8, abs=0.1)
    # 2 operations a parameter, and 4 x 28 layers x 3,584 for each of 5,035 tokens before
    model = 14e9 + 4 * 28 * 3584 * 5035.2, 14e9, 57_344.0
    # 100 rollouts of as many steps as a completion is long, through 28 layers
    best = 400e12, 1e-6, 3e12, 100 * 819.2 * 28 * 2e-5
    worst = 150e12, 2e-5, 1.5e12, 100 * 4915.2 * 28 * 1e-4
    least = sampling_by_hand(819_200, (60, 819.2), fast, model, best) / (8 * 0.95)
    longest = sampling_by_hand(819_200, (120, 4915.2), slow, model, worst) / (8 * 0.75)
    assert least == pytest.approx(1.39, abs=0.01)
    assert longest == pytest.approx(67.4, abs=0.1)
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest, rel=0.001)
    assert sampling.low <= 2
    assert sampling.high >= 11


def test_zero_of_gpu_samples_as_long_as_by_hand() -> None:
    """131,072 completions of 102 to 614 tokens after 60 to 120, 1.5B, one GPU: 30.9 GB for keys and
    values of 28,672 bytes a token are more than 1,024 completions need, which is vLLM's most."""
    _, sampling = parts_of("gpu")
    model = 3e9 + 4 * 28 * 1536 * 734.4, 3e9, 28_672.0
    best = 400e12, 1e-6, 3e12, 16 * 102.4 * 28 * 2e-5
    worst = 150e12, 2e-5, 1.5e12, 16 * 614.4 * 28 * 1e-4
    assert (0.45 * H100_BYTES - (2 << 30) - 3e9) / 28_672 / (120 + 614.4) > 1024
    least = sampling_by_hand(131_072, (60, 102.4), 1024, model, best)
    longest = sampling_by_hand(131_072, (120, 614.4), 1024, model, worst)
    assert sampling.low == pytest.approx(least, rel=0.001)
    assert sampling.high == pytest.approx(longest, rel=0.001)


@pytest.mark.parametrize("profile", ["node8", "gpu"])
def test_known_lengths_leave_a_factor_of_four(profile: str) -> None:
    for found, rough in zip(parts_of(profile, "[600,600]"), parts_of(profile), strict=True):
        assert found.high <= 4 * found.low
        assert rough.high > 4 * rough.low


def test_the_laptop_profile_is_predicted_as_it_was_measured(r1pipe: Run, tmp_path: Path) -> None:
    """Counts, bytes and MiB of a finished run with seed 17; its times are another machine's."""
    stages = planned(r1pipe, tmp_path, "laptop")["costs"]["stages"]
    measured = {
        "base": {"trained_tokens": 1_837_249, "disk_bytes": 3_589_289, "peak_bytes": 725 << 20},
        "student-base": {"trained_tokens": 565_740, "disk_bytes": 1_669_138},
        "zero": {"sampled_tokens": 438_000, "peak_bytes": 800 << 20},
        "reasoning-rl": {"sampled_tokens": 862_000, "peak_bytes": 680 << 20},
        "cold-start-sft": {"trained_tokens": 68_400},
        "second-sft": {"trained_tokens": 1_366_368},
        "distil": {"trained_tokens": 426_990},
        "rejection-sample": {"sampled_tokens": 173_000, "disk_bytes": 255_524},
        "eval-base": {"sampled_tokens": 34_600},
        "eval-dev2": {"sampled_tokens": 64_600, "disk_bytes": 71_965},
        "corpus": {"disk_bytes": 1_024_630},
    }
    for name, values in measured.items():
        for field, value in values.items():
            low, high = stages[name][field]
            assert low <= value <= high, (name, field)
            assert high <= 8 * low + (1 << 23), (name, field)  # a range says something


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


def test_a_plan_on_one_screen_has_the_sums_and_what_is_unknown(project: Path, r1pipe: Run) -> None:
    lines = r1pipe("plan", SMALL)[1].splitlines()
    assert lines[0].split() == ["STAGE", "KIND", "STATUS", "TIME", "MEMORY"]
    assert lines[1].split() == ["numbers", "numbers", "run", "5.0-10", "s", "100-900", "MiB"]
    assert lines[2].split() == ["joined", "join", "waits", "-", "-"]
    assert lines[5].startswith("time 5.0-10 s, memory 100-900 MiB, disk ")
    assert lines[6] == "tokens trained -, sampled -"
    assert "no estimate: kind join does not say what it costs (joined)" in lines
    assert not any(line.startswith("assumed") for line in lines)
    assert any(line.endswith("; 1 assumed") for line in lines)


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


def test_a_finished_stage_gives_its_own_counts(tmp_path: Path, r1pipe: Run) -> None:
    store = str(tmp_path / "store")
    arguments = (R1, "--profile", "smoke", "--store", store)
    assert r1pipe("run", *arguments, "--to", "problems")[0] == 0
    record = Store(Path(store)).resolve("held-out")
    document = json.loads(r1pipe("plan", *arguments, "--json")[1])
    assert "held-out" not in document["costs"]["stages"]
    assert record.facts["num_problems"] == 24
    # 2 samples of 24 problems, which are there, and of 0.9 x 8 and 0.9 x 6, which may be fewer; at
    # least half of the tasks' mean completions of 30.75, 17.5 and 19.5 tokens
    low = 2 * 0.5 * (24 * 30.75 + 7.2 * 17.5 + 5.4 * 19.5)
    assert document["costs"]["stages"]["eval-base"]["sampled_tokens"][0] == pytest.approx(low)
    assert document["costs"]["stages"]["general-problems"]["disk_bytes"][1] > 0


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
