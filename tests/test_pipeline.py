"""Plan and run: hits, early cutoff, lost artifacts, sources, rebuilds, damage."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from store_world import (
    QuietConsole,
    chain,
    halve,
    kind,
    manifest,
    read_number,
    stage,
    two_outputs,
    write_number,
)

from r1pipe.cli.views import record_text
from r1pipe.errors import ArtifactError, DamagedError, ManifestError, SourceError, StageError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.commands import run_command, stage_command
from r1pipe.pipeline.planning import PlannedStage, plan
from r1pipe.pipeline.run import run
from r1pipe.stage import Inputs
from r1pipe.store import disk
from r1pipe.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def planned(root: Path, made: Manifest, **options: Any) -> dict[str, PlannedStage]:
    return {one.name: one for one in plan(made, Store(root), **options).stages}


def statuses(root: Path, made: Manifest, **options: Any) -> list[str]:
    return [one.status for one in planned(root, made, **options).values()]


def number(root: Path, name: str) -> int:
    store = Store(root)
    return read_number(store.output_dir(store.resolve(name), "data"))


def delete_artifact(root: Path, name: str) -> None:
    store = Store(root)
    disk.remove_tree(store.artifact_dir(store.resolve(name).artifact_id))


def test_a_plan_writes_nothing(root: Path) -> None:
    assert statuses(root, chain(6)) == ["run", "waits", "waits"]
    assert not root.exists()


def test_a_plan_says_what_each_stage_waits_for(root: Path) -> None:
    found = planned(root, chain(6))
    assert found["second"].waits_for == ["first"]
    assert found["third"].waits_for == ["second"]
    assert found["first"].key is not None
    assert found["second"].key is None


def test_a_second_run_does_nothing_and_says_so(root: Path) -> None:
    assert build(root, chain(6)) == ["first", "second", "third"]
    # first 6; second 6 // 2 = 3; third 1 + 3 = 4
    assert [number(root, name) for name in ("first", "second", "third")] == [6, 3, 4]
    console = QuietConsole()
    assert run(chain(6), Store(root), console).built == []
    assert console.events[-1] == ("message", "nothing to do: all 3 stages are in the store")
    assert statuses(root, chain(6)) == ["hit"] * 3


def learn_nothing(context: Any, params: Any, run: Any, inputs: Inputs) -> None:
    """Do as a training does whose rewards never differed."""
    write_number(context, params, run, inputs)
    context.note(nothing_learned="rewards never differed")


def test_a_run_says_at_its_end_which_trainings_learned_nothing(root: Path) -> None:
    console, said = QuietConsole(), "zero: nothing was learned; `r1pipe show zero` says why"
    zero = stage("zero", kind(learn_nothing))
    run(manifest(zero), Store(root), console)
    assert console.events[-1] == ("finished", "zero", "done"), "it is on that line"
    run(manifest(zero, stage("next", kind(halve), {"a": "zero"})), Store(root), console)
    assert console.events[-2:] == [("finished", "next", "done"), ("message", said)]
    run(manifest(zero), Store(root), console)
    assert console.events[-2] == ("message", said)
    record = Store(root).resolve("zero")
    assert record.warnings() == ["nothing was learned: rewards never differed"]
    text = record_text(record, Store(root))
    assert "learned      nothing: see the warnings" in text
    assert "warnings\n  nothing was learned: rewards never differed" in text


def test_a_stage_of_another_manifest_is_named_where_this_one_has_none(root: Path) -> None:
    build(root, chain(6))
    other = replace(manifest(stage("only")), name="other")
    with pytest.raises(ManifestError) as caught:
        build(root, other, to="first")
    assert str(caught.value).endswith(
        f"no stage 'first'; there are only; the store has a 'first' of {chain(6).name}: name that"
        " manifest, and its profile"
    )
    with pytest.raises(ManifestError, match=r"no stage 'frist'; there are only$"):
        build(root, other, to="frist")


def test_a_second_run_changes_no_file(root: Path) -> None:
    build(root, chain(6))
    before = sorted(disk.walk(root)[0])
    build(root, chain(6))
    assert sorted(disk.walk(root)[0]) == before


def test_the_same_bytes_leave_what_is_behind_them_alone(root: Path) -> None:
    build(root, chain(6))
    # 7 // 2 = 6 // 2, so the second stage runs, gives the same bytes, and the third is a hit
    assert build(root, chain(7)) == ["first", "second"]
    assert number(root, "first") == 7


def test_a_run_field_is_not_in_the_key(root: Path) -> None:
    build(root, manifest(stage("only", workers=1)))
    assert build(root, manifest(stage("only", workers=8))) == []


def test_a_renamed_stage_and_a_moved_store_still_hit(root: Path, tmp_path: Path) -> None:
    build(root, manifest(stage("one"), stage("two", kind(halve), {"a": "one"})))
    root.rename(tmp_path / "elsewhere")
    renamed = manifest(stage("uno"), stage("due", kind(halve), {"a": "uno"}))
    assert build(tmp_path / "elsewhere", renamed) == []


def test_a_copied_store_with_other_times_and_inodes_still_hits(root: Path, tmp_path: Path) -> None:
    build(root, chain(6))
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    for path in (tmp_path / "copy").rglob("*.json"):
        path.chmod(0o644)
        path.touch()
    assert statuses(tmp_path / "copy", chain(6)) == ["hit"] * 3


def test_no_clock_decides_what_hits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "rows.txt"
    source.write_text("12345")
    made = manifest(
        stage("first", inputs={"a": "@rows"}, number=2),
        stage("second", kind(halve), {"a": "first"}),
        sources={"rows": source},
    )
    build(root, made)
    years_s = 30 * 365 * 86400
    for shift_s in (-years_s, years_s):
        made_then = datetime.now(UTC) + timedelta(seconds=shift_s)
        clock = type("Clock", (), {"now": staticmethod(lambda zone, now=made_then: now)})
        monkeypatch.setattr("r1pipe.pipeline.building.datetime", clock)
        monkeypatch.setattr("r1pipe.pipeline.run.datetime", clock)
        now_s = made_then.timestamp()
        monkeypatch.setattr("time.time_ns", lambda now_s=now_s: int(now_s * 10**9))
        for path in (source, *(root / "objects").rglob("*")):
            os.utime(path, (now_s + years_s, now_s + years_s))  # the clock was set back since
        assert build(root, made) == []
        changed = manifest(
            stage("first", inputs={"a": "@rows"}, number=shift_s),
            stage("second", kind(halve), {"a": "first"}),
            sources={"rows": source},
        )
        assert build(root, changed)[0] == "first"
        assert build(root, changed) == []
    assert build(root, made) == [], "what was made before other years is still what it was"


def test_many_inputs_come_by_label_and_labels_decide(root: Path) -> None:
    def made(*labels: str) -> Manifest:
        many = dict(zip(labels, ("one", "two"), strict=True))
        return manifest(
            stage("one", number=10),
            stage("two", number=20),
            stage("sum", inputs={"many": many}, number=3),
        )

    assert build(root, made("x", "y")) == ["one", "two", "sum"]
    assert number(root, "sum") == 33
    record = Store(root).resolve("sum")
    assert [name for name, _ in record.links()] == ["many.x", "many.y"]
    assert build(root, made("x", "y")) == []
    assert build(root, made("x", "z")) == ["sum"]


def test_an_output_has_an_id_of_its_own(root: Path) -> None:
    two = kind(two_outputs, outputs={"even": "rows", "data": "rows"})

    def even_as_number(context: Any, params: Any, run: Any, inputs: Inputs) -> None:
        value = json.loads((inputs.path("a") / "even.json").read_text())
        (context.output("data") / "number.json").write_text(json.dumps(int(value)))

    def made(value: int) -> Manifest:
        parity = stage("parity", kind(even_as_number), {"a": "two.even"})
        return manifest(stage("two", two, number=value), parity)

    assert build(root, made(2)) == ["two", "parity"]
    # the artifact changes, its output `even` does not
    assert build(root, made(4)) == ["two"]
    assert build(root, made(5)) == ["two", "parity"]


def test_a_lost_artifact_is_said_and_finished_stages_behind_it_hit(root: Path) -> None:
    build(root, chain(6))
    delete_artifact(root, "first")
    found = planned(root, chain(6))
    assert [one.status for one in found.values()] == ["lost", "hit", "hit"]
    assert "--rebuild first" in found["first"].reason
    assert build(root, chain(6)) == []
    assert not found["first"].builds


def test_a_lost_artifact_is_built_again_when_a_stage_needs_it(root: Path) -> None:
    build(root, chain(6))
    delete_artifact(root, "first")
    delete_artifact(root, "third")
    found = planned(root, chain(6))
    assert [one.status for one in found.values()] == ["lost", "hit", "lost"]
    assert [one.builds for one in found.values()] == [False, False, True]
    assert build(root, chain(6)) == ["third"]
    delete_artifact(root, "second")
    delete_artifact(root, "third")
    assert [one.builds for one in planned(root, chain(6)).values()] == [True, True, True]
    assert build(root, chain(6)) == ["first", "second", "third"]
    assert statuses(root, chain(6)) == ["hit"] * 3


def test_rebuild_runs_a_stage_again_and_nothing_else(root: Path) -> None:
    build(root, chain(6))
    assert statuses(root, chain(6), rebuild=["second"]) == ["hit", "run", "waits"]
    assert build(root, chain(6), rebuild=["second"]) == ["second"]
    assert build(root, chain(6)) == []


def test_to_stops_behind_a_stage_and_leaves_out_what_it_does_not_need(root: Path) -> None:
    made = manifest(stage("one"), stage("aside", number=5), stage("two", kind(halve), {"a": "one"}))
    assert build(root, made, to="two") == ["one", "two"]


def test_a_single_stage_takes_its_inputs_from_the_store(root: Path) -> None:
    build(root, chain(6), to="second")
    assert build(root, chain(6), only="third") == ["third"]


def test_a_single_stage_says_which_command_makes_a_missing_input(root: Path) -> None:
    message = r"second: r1pipe stage second --manifest tiny.yaml --profile laptop"
    with pytest.raises(ArtifactError, match=message):
        build(root, chain(6), only="third")
    assert not root.exists()


def test_an_unknown_stage_is_refused_with_the_nearest_name(root: Path) -> None:
    with pytest.raises(ManifestError, match="no stage 'secnd'; did you mean 'second'"):
        build(root, chain(6), to="secnd")


def test_a_changed_source_is_a_new_key(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("abc")
    made = manifest(stage("only", inputs={"a": "@data"}), sources={"data": path})
    assert build(root, made) == ["only"]
    assert number(root, "only") == 4
    path.write_text("abcde")
    assert build(root, made) == ["only"]
    assert number(root, "only") == 6
    path.write_text("abc")
    assert build(root, made) == []


def test_a_stage_that_waits_says_that_its_source_is_missing(root: Path, tmp_path: Path) -> None:
    reads = stage("reads", inputs={"a": "@data", "b": "first"}, number=1)
    made = manifest(stage("first", number=7), reads, sources={"data": tmp_path / "gone"})
    found = planned(root, made)["reads"]
    assert found.status == "waits"
    assert "needs a source that is missing: " in found.reason
    assert "gone does not exist; put the file there" in found.reason


def test_a_missing_source_matters_only_to_a_stage_that_must_run(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("abc")

    def made(value: int) -> Manifest:
        first = stage("first", number=7)
        reads = stage("reads", inputs={"a": "@data"}, number=value)
        return manifest(first, reads, sources={"data": path})

    build(root, made(1))
    path.unlink()
    found = planned(root, made(1))["reads"]
    assert (found.status, found.reason) == ("hit", "a source is missing; taken as last known")
    assert build(root, made(1)) == []
    console = QuietConsole()
    with pytest.raises(SourceError, match=r"source 'data'.*does not exist|data.txt"):
        run(made(2), Store(root), console)
    assert console.started() == []


def test_a_missing_source_stops_a_run_before_any_stage(root: Path, tmp_path: Path) -> None:
    made = manifest(
        stage("first"),
        stage("reads", inputs={"a": "@data"}),
        sources={"data": tmp_path / "no"},
    )
    with pytest.raises(SourceError, match="data"):
        build(root, made)
    assert not root.exists()


def test_a_flipped_byte_ends_a_run_with_its_file_and_is_no_hit_afterwards(root: Path) -> None:
    build(root, chain(6))
    store = Store(root)
    path = store.output_dir(store.resolve("first"), "data") / "number.json"
    path.chmod(0o644)
    path.write_text("7")
    assert statuses(root, chain(6)) == ["lost", "hit", "hit"]
    with pytest.raises(DamagedError, match=r"number\.json: expected digest \w+, found \w+"):
        build(root, chain(6))
    assert statuses(root, chain(6)) == ["lost", "hit", "hit"]
    assert "is gone" in planned(root, chain(6))["first"].reason
    assert build(root, chain(6), rebuild=["first"]) == ["first"]
    assert statuses(root, chain(6)) == ["hit"] * 3


def test_an_added_and_a_missing_file_are_damage_too(root: Path) -> None:
    build(root, chain(6))
    store = Store(root)
    folder = store.output_dir(store.resolve("third"), "data")
    folder.chmod(0o755)
    (folder / "more.json").write_text("1")
    with pytest.raises(DamagedError, match=r"more\.json: expected no such file"):
        build(root, chain(6))
    assert build(root, chain(6)) == ["third"]
    folder.chmod(0o755)
    (folder / "number.json").unlink()
    with pytest.raises(DamagedError, match=r"number\.json: expected 1 bytes .* found no such"):
        build(root, chain(6))


def test_an_edited_record_ends_a_run_and_is_no_hit_afterwards(root: Path) -> None:
    build(root, chain(6))
    store = Store(root)
    path = store.record_path(store.resolve("first").key)
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(DamagedError, match=r"expected digest \w+, found .*edited"):
        build(root, chain(6))
    assert build(root, chain(6)) == ["first"]


def test_a_stage_that_writes_nothing_is_an_error_and_publishes_nothing(root: Path) -> None:
    def write_nothing(context: Any, params: Any, run: Any, inputs: Any) -> None:
        context.output("data")

    with pytest.raises(StageError, match="output 'data' is empty"):
        build(root, manifest(stage("only", kind(write_nothing))))
    assert Store(root).records() == []


def test_an_output_that_is_not_declared_is_refused(root: Path) -> None:
    def write_elsewhere(context: Any, params: Any, run: Any, inputs: Any) -> None:
        context.output("model")

    with pytest.raises(StageError, match="no output 'model' is declared; OUTPUTS has data"):
        build(root, manifest(stage("only", kind(write_elsewhere))))


def test_a_symbolic_link_in_an_output_is_refused(root: Path) -> None:
    def link(context: Any, params: Any, run: Any, inputs: Any) -> None:
        write_number(context, params, run, inputs)
        (context.output("data") / "out").symlink_to("/etc/passwd")

    with pytest.raises(StageError, match="holds out, which is neither a file nor a directory"):
        build(root, manifest(stage("only", kind(link))))


def test_a_failed_stage_keeps_its_traceback_and_says_how_to_go_on(root: Path) -> None:
    def fail(context: Any, params: Any, run: Any, inputs: Any) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        build(root, manifest(stage("only", kind(fail))))
    command = f"r1pipe run tiny.yaml --profile laptop --store {root}"
    assert caught.value.__notes__ == [f"only: the attempt is kept; go on with: {command}"]


def test_a_command_to_go_on_with_names_every_store_but_the_manifests_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = manifest(stage("only", kind(write_number)))
    assert stage_command(made, Store(tmp_path / "artifacts"), "only") == (
        "r1pipe stage only --manifest tiny.yaml --profile laptop"
    )
    assert run_command(made, Store(Path("other")), "only", {"only"}) == (
        "r1pipe run tiny.yaml --profile laptop --store other --to only --rebuild only"
    )


def test_metrics_samples_and_facts_lie_beside_the_record(root: Path) -> None:
    build(root, chain(6))
    store = Store(root)
    record = store.resolve("first")
    assert store.metrics(record) == [{"step": 1, "loss": 6.0}]
    assert store.samples(record) == [{"total": 6}]
    assert record.facts == {"rows": 1}
    assert record.peak_rss_bytes > 1 << 20


def test_latest_links_lead_to_the_artifacts(root: Path) -> None:
    build(root, chain(6))
    link = root / "latest" / "tiny" / "laptop" / "second"
    assert read_number(link / "data") == 3
