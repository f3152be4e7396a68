"""Locks: a run held to what it was, and a reproduction with its certificate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project

from r1pipe.errors import ManifestError
from r1pipe.machine import cpu_name
from r1pipe.pipeline.lock import Lock, Score, fitting_lock, read_lock
from r1pipe.pipeline.processor import instructions, is_here
from r1pipe.pipeline.reproduction import Certificate, ComparedScore

SMALL = "manifests/small.yaml"
LOCK = Path("manifests/small-laptop.lock")


@pytest.fixture
def r1pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run) -> Run:
    """Return a function that runs a command line in a project that has been run and locked."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    assert r1pipe("run", SMALL)[0] == 0
    assert r1pipe("lock", SMALL)[0] == 0
    return r1pipe


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_a_lock_is_the_same_bytes_wherever_the_same_stages_are(r1pipe: Run) -> None:
    first = LOCK.read_bytes()
    assert r1pipe("run", SMALL, "--store", "other")[0] == 0
    assert r1pipe("lock", SMALL, "--store", "other")[0] == 0
    assert LOCK.read_bytes() == first
    lock = read_lock(LOCK)
    assert lock.manifest == "small.yaml"
    assert list(lock.stages) == ["joined", "numbers", "scores"]
    assert list(lock.sources) == ["prompts"]


def test_a_source_that_no_stage_reads_is_not_locked(r1pipe: Run) -> None:
    edit(SMALL, "sources:\n", "sources:\n  unread: {path: ../data/none.jsonl, as: dataset}\n")
    assert r1pipe("lock", SMALL)[0] == 0
    assert list(read_lock(LOCK).sources) == ["prompts"]


def test_a_lock_needs_every_result(r1pipe: Run) -> None:
    code, _, err = r1pipe("lock", SMALL, "--set", "stages.numbers.params.count=6")
    assert code == 3
    assert "numbers" in err
    assert "first run: r1pipe run manifests/small.yaml" in err


def test_a_lock_that_replaces_other_results_says_so(r1pipe: Run) -> None:
    r1pipe("lock", SMALL)
    assert r1pipe("lock", SMALL)[2] == "", "the same results"
    other = ("--set", "stages.numbers.params.count=6")
    r1pipe("run", SMALL, *other)
    assert r1pipe("lock", SMALL, *other)[2] == (
        "manifests/small-laptop.lock was a lock of 2 other results; it is replaced\n"
    )


def test_a_locked_run_is_a_run_as_long_as_nothing_departs(r1pipe: Run) -> None:
    assert r1pipe("run", SMALL, "--locked")[0] == 0
    assert r1pipe("run", SMALL, "--locked", "--store", "fresh")[0] == 0


def test_a_locked_run_names_every_departure_before_anything_is_built(r1pipe: Run) -> None:
    edit(SMALL, "count: 5", "count: 6")
    edit("stages/join.py", "VERSION = 1", "VERSION = 2")
    code, _, err = r1pipe("run", SMALL, "--locked", "--store", "fresh")
    assert code == 2
    assert "small.yaml:18:47 (profile laptop): stage numbers" in err
    assert "stage numbers: params.count is 6, locked is 5" in err
    assert "stage joined: version is 2, locked is 1" in err
    assert not Path("fresh").exists()


def test_a_locked_run_sees_a_changed_source_and_another_set_of_stages(r1pipe: Run) -> None:
    edit("data/prompts.jsonl", "2+2", "2+3")
    edit(SMALL, "  scores: {", "  board: {")
    code, _, err = r1pipe("run", SMALL, "--locked")
    assert code == 2
    assert "source prompts is" in err
    assert "stage scores: only one of lock and manifest has it" in err


