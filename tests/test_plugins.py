"""Plugins: rewards, tasks, checkers and stages of the user's own, and which keys they are in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command import Run
from plugin_project import edit, make_project

from r1pipe.errors import ManifestError, StageError
from r1pipe.keys import key_of, key_preimage
from r1pipe.launch import torchrun
from r1pipe.launch.job import JobFolder
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.plugins.files import digests_of, load_file
from r1pipe.plugins.tables import STAMP, VARIABLE, load_plugins, using
from r1pipe.records import Problem, Verdict
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.table import REWARDS
from r1pipe.rows import read_problems, read_rows, write_problems
from r1pipe.store.store import Store
from r1pipe.verify import verify

ROOT = Path(__file__).parents[1]
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


def statuses(r1pipe: Run, manifest: Path) -> dict[str, str]:
    code, out, err = r1pipe("plan", str(manifest), "--json")
    assert code == 0, err
    return {stage["name"]: stage["status"] for stage in json.loads(out)["stages"]}


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


def mistakes(manifest: Path) -> str:
    with pytest.raises(ManifestError) as error:
        load_manifest(manifest)
    return str(error.value)


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


# ---- checkers and their problems -----------------------------------------------------------------


def near_problem(**meta: str) -> Problem:
    return Problem("p", "doubling", "twice 2", "4", checker="near", meta=meta)


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


# ---- imports and processes -----------------------------------------------------------------------


def test_two_projects_in_one_process_have_their_own_neighbours(tmp_path: Path) -> None:
    values = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "_helpers.py").write_text(f"from _deeper import deep\nVALUE = '{name}' + deep\n")
        (folder / "_deeper.py").write_text("import _helpers\ndeep = '!'\n")
        (folder / "x.py").write_text(
            "import math\nfrom _helpers import VALUE\n\n\ndef late():\n"
            "    import _deeper\n    from json import dumps\n\n    return VALUE + _deeper.deep\n"
        )
        (folder / "json.py").write_text("raise RuntimeError\n")
        values.append(load_file(folder / "x.py", f"user_{name}", "the file"))
        assert list(digests_of(folder / "x.py")) == ["x.py", "_deeper.py", "_helpers.py"]
    assert [module.late() for module in values] == ["one!!", "two!!"]
    assert not {"_helpers", "_deeper"} & set(sys.modules)
    assert str(tmp_path) not in "".join(sys.path)


@pytest.mark.parametrize("is_cached", [False, True])
def test_an_edit_of_the_same_size_in_the_same_second_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for value in range(4):
        (tmp_path / "_helpers.py").write_text(f"VALUE = {value}\n")
        (tmp_path / "x.py").write_text(f"from _helpers import VALUE\nOWN = {value}\n")
        module = load_file(tmp_path / "x.py", "user_x", "the file", is_cached)
        seen = module.VALUE, module.OWN
        assert seen == (value, value)
    assert not (tmp_path / "__pycache__").exists()
    os.utime(tmp_path / "x.py", (1e9, 1e9))
    load_file(tmp_path / "x.py", "user_x", "the file", is_cached)
    assert (tmp_path / "__pycache__").exists() == is_cached


def test_a_process_that_is_started_meanwhile_has_the_plugins_and_refuses_others(
    manifest: Path,
) -> None:
    path = manifest.parent.parent / "plugins" / "brevity.py"
    code = (
        "from r1pipe.records import Problem\nfrom r1pipe.rewards.table import rewards_of\n"
        "print(rewards_of('chat')['brevity'](Problem('p', 't', '?', 'a'), 'x' * 100))"
    )

    def child() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    with using(load_plugins([path])):
        assert child().stdout == "0.5\n"
        edit(path, "/ 100", "/ 10")
        assert f"{path}: edited while a stage that uses it ran" in child().stderr
    assert "KeyError: 'brevity'" in child().stderr


def test_a_plugin_reward_is_a_rollouts_reward(manifest: Path) -> None:
    from r1pipe.rewards.rules import rule_rewards

    weights: Mapping[str, float] = {"accuracy": 1.0, "brevity": 0.5}
    with using(load_plugins([manifest.parent.parent / "plugins" / "brevity.py"])):
        made = Completion("x" * 300)
        named = rule_rewards(near_problem(), made, False, weights, "chat")
        assert named == {"accuracy": 0.0, "brevity": 0.25}


RANKED = '''
"""Score a text on ranks."""

from _helpers import TEXT

from r1pipe.ranks import Launch
from r1pipe.rewards.table import RewardName, rewards_of
from r1pipe.stage import StageModel

VERSION = 1
INPUTS = {}
OUTPUTS = {"rows": "rows"}


class Params(StageModel):
    reward: RewardName


class Run(StageModel):
    def launch(self):
        return Launch(1, "local", None)


def run(context, params, run, inputs):
    from r1pipe.records import Problem

    value = rewards_of("chat")[params.reward](Problem("p", "t", "?", "a"), TEXT)
    (context.output("rows") / "value.txt").write_text(str(value))
'''


def test_the_ranks_of_a_stage_have_its_plugins_and_neighbours(
    r1pipe: Run, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, root = torchrun.start_rank, manifest.parent.parent

    def start_elsewhere(folder: JobFolder, said: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a rank as a launcher does that hands on no environment."""
        return start(folder, {**said, VARIABLE: "{}"})

    monkeypatch.setattr(torchrun, "start_rank", start_elsewhere)
    (root / "stages" / "ranked.py").write_text(RANKED)
    (root / "stages" / "_helpers.py").write_text("TEXT = 'x' * 300\n")
    manifest.write_text(
        "r1pipe: 1\nname: ranked\nplugins: [../plugins/brevity.py]\n"
        "stages: {ranked: {kind: ranked, params: {reward: brevity}}}\n"
    )
    code, _, err = r1pipe("run", str(manifest))
    assert code == 0, err
    store = Store(root / "artifacts")
    (record,) = store.records()
    assert (store.output_dir(record, "rows") / "value.txt").read_text() == "0.25"
    assert record.preimage["plugins"].keys() == {"rewards"}
    edit(root / "plugins" / "brevity.py", "return 1", "return 1 / 0")
    code, out, err = r1pipe("run", str(manifest))
    assert (code, "Traceback" in out + err) == (1, False)
    assert "brevity.py:5:1: reward 'brevity' failed: ZeroDivisionError" in err


