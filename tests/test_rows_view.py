"""`show --row` and `--why-not`: a sample's way through a real store, and where it was lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Run

from r1pipe.cli import main as cli
from r1pipe.lineage import trace
from r1pipe.rows import read_rows, write_rows

SAMPLER = '''
"""Candidates of every problem: right, wrong, right again in the same words, and mixed."""

import json

from r1pipe.stage import Input, StageModel

VERSION = 1
INPUTS = {"model": Input("model"), "problems": Input("problems")}
OUTPUTS = {"rows": "rows", "candidates": "rows"}


class Params(StageModel):
    target_rows: int
    """Most rows."""
    max_tokens: int = 64
    """Limit."""


class Run(StageModel):
    pass


def run(context, params, run, inputs):
    from r1pipe.chat import boxed, render_completion
    from r1pipe.rows import read_problems, read_rows, write_rows
    from r1pipe.candidates.quotas import Quotas
    from r1pipe.candidates.selection import Selection

    def row(problem, index, answer, thought, **failed):
        decisions = {"verdict": True, "language": True} | failed
        return {
            "id": f"{problem.id}#{index}", "problem_id": problem.id, "task": problem.task,
            "language": "en", "format": "chat", "prompt": problem.prompt, "gold": problem.gold,
            "completion": render_completion(thought, "", "chat", boxed(answer)), "num_tokens": 9,
            "finish_reason": "stop", "model_id": context.input_ids["model"], "temperature": 0.5,
            "seed": 41 + index, "verifier_version": 1,
            "verdict": "correct" if decisions["verdict"] else "wrong",
            "filters": json.dumps(decisions), "kept": all(decisions.values()),
        }

    found, selection = [], Selection(Quotas(), params.target_rows)
    for p in read_problems(inputs.path("problems"))[:-1]:
        found += [
            row(p, 0, p.gold, "so"),
            row(p, 1, "77", "\\x1b[31mred\\u202e\\nsecond", verdict=False),
            row(p, 2, p.gold, "so"),
            row(p, 3, p.gold, "so 那", language=False),
        ]
        for each in found[-4:]:
            selection.select(each, p)
    write_rows(context.output("candidates"), found)
    write_rows(context.output("rows"), read_rows(context.output("candidates"), only="kept"))
'''

TRAINER = '''
"""A model made of rows, or of another model."""

from r1pipe.stage import Input, StageModel

VERSION = 1
INPUTS = {"rows": Input("rows", optional=True), "model": Input("model", optional=True)}
OUTPUTS = {"model": "model"}


class Params(StageModel):
    name: str
    """Its name."""


class Run(StageModel):
    pass


def run(context, params, run, inputs):
    (context.output("model") / "model.txt").write_text(params.name)
'''

ECHO = '''
"""The same rows in capitals under other ids, and the first once more for another problem."""

from r1pipe.stage import Input, StageModel

VERSION = 1
INPUTS = {"rows": Input("rows")}
OUTPUTS = {"rows": "rows"}


class Params(StageModel):
    pass


class Run(StageModel):
    pass


def run(context, params, run, inputs):
    from r1pipe.rows import read_rows, write_rows

    rows = [
        row | {"id": row["id"] + "-echo", "completion": row["completion"].upper()}
        for row in read_rows(inputs.path("rows"))
    ]
    write_rows(context.output("rows"), [*rows, rows[0] | {"id": "again", "problem_id": "other"}])
'''

FIRST = '''
"""The first problem alone."""

from r1pipe.stage import Input, StageModel

VERSION = 1
INPUTS = {"problems": Input("problems")}
OUTPUTS = {"problems": "problems"}


class Params(StageModel):
    pass


class Run(StageModel):
    pass


def run(context, params, run, inputs):
    from r1pipe.rows import read_problems, write_problems

    write_problems(context.output("problems"), read_problems(inputs.path("problems"))[:1])
'''

MANIFEST = """
r1pipe: 1
name: way
stages:
  problems:
    kind: problems
    params: {seed: 3, num_problems: 8, world: {mix: {arithmetic: 1.0}, levels: {arithmetic: [3]}}}
  general:
    kind: corpus
    params: {seed: 3, num_rows: 4, format: chat, world: {mix: {general: 1.0}}}
  policy: {kind: trainer, params: {name: policy}}
  sampled:
    kind: sampler
    inputs: {model: policy, problems: problems}
    params: {target_rows: 6}
  mixed:
    kind: mix
    inputs: {reasoning: sampled.rows, general: general}
    params: {seed: 1, reasoning_rows: 5, general_rows: 9}
  held: {kind: first, inputs: {problems: problems}}
  clean:
    kind: decontaminate
    inputs: {rows: mixed, held_out: {test: held}}
    params: {max_removed_frac: 1.0, num_canaries: 1}
  tuned: {kind: trainer, inputs: {rows: clean.rows}, params: {name: tuned}}
  aligned: {kind: trainer, inputs: {model: tuned}, params: {name: aligned}}
  raw: {kind: trainer, inputs: {rows: sampled.rows}, params: {name: raw}}
  echo: {kind: echo, inputs: {rows: sampled.rows}, params: {}}
  near:
    kind: mix
    inputs: {reasoning: sampled.rows, general: echo.rows}
    params: {seed: 1, reasoning_rows: 9, general_rows: 9, near_duplicates: 0.9}
  twice:
    kind: mix
    inputs: {reasoning: sampled.rows, general: sampled.rows}
    params: {seed: 1, reasoning_rows: 9, general_rows: 9}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("way")
    for folder in ("stages", "manifests"):
        (root / folder).mkdir()
    for name, text in (
        ("sampler", SAMPLER),
        ("trainer", TRAINER),
        ("echo", ECHO),
        ("first", FIRST),
    ):
        (root / "stages" / f"{name}.py").write_text(text.lstrip())
    (root / "manifests" / "r1.yaml").write_text(MANIFEST.lstrip())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["r1pipe", "run", "manifests/r1.yaml", "--yes"])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
    return root


