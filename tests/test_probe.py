"""Measuring a machine, and how near a prediction comes to what a real stage does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r1pipe.costs.report import actual_values
from r1pipe.errors import StageError
from r1pipe.machine import Machine
from r1pipe.manifest import load_manifest
from r1pipe.pipeline import probe
from r1pipe.pipeline.run import run
from r1pipe.store.store import Store

TINY = (32, 1, 2, 64)
SHAPE = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_size": 64,
    "num_kv_heads": 1,
}
HERE = Machine("here", "a processor", 2, 8 << 30)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "SHAPES", {"cpu": (TINY,)})
    monkeypatch.setattr(probe, "ROWS", 200)
    monkeypatch.setattr(probe, "PROBLEMS", 8)
    monkeypatch.setattr(probe, "SAMPLES", 2)
    monkeypatch.setattr(probe, "MAX_TOKENS", 6)


def test_every_engine_that_is_there_is_measured_and_one_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        probe, "engines", lambda *_: [*ENGINES, probe.Engine("train", "deepspeed", "cuda:9")]
    )
    said: list[str] = []
    found = probe.measure(HERE, "cpu", [SHAPE], 300, said.append, budget_s=0.0)
    assert list(found.speeds) == ["train:torch:cpu", "sample:transformers:cpu"]
    train, sample = found.speeds.values()
    assert len(train.points) == len(sample.points) == 1  # the manifest's own shape is the same
    # operations of a token: over twice the weights of attention, the layer and the head
    weights = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 300 * 32
    assert 2 * weights < train.points[0][0] < 3 * weights
    assert 1e-7 < train.points[0][1] < 1.0
    assert sample.step_layer_s > 0 == train.step_layer_s
    assert list(found.failed) == ["train:deepspeed:cuda:9"]
    assert said[:2] == ["measuring train:torch:cpu", "measuring sample:transformers:cpu"]
    assert found.machine["cores"] == 2


ENGINES = probe.engines("cpu", {"torch", "transformers"})


def test_engines_are_those_whose_packages_are_installed() -> None:
    core = {"torch", "transformers"}
    found = probe.engines("cuda", core | {"vllm", "deepspeed"})
    assert [engine.name for engine in found] == [
        "train:torch:cuda",
        "train:deepspeed:cuda",
        "sample:transformers:cuda",
        "sample:vllm:cuda",
    ]
    names = [engine.name for engine in probe.engines("cpu", core)]
    assert names == ["train:torch:cpu", "sample:transformers:cpu"]
    run = probe.Engine("sample", "vllm", "cuda").run
    assert run == {"device": "cuda", "generator": {"backend": "vllm"}}


def test_no_engine_finds_the_result_of_another_one(tmp_path: Path) -> None:
    found = probe.engines("cpu", {"torch", "transformers", "vllm", "deepspeed"})
    stages = load_manifest(probe.write_manifest(tmp_path, found, [SHAPE], 300)).stages.values()
    keys = {json.dumps([node.kind.kind, node.key_params()], sort_keys=True) for node in stages}
    assert len(keys) == len(stages) == 4 + 1 + 2 + 2 * 2


def test_a_shape_that_an_engine_refuses_costs_only_that_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokens_per_s(path: Path, stage: str, budget_s: float) -> float:
        if stage.endswith("-0") or engine.backend == "odd":
            raise StageError(f"{stage}: heads too small")
        return 4.0

    monkeypatch.setattr(probe, "_tokens_per_s", tokens_per_s)
    engine = probe.Engine("train", "torch", "cpu")
    shapes = [SHAPE, SHAPE | {"num_layers": 2}]
    speed = probe._speed(tmp_path, engine, shapes, 300, 1.0)
    assert [seconds for _, seconds in speed.points] == [0.25]
    engine = probe.Engine("train", "odd", "cpu")
    with pytest.raises(StageError, match="train-odd-0: heads too small"):
        probe._speed(tmp_path, engine, shapes, 300, 1.0)


def test_models_that_are_too_large_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_PARAMETERS", {"cpu": 100_000})
    large = SHAPE | {"num_layers": 100}
    assert probe.fitting_shapes("cpu", [large, SHAPE], 300) == [SHAPE]


def test_a_measurement_ends_when_its_time_is_up() -> None:
    watch = probe.Stopwatch("a", budget_s=0.0)
    watch.progress("other", 9, None, {"tokens_per_s": 1.0})
    watch.progress("a", 9, None, {"loss": 1.0})
    watch.progress("a", 1, None, {"tokens_per_s": 1.0})
    assert watch.speeds == []  # the first step warms up
    with pytest.raises(probe.Enough):
        watch.progress("a", 2, None, {"tokens_per_s": 5.0})
    assert watch.speeds == [5.0]


def test_a_stage_that_tells_no_speed_is_an_error(tmp_path: Path) -> None:
    path = probe.write_manifest(tmp_path, [], [SHAPE], 300)
    with pytest.raises(StageError, match="rows: it told no speed"):
        probe._tokens_per_s(path, "rows", 1.0)


def test_what_real_stages_did_is_inside_what_was_predicted(tmp_path: Path) -> None:
    path = probe.write_manifest(tmp_path, ENGINES, [SHAPE], 400)
    store = Store(tmp_path / "artifacts")
    name = "sample-transformers-0"
    run(load_manifest(path), store, probe.Stopwatch("", 1e9), to=name)
    checks = {
        "tokenizer": ("disk_bytes",),
        "model-0": ("trained_tokens", "disk_bytes"),
        name: ("sampled_tokens", "disk_bytes"),
    }  # not the peak of memory: the process of the tests holds everything
    for stage, fields in checks.items():
        record = store.resolve(stage)
        actual = actual_values(record, store)
        for field in fields:
            low, high = record.facts["predicted"][field]
            value = actual[field]
            assert value is not None, (stage, field)
            assert low <= value <= high, (stage, field, low, value, high)
            assert high < 40 * low, (stage, field)