def test_a_locked_run_stops_at_the_first_other_bytes_of_the_same_key(r1pipe: Run) -> None:
    edit("stages/numbers.py", '" ".join', '"  ".join')  # as other arithmetic would
    code, _, err = r1pipe("run", SMALL, "--locked", "--store", "fresh")
    assert code == 3
    assert "numbers: the locked artifact is" in err
    assert "of the same key" in err
    shown = json.loads(r1pipe("plan", SMALL, "--store", "fresh", "--json")[1])["stages"]
    built = {stage["name"]: stage["status"] for stage in shown}
    assert built["numbers"] == "hit", "what was built is kept"
    assert built["joined"] != "hit", "nothing after it was built"


def test_a_reproduction_gives_a_certificate(r1pipe: Run) -> None:
    code, out, _ = r1pipe("reproduce", str(LOCK))
    total = len(read_lock(LOCK).stages)
    assert code == 0
    assert f"{total} of {total} artifacts are the same to the byte\n{total} were built here" in out
    assert out.endswith("reproduced\n")
    assert Path("reproduced/objects").is_dir()


def test_a_reproduction_with_other_bytes_says_where_they_began(r1pipe: Run) -> None:
    edit("stages/numbers.py", '" ".join', '"  ".join')
    code, out, _ = r1pipe("reproduce", str(LOCK), "--json")
    found = json.loads(out)
    assert code == 1
    assert not found["holds"], "there are no scores to compare"
    assert found["causes"] == ["numbers"]
    assert set(found["differing"]) >= {"numbers", "joined"}


def test_a_reproduction_refuses_another_recipe(r1pipe: Run) -> None:
    edit(SMALL, "count: 5", "count: 6")
    code, _, err = r1pipe("reproduce", str(LOCK))
    assert code == 2
    assert "this is not what was locked" in err


def test_a_score_of_0_in_both_is_told_apart_and_shows_nothing() -> None:
    zero = Score(value=0.0, low=0.0, high=0.0)
    some, far = Score(value=0.5, low=0.4, high=0.6), Score(value=0.9, low=0.8, high=1.0)
    trivial = ComparedScore("eval", "safety", zero, zero)
    found = certificate(trivial, trivial, ComparedScore("eval", "b", some, some))
    assert found.holds
    said = "1 of 1 scores lie inside each other's 95 % intervals; 2 more are 0 in both"
    assert any(line.startswith(said) for line in found.lines())
    assert [each["trivial"] for each in found.to_json()["scores"]] == [True, True, False]
    assert not certificate(trivial).holds, "other bytes, and nothing that agrees"
    lost = certificate(trivial, ComparedScore("eval", "b", some, zero))
    assert not lost.holds, "0 against some is a difference"
    assert not certificate(trivial, ComparedScore("eval", "b", some, far)).holds


def certificate(*compared: ComparedScore) -> Certificate:
    return Certificate("r", [], ["eval"], [], list(compared), 1, "", {"eval": ("0" * 64, "1" * 64)})


def test_scores_agree_if_each_lies_in_the_other_interval() -> None:
    locked, near = Score(value=0.5, low=0.4, high=0.6), Score(value=0.55, low=0.45, high=0.65)
    narrow = Score(value=0.55, low=0.54, high=0.56)
    assert locked.agrees_with(near)
    assert near.agrees_with(locked)
    assert not locked.agrees_with(narrow), "0.5 is not in [0.54, 0.56]"
    assert certificate(ComparedScore("eval", "b", locked, near)).holds
    assert not certificate(ComparedScore("eval", "b", locked, narrow)).holds
    assert not certificate(ComparedScore("eval", "b", locked, None)).holds


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "stages": {"a": {"artifact": "../../x"}}}'],
)
def test_what_is_no_lock_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.lock"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"x\.lock: not a lock: "):
        read_lock(path)


def test_a_lock_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.lock: no such lock; `r1pipe lock` writes"):
        read_lock(tmp_path / "none.lock")


def test_a_lock_reads_back() -> None:
    lock = Lock(manifest="m", profile=None, overrides=[], versions={}, sources={}, stages={})
    assert Lock.model_validate_json(lock.model_dump_json()) == lock


