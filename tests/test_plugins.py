"""Plugins: rewards, tasks, checkers and stages of the user's own, and which keys they are in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from command import Run
from plugin_project import edit, make_project, mistakes, statuses

from r1pipe.keys import key_of, key_preimage
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.rewards.table import REWARDS
from r1pipe.rows import read_rows
from r1pipe.store.store import Store

GRPO = """
  zero:
    kind: grpo
    inputs: {model: base, problems: problems}
    params:
      seed: 1
      format: chat
      num_steps: 1
      problems_per_step: 1
      group_size: 2
      optimizer: {lr: 1e-4}
      rewards: REWARDS
      clip_low: 0.2
      clip_high: 0.2
      kl_coef: 0
      max_tokens: 8
sources: {base: {path: base, as: model}}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def keys(manifest: Manifest) -> dict[str, str]:
    return {
        node.name: key_of(key_preimage(node.kind.kind, 1, node.key_params(), {}, node.plugins))
        for node in manifest.stages.values()
    }


def all_grades(manifest: Path) -> list[list[dict[str, Any]]]:
    """Return the rows of every result of the stage `grades` in the project's store."""
    store = Store(manifest.parent.parent / "artifacts")
    records = [record for record in store.records() if record.stage_name == "grades"]
    return [list(read_rows(store.output_dir(record, "rows"))) for record in records]


# ---- a whole project -----------------------------------------------------------------------------


def test_the_project_of_the_page_runs_and_is_then_in_the_store(r1pipe: Run, manifest: Path) -> None:
    code, _, err = r1pipe("run", str(manifest))
    assert code == 0, err
    (graded,) = all_grades(manifest)
    assert len(graded) == 20
    for row in graded:  # one off, which only the plugin's checker lets pass
        assert row["accuracy"] == 1.0
        assert row["brevity"] == pytest.approx(1 / (1 + len(row["text"]) / 100))
        assert row["total"] == pytest.approx(1.0 + 0.5 * row["brevity"])
    assert set(statuses(r1pipe, manifest).values()) == {"hit"}


@pytest.mark.parametrize(
    ("file", "old", "new", "built"),
    [
        ("brevity.py", "/ 100", "/ 10", {"grades"}),
        ("doubling.py", "<= 1", "<= 2", {"problems", "grades"}),
        ("_words.py", "twice {number}", "two times {number}", {"problems", "grades"}),
    ],
)
def test_an_edit_builds_the_stages_that_use_the_file_and_no_others(
    r1pipe: Run, manifest: Path, file: str, old: str, new: str, built: set[str]
) -> None:
    assert r1pipe("run", str(manifest))[0] == 0
    path = manifest.parent.parent / "plugins" / file
    edit(path, old, new)
    planned = statuses(r1pipe, manifest)
    assert {name for name, status in planned.items() if status != "hit"} == built
    code, _, err = r1pipe("run", str(manifest))
    assert code == 0, err
    assert set(statuses(r1pipe, manifest).values()) == {"hit"}
    edit(path, new, old)
    assert set(statuses(r1pipe, manifest).values()) == {"hit"}, "the old results are still there"


def test_why_names_the_entry_that_changed(r1pipe: Run, manifest: Path) -> None:
    assert r1pipe("run", str(manifest))[0] == 0
    edit(manifest.parent.parent / "plugins" / "brevity.py", "/ 100", "/ 10")
    _, out, _ = r1pipe("why", "grades", "--manifest", str(manifest))
    assert re.search(r"plugins.rewards.brevity: [0-9a-f]{8} -> [0-9a-f]{8}\n", out)


def test_show_has_the_digests_of_the_plugins(r1pipe: Run, manifest: Path) -> None:
    store = f"--store={manifest.parent.parent / 'artifacts'}"
    assert r1pipe("run", str(manifest), store)[0] == 0
    code, out, err = r1pipe("show", "grades", store)
    assert code == 0, err
    assert re.search(r"plugins \(digests\)\n  rewards:\n    brevity: [0-9a-f]{64}\n", out)
    assert "plugins (digests)" not in r1pipe("show", "others", store)[1]


def test_a_changed_checker_changes_what_reads_the_problems_though_its_params_name_nothing(
    r1pipe: Run, manifest: Path
) -> None:
    edit(manifest, "rewards: {accuracy: 1.0, brevity: 0.5}", "rewards: {accuracy: 1.0}")
    assert r1pipe("run", str(manifest))[0] == 0
    edit(manifest.parent.parent / "plugins" / "doubling.py", "<= 1", "<= 0")
    planned = statuses(r1pipe, manifest)
    assert planned == {"problems": "run", "others": "hit", "grades": "waits"}
    assert r1pipe("run", str(manifest))[0] == 0
    accuracies = {row["accuracy"] for rows in all_grades(manifest) for row in rows}
    assert accuracies == {0.0, 1.0}, "graded again by the other checker"
    assert load_manifest(manifest).stages["grades"].plugins == {}


# ---- keys ----------------------------------------------------------------------------------------


