"""What a plugin imports, and the processes, ranks and resumed stages that have it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from command import Run
from plugin_project import edit, make_project, near_problem, statuses

from r1pipe.launch import torchrun
from r1pipe.launch.job import JobFolder
from r1pipe.plugins.files import digests_of, load_file
from r1pipe.plugins.tables import VARIABLE, load_plugins, using
from r1pipe.rewards.completion import Completion
from r1pipe.rows import read_rows
from r1pipe.store.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_project(tmp_path)


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
