"""`r1pipe ablate`: each part left out in turn, the rest from the store, the cost at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Run
from fake_project import make_project, mistakes_of, write_manifest
from tiny import MANIFEST as RECIPE

from r1pipe.manifest import load_manifest
from r1pipe.manifest.nodes import StageNode

EVALUATE = '''
"""Score three problems: one right for each number that is read."""

import json

from r1pipe.stage import Input, StageModel

VERSION = 1


class Params(StageModel):
    name: str | None = None
    """A name."""


class Run(StageModel):
    """Nothing to choose."""


INPUTS = {"rows": Input("rows")}
OUTPUTS = {"report": "report"}


def run(context, params, run, inputs):
    text = (inputs.path("rows") / "rows.txt").read_text()
    found = {f"p{n}": float(str(n) in text) for n in range(3)}
    sums = {"num_problems": 3, "by_problem": {"pass@1": found}}
    report = {"benchmarks": {"sums": sums}}
    (context.output("report") / "summary.json").write_text(json.dumps(report))
'''

MANIFEST = """
r1pipe: 1
name: chain
profile: laptop
stages:
  numbers: {kind: numbers, params: {count: 1}}
  more: {kind: numbers, params: {count: 2, seed: 1}}
  joined: {kind: join, inputs: {rows: numbers.rows, extra: {more: more.rows}}}
  eval: {kind: evaluate, inputs: {rows: joined}}
ablations:
  report: eval
  without:
    extra: {stages: {joined: {inputs: {extra: null}}}}
    join: {stages: {eval: {inputs: {rows: more.rows}}}}
profiles:
  laptop: {stages: {more: {params: {count: 3}}}}
"""
PATH = "manifests/chain.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    (tmp_path / "stages" / "evaluate.py").write_text(EVALUATE.lstrip())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    return write_manifest(tmp_path, MANIFEST, "chain")


def test_what_differs_is_built_and_the_cost_is_paired_by_problem(
    project: Path, r1pipe: Run
) -> None:
    code, out, err = r1pipe("ablate", PATH, "--json")
    board = json.loads(out)
    assert code == 0
    assert board["models"] == ["nothing", "extra", "join"]
    lost = {name: each["differences"]["sums"]["pass@1"] for name, each in board["paired"].items()}
    # the whole chain reads 0, 1 and 2; without `extra` 0 alone is left, without the join all three
    assert lost["extra"]["mean"] == pytest.approx(-2 / 3)
    assert lost["join"]["mean"] == 0
    assert (lost["extra"]["low"], lost["extra"]["high"]) == (-1, 0)
    assert lost["extra"]["num_problems"] == 3
    starts = [line.split(":")[0] for line in err.splitlines() if ": starts (" in line]
    assert starts == ["numbers", "more", "joined", "eval", "joined", "eval", "eval"]
    code, out, err = r1pipe("ablate", PATH, "--only", "extra")
    assert code == 0
    assert "starts" not in err
    assert "join" not in out
    assert "-0.667 [-1.000, +0.000]" in out


def test_results_of_a_chain_with_a_part_left_out_have_a_name_of_their_own(project: Path) -> None:
    left = load_manifest(project, ablation="extra", overrides=["stages.numbers.params.count=4"])
    assert (left.name, left.ablation, left.profile) == ("chain-without-extra", "extra", "laptop")
    assert dict(left.stages["joined"].inputs).keys() == {"rows"}
    counts = {name: left.stages[name].key_params()["count"] for name in ("numbers", "more")}
    assert counts == {"numbers": 4, "more": 3}


def test_mistakes_of_every_ablation_are_found_with_the_manifest(project: Path) -> None:
    project.write_text(project.read_text().replace("more.rows}}}}", "mor.rows}}}}"))
    assert mistakes_of(project) == [
        "chain.yaml:13:43: stages.eval.inputs.rows: no stage or source 'mor'; did you mean 'more'?"
    ]


def test_a_chain_that_stops_does_not_keep_the_others_from_being_measured(
    project: Path, r1pipe: Run
) -> None:
    wrong = "extra: {stages: {numbers: {params: {count: -1, rate: 9}}}}"
    text = project.read_text().replace("extra: {stages: {joined: {inputs: {extra: null}}}}", wrong)
    project.write_text(text)
    stage = project.parents[1] / "stages" / "numbers.py"
    refusal = "def run(context, params, run, inputs):\n    if params.count < 0:\n"
    refusal += "        from r1pipe.errors import StageError\n\n"
    refusal += '        raise StageError("there are no numbers below -1")\n'
    stage.write_text(stage.read_text().replace(refusal[: refusal.index("\n") + 1], refusal))
    code, out, _ = r1pipe("ablate", PATH, "--json")
    board = json.loads(out)
    assert code == 1
    assert board["models"] == ["nothing", "join"]
    assert list(board["stopped"]) == ["extra"]
    assert "there are no numbers below -1" in board["stopped"]["extra"]
    code, out, _ = r1pipe("ablate", PATH)
    assert code == 1
    assert "without extra there is no score: " in out


def test_names_that_are_not_there_are_refused_with_the_nearest(project: Path, r1pipe: Run) -> None:
    code, _, err = r1pipe("ablate", PATH, "--only", "extr")
    assert code == 2
    assert "--only extr: manifests/chain.yaml has no such ablation; did you mean 'extra'?" in err
    code, _, err = r1pipe("ablate", PATH, "--at", "evals")
    assert code == 2
    assert "--at: 'evals' is no evaluate stage; did you mean 'eval'?" in err
    code, _, err = r1pipe("ablate", "manifests/small.yaml")
    assert code == 2
    assert "there is nothing to leave out" in err


def said(node: StageNode) -> tuple[object, object]:
    return node.inputs, node.key_params()


def test_the_recipe_leaves_out_what_the_name_says() -> None:
    whole = load_manifest(RECIPE, profile="smoke")
    assert whole.ablations is not None
    changed = {}
    for name in whole.ablations.without:
        left = load_manifest(RECIPE, profile="smoke", ablation=name)
        changed[name] = [
            stage for stage, node in left.stages.items() if said(node) != said(whole.stages[stage])
        ]
    assert {name: sorted(stages) for name, stages in changed.items()} == {
        "cold-start": ["reasoning-rl", "rejection-sample"],
        "language-reward": ["alignment-rl", "reasoning-rl"],
        "second-sft": ["alignment-rl", "helpful-rm", "safety-rm"],
        "alignment": ["eval-r1"],
    }
