"""The judge in a manifest: its template as a source, keys, kills, what comes before and after."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command import Run
from fake_project import mistakes_of
from forked_commands import forked
from killing import KILLED
from sampling_world import BySample, english, right, sample, table, wrong
from test_judge import CANDIDATES, OPEN, RIGHT, SUM, World, answered
from test_openai_server import completion, serving
from tiny import FakeContext, save_policy, stage, tokenizer

from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.report import read_report, write_report
from r1pipe.costs.recipes import judgements
from r1pipe.costs.work import ModelInfo, Range, RowsInfo
from r1pipe.errors import StageError
from r1pipe.evaluation.metrics import summarise
from r1pipe.records import Problem
from r1pipe.rows import read_problems, read_rows, write_problems, write_rows
from r1pipe.stage import Inputs
from r1pipe.store.store import Store
from r1pipe.verify import VERIFIER_VERSION

TEMPLATE = "Q {question} R {reference} P {prediction} end"
MANIFEST = """
r1pipe: 1
name: court
sources:
  found: {path: ../data/candidates, as: rows}
  asked: {path: ../data/problems, as: problems}
  sage: {path: ../data/policy, as: model}
  words: {path: ../data/template.txt, as: text}
stages:
  judge:
    kind: judge
    inputs: {candidates: found, problems: asked, model: sage, template: words}
    params: {seed: 3, max_tokens: 8, max_unreadable_frac: 1.0, candidates_per_unit: 2}