@pytest.fixture
def r1pipe(project: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run) -> Run:
    monkeypatch.chdir(project)
    return r1pipe


def rows(project: Path, stage: str, output: str) -> list[dict[str, Any]]:
    return list(read_rows(project / "artifacts" / "latest" / "way" / "default" / stage / output))


@pytest.fixture
def ids(project: Path) -> list[str]:
    """Return the problems' ids in order."""
    return [str(row["id"]) for row in rows(project, "problems", "problems")]


def document(r1pipe: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = r1pipe("show", *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_rows_whole_way_is_told(r1pipe: Run, ids: list[str], project: Path) -> None:
    found = document(r1pipe, "sampled", "--row", f"{ids[1]}#0")
    problem = rows(project, "problems", "problems")[1]
    assert found["problem"]["id"] == ids[1]
    assert found["problem"]["prompt"] == problem["prompt"]
    assert found["problem"]["source"] == "the world, seed 3"
    assert found["model"]["model"].startswith("policy@")
    assert found["sampled"]["seed"] == 41
    assert found["sampled"]["temperature"] == 0.5
    assert found["verdict"] == {
        "verdict": "correct",
        "extracted": problem["gold"],
        "gold": problem["gold"],
        "verifier_version": 1,
    }
    passed = ("duplicate", "language", "quota", "target", "verdict")
    assert found["filters"] == dict.fromkeys(passed, True)
    assert found["kept"] is True
    stands = [(place["stage"], place["output"]) for place in found["stands_in"]]
    assert sorted(stands) == [
        ("clean", "rows"),
        ("mixed", "rows"),
        ("near", "rows"),
        ("sampled", "candidates"),
        ("sampled", "rows"),
        ("twice", "rows"),
    ]
    trained = {model["stage"]: model["made_from_it"] for model in found["trained"]}
    assert set(trained) == {"raw", "tuned"}
    assert [model["stage"] for model in trained["tuned"]] == ["aligned"]


def test_positions_are_those_of_the_rows(r1pipe: Run, ids: list[str], project: Path) -> None:
    found = document(r1pipe, "sampled", "--row", f"{ids[1]}#0")
    for place in found["stands_in"]:
        row = rows(project, place["stage"], place["output"])[place["position"]]
        assert (row["problem_id"], row.get("id", f"{ids[1]}#0")) == (ids[1], f"{ids[1]}#0")
    mixed = next(place for place in found["stands_in"] if place["stage"] == "mixed")
    by_number = document(r1pipe, "mixed", "--row", str(mixed["position"]))
    assert by_number["row"]["id"] == f"{ids[1]}#0", "a row without an id is traced to its candidate"
    assert by_number == document(r1pipe, "mixed", "--row", ids[1])


def test_a_dropped_row_went_nowhere(r1pipe: Run, ids: list[str]) -> None:
    found = document(r1pipe, "sampled", "--row", f"{ids[2]}#1")
    assert found["trained"] == []
    assert [place["output"] for place in found["stands_in"]] == ["candidates"]
    assert found["verdict"]["extracted"] == "77"
    assert found["filters"]["verdict"] is False


def test_text_for_people_has_every_section_and_no_terminal_codes(
    r1pipe: Run, ids: list[str]
) -> None:
    code, out, _ = r1pipe("show", "sampled", "--row", f"{ids[2]}#1")
    assert code == 0
    for line in (
        "\nproblem\n",
        "  verdict           wrong\n",
        "  verdict   FAILED\n",
        "  language  passed\n",
        "  kept: no\n",
        "  | \\x1b[31mred\\u202e\n  | second\n",
        "\nfound in\n",
    ):
        assert line in out, line
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "models trained on it" not in out
    _, out, _ = r1pipe("show", "sampled", "--row", f"{ids[1]}#0")
    assert "\nmodels trained on it\n" in out
    assert "; made from it: aligned@" in out


@pytest.mark.parametrize(
    ("artifact", "row", "reason"),
    [
        ("sampled", "{2}#1", "verdict: wrong (extracted '77', gold "),
        ("sampled", "{2}#3", "filter 'language' failed"),
        ("sampled", "{2}#2", "passed, but it is an exact repeat of {2}#0, which is kept (decision"),
        ("sampled", "{6}#0", "every filter passed, but target_rows were kept before it (decision"),
        ("sampled", "{7}", "no completion of problem {7} was sampled; sampling ended when 6 rows"),
        ("sampled", "{2}", "that is a problem; 1 of its 4 completions were kept: ask for one of"),
        ("mixed", "{5}#0", "the quota of 'reasoning' was full (5 rows)"),
        ("mixed", "{2}#1", "verdict: wrong (extracted '77', gold "),
        ("near", "{3}#0-echo", "it is a near-duplicate of {3}#0 (row 3 of 'reasoning')"),
        ("near", "again", "it is an exact repeat of {0}#0-echo (row 0 of 'general')"),
        ("clean", "{0}#0", "it overlaps test {0} (plain): "),
        ("tuned", "{0}#0", "clean@"),
        ("clean", "{5}#0", "mixed@"),
    ],
)
def test_why_not_names_the_place_and_the_reason(
    r1pipe: Run, ids: list[str], artifact: str, row: str, reason: str
) -> None:
    row, reason = (text.format(*ids) for text in (row, reason))
    found = document(r1pipe, artifact, "--why-not", row)
    assert found["is_in"] is False
    assert reason in "\n".join(found["reasons"])
    _, out, _ = r1pipe("show", artifact, "--why-not", row)
    assert out.startswith(f"{row} is not in the rows of {artifact}@")
    assert reason in out


def test_why_not_says_so_where_the_row_is_in(r1pipe: Run, ids: list[str]) -> None:
    found = document(r1pipe, "clean", "--why-not", f"{ids[1]}#0")
    assert (found["is_in"], found["stands_in"]["output"]) == (True, "rows")
    _, out, _ = r1pipe("show", "sampled", "--why-not", f"{ids[1]}#0")
    assert f"{ids[1]}#0 is in sampled@" in out


def test_rows_are_found_in_any_shard_and_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "BATCH_ROWS", 4)
    table = [{"id": f"r{n % 30}", "n": n} for n in range(60)]
    write_rows(tmp_path, table, rows_per_shard=25)
    for n in range(30):
        found = list(trace.find_rows(tmp_path, "id", f"r{n}"))
        assert found == [(n, table[n]), (n + 30, table[n + 30])]
    assert [trace.row_at(tmp_path, n) for n in range(60)] == table
    assert trace.row_at(tmp_path, 60) is None
    assert list(trace.find_rows(tmp_path, "id", "r30")) == []
    assert list(trace.find_rows(tmp_path, "name", "r1")) == []


def test_a_problem_lists_what_was_sampled_of_it(r1pipe: Run, ids: list[str]) -> None:
    found = document(r1pipe, "problems", "--row", ids[3])
    assert found["problem"]["id"] == ids[3]
    (candidates,) = found["candidates"]
    assert (candidates["stage"], candidates["sampled"], candidates["kept"]) == ("sampled", 4, 1)
    _, out, _ = r1pipe("show", "problems", "--row", ids[3])
    assert "4 sampled, 1 kept: " + ", ".join(f"{ids[3]}#{k}" for k in range(4)) in out


def test_a_row_that_is_not_there_is_an_error_that_helps(r1pipe: Run, ids: list[str]) -> None:
    code, _, err = r1pipe("show", "sampled", "--row", f"{ids[1]}#9")
    assert code == 3
    assert f"no row '{ids[1]}#9'; of problem {ids[1]} there are {ids[1]}#0, {ids[1]}#1" in err
    code, _, err = r1pipe("show", "sampled", "--row", "nothing")
    assert code == 3
    assert f"no row 'nothing'; its ids look like '{ids[0]}#0'" in err
    code, _, err = r1pipe("show", "policy", "--why-not", "nothing")
    assert code == 3
    assert "it holds no rows with ids" in err
