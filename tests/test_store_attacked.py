"""Damage to any file of the store: what is gone is built again, and no command is dead for good."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project
from store_world import build, chain, kind, manifest, stage, train, write_number

from r1pipe.errors import DamagedError
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.planning import plan
from r1pipe.store import disk, roots
from r1pipe.store.fsck import fsck
from r1pipe.store.gc import collect_garbage
from r1pipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    build(tmp_path / "store", chain(6))
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once."""
    root = tmp_path_factory.mktemp("project")
    made = load_manifest(make_project(root))
    build(root / "artifacts", made)
    return root


@pytest.fixture
def cli(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run) -> Run:
    """A copy of the small project in the current folder."""
    shutil.copytree(project, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return r1pipe


COMMANDS = (
    ("plan", "manifests/small.yaml"),
    ("why", "scores", "-m", "manifests/small.yaml"),
    ("show",),
    ("show", "joined"),
    ("show", "joined", "--json"),
    ("show", "joined", "--lineage"),
    ("tag",),
    ("pin",),
    ("gc",),
    ("fsck",),
)
EXPECTED = (0, 3, 6, 8)


# Gone is not damaged ---------------------------------------------------------------------


@pytest.mark.parametrize("has_stats", [True, False], ids=["with stats", "without"])
@pytest.mark.parametrize("is_last", [True, False], ids=["last", "first"])
def test_a_deleted_artifact_is_lost_and_is_built_again_when_needed(
    store: Store, has_stats: bool, is_last: bool
) -> None:
    name = "third" if is_last else "first"
    artifact = store.resolve(name).artifact_id
    disk.remove_tree(store.objects / artifact)
    if not has_stats:
        (store.stats / artifact).unlink()
    statuses = {one.name: one.status for one in plan(chain(6), Store(store.root)).stages}
    assert statuses[name] == "lost"
    assert build(store.root, chain(6)) == (["third"] if is_last else [])
    assert (
        build(
            store.root,
            chain(6),
        )
        == []
    )


def test_after_an_import_a_run_to_an_ancestor_builds_it(cli: Run, tmp_path: Path) -> None:
    assert cli("export", "scores", "out")[0] == 0
    assert cli("import", "out", "--store", "other")[0] == 0
    code, _, err = cli("run", "manifests/small.yaml", "--store", "other", "--to", "joined")
    assert code == 0, err
    code, out, _ = cli("plan", "manifests/small.yaml", "--store", "other", "--json")
    assert [each["status"] for each in json.loads(out)["stages"]] == ["hit", "hit", "hit"]


def test_after_fsck_of_a_flipped_byte_the_second_run_is_right_again(cli: Run) -> None:
    artifact = json.loads(cli("show", "joined", "--json")[1])["artifact_id"]
    path = Path("artifacts/objects", artifact, "rows/rows.txt")
    path.chmod(0o644)
    path.write_text(path.read_text().replace("0", "1", 1))
    assert cli("fsck")[0] == 6
    codes = [cli("run", "manifests/small.yaml")[0] for _ in range(2)]
    assert codes in ([6, 0], [0, 0])
    assert cli("run", "manifests/small.yaml", "--to", "joined")[0] == 0
    assert cli("fsck", "--full")[0] == 0


def test_a_store_whose_objects_were_not_copied_is_built_again(cli: Run) -> None:
    for path in Path("artifacts/objects").iterdir():
        disk.remove_tree(path)
    assert cli("run", "manifests/small.yaml")[0] == 0
    Path("artifacts/objects").rmdir() if not list(Path("artifacts/objects").iterdir()) else None
    assert cli("fsck", "--full")[0] == 0


def test_a_lost_artifact_still_shows_its_record_and_its_logs(cli: Run) -> None:
    artifact = json.loads(cli("show", "numbers", "--json")[1])["artifact_id"]
    disk.remove_tree(Path("artifacts/objects", artifact))
    code, out, _ = cli("show", "numbers")
    assert code == 0
    assert "gone; 'r1pipe plan' says what rebuilds it" in out
    assert "pass_rate" in out
    code, out, _ = cli("show", "numbers", "--json")
    shown = json.loads(out)
    assert (code, shown["directory"], len(shown["metrics"])) == (0, None, 3)


COST = """

def cost(params, run, inputs):
    from r1pipe.costs.work import NOTHING, Cost, DatasetInfo

    return Cost(outputs={name: DatasetInfo(None) for name in OUTPUTS})
"""


def test_a_plan_needs_no_artifact_that_is_gone_to_say_what_comes_after_costs(
    cli: Run, tmp_path: Path
) -> None:
    for name in ("numbers", "join"):
        path = tmp_path / "stages" / f"{name}.py"
        path.write_text(path.read_text() + COST)
    artifact = json.loads(cli("show", "numbers", "--json")[1])["artifact_id"]
    disk.remove_tree(Path("artifacts/objects", artifact))
    changed = ("--set", "stages.joined.params.name=other")
    code, out, err = cli("plan", "manifests/small.yaml", *changed, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert [each["status"] for each in plan["stages"]] == ["lost", "run", "waits"]
    assert "joined" in plan["costs"]["stages"]


# Every small file ------------------------------------------------------------------------


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another type": lambda path: path.write_text('["x", 1]'),
    "numbers": lambda path: path.write_text('{"key": 7, "runs": 7, "keys": 7, "format": "x"}'),
    "deep": lambda path: path.write_text("[" * 100_000 + "]" * 100_000),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00" * 50),
    "a pipe": lambda path: replaced(path, os.mkfifo),
    "a folder": lambda path: replaced(path, Path.mkdir),
}


def small_files(root: Path) -> dict[str, Path]:
    """Return one file of each sort in a store that has all of them."""
    return {
        "record": next((root / "records").glob("*.json")),
        "stats": next((root / "stats").iterdir()),
        "run": next(path for path in (root / "runs").glob("*.json") if "live" not in path.name),
        "tag": root / "tags/best.json",
        "attempt": next((root / "attempts").glob("*/attempt.json")),
        "facts": next((root / "attempts").glob("*/work-*/logs/facts.json")),
        "spent": next((root / "attempts").glob("*/work-*/logs/spent.json")),
        "index": root / "records.index",
        "metrics": next((root / "logs").glob("*/metrics.jsonl")),
        "live": root / "runs/live-0123456789ab.json",
        "seal": next((root / "objects").glob("*/seal.json")),
        "source ids": root / "sources/source_ids.json",
    }


SORTS = (
    *("record", "stats", "run", "tag", "attempt", "facts", "spent", "index", "metrics", "live"),
    *("seal", "source ids"),
)


def furnish(cli: Run) -> Path:
    """Give the store a tag, an attempt that failed, and the trace of a running process."""
    root = Path("artifacts")
    assert cli("tag", "best", "joined")[0] == 0
    stages = Path("stages/join.py")
    text = stages.read_text()
    stages.write_text(text + "    context.note(rows=1)\n    raise ValueError('later')\n")
    with pytest.raises(ValueError, match="later"):
        cli("run", "manifests/small.yaml", "--set", "stages.joined.params.name=other")
    stages.write_text(text)
    live = roots.LiveRun(root)
    live.rely_on([Store(root).resolve("joined").key])
    live.path.rename(root / "runs/live-0123456789ab.json")
    cli("show")
    (root / "sources/source_ids.json").write_text('{"format": 1, "entries": {}}')
    return root


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("sort", SORTS)
def test_no_damage_to_a_small_file_ends_a_command_for_good(
    cli: Run, sort: str, damage: str
) -> None:
    root = furnish(cli)
    path = small_files(root)[sort]
    path.parent.chmod(0o755)
    path.chmod(0o644)
    DAMAGE[damage](path)
    for command in COMMANDS:
        code, _, err = cli(*command)
        assert code in EXPECTED, (command, code, err)
    options = ("--set", "stages.joined.params.name=other")
    codes = [cli("run", "manifests/small.yaml", *each)[0] for each in ((), (), options, options)]
    assert (codes[1], codes[3]) == (0, 0), codes
    assert set(codes) <= {0, 6}
    cli("fsck", "--full", "--set-aside")
    assert cli("fsck", "--full")[0] == 0
    assert cli("gc", "--move")[0] == 0


@pytest.mark.parametrize("sort", ["run", "tag", "live"])
def test_a_changed_digit_in_a_key_is_noticed_and_nothing_is_collected(cli: Run, sort: str) -> None:
    root = furnish(cli)
    if sort != "run":
        disk.remove_tree(root / "runs/small+laptop.json")
    path = (
        small_files(root)[sort]
        if sort == "run"
        else {
            "tag": root / "tags/best.json",
            "live": root / "runs/live-0123456789ab.json",
        }[sort]
    )
    text = path.read_text()
    key = json.loads(cli("show", "joined", "--json")[1])["key"]
    assert key in text
    digit = "0" if key[20] != "0" else "1"
    path.write_text(text.replace(key, key[:20] + digit + key[21:]))
    kept = {each.name for each in (root / "objects").iterdir()}
    code, _, err = cli("gc", "--move")
    assert (code, {each.name for each in (root / "objects").iterdir()}) == (6, kept)
    assert str(path) in err
    assert "fsck --set-aside" in err
    assert cli("gc")[0] == 0


def test_a_damaged_tag_says_how_to_mend_it(cli: Run) -> None:
    root = furnish(cli)
    (root / "tags/best.json").write_text("{")
    code, _, err = cli("show", "best")
    assert code == 6
    assert "r1pipe tag best ARTIFACT" in err
    assert cli("tag", "best", "joined")[0] == 0
    assert cli("show", "best")[0] == 0


def test_a_damaged_state_of_an_attempt_costs_no_work(tmp_path: Path) -> None:
    from killing import KILLED, call

    made = manifest(stage("work", kind(train)))
    root = tmp_path / "store"
    assert call(lambda: build(root, made), "checkpoint.rename@3") == KILLED
    (path,) = (root / "attempts").glob("*/attempt.json")
    path.write_bytes(path.read_bytes()[:40])
    assert plan(made, Store(root)).stages[0].status == "resume"
    assert build(root, made) == ["work"]
    assert [row["step"] for row in Store(root).metrics(Store(root).resolve("work"))] == [
        *range(1, 11)
    ]


@pytest.mark.parametrize("how", ["empty", "another type", "a pipe", "a folder", "gone"])
def test_a_store_without_its_format_file_is_still_one(store: Store, how: str) -> None:
    path = store.root / "r1pipe-store.json"
    DAMAGE.get(how, Path.unlink)(path)
    assert [one.status for one in plan(chain(6), Store(store.root)).stages] == ["hit"] * 3
    assert build(store.root, chain(8)) != []
    assert json.loads(path.read_text())["format"] == 1


def test_a_link_to_nothing_is_no_store(tmp_path: Path, r1pipe: Run) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    code, _, err = r1pipe("show", "--store", str(tmp_path / "link"))
    assert code == 8
    assert "which does not exist; make that folder" in err


def test_a_folder_among_the_records_or_the_objects_is_set_aside(store: Store) -> None:
    key = "0" * 64
    (store.records_dir / f"{key}.json").mkdir()
    (store.objects / key).write_text("no folder")
    report = fsck(Store(store.root), set_aside=True)
    assert {finding.name for finding in report.damage} == {key}
    assert fsck(Store(store.root)).damage == []


# Names -----------------------------------------------------------------------------------


def test_a_bare_name_is_the_last_run_whatever_its_clock_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1pipe.pipeline import run as running

    monkeypatch.setattr(running, "_now", lambda: "1999-01-01T00:00:00.000000+00:00")
    build(store.root, chain(8))
    assert Store(store.root).resolve("first").preimage["params"] == {"number": 8}


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb", "../../etc/passwd", "~nouser/x", "\x1b[31m"])
def test_an_odd_name_is_an_unknown_artifact(cli: Run, name: str) -> None:
    for command in (
        ("show", name),
        ("export", name, "out"),
        ("tag", "t", name),
        ("diff", name, "x"),
    ):
        assert cli(*command)[0] == 3, command
    assert cli("tag", name, "--remove")[0] == 3
    assert cli("gc", "--restore", name)[0] == 3


def test_gc_goes_on_when_attempts_vanish_under_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".dead-0123", "1" * 64, "2" * 64):
        (store.root / "attempts" / name / "logs").mkdir(parents=True)
    walk = disk.walk

    def vanishing(root: Path) -> object:
        if root.name in (".dead-0123", "1" * 64):
            disk.remove_tree(root)
        return walk(root)

    monkeypatch.setattr(disk, "walk", vanishing)
    report = collect_garbage(store, move=True)
    assert [item.what for item in report.doomed if "attempt" in item.what][-1:] == [
        f"attempt at nothing ({'2' * 12})"
    ]
    assert not list((store.root / "attempts").iterdir())


def test_a_number_that_is_not_finite_among_the_facts_is_kept_as_text(tmp_path: Path) -> None:
    def noting(context: object, params: object, run: object, inputs: object) -> None:
        write_number(context, params, run, {})  # type: ignore[arg-type]
        context.note(share=float("nan"))  # type: ignore[attr-defined]

    build(tmp_path / "store", manifest(stage("noting", kind(noting))))
    assert Store(tmp_path / "store").resolve("noting").facts["share"] == "NaN"


def test_a_damaged_seal_or_object_is_named(store: Store) -> None:
    record = store.resolve("second")
    seal = store.artifact_dir(record.artifact_id) / "seal.json"
    seal.parent.chmod(0o755)
    seal.chmod(0o644)
    seal.write_text("[]")
    with pytest.raises(DamagedError, match=r"seal\.json: damaged: expected an object"):
        Store(store.root).is_intact(record)