"""


@pytest.fixture
def court(tmp_path: Path) -> Path:
    """Return the manifest of a judge of candidates that lie in a folder."""
    (tmp_path / "manifests").mkdir()
    data = tmp_path / "data"
    save_policy(data / "policy")
    write_rows(data / "candidates", CANDIDATES)
    write_problems(data / "problems", [*OPEN, SUM])
    (data / "template.txt").write_text(TEMPLATE)
    path = tmp_path / "manifests" / "court.yaml"
    path.write_text(MANIFEST.lstrip())
    return path


# ---- the template --------------------------------------------------------------------------------


def key(r1pipe: Run, court: Path, *options: str) -> str:
    code, out, err = r1pipe("plan", str(court), "--json", *options)
    assert code == 0, err
    (planned,) = json.loads(out)["stages"]
    return str(planned["key"])


def test_the_text_of_the_template_decides_the_key_and_not_its_place(
    r1pipe: Run, court: Path
) -> None:
    template = court.parent.parent / "data" / "template.txt"
    before = key(r1pipe, court)
    template.rename(template.with_name("other.md"))
    moved = court.read_text().replace("template.txt", "other.md").replace("words", "wording")
    court.write_text(moved)
    assert key(r1pipe, court) == before
    template.with_name("other.md").write_text(TEMPLATE + " Be strict.")
    assert key(r1pipe, court) != before
    elsewhere = template.with_name("third.txt")
    elsewhere.write_text(TEMPLATE)
    assert key(r1pipe, court, "--set", f"sources.wording.path={elsewhere}") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q {question} P {prediction}", "has no {reference} in it, but stages.judge fills in"),
        ("{Question} {reference} {prediction}", "has no {question} in it"),
        (b"{question} \xff", "is not UTF-8 (byte 11); save it as UTF-8"),
        ("x" * (1 << 20) + "x", "has more than 1,048,576 bytes; is it the right file?"),
        (None, "is no plain file; a text is one file"),
    ],
)
def test_a_template_that_is_none_is_reported_at_its_source(
    court: Path, text: str | bytes | None, message: str
) -> None:
    template = court.parent.parent / "data" / "template.txt"
    template.unlink()
    if text is None:
        template.mkdir()
    else:
        template.write_bytes(text if isinstance(text, bytes) else text.encode())
    (line,) = mistakes_of(court)
    assert line.startswith("court.yaml:7:3: source 'words': ")
    assert message in line


def test_a_template_that_is_missing_is_reported_when_it_is_needed(r1pipe: Run, court: Path) -> None:
    (court.parent.parent / "data" / "template.txt").unlink()
    code, _, err = r1pipe("run", str(court))
    assert code == 7
    assert "court.yaml:7:3: source 'words':" in err
    assert "does not exist; put the file there or give another with --set sources.words.path" in err


def test_a_text_comes_from_a_file_alone_and_goes_where_a_text_is_taken(court: Path) -> None:
    hub = court.read_text().replace("path: ../data/template.txt", "hf: a/b, revision: main")
    court.write_text(hub)
    (line,) = mistakes_of(court)
    assert line == "court.yaml:7:10: sources.words: a text is one file; give its 'path'"
    court.write_text(MANIFEST.lstrip().replace("template: words", "template: found"))
    (line,) = mistakes_of(court)
    assert "'found' is of type rows, but stages.judge.inputs.template takes text" in line


# ---- runs ----------------------------------------------------------------------------------------


def judged(root: Path) -> Any:
    return Store(root).resolve("judge")


@pytest.mark.parametrize("point", ["journal.append@2", "journal.torn@3"])
def test_a_killed_judge_goes_on_to_the_same_artifact(court: Path, point: str) -> None:
    """With the transformers backend; a random policy gives random replies."""
    options = ("--set", "stages.judge.params.temperature=1.0")
    stores = [str(court.parent.parent / name) for name in ("killed", "whole")]
    runs = [("run", str(court), "--store", store, *options) for store in stores]
    ended = forked([(point, runs[0]), ("", runs[0]), ("", runs[1])])
    for (code, said), wanted in zip(ended, (KILLED, 0, 0), strict=True):
        assert code == wanted, said
    records = [judged(Path(store)) for store in stores]
    assert records[0].artifact_id == records[1].artifact_id
    replies = list(read_rows(Store(Path(stores[0])).output_dir(records[0], "replies")))
    assert len({reply["reply"] for reply in replies}) == len(replies) == 7
    assert {reply["judge_id"] for reply in replies} == {records[0].inputs["model"]["id"]}, (
        "each names the judge"
    )


def test_raising_the_limit_uses_the_replies_of_the_failed_run(r1pipe: Run, court: Path) -> None:
    asked = Counter[int]()

    def answer(body: dict[str, Any], times: int) -> tuple[int, Any]:
        asked[body["seed"]] += 1
        text = tokenizer().decode(body["prompt"])
        return 200, completion(RIGHT if "P right" in text else "\x1b[31meh\nsecond")

    with serving(answer) as server:
        generator = f"{{backend: openai, url: '{server.url}'}}"
        run = ("run", str(court), "--set", f"stages.judge.run.generator={generator}")
        long = ("--set", "stages.judge.params.max_tokens=64")
        code, _, err = r1pipe(*run, *long, "--set", "stages.judge.params.max_unreadable_frac=0.28")
        assert code == 1
        # how many were read by then is a matter of which unit came first
        assert re.search(r"2 of [4-7] replies of the judge cannot be read \(2 no_json\)", err), err
        code, _, err = r1pipe(*run, *long)
        assert code == 0, err
    assert set(asked.values()) == {1}
    assert len(asked) == 7
    show_replies(r1pipe, court)


def show_replies(r1pipe: Run, court: Path) -> None:
    """`show --row` has the judge's words, written out."""
    store = ("--store", str(court.parent.parent / "artifacts"))
    code, out, err = r1pipe("show", "judge", "--row", "open-1#0", *store)
    assert code == 0, err
    said = out[out.index("judge\n") :]
    assert "verdict   crashed" in said
    assert "max_tokens" not in out, "a limit of the judge, not of the model that answered"
    assert "| \\x1b[31meh\n" in said
    assert "Q what is law 1 R duty 1 P wrong end" in said
    assert "\x1b" not in out
    code, out, err = r1pipe("show", "judge", "--row", "open-0#0", "--json", *store)
    (reply,) = json.loads(out)["judge"]
    assert (reply["verdict"], reply["reply"]) == ("correct", RIGHT)
    code, out, err = r1pipe("show", "judge", "--row", "sum#0", "--json", *store)
    assert json.loads(out)["judge"] == []


