"""No text of others moves the cursor, colours or reorders what a terminal shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project
from store_world import build

from r1pipe.cli import printing
from r1pipe.manifest import load_manifest
from r1pipe.text import table_lines

ROOT = Path(__file__).parents[1]
EVIL = "a\x1b[31mb\x07c\x9b2Jd\x7fe\u202ef\u2066g\u200fh\rI"


def is_safe(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def test_a_json_document_is_plain_and_reads_back_as_the_same_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {EVIL: [EVIL, "\U000e0001", "\ud800", "plain \u4e2d", 1.5, None], "lines": "a\nb"}
    printing.print_json(value)
    printing.print_json_line(value)
    both = capsys.readouterr().out
    assert is_safe(both)
    assert "\u4e2d" in both
    document, line = both.rsplit("\n", 2)[:2]
    assert json.loads(document) == json.loads(line) == value


def test_a_cell_of_a_table_is_one_line() -> None:
    assert table_lines([("a\nb", "x"), ("\x1b", "y")]) == ["a\\nb  x", "\\x1b  y"]


def test_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    printing.say("one\ntwo\x1b")
    printing.say_lines(["one\ntwo", "three"])
    assert capsys.readouterr().out == "one\ntwo\\x1b\none\\ntwo\nthree\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once."""
    root = tmp_path_factory.mktemp("project")
    build(root / "artifacts", load_manifest(make_project(root)))
    return root


@pytest.mark.parametrize(
    "command",
    [
        ("show", EVIL),
        ("show", "--row", EVIL, "numbers"),
        ("why", EVIL, "-m", "manifests/small.yaml"),
        ("plan", EVIL),
        ("plan", "manifests/small.yaml", "--profile", EVIL),
        ("plan", "manifests/small.yaml", "--set", EVIL),
        ("plan", "manifests/small.yaml", "--set", f"params.seed={EVIL}"),
        ("run", "manifests/small.yaml", "--to", EVIL),
        ("run", "manifests/small.yaml", "--checkpoint-every", EVIL),
        ("stage", EVIL, "-m", "manifests/small.yaml"),
        ("tag", EVIL, "numbers"),
        ("export", "numbers", f"data/prompts.jsonl/{EVIL}"),
        ("import", EVIL),
        ("gc", "--restore", EVIL),
        ("diff", EVIL, EVIL),
        (f"--{EVIL}",),
        (EVIL,),
        ("show", f"--{EVIL}"),
        ("show", "--store", EVIL),
    ],
)
def test_an_argument_is_echoed_with_its_control_characters_written_out(
    project: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(project)
    _, out, err = r1pipe(*command)
    assert is_safe(out + err)


def test_what_a_stage_says_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "stages/numbers.py"
    said = "    context.warn(EVIL)\n    context.log(4, 4, **{EVIL: 1.0})\n"
    error = "    from r1pipe.errors import StageError\n    raise StageError(EVIL)\n"
    path.write_text(path.read_text() + said + f"\n\nEVIL = {EVIL!r}\n")
    code, out, err = r1pipe("run", "manifests/small.yaml")
    assert code == 0
    assert is_safe(out + err)
    path.write_text(path.read_text().replace(said, said + error))
    code, out, err = r1pipe("run", "manifests/small.yaml", "--rebuild", "numbers")
    assert code == 1
    assert is_safe(out + err)
    assert "\\u202ef" in err
    for command in (("show", "numbers"), ("show", "numbers", "--attempt"), ("show", "--json")):
        code, out, err = r1pipe(*command)
        assert (code, is_safe(out + err)) == (0, True)


def test_a_traceback_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        printing.print_traceback(ValueError, error, error.__traceback__)
    assert is_safe(capsys.readouterr().err)


def test_only_the_printer_and_the_console_print() -> None:
    for path in sorted((ROOT / "r1pipe/cli").glob("*.py")):
        if path.name in ("printing.py", "console.py"):
            continue
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = [node.func.id for node in calls if isinstance(node.func, ast.Name)]
        assert "print" not in names, path
