"""The Python API: the same plan, run and results as the command line's, and documented shapes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import Run
from fake_project import make_project
from handed_world import handed

import r1pipe
from r1pipe import load
from r1pipe.api.documents import Document, LineageDocument, Summary
from r1pipe.errors import ArtifactError, ManifestError

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_a_manifest_is_planned_run_and_shown_from_python(manifest: Path) -> None:
    project = r1pipe.load(manifest)
    assert [stage.status for stage in project.plan().stages] == ["run", "waits", "waits"]
    result = project.run()
    assert result.built == ["numbers", "joined", "scores"]
    assert [stage.status for stage in project.plan().stages] == ["hit", "hit", "hit"]
    assert project.run().built == []
    numbers = project.store["numbers"]
    assert (numbers.path / "rows" / "rows.txt").read_text() == "0 1 2 3 4"
    assert numbers.output("report") == numbers.path / "report"
    assert [row["step"] for row in numbers.metrics()] == [1, 2, 3]
    assert numbers.facts["rows"] == 5
    assert [each["stage_name"] for each in project.show()] == ["numbers", "joined", "scores"]
    assert project.show("numbers")["artifact_id"] == numbers.id


def test_settings_and_the_store_are_those_of_the_command_line(
    manifest: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("manifests/small.yaml", "--profile", "gpu", "--set", "params.seed=9")
    _, out, _ = r1pipe("run", *arguments, "--json", "--store", "elsewhere")
    told = {stage["name"]: stage["artifact"] for stage in json.loads(out)["stages"]}
    project = load(manifest, profile="gpu", sets=["params.seed=9"], store="elsewhere")
    assert {name: project[name].id for name in told} == told
    assert json.loads(r1pipe("show", "--json", "--store", "elsewhere")[1]) == project.show()
    document = project.show("joined")
    assert json.loads(r1pipe("show", "joined", "--json", "--store", "elsewhere")[1]) == document
    lineage = project["joined"].lineage()
    told_lineage = r1pipe("show", "joined", "--lineage", "--json", "--store", "elsewhere")[1]
    assert json.loads(told_lineage) == lineage


def test_a_stage_is_its_result_with_these_settings_and_no_others(manifest: Path) -> None:
    small, large = r1pipe.load(manifest), r1pipe.load(manifest, sets=["params.seed=4"])
    small.run(to="numbers")
    expected = (
        r"numbers: not built with these settings; the store has it of other settings"
        r" \(profiles: laptop\); build it with: r1pipe run"
    )
    with pytest.raises(ArtifactError, match=expected):
        large["numbers"]
    large.run(to="numbers")
    assert small["numbers"].record.key != large["numbers"].record.key
    with pytest.raises(ManifestError, match="no stage 'nmbers'; did you mean 'numbers'"):
        small["nmbers"]


def test_rows_and_models_are_read_from_the_output_that_holds_them(tmp_path: Path) -> None:
    result = r1pipe.open_store(handed(tmp_path)[1].root)["both"]
    assert [row["completion"] for row in result.rows(columns=["completion"])] == ["2", "3"]
    model = result.model()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    expected = tiny.model(1).state_dict()
    assert all(bool((w == expected[name]).all()) for name, w in model.state_dict().items())
    assert result.tokenizer()("12")["input_ids"] == tiny.tokenizer()("12")["input_ids"]
    with pytest.raises(ArtifactError, match="2 outputs; name one"):
        result.output()
    with pytest.raises(ArtifactError, match="has no output 'row'; it has model, rows"):
        result.rows("row")


def test_what_an_artifact_does_not_hold_is_said(manifest: Path) -> None:
    project = r1pipe.load(manifest)
    project.run(to="numbers")
    with pytest.raises(ArtifactError, match=r"<numbers numbers@\w+>: 0 outputs with config.json"):
        project["numbers"].model()


def test_a_run_tells_the_logger_what_a_console_would_show(
    manifest: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "r1pipe"):
        r1pipe.load(manifest).run(to="numbers")
    assert "1 of 1 stages to build" in caplog.messages
    assert any(text.startswith("numbers: done in 0.") for text in caplog.messages)
    assert capfd.readouterr().out == ""


def test_importing_and_loading_bring_in_no_torch(manifest: Path) -> None:
    code = (
        f"import sys, r1pipe\nproject = r1pipe.load({str(manifest)!r})\nproject.plan()\n"
        "project.show()\n"
        "print([n for n in ('torch', 'transformers', 'pyarrow', 'typer') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'r1pipe' has no attribute 'laod'"):
        r1pipe.laod  # noqa: B018


def test_the_documents_are_those_of_their_types_and_of_the_page(manifest: Path) -> None:
    project = r1pipe.load(manifest)
    project.run(to="joined")
    shown: list[tuple[type, Any]] = [
        (Summary, project.show()[0]),
        (Document, project.show("joined")),
        (LineageDocument, project["joined"].lineage()),
    ]
    for shape, document in shown:
        assert shape.__annotations__.keys() == document.keys()
        for name in document:
            assert f"`{name}`" in PAGE, f"docs/api.md lacks the field {name}"


def test_every_method_of_the_api_is_on_its_page() -> None:
    for shape in (r1pipe.Project, r1pipe.Results, r1pipe.Result):
        for name in vars(shape):
            if not name.startswith("_"):
                assert re.search(rf"\b{name}\b", PAGE), f"docs/api.md lacks {name}"
