"""The command line from outside: what it prints where, exit codes, and nothing written on error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from command import Run
from fake_project import MANIFEST, make_project, write_manifest

from r1pipe.cli.table import MODULES

ROOT = Path(__file__).resolve().parent.parent
SMALL = "manifests/small.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    return tmp_path


def test_a_run_shows_its_plan_and_progress_on_stderr_and_the_scoreboard_on_stdout(
    project: Path, r1pipe: Run
) -> None:
    code, out, err = r1pipe("run", SMALL)
    assert code == 0
    assert out == "model  pass@1\none    0.50\n"
    lines = err.splitlines()
    assert lines[0].split() == ["STAGE", "KIND", "STATUS"]
    assert lines[1].split() == ["numbers", "numbers", "run"]
    assert lines[2].split() == ["joined", "join", "waits"]
    assert lines[4] == "3 stages: 3 to build; 'r1pipe plan --verbose' has all of it"
    assert "numbers: starts (numbers), stage 1 of 3" in lines
    assert any(line.startswith("numbers: done in 0.") for line in lines)
    assert "numbers: step 3/3  loss 0.3333  pass rate 0.75" in lines
    assert any(line.startswith("scores: done in 0.") for line in lines)


def test_a_second_run_does_nothing_and_says_so(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    code, out, err = r1pipe("run", SMALL)
    assert (code, out) == (0, "model  pass@1\none    0.50\n")
    assert err.splitlines()[-1] == "nothing to do: all 3 stages are in the store"
    assert "starts" not in err


def test_run_as_json_is_one_document(project: Path, r1pipe: Run) -> None:
    code, out, _ = r1pipe("run", SMALL, "--json", "--to", "joined")
    document = json.loads(out)
    assert code == 0
    assert document["built"] == ["numbers", "joined"]
    assert [stage["status"] for stage in document["stages"]] == ["done", "done"]
    assert document["scoreboard"] is None
    document = json.loads(r1pipe("run", SMALL, "--json", "--rebuild", "numbers")[1])
    assert document["built"] == ["numbers", "scores"]  # the same bytes: `joined` still hits
    assert document["scoreboard"] == {}


def test_what_a_stage_prints_does_not_mix_with_the_document(project: Path, r1pipe: Run) -> None:
    path = project / "stages" / "numbers.py"
    path.write_text(path.read_text() + "\n    print('a library says hello')\n")
    _, out, err = r1pipe("run", SMALL, "--json", "--to", "numbers")
    assert json.loads(out)["built"] == ["numbers"]
    assert "a library says hello" in err


def test_plan_writes_nothing(project: Path, r1pipe: Run) -> None:
    code, out, _ = r1pipe("plan", SMALL, "--profile", "gpu", "--json")
    assert code == 0
    stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
    assert [stage["status"] for stage in stages.values()] == ["run", "waits", "waits"]
    assert stages["joined"]["waits_for"] == ["numbers"]
    assert not (project / "artifacts").exists()


def test_a_plan_up_to_a_stage_has_what_that_one_needs(project: Path, r1pipe: Run) -> None:
    code, out, _ = r1pipe("plan", SMALL, "--to", "joined", "--json")
    document = json.loads(out)
    assert code == 0
    assert [stage["name"] for stage in document["stages"]] == ["numbers", "joined"]
    code, _, err = r1pipe("plan", SMALL, "--to", "joinde")
    assert code == 2
    assert "did you mean 'joined'?" in err


def test_a_single_stage_names_the_command_that_makes_its_input(project: Path, r1pipe: Run) -> None:
    code, _, err = r1pipe("stage", "joined", "--manifest", SMALL, "--profile", "gpu")
    assert code == 3
    command = "r1pipe stage numbers --manifest manifests/small.yaml --profile gpu"
    assert f"  numbers: {command}" in err.splitlines()
    assert r1pipe(*command.split()[1:])[0] == 0
    assert r1pipe("stage", "joined", "--manifest", SMALL, "--profile", "gpu")[0] == 0


def test_resume_alone_never_starts_a_stage(project: Path, r1pipe: Run) -> None:
    code, _, err = r1pipe("stage", "numbers", "--manifest", SMALL, "--resume")
    assert code == 3
    assert "numbers: there is no attempt to go on with; leave out --resume to start it" in err
    assert not (project / "artifacts" / "records").exists()


def test_show_lists_all_and_one_with_text_made_harmless(project: Path, r1pipe: Run) -> None:
    assert r1pipe("show")[1] == "the store is empty; 'r1pipe run MANIFEST' fills it\n"
    r1pipe("run", SMALL)
    code, out, err = r1pipe("show")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        "STAGE",
        "numbers",
        "joined",
        "scores",
    ]
    out = r1pipe("show", "numbers")[1]
    assert "\x1b" not in out
    assert "    completion: [red]4[/red]\\x1b[31m\n    | end\n" in out
    assert "  count: 5\n  seed: 3\n" in out
    assert "  rows: 5\n" in out
    curve = next(line for line in out.splitlines() if line.startswith("  pass_rate"))
    assert curve.split() == ["pass_rate", "0.25", "0.75", "0.25", "0.75", "\u2581\u2585\u2588"]


def test_show_has_the_scoreboard_in_the_width_of_the_terminal(
    project: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ["easy", "hard", "aime"]
    board = {
        "models": ["base"],
        "values": {"base": {name: {"pass@1": value} for name in names}},
        "rough": {},
        "harness": {},
        "paired": {},
    }
    path = project / "stages" / "scoreboard.py"
    path.write_text(path.read_text().replace('"{}"', repr(json.dumps(board))))
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = r1pipe("run", SMALL)
    shown = r1pipe("show", "scores")[1]
    assert out.strip() in shown, "the run ends with the same board"
    assert "  model           easy           hard           aime\n" in shown
    assert "  base   0.500 +-0.100  0.500 +-0.100  0.500 +-0.100\n" in shown
    monkeypatch.setenv("COLUMNS", "40")
    assert "  model           easy           hard\n" in r1pipe("show", "scores")[1]


def test_show_one_as_json_has_everything(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    document = json.loads(r1pipe("show", "numbers", "--json")[1])
    assert document["preimage"]["params"] == {"count": 5, "seed": 3}
    assert [row["pass_rate"] for row in document["metrics"]] == [0.25, 0.5, 0.75]
    assert document["samples"] == [{"prompt": "2+2", "completion": "[red]4[/red]\x1b[31m\nend"}]
    assert (Path(document["directory"]) / "rows" / "rows.txt").read_text() == "0 1 2 3 4"
    assert len(json.loads(r1pipe("show", "--json")[1])) == 3


def test_lineage_is_a_tree_up_and_down(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    ids = {row["stage_name"]: row["artifact_id"] for row in json.loads(r1pipe("show", "--json")[1])}
    short = {name: identifier[:8] for name, identifier in ids.items()}
    out = r1pipe("show", "joined", "--lineage")[1]
    lines = out.splitlines()
    assert lines[0] == f"joined {short['joined']}"
    assert lines[2] == f"  |- extra.again: numbers {short['numbers']}"
    assert lines[3].startswith("  |- extra.prompts: source prompts ")
    assert lines[4:] == [
        f"  `- rows: numbers {short['numbers']}",
        "used by",
        f"  `- rows: scores {short['scores']}",
    ]
    below = r1pipe("show", "numbers", "--lineage")[1].splitlines()[4:]
    assert below == [
        f"  |- extra.again: joined {short['joined']}",
        f"  |  `- rows: scores {short['scores']}",
        f"  `- rows: joined {short['joined']} (see above)",
    ]
    document = json.loads(r1pipe("show", "scores", "--lineage", "--json")[1])
    above = [(edge["input"], edge.get("stage_name")) for edge in document["made_from"]]
    assert above == [
        ("rows", "joined"),
        ("extra.again", "numbers"),
        ("extra.prompts", None),
        ("rows", "numbers"),
    ]


def test_why_fits_the_window(project: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    r1pipe("run", SMALL)
    arguments = ("why", "numbers", "--manifest", SMALL, "--profile", "gpu")
    assert max(map(len, r1pipe(*arguments)[1].splitlines())) > 60, "the case is one that overflows"
    monkeypatch.setattr("r1pipe.fitting.window_width", lambda _: 60)
    out = r1pipe(*arguments)[1]
    assert max(map(len, out.splitlines())) <= 60
    assert "\n  params.rate: " in out


def test_why_names_the_value_and_where_it_is_written(project: Path, r1pipe: Run) -> None:
    r1pipe("run", SMALL)
    _, out, _ = r1pipe("why", "scores", "--manifest", SMALL, "--profile", "gpu")
    assert "params.rate: default 0.5 -> 1e-06   [manifests/small.yaml:19:60 (profile gpu)]" in out
    document = json.loads(r1pipe("why", "numbers", "--manifest", SMALL, "--json")[1])
    assert document["status"] == "hit"


def test_the_schema_accepts_the_manifest_and_refuses_a_wrong_one(
    project: Path, r1pipe: Run
) -> None:
    from ruamel.yaml import YAML

    schema = json.loads(r1pipe("schema", SMALL)[1])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    manifest = YAML(typ="safe", pure=True).load(MANIFEST)
    assert list(validator.iter_errors(manifest)) == []
    left_to_profile = json.loads(json.dumps(manifest))
    del left_to_profile["stages"]["numbers"]["params"]["count"]
    assert list(validator.iter_errors(left_to_profile)) == []
    for path, value in [
        (("stages", "numbers", "params", "cuont"), 1),
        (("stages", "numbers", "params", "count"), "ten"),
        (("stages", "numbers", "run", "count"), 1),
        (("stages", "joined", "params", "keep", "verdict"), "corect"),
        (("stages", "joined", "inputs", "row"), "numbers.rows"),
        (("stages", "numbers", "kind"), "numbrs"),
        (("stagez",), {}),
    ]:
        wrong = json.loads(json.dumps(manifest))
        place = wrong
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        assert list(validator.iter_errors(wrong)), path


BAD_INPUT = [
    (["run", SMALL, "--set", "stages.numbers.params.cuont=1"], 2, "did you mean 'count'?"),
    (["run", SMALL, "--set", "stages.numbers.params.count=x"], 2, "should be a whole number"),
    (["run", SMALL, "--set", "stages.numbers.params.workers=1"], 2, "it belongs under 'run'"),
    (["run", SMALL, "--set", "stages.numbers.run.count=1"], 2, "it belongs under 'params'"),
    (["run", SMALL, "--profile", "paper"], 2, "unknown profile 'paper'; profiles: gpu, laptop"),
    (["run", SMALL, "--to", "nmbers"], 2, "no stage 'nmbers'; did you mean 'numbers'?"),
    (["run", SMALL, "--rebuild", "nmbers"], 2, "no stage 'nmbers'"),
    (["stage", "nmbers", "--manifest", SMALL], 2, "no stage 'nmbers'"),
    (["run", "manifests/smal.yaml"], 2, "no such manifest; did you mean 'manifests/small.yaml'?"),
    (["run", "manifests"], 2, "manifests: a folder, not a manifest; it holds small.yaml"),
    (["run", SMALL, "--set", "sources.prompts.path=gone.jsonl"], 7, "gone.jsonl does not exist"),
    (["run", SMALL, "--store", "data"], 8, "not a store of r1pipe"),
    (["run", SMALL, "--store", SMALL], 8, "a file, not a store; name a directory"),
    (["run", SMALL, "--store", f"{SMALL}/x/y"], 8, "is a file; name a directory for the store"),
    (["import", "gone.tar"], 3, "gone.tar does not exist; name what 'r1pipe export' wrote"),
    (["show", "nothing"], 3, "no artifact 'nothing'"),
    (["run", SMALL, "--stroe", "x"], 2, "No such option"),
    (["rn", SMALL], 2, "No such command"),
    (["stage"], 2, "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_INPUT)
def test_bad_input_ends_with_a_message_and_nothing_written(
    project: Path, r1pipe: Run, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(project.rglob("*"))
    found, out, err = r1pipe(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    after = [path for path in sorted(project.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("{count: 10,", "{cuont: 10,", ":14:14: unknown key 'cuont'"),
        ("{count: 10,", "{count: ten,", ":14:21: stages.numbers.params.count should be"),
        ("run: {workers: 2}", "run: {seed: 2}", ":15:11: unknown key 'seed'"),
        ("rows: joined", "rows: scores", ":16:45: 'scores' is of type report"),
        ("rows: numbers.rows", "rows: joined", ":10:20: each stage of this cycle needs"),
        ("profile: laptop", "profile: lap", ":3:10: unknown profile 'lap'"),
        ("name: small", "name: small\nname: x", ":3:1: duplicate key 'name'"),
        ("r1pipe: 1", "r1pipe: 2", ":1:9: manifest format 2 needs an r1pipe that reads it"),
    ],
)
def test_a_wrong_manifest_names_the_place(
    project: Path, r1pipe: Run, old: str, new: str, place: str
) -> None:
    assert old in MANIFEST
    write_manifest(project, MANIFEST.replace(old, new, 1))
    code, out, err = r1pipe("run", SMALL)
    assert (code, out) == (2, "")
    assert f"manifests/small.yaml{place}" in err
    assert not (project / "artifacts").exists()


def test_bytes_that_are_not_utf_8_are_named_with_their_place(project: Path, r1pipe: Run) -> None:
    (project / SMALL).write_bytes(b"r1pipe: 1\nname: caf\xc3\xa9 caf\xe9\n")
    code, out, err = r1pipe("run", SMALL)
    assert (code, out) == (2, "")
    # "name: cafe caf", with an accent, is 14 characters (15 bytes), so the bad byte is the 15th
    assert err == f"{SMALL}:2:15: byte 0xe9 is not UTF-8; save the file as UTF-8\n"
    assert not (project / "artifacts").exists()


def test_a_store_that_cannot_be_read_is_named(project: Path, r1pipe: Run) -> None:
    (project / "artifacts").mkdir()
    (project / "artifacts" / "r1pipe-store.json").write_text('{"format": 99, "r1pipe": "9.9"}')
    code, _, err = r1pipe("run", SMALL)
    assert code == 8
    assert "store format 99" in err
    assert sorted(path.name for path in (project / "artifacts").iterdir()) == ["r1pipe-store.json"]


def test_the_store_lies_beside_the_manifests_folder_or_where_it_was_said(
    project: Path,
    r1pipe: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    r1pipe("run", str(project / SMALL), "--to", "numbers")
    assert (project / "artifacts" / "records").is_dir()
    monkeypatch.setenv("R1PIPE_STORE", str(elsewhere / "mine"))
    r1pipe("run", str(project / SMALL), "--to", "numbers")
    assert (elsewhere / "mine" / "records").is_dir()
    r1pipe("run", str(project / SMALL), "--to", "numbers", "--store", str(elsewhere / "other"))
    assert (elsewhere / "other" / "records").is_dir()


def test_an_unexpected_error_keeps_its_traceback(project: Path) -> None:
    path = project / "stages" / "numbers.py"
    path.write_text(path.read_text().replace("def run(", "def run(*_):\n    1 / 0\n\n\ndef ran("))
    done = subprocess.run(
        [sys.executable, "-m", "r1pipe.cli", "run", SMALL],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "stages/numbers.py" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a command line loads."""
    script = (
        "import sys\nfrom r1pipe.cli.main import main\ntry:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(*sorted(sys.modules), sep=chr(10), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    return set(done.stderr.splitlines())


def test_a_command_loads_only_what_it_needs(project: Path, r1pipe: Run) -> None:
    builds = {"r1pipe.pipeline.building", "r1pipe.store.attempt", "r1pipe.store.publish"}
    costly = {"torch", "pyarrow", "rich", "numpy", "filelock", "ctypes", "logging"}
    costly |= {"importlib.metadata", "email", "zipfile"}  # of pydantic's search for plugins
    first = loaded_by("run", SMALL)
    assert builds < first
    again = loaded_by("run", SMALL)
    assert again & (builds | costly) == set()
    assert "r1pipe.cli.store_commands" not in again
    assert not loaded_by("--help") & (costly | {"r1pipe.manifest", "r1pipe.store", "pydantic"})


def test_help_names_every_command(r1pipe: Run) -> None:
    code, out, _ = r1pipe("--help")
    assert code == 0
    for name in MODULES:
        assert f"  {name} " in out
        assert r1pipe(name, "--help")[0] == 0


def test_a_manifest_asked_for_without_its_folder_is_named_with_it(
    r1pipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert r1pipe("plan", "own.yaml")[2] == (
        "own.yaml: no such manifest; did you mean 'manifests/own.yaml'?\n"
    )