SLOW = '''
"""Score texts one by one; stops once, at the third."""

from pathlib import Path

from r1pipe.errors import StageError
from r1pipe.rewards.table import RewardName, rewards_of
from r1pipe.stage import StageModel

VERSION = 1
INPUTS = {}
OUTPUTS = {"rows": "rows"}


class Params(StageModel):
    reward: RewardName


class Run(StageModel):
    stops_at: int | None = None


def run(context, params, run, inputs):
    from r1pipe.records import Problem
    from r1pipe.rows import write_rows

    journal, reward = context.journal("scored"), rewards_of("chat")[params.reward]
    for number in range(5):
        if number == run.stops_at:
            raise StageError("stopped on purpose")
        if str(number) not in journal.done():
            value = reward(Problem("p", "t", "?", "a"), "x" * 100 * number)
            journal.append(str(number), [{"number": number, "value": value}])
    write_rows(context.output("rows"), journal.rows())
'''


def test_a_stage_with_a_plugin_resumes_and_an_edited_plugin_begins_again(
    r1pipe: Run, manifest: Path
) -> None:
    root = manifest.parent.parent
    (root / "stages" / "slow.py").write_text(SLOW)
    manifest.write_text(
        "r1pipe: 1\nname: slow\nplugins: [../plugins/brevity.py]\n"
        "stages: {slow: {kind: slow, params: {reward: brevity}}}\n"
    )
    stops = "--set=stages.slow.run.stops_at=3"
    assert r1pipe("run", str(manifest), stops)[0] == 1
    assert statuses(r1pipe, manifest) == {"slow": "resume"}
    brevity = root / "plugins" / "brevity.py"
    edit(brevity, "/ 100", "/ 10")
    assert statuses(r1pipe, manifest) == {"slow": "run"}, "the other key has no attempt"
    edit(brevity, "/ 10)", "/ 100)")
    assert r1pipe("run", str(manifest))[0] == 0
    store = Store(root / "artifacts")
    (record,) = store.records()
    rows = list(read_rows(store.output_dir(record, "rows")))
    assert [row["value"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_what_a_plugin_imports_of_r1pipe_is_watched_and_so_are_the_neighbours_of_a_stage(
    r1pipe: Run, manifest: Path
) -> None:
    edit(
        manifest.parent.parent / "plugins" / "_words.py",
        "def question",
        "import r1pipe.text\n\n\ndef question",
    )
    assert r1pipe("run", str(manifest))[0] == 0
    store = Store(manifest.parent.parent / "artifacts")
    code = {record.stage_name: set(record.code) for record in store.records()}
    assert "text.py" in code["problems"]
    assert {"stages/grade.py", "stages/_helpers.py", "rewards/length.py"} <= code["grades"]
    assert "rewards/length.py" not in code["problems"]
