"""The commands on the store, from outside: what they print, change and end with."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project

SMALL = "manifests/small.yaml"


@pytest.fixture
def r1pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run) -> Run:
    """Return a function that runs a command line in a project that has been run."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    assert r1pipe("run", SMALL)[0] == 0
    return r1pipe


def artifact(r1pipe: Run, name: str) -> str:
    return str(json.loads(r1pipe("show", name, "--json")[1])["artifact_id"])


def objects() -> set[str]:
    return {path.name for path in Path("artifacts/objects").iterdir()}


def test_diff_shows_what_was_asked_for_and_what_came_of_it(r1pipe: Run) -> None:
    first = artifact(r1pipe, "numbers")
    r1pipe("run", SMALL, "--set", "stages.numbers.params.count=6")
    second = artifact(r1pipe, "numbers")
    code, out, _ = r1pipe("diff", first[:12], second[:12])
    assert code == 0
    assert "  params.count: 5 -> 6\n" in out
    assert "  rows: 5 -> 6\n" in out
    document = json.loads(r1pipe("diff", first[:12], second[:12], "--json")[1])
    assert document["preimage"] == [{"name": "params.count", "old": 5, "new": 6}]
    assert r1pipe("diff", "numbers", "numbers")[1].endswith("no difference\n")


def test_a_tag_does_not_take_the_name_of_a_stage(r1pipe: Run) -> None:
    code, _, err = r1pipe("tag", "numbers", "joined")
    assert (code, err) == (
        3,
        "'numbers' is the name of a stage, whose later results a tag would hide; take another,"
        " such as 'numbers-1'\n",
    )
    assert r1pipe("tag", "numbers-1", "joined")[0] == 0


