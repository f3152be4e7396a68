"""fsck, gc, pins, tags, export and import."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, call
from store_world import (
    QuietConsole,
    chain,
    kind,
    manifest,
    read_number,
    stage,
    train,
)

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.store import disk, roots
from r1pipe.store.fsck import fsck
from r1pipe.store.gc import collect_garbage, empty_trash, restore
from r1pipe.store.importing import import_artifact
from r1pipe.store.store import Store
from r1pipe.store.transfer import ancestors, export


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def statuses(root: Path, made: Manifest) -> list[str]:
    return [one.status for one in plan(made, Store(root)).stages]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    build(tmp_path / "store", chain(6))
    return Store(tmp_path / "store")


def data_file(store: Store, name: str) -> Path:
    return store.output_dir(store.resolve(name), "data") / "number.json"


def rot(store: Store, path: Path) -> None:
    """Change a byte as a failing disk does: no time, size or inode tells."""
    path.chmod(0o644)
    path.write_text("9")
    artifact = path.relative_to(store.objects).parts[0]
    files = disk.walk(store.objects / artifact)[0]
    from r1pipe.store.signatures import write_signatures

    write_signatures(store.stats / artifact, files)


# fsck ------------------------------------------------------------------------------------


def test_a_sound_store_has_no_findings(store: Store) -> None:
    report = fsck(store, full=True)
    assert (report.records, report.artifacts, report.files) == (3, 3, 3)
    assert report.bytes_read == report.bytes_total == 3
    assert report.findings == []
    assert report.damage == []


@pytest.mark.parametrize("options", [{"full": True}, {"sample_bytes": 3}])
def test_rotten_bytes_are_found_and_are_no_hit_afterwards(
    store: Store, options: dict[str, Any]
) -> None:
    rot(store, data_file(store, "second"))
    assert statuses(store.root, chain(6)) == ["hit"] * 3  # nothing gives it away
    assert fsck(store, sample_bytes=0).findings == []
    report = fsck(Store(store.root), **options)
    (found,) = report.damage
    assert found.stages == ("second",)
    assert re.fullmatch(r".*number\.json: expected digest \w+, found \w+.*", found.message)
    assert statuses(store.root, chain(6)) == ["hit", "lost", "hit"]


def test_a_sample_reads_no_more_than_it_may(store: Store) -> None:
    # three data files of one byte each, and their seals, which are always read
    assert fsck(store, sample_bytes=0).bytes_read == 0
    assert fsck(store, sample_bytes=2).bytes_read <= 2


def test_fsck_finds_an_edited_record_a_missing_file_and_a_lost_artifact(store: Store) -> None:
    record = store.resolve("first")
    path = store.record_path(record.key)
    path.write_text(path.read_text().replace(record.created[:4], "1999"))
    missing = data_file(store, "second")
    missing.parent.chmod(0o755)
    missing.unlink()
    disk.remove_tree(store.artifact_dir(store.resolve("third").artifact_id))
    report = fsck(Store(store.root))
    messages = {found.message for found in report.damage}
    assert any("the record was edited" in message for message in messages)
    assert any("found no such file" in message for message in messages)
    notes = [found for found in report.findings if not found.is_damage]
    assert [found.stages for found in notes] == [("third",)]


def test_fsck_moves_damage_aside_when_asked(store: Store) -> None:
    rot(store, data_file(store, "second"))
    fsck(store, full=True, set_aside=True)
    assert fsck(store, full=True).damage == []
    assert build(store.root, chain(6), rebuild=["second"]) == ["second"]


def test_fsck_reports_names_of_nothing(store: Store) -> None:
    roots.add_tag(store.root, "best", "0" * 64)
    roots.pin(store.root, "1" * 64)
    assert [found.name for found in fsck(store).findings] == ["pin 111111111111", "tag best"]


# gc --------------------------------------------------------------------------------------


def forget_runs(store: Store) -> None:
    disk.remove_tree(store.root / "runs")


def names_of(report: Any) -> list[str]:
    return sorted(item.what.partition("@")[0] for item in report.doomed)


def test_the_last_runs_are_kept_and_older_ones_are_not(store: Store) -> None:
    for number in (100, 300, 500):
        build(store.root, chain(number))
    report = collect_garbage(store)
    assert names_of(report) == ["first", "second", "third"]
    assert report.kept == 9
    assert report.trash is None
    assert statuses(store.root, chain(6)) == ["hit"] * 3


def test_gc_moves_to_the_trash_keeps_records_and_can_be_undone(store: Store) -> None:
    forget_runs(store)
    artifact = store.resolve("second").artifact_id
    assert len(collect_garbage(store, move=True).doomed) == 3
    assert len(Store(store.root).records()) == 3
    assert statuses(store.root, chain(6)) == ["lost"] * 3
    assert restore(store, artifact[:8]) == artifact
    assert statuses(store.root, chain(6)) == ["lost", "hit", "lost"]
    assert build(store.root, chain(6)) == ["third"]
    with pytest.raises(ArtifactError, match="nothing like it is there"):
        restore(store, "ffff")
    assert empty_trash(store) > 0
    assert list(store.trash.iterdir()) == []


def test_pins_and_tags_keep_artifacts(store: Store) -> None:
    forget_runs(store)
    roots.pin(store.root, store.resolve("first").key)
    roots.add_tag(store.root, "good", store.resolve("third").key)
    assert names_of(collect_garbage(store)) == ["second"]
    roots.unpin(store.root, store.resolve("first").key)
    roots.remove_tag(store.root, "good")
    assert names_of(collect_garbage(store)) == ["first", "second", "third"]
    with pytest.raises(ArtifactError, match="no tag 'good'; there are: none"):
        roots.remove_tag(store.root, "good")
    with pytest.raises(ArtifactError, match="is not pinned"):
        roots.unpin(store.root, store.resolve("first").key)
    with pytest.raises(ArtifactError, match="cannot be a tag"):
        roots.add_tag(store.root, "a/b", "0" * 64)


def test_what_a_running_process_relies_on_is_kept(store: Store) -> None:
    forget_runs(store)
    live = roots.LiveRun(store.root)
    live.rely_on([store.resolve("first").key])
    assert names_of(collect_garbage(store)) == ["second", "third"]
    live.end()
    assert len(collect_garbage(store).doomed) == 3
    dead = roots.LiveRun(store.root)
    assert call(lambda: dead.rely_on([store.resolve("first").key])) == 0
    assert len(collect_garbage(store).doomed) == 3


def test_an_attempt_is_given_up_only_when_asked(tmp_path: Path) -> None:
    made = manifest(stage("work", kind(train)))
    root = tmp_path / "store"
    assert call(lambda: build(root, made), "checkpoint.rename@3") == KILLED
    store = Store(root)
    report = collect_garbage(store, move=True)
    assert report.doomed == []
    assert [name.partition(" ")[0] for name in report.resumable] == ["work"]
    assert plan(made, store).stages[0].status == "resume"
    collect_garbage(store, move=True, attempts=True)
    assert plan(made, store).stages[0].status == "run"


def test_an_attempt_whose_result_is_there_is_garbage(tmp_path: Path) -> None:
    made = manifest(stage("work", kind(train)))
    assert call(lambda: build(tmp_path / "store", made), "publish.record") == KILLED
    report = collect_garbage(Store(tmp_path / "store"), move=True)
    assert any(item.what.startswith("attempt at work") for item in report.doomed)
    assert statuses(tmp_path / "store", made)[0] in ("hit", "lost")


def test_logs_of_a_result_that_was_built_again_are_garbage(store: Store) -> None:
    build(store.root, chain(6), rebuild=["first"])
    assert [item.what[:5] for item in collect_garbage(Store(store.root)).doomed] == ["logs "]


# Export and import -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_an_export_is_a_hit_where_it_is_imported(store: Store, tmp_path: Path, name: str) -> None:
    record = store.resolve("third")
    export(store, record, tmp_path / name)
    other = Store(tmp_path / "other")
    assert import_artifact(other, tmp_path / name)[0] == record
    assert read_number(other.output_dir(record, "data")) == 4
    assert other.metrics(record) == store.metrics(record)
    # its ancestors' records came along, so its key is known, though their artifacts did not
    assert statuses(other.root, chain(6)) == ["lost", "lost", "hit"]
    assert fsck(other, full=True).damage == []
    assert import_artifact(other, tmp_path / name)[0] == record
    with pytest.raises(ArtifactError, match="exists; name a new directory"):
        export(store, record, tmp_path / name)


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_a_rotten_artifact_is_not_exported(store: Store, tmp_path: Path, name: str) -> None:
    rot(store, data_file(store, "third"))
    with pytest.raises(DamagedError, match=r"number\.json: expected digest"):
        export(store, store.resolve("third"), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_changed_export_is_not_imported(store: Store, tmp_path: Path) -> None:
    export(store, store.resolve("third"), tmp_path / "out")
    (tmp_path / "out/object/data/number.json").write_text("5")
    other = Store(tmp_path / "other")
    with pytest.raises(DamagedError, match=r"object/data/number\.json: expected digest"):
        import_artifact(other, tmp_path / "out")
    assert other.records() == []
    assert list(other.objects.iterdir()) == []


def test_an_edited_card_is_not_imported(store: Store, tmp_path: Path) -> None:
    export(store, store.resolve("third"), tmp_path / "out")
    path = tmp_path / "out/r1pipe-artifact.json"
    path.write_text(path.read_text().replace('"stage_name": "third"', '"stage_name": "r1"'))
    with pytest.raises(DamagedError, match="the record was edited"):
        import_artifact(Store(tmp_path / "other"), tmp_path / "out")


def test_a_newer_export_is_refused(store: Store, tmp_path: Path) -> None:
    export(store, store.resolve("third"), tmp_path / "out")
    path = tmp_path / "out/r1pipe-artifact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(StoreError, match=r"export format 2.*upgrade"):
        import_artifact(Store(tmp_path / "other"), tmp_path / "out")


def test_an_archive_cannot_write_elsewhere(store: Store, tmp_path: Path) -> None:
    export(store, store.resolve("third"), tmp_path / "out")
    (tmp_path / "out.tar").unlink(missing_ok=True)
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(tmp_path / "out", ".")
        info = tarfile.TarInfo("object/../../../evil")
        tar.addfile(info)
    with pytest.raises(ArtifactError, match="is missing"):  # names begin with ./ here
        import_artifact(Store(tmp_path / "other"), tmp_path / "evil.tar")
    seal = tmp_path / "out/object/seal.json"
    from r1pipe.keys import FileEntry
    from r1pipe.store.sealing import make_seal, write_seal

    seal.unlink()
    write_seal(seal.parent, make_seal([FileEntry("data/../../../evil", 1, "0" * 64)]))
    with pytest.raises(DamagedError, match="leads out of the artifact"):
        import_artifact(Store(tmp_path / "other"), tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def test_a_truncated_tar_is_damage(store: Store, tmp_path: Path) -> None:
    export(store, store.resolve("third"), tmp_path / "out.tar")
    whole = (tmp_path / "out.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1500])
    with pytest.raises(DamagedError, match=r"cut\.tar"):
        import_artifact(Store(tmp_path / "other"), tmp_path / "cut.tar")


def test_an_import_does_not_replace_another_result_of_the_key(store: Store, tmp_path: Path) -> None:
    value = 1

    def moody(context: Any, params: Any, run: Any, inputs: Mapping[str, Any]) -> None:
        (context.output("data") / "number.json").write_text(str(value))

    made = manifest(stage("moody", kind(moody)))
    build(store.root, made)
    export(store, store.resolve("moody"), tmp_path / "out")
    value = 2
    other = Store(tmp_path / "other")
    build(other.root, made)
    with pytest.raises(ArtifactError, match="another result of the same key"):
        import_artifact(Store(tmp_path / "other"), tmp_path / "out")


def test_ancestors_are_all_that_something_was_made_from(store: Store) -> None:
    found = ancestors(store.resolve("third"), store.records())
    assert [record.stage_name for record in found] == ["second", "first"]
    assert ancestors(store.resolve("first"), store.records()) == []


def test_a_copied_store_is_sound(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy", symlinks=True)
    assert fsck(Store(tmp_path / "copy"), full=True).damage == []
    os.utime(tmp_path / "copy" / "records", (0, 0))
    assert statuses(tmp_path / "copy", chain(6)) == ["hit"] * 3


def test_a_tag_never_moves_to_another_result(tmp_path: Path) -> None:
    roots.add_tag(tmp_path, "v1", "0" * 64)
    roots.add_tag(tmp_path, "v1", "0" * 64)
    with pytest.raises(
        ArtifactError, match=r"tag 'v1' names the result of key 000000000000,.*'v1-2'"
    ):
        roots.add_tag(tmp_path, "v1", "1" * 64)
    assert roots.tags(tmp_path) == {"v1": "0" * 64}
    roots.remove_tag(tmp_path, "v1")
    roots.add_tag(tmp_path, "v1", "1" * 64)
    assert roots.tags(tmp_path) == {"v1": "1" * 64}
