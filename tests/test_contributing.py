"""The examples of CONTRIBUTING.md, added to a copy of the package and run there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r1pipe.manifest import load_manifest
from r1pipe.records import Problem, Verdict
from r1pipe.rows import read_rows
from r1pipe.store.store import Store
from r1pipe.verify import verify

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
FILE = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
DIFF = re.compile(r"```diff\n(.*?)```", re.DOTALL)
MAX_EXAMPLE_LINES = 40


def hunks(diff: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, old text, new text); `# PATH` begins a file, `@@` a further place in it."""
    for part in re.split(r"^# ", diff, flags=re.MULTILINE)[1:]:
        path, _, body = part.partition("\n")
        for hunk in body.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] != "+")
            yield path, old, "".join(line[1:] for line in lines if line[0] != "-")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository's code with all examples of the page in it."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("r1pipe", "stages", "manifests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    page = PAGE.read_text()
    for name, text in FILE.findall(page):
        assert not (root / name).exists(), f"{name} is there already"
        (root / name).write_text(text)
    for diff in DIFF.findall(page):
        for name, old, new in hunks(diff):
            text = (root / name).read_text()
            assert text.count(old) == 1, f"{name} does not have once:\n{old}"
            (root / name).write_text(text.replace(old, new))
    return root


def python(root: Path, *arguments: str) -> str:
    """Run Python with the package of the copy; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ZERO = """
import json
import sys
from pathlib import Path

from r1pipe.manifest import load_manifest


def zero(*overrides):
    texts = [f"stages.zero.{text}" for text in overrides]
    return load_manifest(Path("manifests/r1.yaml"), profile="smoke", overrides=texts).stages["zero"]

