"""Lengths of an earlier run in a plan: where they are found, how near they are, what is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from r1pipe.costs import lengths
from r1pipe.costs.estimate import Estimator
from r1pipe.costs.work import Range
from r1pipe.machine import Gpu, Machine
from r1pipe.manifest import Manifest, load_manifest
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


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest(R1, profile="node8")


def store_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *records: ActionRecord) -> Store:
    store = Store(tmp_path / "store")
    monkeypatch.setattr(store, "known", lambda: list(records))
    return store


def zero_of(manifest: Manifest, store: Store) -> Estimator:
    """Return an estimator that knows the base's id."""
    base = record("base", "import-model", {}, outputs={"model": MODEL})
    return Estimator(manifest, store, {"base": base}, None, H100S)


def test_a_run_of_the_same_model_and_params_tells_lengths_within_a_tenth(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = manifest.stages["zero"].key_params()
    assert params is not None
    facts = {
        "trained_tokens": 700 * COMPLETIONS,
        "predicted": {"completions": float(COMPLETIONS)},
    }
    found = record("zero", "grpo", {**params, "seed": 99}, facts=facts)
    store = store_of(tmp_path, monkeypatch, found)
    log(store.logs / found.logs, [500.0, 600.0, 700.0])
    estimator = zero_of(manifest, store)
    (work,) = estimator.cost("zero").sampling
    assert work.completion_tokens.to_json() == pytest.approx([540, 660])
    assert work.prompt_tokens.to_json() == [95, 105]  # 700 trained on less 600 written
    estimate = estimator.estimate("zero")
    said = "completions of 540 to 660 tokens on average, lengths of an earlier run: 600 in zero@"
    assert any(each.startswith(said) for each in estimate.assumes)
    assert estimate.seconds.high <= 4 * estimate.seconds.low


def test_another_model_or_another_parameter_is_less_near(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = manifest.stages["zero"]
    params = node.key_params()
    assert params is not None
    alike = record("zero", "grpo", params, logs="alike", created="2025")
    longer = record("zero", "grpo", {**params, "num_steps": 3200}, key="e" * 64, logs="longer")
    store = store_of(tmp_path, monkeypatch, longer, alike)
    log(store.logs / "longer", [1000.0])
    log(store.logs / "alike", [100.0])
    for model, ends in ((MODEL, (90, 110)), (ANOTHER, (700, 1400)), (None, (700, 1400))):
        found = lengths.earlier_lengths(store, node, model)
        assert found is not None
        assert found.completion_tokens == pytest.approx(ends), model


def test_other_names_kinds_and_limits_tell_nothing(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = manifest.stages["zero"]
    params = node.key_params()
    assert params is not None
    others = [
        record("reasoning-rl", "grpo", params),
        record("zero", "ppo", params),
        record("zero", "grpo", {**params, "max_tokens": 80}),
        record("zero", "grpo", params, logs="without"),
    ]
    store = store_of(tmp_path, monkeypatch, *others)
    for each in others[:3]:
        if not (store.logs / each.logs).exists():
            log(store.logs / each.logs, [5.0])
    assert lengths.earlier_lengths(store, node, MODEL) is None
    rough = zero_of(manifest, store).cost("zero").sampling[0]
    assert rough.completion_tokens.to_json() == pytest.approx([819.2, 4915.2])


def test_what_the_manifest_expects_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = load_manifest(
        R1, profile="node8", overrides=["stages.zero.run.expect.completion_tokens=[200,900]"]
    )
    params = told.stages["zero"].key_params()
    assert params is not None
    found = record("zero", "grpo", params)
    store = store_of(tmp_path, monkeypatch, found)
    log(store.logs / found.logs, [600.0])
    (work,) = zero_of(told, store).cost("zero").sampling
    assert work.completion_tokens == Range(200, 900)


def test_candidates_and_evaluations_say_what_they_sampled(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, evaluation = manifest.stages["rejection-sample"], manifest.stages["eval-zero"]
    facts = {"sampled_tokens": 5000, "sampled": 20}
    records = [
        record(node.name, node.kind.kind, node.key_params() or {}, **more)
        for node, more in (
            (candidates, {"facts": facts}),
            (evaluation, {"outputs": {"report": "e" * 64, "samples": "f" * 64}}),
        )
    ]
    store = store_of(tmp_path, monkeypatch, *records)
    found = lengths.earlier_lengths(store, candidates, None)
    assert found is not None
    assert found.mean_tokens == 250
    assert lengths.earlier_lengths(store, evaluation, None) is None, "its report was collected"
    report = store.objects / records[1].artifact_id / "report"
    report.mkdir(parents=True)
    benchmarks = {
        name: {"num_samples": count, "mean_tokens": {"value": mean}}
        for name, count, mean in (("reasoning", 30, 100.0), ("safety", 10, 20.0))
    }
    (report / "summary.json").write_text(json.dumps({"benchmarks": benchmarks}))
    found = lengths.earlier_lengths(store, evaluation, None)
    assert found is not None
    assert found.mean_tokens == pytest.approx((30 * 100 + 10 * 20) / 40)
    (report / "summary.json").write_text('{"benchmarks": {"x": 3}}')
    assert lengths.earlier_lengths(store, evaluation, None) is None


def test_a_judge_says_how_long_its_replies_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(R1.with_name("judge.yaml"))
    node = manifest.stages["judge"]
    facts = {"sampled_tokens": 4000, "replies": 40}
    found = record("judge", "judge", node.key_params() or {}, facts=facts)
    made = lengths.earlier_lengths(store_of(tmp_path, monkeypatch, found), node, MODEL)
    assert made is not None
    assert made.completion_tokens == pytest.approx((90, 110))


def test_an_attempt_that_has_not_ended_counts_where_nothing_else_is(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = manifest.stages["zero"]
    store = store_of(tmp_path, monkeypatch)
    store.prepare()
    preimage = {"kind": "grpo", "version": 1, "params": node.key_params(), "inputs": {}}
    work = store.attempt("c" * 64).begin({"stage": "zero", "preimage": preimage})
    assert lengths.earlier_lengths(store, node, MODEL) is None
    (work / "logs").rmdir()
    log(work / "logs", [100.0])
    found = lengths.earlier_lengths(store, node, MODEL)
    assert found is not None
    assert found.found_in == "an attempt at zero"
    assert found.completion_tokens == pytest.approx((70, 140))


def test_of_a_long_log_parts_from_its_whole_length_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path / "logs", [float(step) for step in range(1, 20_001)], padding=200)
    path = tmp_path / "logs" / "metrics.jsonl"
    assert path.stat().st_size > 3 * lengths.WINDOWS * lengths.WINDOW_BYTES
    rows = list(lengths._some_rows(path))
    assert len(rows) < 6000
    mean = sum(row["completion_tokens"] for row in rows) / len(rows)
    assert mean == pytest.approx(10_000, rel=0.01)