def test_stages_that_use_no_plugin_have_the_keys_that_they_have_without_plugins(
    manifest: Path,
) -> None:
    before = load_manifest(manifest)
    edit(manifest, "plugins: [../plugins/doubling.py, ../plugins/brevity.py]\n", "")
    edit(manifest, "doubling: 1.0", "arithmetic: 1.0")
    edit(manifest, "brevity: 0.5", "length: 0.5")
    after = load_manifest(manifest)
    assert keys(before)["others"] == keys(after)["others"]
    assert {name: list(node.plugins) for name, node in before.stages.items()} == {
        "problems": ["tasks"],
        "others": [],
        "grades": ["rewards"],
    }
    assert all(not node.plugins for node in after.stages.values())


def test_a_plugins_own_name_is_not_in_the_key(manifest: Path) -> None:
    before = keys(load_manifest(manifest))
    folder = manifest.parent.parent / "plugins"
    (folder / "brevity.py").rename(folder / "short.py")
    edit(manifest, "brevity.py", "short.py")
    assert keys(load_manifest(manifest)) == before


def test_a_reward_of_the_table_or_of_a_plugin_can_be_named_and_no_other(manifest: Path) -> None:
    text = manifest.read_text()
    named = ", ".join(f"{name}: 1.0" for name in [*REWARDS, "format", "brevity"])
    manifest.write_text(text + GRPO.replace("REWARDS", f"{{{named}}}"))
    assert set(load_manifest(manifest).stages["zero"].plugins["rewards"]) == {"brevity"}
    manifest.write_text(text + GRPO.replace("REWARDS", "{lenght: 1.0}"))
    line = manifest.read_text().splitlines().index("      rewards: {lenght: 1.0}") + 1
    assert mistakes(manifest) == (
        f"{manifest}:{line}:17: unknown reward 'lenght' in stages.zero.params.rewards;"
        " did you mean 'length'?"
    )
    manifest.write_text(text + GRPO.replace("REWARDS", "{brevty: 1.0}"))
    assert "did you mean 'brevity'?" in mistakes(manifest)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"brevity\.py:1:5: not Python: '\(' was never closed"),
        ("\n\nimport nothing_here\n", r"brevity\.py:3:1: the plugin cannot be loaded: ModuleNot"),
        ("def f():\n    1 / 0\n\n\nf()\n", r"brevity\.py:2:1: .*ZeroDivisionError"),
        ("x = 1\n", r"brevity\.py:1:1: the plugin has no entries; give it REWARDS = "),
        ("\nREWARDS = [1]\n", r"brevity\.py:2:1: REWARDS must be a dict by name"),
        ("\nREWARDS = {'brevity': 1}\n", r"brevity\.py:2:1: reward 'brevity' must be a function"),
        ("REWARDS = {'a b': len}\n", r"reward 'a b' may hold letters, digits, - and _ only"),
        ("REWARDS = {'brevity': len, 'length': len}\n", r"'length' has the name of one of r1pipe"),
        ("TASKS = {'doubling': 1}\n", r"brevity\.py:1:1: task 'doubling' is in \S+doubling\.py"),
    ],
)
def test_a_plugin_that_is_wrong_is_refused_with_its_line(
    r1pipe: Run, manifest: Path, text: str, message: str
) -> None:
    (manifest.parent.parent / "plugins" / "brevity.py").write_text(text)
    code, out, err = r1pipe("plan", str(manifest))
    assert code == 2
    assert re.search(message, err), err
    assert "Traceback" not in out + err


def test_a_fault_of_a_neighbour_is_reported_in_the_neighbour(manifest: Path) -> None:
    helper = manifest.parent.parent / "plugins" / "_words.py"
    helper.write_text("def question(:\n")
    assert f"{helper}:1:14: not Python" in mistakes(manifest)
    helper.write_text("\nimport nothing_here\n")
    assert f"{helper}:2:1: the plugin cannot be loaded" in mistakes(manifest)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / len('')", r"brevity\.py:5:1: reward 'brevity' failed: ZeroDivisionError: div"),
        ("return 2", r"brevity\.py:4:1: reward 'brevity' gave 2 for problem doubling-\w+; give a"),
        ("return 'x'", r"reward 'brevity' gave 'x' .*; give a number in \[0, 1\]"),
        ("return float('nan')", r"reward 'brevity' gave nan"),
    ],
)
def test_a_reward_that_fails_ends_the_stage_with_its_line(
    r1pipe: Run, manifest: Path, body: str, message: str
) -> None:
    path = manifest.parent.parent / "plugins" / "brevity.py"
    edit(path, "return 1 / (1 + len(text) / 100)", body)
    code, out, err = r1pipe("run", str(manifest))
    assert code == 1
    assert re.search(message, err), err
    assert "Traceback" not in out + err


def test_a_plugin_that_is_not_there_is_reported_at_its_place(manifest: Path) -> None:
    edit(manifest, "../plugins/brevity.py", "brevity.py")
    assert mistakes(manifest) == (
        f"{manifest}:3:35: no plugin {manifest.parent}/brevity.py;"
        " a path is relative to this file's folder"
    )


def test_a_manifest_that_extends_another_has_its_plugins_from_its_folder(manifest: Path) -> None:
    folder = manifest.parent.parent / "other"
    folder.mkdir()
    (folder / "more.yaml").write_text("r1pipe: 1\nname: more\nextends: ../manifests/mine.yaml\n")
    assert keys(load_manifest(folder / "more.yaml")) == keys(load_manifest(manifest))