# ---- before and after ----------------------------------------------------------------------------


def test_rejection_sampling_leaves_open_answers_to_the_judge(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = [
        Problem(p.id, "open", p.prompt, p.gold, level=p.level, checker="judge") for p in english(3)
    ]
    texts = {p.prompt: [right(p), "<think>no end"] for p in asked}
    context = sample(tmp_path, BySample(texts, asked, 3), asked, monkeypatch)
    verdicts = Counter(row["verdict"] for row in table(context))
    assert verdicts == {"unjudged": 3, "no_answer": 3}
    assert table(context, "rows") == []
    notes = context.notes
    assert (notes["sampled"], notes["kept"], notes["failed_unjudged"]) == (6, 0, 3)

    policy = save_policy(tmp_path / "policy")
    (tmp_path / "template.txt").write_text(TEMPLATE)
    kind, after = stage("judge"), FakeContext(tmp_path / "judge")
    after.input_ids = {**after.input_ids, "template": "t"}
    with serving(lambda body, times: (200, completion(RIGHT))) as server:
        settings = {"generator": {"backend": "openai", "url": server.url}}
        kind.run(
            after,
            kind.params(seed=1, max_tokens=80),
            kind.run_model.model_validate(settings),
            Inputs(
                {
                    "candidates": context.output("candidates"),
                    "problems": tmp_path / "problems",
                    "model": policy,
                    "template": tmp_path / "template.txt",
                }
            ),
        )
    assert [row["completion"] for row in table(after, "rows")] == [right(p) for p in asked]


def test_what_the_judge_said_outlives_a_reverification(tmp_path: Path) -> None:
    world = World(tmp_path)
    judged = world.run()
    kind, context = stage("reverify"), FakeContext(tmp_path / "reverify")
    inputs = {"candidates": judged.output("candidates"), "problems": tmp_path / "problems"}
    kind.run(context, kind.params(), kind.run_model(), Inputs(inputs))
    assert table(context) == [row | {"verifier_version": VERIFIER_VERSION} for row in table(judged)]
    assert context.notes["verdicts_changed"] == {}


def test_the_quotas_that_candidates_were_sampled_with_hold_for_the_judge(tmp_path: Path) -> None:
    world = World(tmp_path)
    quotas = Quotas(tasks={"law": 1})
    (tmp_path / "candidates").mkdir()
    write_report(tmp_path / "candidates", {"samples": 10}, quotas)
    context = world.run()
    kept = [row["id"] for row in table(context) if row["kept"]]
    assert kept == ["open-0#0", "sum#0"]
    assert read_report(context.output("candidates")) == ({"samples": 10}, quotas)
    more = world.run("more", quotas={"tasks": {"law": 2}})
    assert [row["id"] for row in table(more, "rows")] == ["open-0#0", "sum#0", "open-3#1"]


def test_a_quota_that_nobody_knows_is_asked_for(tmp_path: Path) -> None:
    lost = answered(OPEN[0], "right", filters={"quota": False})
    with pytest.raises(
        StageError, match=r"candidate open-0#0 was dropped by a quota.*params\.quot"
    ):
        World(tmp_path).run(rows=[lost])


def test_the_reference_is_the_one_that_the_candidate_was_sampled_with(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(rows=[answered(OPEN[0], "right", gold="another duty")])
    assert ["R another duty P right" in text for text in world.questions] == [True]


def test_the_limit_is_of_replies_and_not_of_candidates_without_an_answer(tmp_path: Path) -> None:
    mute = answered(OPEN[4], "", "no_answer", completion="<think>")
    rows = [answered(OPEN[0], "right"), answered(OPEN[2], "strange"), mute, mute | {"id": "x"}]
    about = {"verdicts": ["unjudged", "no_answer"]}
    with pytest.raises(StageError, match=r"1 of 2 replies .*\(0\.4 of 2\)"):
        World(tmp_path).run(rows=rows, about=about, max_unreadable_frac=0.4)


def test_nothing_kept_still_fails_where_rules_decided(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(2)
    script = BySample({p.prompt: [wrong(p), wrong(p)] for p in asked}, asked, 3)
    with pytest.raises(StageError, match="none of 4 completions was kept"):
        sample(tmp_path, script, asked, monkeypatch)


def problems_of(tmp_path: Path, inputs: dict[str, Path], **params: Any) -> list[Problem]:
    kind, context = stage("problems"), FakeContext(tmp_path / "work")
    values = kind.params.model_validate_json(json.dumps({"seed": 1, **params}))
    kind.run(context, values, kind.run_model(), Inputs(inputs))
    return read_problems(context.output("problems"))


def test_tasks_of_the_world_can_be_left_to_the_judge(tmp_path: Path) -> None:
    mix = {"arithmetic": 0.5, "general": 0.5}
    values: dict[str, Any] = {"num_problems": 20, "world": {"mix": mix}}
    ruled = problems_of(tmp_path / "a", {}, **values)
    left = problems_of(tmp_path / "b", {}, **values, judged_tasks=["general"])
    checkers = {(problem.task, problem.checker) for problem in left}
    assert checkers == {("arithmetic", "number"), ("general", "judge")}
    assert [(p.id, p.gold) for p in left] == [(p.id, p.gold) for p in ruled]


def test_a_data_set_of_questions_with_answers_in_words(tmp_path: Path) -> None:
    path, long = tmp_path / "law.jsonl", "The guardian. " * 200
    rows = [{"q": "Who may sign?", "a": long}, {"q": "When?", "a": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "q", "answer": "a", "gold": "column", "max_unusable_frac": 0.5}
    (problem,) = problems_of(
        tmp_path,
        {"source": path},
        num_problems=5,
        columns=columns | {"checked_by": "judge", "task": "law"},
    )
    assert (problem.checker, problem.task, problem.gold) == ("judge", "law", long.strip())
    assert problem.id.startswith("law-")


def test_an_evaluation_counts_answers_that_wait_for_a_judge() -> None:
    row = {"problem_id": "a", "task": "law", "language": "en", "extracted": None, "num_tokens": 1}
    row |= {"finish_reason": "stop", "completion": "<think>a</think> yes"}
    waiting = summarise([row | {"verdict": "unjudged"}, row | {"verdict": "correct"}])
    assert waiting["verdicts"]["unjudged"] == 1
    assert "unjudged" not in summarise([row | {"verdict": "wrong"}])["verdicts"]


def test_the_cost_of_judging_by_hand() -> None:
    model = ModelInfo(8, 3, 16, 100, 8, 8, 1000, 900)
    found = RowsInfo(Range(100), Range(10), Range(20, 40))
    kind = stage("judge")
    params = kind.params(
        seed=1, max_tokens=60, votes=3, temperature=1.0, candidates_per_unit=50, target_rows=50
    )
    cost = judgements(params, kind.run_model(max_batch=16), {"model": model, "candidates": found})
    (work,) = cost.sampling
    # a tenth to all of 100 candidates, three votes each; 150 requests to a unit
    assert (work.completions, work.prompts, work.rounds) == (
        Range(30, 300),
        Range(10, 100),
        Range(1, 2),
    )
    # the template (150 to 800), the question (10) and 5 to 100 % of the completion
    assert work.prompt_tokens == Range(150 + 10 + 1, 800 + 10 + 40)
    assert work.completion_tokens == Range(3, 60)
    assert (work.longest, work.at_once) == (60, 16)
    assert cost.outputs["candidates"] == found
    rows, replies = cost.outputs["rows"], cost.outputs["replies"]
    assert isinstance(rows, RowsInfo)
    assert rows.num_rows.high <= 50
    assert isinstance(replies, RowsInfo)
    assert replies.num_rows == Range(30, 300)
