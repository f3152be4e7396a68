"""Lengths of an earlier run in a plan: where they are found, how near they are, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from r1pipe.costs import lengths
from r1pipe.costs.estimate import Estimator
from r1pipe.costs.work import Range
from r1pipe.machine import Gpu, Machine
from r1pipe.manifest import Manifest, StageNode, load_manifest
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

R1 = Path(__file__).resolve().parent.parent / "manifests" / "r1.yaml"
MODEL, ANOTHER = "a" * 64, "b" * 64
H100S = Machine("here", "cpu", 2, 1 << 40, gpus=(Gpu("NVIDIA H100", 80 * 10**9, "1"),) * 8)
COMPLETIONS = 1600 * 32 * 16


def record(stage: str, kind: str, params: Mapping[str, object], **more: Any) -> ActionRecord:
    """Return the record of a finished stage that read `MODEL`."""
    values = {
        "key": "c" * 64,
        "preimage": {
            "kind": kind,
            "version": 1,
            "params": dict(params),
            "inputs": {"model": MODEL},
        },
        "kind": kind,
        "stage_name": stage,
        "manifest_name": "r1",
        "profile": None,
        "artifact_id": "7f3a" * 16,
        "outputs": {"model": "d" * 64},
        "created": "2026-01-01",
        "seconds": 1.0,
        "peak_rss_bytes": 1,
        "inputs": {},
        "logs": f"logs-{stage}",
        "size": 1,
    }
    return ActionRecord(**{**values, **more})


def log(folder: Path, means: list[float], padding: int = 0) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"step": step, "completion_tokens": mean, "pad": "x" * padding}
        for step, mean in enumerate(means, start=1)
    ]
    torn = '{"step": 9, "completion'
    (folder / "metrics.jsonl").write_text("\n".join([*map(json.dumps, rows), torn]))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(R1, profile="node8")


@pytest.fixture
def zero(manifest: Manifest) -> StageNode:
    return manifest.stages["zero"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def hold(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what has the store hold these records, and the logs of some with their means."""

    def hold(*records: ActionRecord, logs: Mapping[str, list[float]]) -> None:
        monkeypatch.setattr(store, "known", lambda: list(records))
        for name, means in logs.items():
            log(store.logs / name, means)

    return hold


def params_of(node: StageNode) -> Mapping[str, object]:
    params = node.key_params()
    assert params is not None
    return params


def lengths_of(store: Store, node: StageNode, model: str | None) -> lengths.Earlier:
    found = lengths.earlier_lengths(store, node, model)
    assert found is not None
    return found


def estimator_of(manifest: Manifest, store: Store) -> Estimator:
    """Return an estimator that knows the base's id."""
    base = record("base", "import-model", {}, outputs={"model": MODEL})
    return Estimator(manifest, store, {"base": base}, None, H100S)


def test_a_run_of_the_same_model_and_params_tells_lengths_within_a_tenth(
    manifest: Manifest, zero: StageNode, store: Store, hold: Callable[..., None]
) -> None:
    facts = {
        "trained_tokens": 700 * COMPLETIONS,
        "predicted": {"completions": float(COMPLETIONS)},
    }
    found = record("zero", "grpo", {**params_of(zero), "seed": 99}, facts=facts)
    hold(found, logs={found.logs: [500.0, 600.0, 700.0]})
    estimator = estimator_of(manifest, store)
    (work,) = estimator.cost("zero").sampling
    assert work.completion_tokens.to_json() == pytest.approx([540, 660])
    assert work.prompt_tokens.to_json() == [95, 105]  # 700 trained on less 600 written
    estimate = estimator.estimate("zero")
    said = "completions of 540 to 660 tokens on average, lengths of an earlier run: 600 in zero@"
    assert any(each.startswith(said) for each in estimate.assumes)
    assert estimate.seconds.high <= 4 * estimate.seconds.low


def test_another_model_or_another_parameter_is_less_near(
    zero: StageNode, store: Store, hold: Callable[..., None]
) -> None:
    params = params_of(zero)
    alike = record("zero", "grpo", params, logs="alike", created="2025")
    longer = record("zero", "grpo", {**params, "num_steps": 3200}, key="e" * 64, logs="longer")
    hold(longer, alike, logs={"longer": [1000.0], "alike": [100.0]})
    for model, ends in ((MODEL, (90, 110)), (ANOTHER, (700, 1400)), (None, (700, 1400))):
        assert lengths_of(store, zero, model).completion_tokens == pytest.approx(ends), model