"""
"""Gives a stage of GRPO as a manifest changes it."""


def values(root: Path, code: str) -> Any:
    """Return what some code leaves in `found`, by way of JSON."""
    code = f"{ZERO}\n{textwrap.dedent(code)}\nprint(json.dumps(found))"
    return json.loads(python(root, "-c", code, str(ROOT / "tests")).splitlines()[-1])


def test_every_example_is_short() -> None:
    page = PAGE.read_text()
    sections = [part for part in page.split("\n## ") if part.startswith("Add a ")]
    assert len(sections) == 5
    for section in sections:
        blocks = [text for _, text in FILE.findall(section)] + DIFF.findall(section)
        title = section.partition("\n")[0]
        assert sum(text.count("\n") for text in blocks) <= MAX_EXAMPLE_LINES, title


def test_the_stage_keeps_the_shortest_rows_of_its_manifest(checkout: Path) -> None:
    python(checkout, "-m", "r1pipe", "run", "manifests/short.yaml", "--store", "store")
    store = Store(checkout / "store")
    corpus, short = (
        [row["completion"] for row in read_rows(store.output_dir(record, "rows"))]
        for name in ("corpus", "short")
        for record in store.records()
        if record.stage_name == name
    )
    assert (len(corpus), len(short)) == (20, 5)
    rest = list(corpus)
    for completion in short:  # each one is the first of the shortest that are left
        assert completion == min(rest, key=len)
        rest.remove(completion)


def test_the_reward_is_in_the_table_and_a_manifest_may_name_it(checkout: Path) -> None:
    found = values(
        checkout,
        """
        from r1pipe.records import Problem
        from r1pipe.rewards.table import rewards_of

        chosen = zero("params.rewards.varied=0.5").params.rewards
        varied, problem = rewards_of("chat")["varied"], Problem("p", "t", "?", "a")
        texts = ["", "a", "a b a b", "a a a b", "no no  no\\nno"]
        found = [chosen["varied"], [varied(problem, text) for text in texts]]
        """,
    )
    # "a a a b": of four words the first and the last differ from what is before them
    assert found == [0.5, [0.0, 1.0, 1.0, 0.5, 0.25]]


def test_the_task_makes_problems_that_its_author_solves(checkout: Path) -> None:
    rows, thoughts = values(
        checkout,
        """
        import random

        from r1pipe.chat import render_completion
        from r1pipe.records import Problem
        from r1pipe.tasks.table import all_tasks
        from r1pipe.tasks.world import Noise, sample_problems

        task, rng, rows = all_tasks()["largest"], random.Random(1), []
        for held_out in (False, True):
            for p in sample_problems(all_tasks(), {"largest": 1.0}, 40, held_out=held_out, seed=1):
                texts = []
                for wrong_step in (0.0, 1.0):
                    s = task.solve(p, rng, Noise(wrong_step=wrong_step))
                    texts.append(render_completion(s.thought, s.answer, "chat", s.summary))
                rows.append([p.to_row(), *texts])
        given = Problem("p", "largest", "largest of 0720", "7", checker="number")
        found = [rows, task.solve(given, rng, Noise()).thought]
        """,
    )
    assert thoughts == "0>0 7>7 2>7 0>7"
    verdicts = []
    for row, right, wrong in rows:
        problem = Problem.from_row(row)
        assert problem.gold == sorted(problem.prompt.split()[-1])[-1]
        assert verify(problem, right) is Verdict.CORRECT
        verdicts.append(verify(problem, wrong))
    assert len({row["id"] for row, *_ in rows}) == 80, "no problem is in both splits"
    assert {row["language"] for row, *_ in rows} == {"en", "zh"}
    assert verdicts.count(Verdict.WRONG) > 60, "a random digit is right once in ten"


def test_the_backend_is_chosen_in_a_manifest_and_its_options_are_checked(checkout: Path) -> None:
    found = values(
        checkout,
        """
        from r1pipe.errors import ManifestError
        from r1pipe.generate.protocol import Request, SamplingParams

        settings = zero("run.generator={backend: echo, num_times: 2}").run.generator
        generator = settings.open_sealed(None, None, None, "float32")
        asked = [Request((5, 6, 7), seed=1, index=4), Request((8,), seed=2, index=5)]
        made = generator.generate(asked, SamplingParams(max_tokens=5))
        found = [[each.index, each.token_ids, each.finish_reason] for each in made]
        beside = settings.open_beside(None, None, None, num_ranks=1, precision="float32")
        found.append(type(beside).__name__)
        try:
            zero("run.generator={backend: echo, num_tims: 2}")
        except ManifestError as error:
            found.append(str(error))
        """,
    )
    assert found[:2] == [[4, [5, 6, 7, 5, 6], "length"], [5, [8, 8], "length"]]
    assert found[2] == "EchoGenerator"
    assert "unknown key 'num_tims' in stages.zero.run.generator; did you mean" in found[3]


def test_the_median_baseline_is_a_parameter_that_moves_no_key(checkout: Path) -> None:
    found = values(
        checkout,
        """
        from r1pipe.records import Group, Problem, Rollout
        from r1pipe.rl.estimators import ESTIMATORS
        from r1pipe.rl.objective import Credit

        chosen = zero("params.advantage=group-median")
        group = [Rollout([1], [2, 3], reward=reward) for reward in (4.0, 0.0, 0.5, 1.0)]
        groups = [Group(Problem("p", "t", "?", "a"), group)]
        Credit(ESTIMATORS[chosen.params.advantage]).assign(groups)
        found = [[each.streams["advantage"] for each in group], zero().key_params()]
        """,
    )
    # the median of 0, 1/2, 1 and 4 is 3/4
    assert found[0] == [[3.25] * 2, [-0.75] * 2, [-0.25] * 2, [0.25] * 2]
    manifest = load_manifest(ROOT / "manifests" / "r1.yaml", profile="smoke")
    assert found[1] == manifest.stages["zero"].key_params()


def test_the_loss_of_pairs_is_worked_by_hand_and_falls_in_the_training_loop(checkout: Path) -> None:
    flat, apart, single, falling = values(
        checkout,
        """
        sys.path.append(sys.argv[1])
        from functools import partial

        from tiny import FakeContext, frozen_logprobs, model

        from r1pipe.records import TokenSequence
        from r1pipe.rl.ipo import ipo_loss
        from r1pipe.settings import Optimizer
        from r1pipe.train.batching import Batching, one_batch
        from r1pipe.train.engine import TorchEngine
        from r1pipe.train.loop import Trainer, Update

        policy = model()
        tokens = [([5, 6], [7, 8]), ([5, 6], [9, 10, 11]), ([12], [13, 14, 15]), ([12], [16])]
        texts = [TokenSequence(*pair) for pair in tokens]
        rows = frozen_logprobs(policy, texts, 1.0, Batching(64, "padded", 0))

        def pairs(*gains):
            # the policy gives every token of a text so much more than the reference does
            for text, row, gain in zip(texts, rows, gains, strict=True):
                text.streams["reference_logprobs"] = [value - gain for value in row]
            return [one_batch(texts[:2], 0), one_batch(texts[2:], 0)]

        loss = partial(ipo_loss, beta=0.5, num_pairs=2)
        found = [
            [loss(policy, batch).value.item() for batch in pairs(0, 0, 0, 0)],
            [loss(policy, batch).value.item() for batch in pairs(1, -2, 0, 4)],
            [loss(policy, b, num_pairs=1).value.item() for b in pairs(1, -2, 0, 4)],
        ]
        context = FakeContext(Path("ipo"))
        trainer = Trainer(context, TorchEngine(policy), Optimizer(lr=1e-4), 4)
        trainer.run(Update(pairs(0, 0, 0, 0), loss, 14, 14) for _ in range(4))
        found.append(context.column("loss"))
        """,
    )
    assert flat == pytest.approx([1 / 2] * 2, abs=1e-3)
    # beta 1/2; margins 2 * 1 - 3 * -2 = 8 and 3 * 0 - 1 * 4 = -4: (8 - 1)^2, (-4 - 1)^2
    assert single == pytest.approx([49.0, 25.0], abs=1e-3)
    assert apart == pytest.approx([49 / 2, 25 / 2], abs=1e-3)
    assert falling[0] == pytest.approx(1.0, abs=1e-3), "the policy is the reference"
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < falling[0] - 0.01