def test_a_diff_fits_the_window(r1pipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = artifact(r1pipe, "numbers")
    r1pipe("run", SMALL, "--set", "stages.numbers.params.count=40")
    second = artifact(r1pipe, "numbers")
    monkeypatch.setattr("r1pipe.cli.store_commands.window_width", lambda _: 40)
    out = r1pipe("diff", first, second)[1]
    assert "  params.count: 5 -> 40\n" in out
    assert max(map(len, out.splitlines())) <= 40


def test_fsck_ends_with_6_and_names_the_file_that_changed(r1pipe: Run) -> None:
    code, out, _ = r1pipe("fsck")
    assert code == 0
    assert out.startswith("3 records, 3 artifacts, ")
    path = Path("artifacts/objects", artifact(r1pipe, "numbers"), "rows", "rows.txt")
    before = path.stat()
    path.chmod(0o644)
    path.write_text("0 1 2 3 5")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out, err = r1pipe("fsck", "--full")
    assert (code, err) == (6, "")
    assert f"{path}: expected digest " in out
    assert json.loads(r1pipe("fsck", "--full", "--json")[1])["findings"][0]["is_damage"]
    code, _, err = r1pipe("run", SMALL)
    assert code == 6
    assert f"{path}: expected digest " in err
    assert "Traceback" not in err


def test_gc_is_dry_until_told_and_restores(r1pipe: Run) -> None:
    old = artifact(r1pipe, "numbers")
    for count in range(6, 10):  # the last three runs of a profile are kept
        r1pipe("run", SMALL, "--set", f"stages.numbers.params.count={count}")
    before = objects()
    code, out, _ = r1pipe("gc")
    assert code == 0
    assert f"numbers@{old[:12]}" in out
    assert "'r1pipe gc --move' moves them" in out
    assert objects() == before
    r1pipe("gc", "--move")
    assert old not in objects()
    assert artifact(r1pipe, "numbers") in objects()
    assert r1pipe("gc", "--restore", old[:12])[1] == f"restored {old}\n"
    assert old in objects()
    r1pipe("gc", "--move")
    assert r1pipe("gc", "--empty-trash")[1].endswith(" deleted\n")
    assert r1pipe("gc", "--restore", old[:12])[0] == 3


@pytest.mark.parametrize("keep", [("pin", "old"), ("tag", "best", "old")])
def test_what_is_pinned_or_tagged_is_not_collected(r1pipe: Run, keep: tuple[str, ...]) -> None:
    old = artifact(r1pipe, "numbers")
    command = [old[:16] if word == "old" else word for word in keep]
    assert f"numbers@{old[:12]}" in r1pipe(*command)[1]
    for count in range(6, 10):
        r1pipe("run", SMALL, "--set", f"stages.numbers.params.count={count}")
    r1pipe("gc", "--move")
    assert old in objects()
    assert r1pipe(*command[:2], "--remove")[:2] == (0, "")
    r1pipe("gc", "--move")
    assert old not in objects()


def test_no_tag_and_no_pin_say_how_there_would_be_one(r1pipe: Run) -> None:
    assert r1pipe("tag")[1:] == (
        "",
        "there is no tag; 'r1pipe tag NAME STAGE' gives one to a result\n",
    )
    assert "nothing is pinned; 'r1pipe pin STAGE' keeps" in r1pipe("pin")[2]
    assert r1pipe("pin", "--json")[1:] == ("[]\n", "")


def test_all_results_are_listed_with_the_time_of_day_in_a_narrow_window(
    r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.cli.views.window_width", lambda _: 60)
    head, first, *_ = r1pipe("show")[1].splitlines()
    assert re.fullmatch(r"numbers .*  \d\d-\d\d \d\d:\d\d  \d+\.\d s.*", first), head


def test_a_tag_is_a_name(r1pipe: Run) -> None:
    r1pipe("tag", "best", "joined")
    assert artifact(r1pipe, "best") == artifact(r1pipe, "joined")
    assert list(json.loads(r1pipe("tag", "--json")[1])) == ["best"]
    code, _, err = r1pipe("tag", "best")
    assert code == 3
    assert "r1pipe tag TAG ARTIFACT" in err


@pytest.mark.parametrize("destination", ["there", "there.tar"])
def test_what_is_exported_is_a_hit_where_it_is_imported(r1pipe: Run, destination: str) -> None:
    code, out, _ = r1pipe("export", "numbers", destination)
    assert code == 0
    assert out.startswith(f"numbers@{artifact(r1pipe, 'numbers')[:12]}: 10 B to {destination}")
    assert r1pipe("export", "numbers", destination)[0] == 3  # never over something
    code, out, _ = r1pipe("import", destination, "--store", "other")
    assert (code, out) == (0, f"imported numbers@{artifact(r1pipe, 'numbers')[:12]}\n")
    plan = json.loads(r1pipe("plan", SMALL, "--store", "other", "--json")[1])
    assert plan["stages"][0]["status"] == "hit"


def test_an_ambiguous_prefix_lists_the_candidates(r1pipe: Run) -> None:
    for count in (6, 7):
        r1pipe("run", SMALL, "--to", "numbers", "--set", f"stages.numbers.params.count={count}")
    code, _, err = r1pipe("show", "numbers@")
    assert code == 3
    assert err.splitlines()[0] == "'numbers@' is ambiguous; it may be"
    assert len(err.splitlines()) == 4


def test_planning_with_a_source_that_is_long_unchanged_makes_no_store(r1pipe: Run) -> None:
    """A folder made by a plan, with no format in it, would be refused by the next command."""
    source = Path("data/prompts.jsonl")
    hour_ago = time.time() - 3600
    os.utime(source, (hour_ago, hour_ago))
    while time.time_ns() - source.stat().st_ctime_ns <= 2.1e9:
        time.sleep(0.1)
    assert r1pipe("plan", SMALL, "--store", "fresh")[0] == 0
    assert not Path("fresh").exists()
    assert r1pipe("run", SMALL, "--store", "fresh")[0] == 0
    assert r1pipe("run", SMALL, "--store", "fresh")[0] == 0
    assert (Path("fresh") / "sources" / "source_ids.json").exists()
