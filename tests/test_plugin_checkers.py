"""Checkers of a plugin: the problems that carry them, and what they must give."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from command import Run
from plugin_project import edit, make_project, mistakes, near_problem

from r1pipe.errors import StageError
from r1pipe.manifest import load_manifest
from r1pipe.plugins.tables import STAMP, CheckerName, load_plugins, using
from r1pipe.records import Problem, Verdict
from r1pipe.rows import read_problems, write_problems
from r1pipe.stage import StageModel
from r1pipe.store.store import Store
from r1pipe.verify import verify


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_a_checker_is_used_by_problems_that_were_made_with_it(
    manifest: Path, tmp_path: Path
) -> None:
    plugins = load_plugins([manifest.parent.parent / "plugins" / "doubling.py"])
    (digest,) = plugins.files.values()
    with using(plugins, {"tasks": {"doubling": digest}}):
        write_problems(tmp_path / "p", [near_problem()])
        (made,) = read_problems(tmp_path / "p")
        assert made.meta == {STAMP: digest}
        assert verify(made, r"<think>a</think> \boxed{5}") is Verdict.CORRECT
        assert verify(made, r"<think>a</think> \boxed{6}") is Verdict.WRONG
        with pytest.raises(StageError, match="'near' is not the one that problem p was made with"):
            verify(near_problem(checker_digest="0"), "4")
    with pytest.raises(StageError, match=r"no checker is called 'near'; .*name its plugin in the"):
        verify(made, "4")


def test_problems_whose_stage_does_not_name_their_checkers_file_are_not_written(
    manifest: Path, tmp_path: Path
) -> None:
    plugins = load_plugins([manifest.parent.parent / "plugins" / "doubling.py"])
    with using(plugins), pytest.raises(StageError, match="put it into the file of their task"):
        write_problems(tmp_path / "p", [near_problem()])


def test_a_checker_may_not_take_a_name_and_must_give_a_verdict(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def f(problem, text):\n    return True\n\n\nCHECKERS = {'word': f, 'odd': f}\n"
    )
    plugins = load_plugins([path])
    (digest,) = plugins.files.values()
    with using(plugins):
        with pytest.raises(StageError, match=r"mine\.py:1:1: checker 'word' has the name of one"):
            verify(Problem("p", "t", "?", "a", checker="word"), "a")
        with pytest.raises(StageError, match="checker 'odd' gave True for problem p; give a Ver"):
            verify(Problem("p", "t", "?", "a", checker="odd", meta={STAMP: digest}), "a")


def test_a_checker_that_parameters_name_is_among_what_they_use(manifest: Path) -> None:
    class Params(StageModel):
        checked_by: CheckerName | None = None

    plugins = load_plugins([manifest.parent.parent / "plugins" / "doubling.py"])
    (digest,) = plugins.files.values()
    assert plugins.used_by(Params(checked_by="near")) == {"checkers": {"near": digest}}
    assert plugins.used_by(Params(checked_by="word")) == {}, "r1pipe's own"


def test_a_data_set_may_be_checked_by_a_plugins_checker(r1pipe: Run, manifest: Path) -> None:
    (manifest.parent / "asked.jsonl").write_text('{"q": "twice 2", "a": "4"}\n')
    text = """
        r1pipe: 1
        name: asked
        plugins: [../plugins/doubling.py]
        sources: {asked: {path: asked.jsonl, as: dataset}}
        stages:
          problems:
            kind: problems
            inputs: {source: asked}
            params:
              seed: 1
              num_problems: 1
              columns: {prompt: q, answer: a, gold: column, checked_by: near}
        """
    manifest.write_text(textwrap.dedent(text))
    assert list(load_manifest(manifest).stages["problems"].plugins) == ["checkers"]
    code, _, err = r1pipe("run", str(manifest))
    assert code == 0, err
    store = Store(manifest.parent.parent / "artifacts")
    (record,) = store.records()
    (made,) = read_problems(store.output_dir(record, "problems"))
    assert (made.checker, made.gold, list(made.meta)) == ("near", "4", [STAMP])
    edit(manifest, "checked_by: near", "checked_by: neer")
    assert "checked_by should be 'judge', 'near' or 'rule', not 'neer'" in mistakes(manifest)