@pytest.mark.parametrize(
    ("locked", "said"),
    [
        ("AMD EPYC 9B14", "the lock's is AMD EPYC 9B14: another kind of processor may round"),
        ("", "the lock names none: another kind of processor may round training otherwise"),
        (cpu_name(), ""),
    ],
)
def test_other_bytes_on_another_processor_are_told(r1pipe: Run, locked: str, said: str) -> None:
    text = json.loads(LOCK.read_text())
    assert text["processor"] == cpu_name()
    LOCK.write_text(json.dumps(text | {"processor": locked}))
    edit("stages/numbers.py", '" ".join', '"  ".join')
    code, _, err = r1pipe("run", SMALL, "--locked", "--store", "fresh")
    assert code == 3
    assert "all versions are the locked ones" in err
    assert said in err if said else "processor" not in err


def write(path: str, processor: str, **more: object) -> None:
    """Write the project's lock as one of another processor."""
    text = json.loads(LOCK.read_text())
    Path(path).write_text(json.dumps(text | {"processor": processor} | more))


def test_a_processor_is_its_name_and_its_instruction_sets() -> None:
    assert is_here(cpu_name(), instructions())
    assert is_here(cpu_name(), []), "locks of before have none"
    assert not is_here(cpu_name(), [*instructions(), "another"]), "a generation of the same name"
    assert not is_here("another", [])
    assert not is_here("", []), "a lock that names none"


def test_the_lock_that_fits_is_that_of_the_same_run_made_on_this_processor(r1pipe: Run) -> None:
    Path("manifests/uv.lock").write_text("version = 1")
    write("manifests/a.lock", cpu_name(), overrides=["params.seed=3"])
    write("manifests/b.lock", cpu_name(), profile="other")
    write("manifests/c.lock", "another")
    here, other = read_lock(LOCK), read_lock(Path("manifests/c.lock"))
    assert fitting_lock(LOCK, here) is None, "it fits itself"
    assert fitting_lock(Path("manifests/c.lock"), other) == LOCK
    LOCK.unlink()
    assert fitting_lock(Path("manifests/c.lock"), other) is None


def test_a_reproduction_of_another_processors_lock_names_the_one_that_fits(r1pipe: Run) -> None:
    fitting = Path("manifests/small-laptop-here.lock")
    fitting.write_bytes(LOCK.read_bytes())
    write(str(LOCK), "another")
    code, out, err = r1pipe("reproduce", str(LOCK), "--json")
    assert code == 0
    assert f"{LOCK} does not name this kind of processor" in err
    assert f"{fitting} names it: r1pipe reproduce {fitting}" in err
    assert json.loads(out)["fitting_lock"] == str(fitting)
    code, out, err = r1pipe("reproduce", str(fitting), "--json")
    assert "this kind of processor" not in err
    assert json.loads(out)["fitting_lock"] is None


def test_a_locked_run_is_held_to_the_lock_that_fits(r1pipe: Run) -> None:
    fitting = Path("manifests/small-laptop-here.lock")
    fitting.write_bytes(LOCK.read_bytes())
    text = json.loads(LOCK.read_text())
    for stage in text["stages"].values():
        stage["artifact"] = "0" * 64  # as other arithmetic would
    LOCK.write_text(json.dumps(text | {"processor": "another"}))
    code, _, err = r1pipe("run", SMALL, "--locked", "--store", "fresh")
    assert code == 0
    assert f"held to {fitting}: it names this kind of processor" in err
    fitting.unlink()
    assert r1pipe("run", SMALL, "--locked", "--store", "fresh")[0] == 3


def test_other_versions_are_told_and_compared_all_the_same(r1pipe: Run) -> None:
    text = json.loads(LOCK.read_text())
    now = text["versions"]["transformers"]
    write(str(LOCK), cpu_name(), versions=text["versions"] | {"transformers": "5.22.2"})
    code, out, _ = r1pipe("reproduce", str(LOCK))
    assert code == 0
    assert f"versions differ: transformers 5.22.2 -> {now}" in out or now == "5.22.2"
    assert out.endswith("reproduced\n")