def test_other_names_kinds_and_limits_tell_nothing(
    manifest: Manifest, zero: StageNode, store: Store, hold: Callable[..., None]
) -> None:
    params = params_of(zero)
    hold(
        record("reasoning-rl", "grpo", params, logs="name"),
        record("zero", "ppo", params, logs="kind"),
        record("zero", "grpo", {**params, "max_tokens": 80}, logs="limit"),
        record("zero", "grpo", params, logs="no log is there"),
        logs={name: [5.0] for name in ("name", "kind", "limit")},
    )
    assert lengths.earlier_lengths(store, zero, MODEL) is None
    rough = estimator_of(manifest, store).cost("zero").sampling[0]
    assert rough.completion_tokens.to_json() == pytest.approx([819.2, 4915.2])


def test_what_the_manifest_expects_comes_first(store: Store, hold: Callable[..., None]) -> None:
    told = load_manifest(
        R1, profile="node8", overrides=["stages.zero.run.expect.completion_tokens=[200,900]"]
    )
    found = record("zero", "grpo", params_of(told.stages["zero"]))
    hold(found, logs={found.logs: [600.0]})
    (work,) = estimator_of(told, store).cost("zero").sampling
    assert work.completion_tokens == Range(200, 900)


def test_candidates_and_evaluations_say_what_they_sampled(
    manifest: Manifest, store: Store, hold: Callable[..., None]
) -> None:
    candidates, evaluation = manifest.stages["rejection-sample"], manifest.stages["eval-zero"]
    facts = {"sampled_tokens": 5000, "sampled": 20}
    records = [
        record(node.name, node.kind.kind, params_of(node), **more)
        for node, more in (
            (candidates, {"facts": facts}),
            (evaluation, {"outputs": {"report": "e" * 64, "samples": "f" * 64}}),
        )
    ]
    hold(*records, logs={})
    assert lengths_of(store, candidates, None).mean_tokens == 250
    assert lengths.earlier_lengths(store, evaluation, None) is None, "its report was collected"
    report = store.objects / records[1].artifact_id / "report"
    report.mkdir(parents=True)
    benchmarks = {
        name: {"num_samples": count, "mean_tokens": {"value": mean}}
        for name, count, mean in (("reasoning", 30, 100.0), ("safety", 10, 20.0))
    }
    (report / "summary.json").write_text(json.dumps({"benchmarks": benchmarks}))
    mean = lengths_of(store, evaluation, None).mean_tokens
    assert mean == pytest.approx((30 * 100 + 10 * 20) / 40)
    (report / "summary.json").write_text('{"benchmarks": {"x": 3}}')
    assert lengths.earlier_lengths(store, evaluation, None) is None


def test_a_judge_says_how_long_its_replies_were(store: Store, hold: Callable[..., None]) -> None:
    node = load_manifest(R1.with_name("judge.yaml")).stages["judge"]
    facts = {"sampled_tokens": 4000, "replies": 40}
    hold(record("judge", "judge", params_of(node), facts=facts), logs={})
    assert lengths_of(store, node, MODEL).completion_tokens == pytest.approx((90, 110))


def test_an_attempt_that_has_not_ended_counts_where_nothing_else_is(
    zero: StageNode, store: Store
) -> None:
    store.prepare()
    preimage = {"kind": "grpo", "version": 1, "params": params_of(zero), "inputs": {}}
    work = store.attempt("c" * 64).begin({"stage": "zero", "preimage": preimage})
    assert lengths.earlier_lengths(store, zero, MODEL) is None
    (work / "logs").rmdir()
    log(work / "logs", [100.0])
    found = lengths_of(store, zero, MODEL)
    assert found.found_in == "an attempt at zero"
    assert found.completion_tokens == pytest.approx((70, 140))


def test_of_a_long_log_parts_from_its_whole_length_are_read(tmp_path: Path) -> None:
    log(tmp_path / "logs", [float(step) for step in range(1, 20_001)], padding=200)
    path = tmp_path / "logs" / "metrics.jsonl"
    assert path.stat().st_size > 3 * lengths.WINDOWS * lengths.WINDOW_BYTES
    rows = list(lengths._some_rows(path))
    assert len(rows) < 6000
    mean = sum(row["completion_tokens"] for row in rows) / len(rows)
    assert mean == pytest.approx(10_000, rel=0.01)
