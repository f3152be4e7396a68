"""The report: what is collected, the page that holds it, and the page in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import Run
from fake_project import make_project

from r1pipe.report.curves import MAX_POINTS, series
from r1pipe.report.document import Report, StageView, _gpu_hours, _leaves, _total_cost
from r1pipe.report.flow import flow_of
from r1pipe.report.graph import GAP_X, GAP_Y, MARGIN, NODE_HEIGHT, NODE_WIDTH, draw
from r1pipe.report.lengths import Counted, histograms
from r1pipe.report.page import as_data, render
from r1pipe.report.samples import _Collector
from r1pipe.report.scores import Board, Bought, Dot, Panel, board_of
from r1pipe.report.timeline import timeline_of
from r1pipe.text import visible

HOSTILE = '</script><img src=x onerror="alert(1)"> \x1b[31m\u202e\u2028\x9b {{ 7 * 7 }} &lt;'


def report(rows: int = 2, text: str = "fine") -> Report:
    """Return a report with every section, `text` wherever a model or a user wrote."""
    made = _Collector(max_rows=rows)
    for stage in ("eval-a", "eval-b"):
        made.add_evaluation(
            stage,
            iter(
                {
                    "benchmark": "reasoning",
                    "prompt": f"{text} {number // 2}",
                    "gold": text,
                    "task": "t",
                    "completion": f"<think>{text}</think> {number}",
                    "extracted": text,
                    "verdict": "correct" if number % 2 else "wrong",
                    "num_tokens": 1 + number % 50,
                    "finish_reason": "stop",
                }
                for number in range(rows + 1)
            ),
        )
    samples = made.samples()
    dot = Dot(text, 0.5, 0.4, 0.7)
    facts = {"sampled": 4, "kept": 1, "failed_format": 2, "dropped_verdict": 1, "problems": 2}
    flow = flow_of("sample", SimpleNamespace(facts=facts))  # type: ignore[arg-type]
    assert flow is not None
    times = {"sampled_from": 0.0, "sampled_to": 2.0, "trained_from": 2.0, "trained_to": 3.0}
    line = timeline_of(text, {"timeline": [{"rollout": 0, **times}]})
    assert line is not None
    view = StageView("a", "k", "built", text, warnings=[text], params=[("p", text)])
    curve = SimpleNamespace(stage="a", label=visible(text), is_chosen=True)
    return Report(
        title=text,
        manifest=text,
        profile="-",
        made="2026-01-01 00:00 UTC",
        took="1 s",
        cost="",
        num_built=1,
        num_stages=1,
        stages=[view],
        drawing=draw({"a": []}, {"a": "built"}, {"a": ""}),
        board=Board(
            [Panel(text, [dot], True)], [text], [Bought(text, text, "b", "s", dot)], [text]
        ),
        curves=[_curve(curve)],
        timelines=[line],
        flows=[flow],
        awaited=[],
        samples=samples,
    )


def _curve(found: Any) -> Any:
    from r1pipe.report.curves import Curve

    points = [(1.0, 0.5), (2.0, 0.25)]
    return Curve(found.stage, found.label, found.is_chosen, {"loss": points, "reward": points})


class Tags(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


# ---- the page ------------------------------------------------------------------------------------


def test_a_training_that_learned_nothing_says_so_before_it_is_unfolded() -> None:
    made = report()
    assert "nothing was learned" not in render(made)
    found = render(replace(made, stages=[replace(made.stages[0], has_learned=False)]))
    (summary,) = re.findall("<summary><span.*?</summary>", found)
    assert ", <strong>nothing was learned</strong>, 1 warning</summary>" in summary


def test_the_page_loads_nothing_and_runs_only_what_its_policy_names() -> None:
    page = render(report())
    assert not re.findall(r'(?:src|href)="(?!#)', page), "nothing is asked of another file"
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    tags = Tags(page).tags
    policy = next(a["content"] for t, a in tags if a.get("http-equiv"))
    assert policy is not None
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    watched = Tags(render(report(), is_watched=True)).tags
    assert "connect-src 'self'" in str([a for _, a in watched if a.get("http-equiv")])
    assert not [a for _, a in tags if any(n.startswith("on") or n == "style" for n in a)]


def test_text_of_models_and_users_stays_text() -> None:
    page = render(report(text=HOSTILE))
    assert not [tag for tag, _ in Tags(page).tags if tag == "img"]
    data = page[page.index('id="data">') + 10 :]
    data = data[: data.index("</script>")]
    assert json.loads(data)["samples"]["problems"], "the block of data is whole"
    assert "{{ 7 * 7 }}" in page, "no template was run"
    for char in "\x1b\u202e\x9b\u2028":
        assert char not in data


def test_data_cannot_leave_its_block() -> None:
    assert as_data("</script>&\u2028") == '"\\u003c/script\\u003e\\u0026\\u2028"'
    assert json.loads(as_data([HOSTILE])) == [HOSTILE]
    with pytest.raises(ValueError, match="Out of range float"):
        as_data(math.nan)


def test_pictures_are_told_in_words() -> None:
    tags = Tags(render(report())).tags
    pictures = [a for tag, a in tags if tag == "svg" and a.get("role") == "img"]
    assert len(pictures) >= 4
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in pictures)
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))


# ---- what is collected ---------------------------------------------------------------------------


def test_gpu_hours_and_their_price_stand_beside_the_time() -> None:
    def hours(**facts: Any) -> float:
        record: Any = SimpleNamespace(seconds=7200.0, facts=facts)
        return _gpu_hours(record)

    assert hours(predicted={"device": "cuda:0", "devices": 8}) == 16.0
    assert hours(predicted={"device": "cpu", "devices": 2}) == hours() == 0.0
    assert hours(predicted="8") == hours(predicted={"device": "cuda", "devices": "8"}) == 0.0

    here = StageView("a", "k", "built", "", took="2 h")
    free = StageView("b", "k", "built", "", took="2 h", gpu_hours=16.0)
    paid = replace(free, price=40.0)
    assert [each.shown for each in (here, free)] == ["2 h", "2 h, 16 GPU-h"]
    assert _total_cost([here]) == ""
    assert replace(free, gpu_hours=1070.4).cost == "1,070 GPU-h"
    assert _total_cost([here, free]) == "16 GPU-hours"
    assert _total_cost([here, free, paid]) == "32 GPU-hours, at a price of 40.00"
    page = render(replace(report(), stages=[paid], cost="16 GPU-hours, at a price of 40.00"))
    assert "(16 GPU-hours, at a price of 40.00)" in page
    assert ", 16 GPU-h, 40.00" in page


def test_the_graph_has_layers_and_sources_stand_above_their_first_reader() -> None:
    inputs = {"a": ["x"], "b": ["a"], "late": [], "c": ["b", "late"]}
    words = dict.fromkeys(inputs, "built")
    found = draw(inputs, words, words)
    depth = {n.name: (n.y - MARGIN) / (NODE_HEIGHT + GAP_Y) for n in found.nodes}
    assert depth == {"a": 0, "b": 1, "late": 1, "c": 2}
    assert [(e.source, e.target) for e in found.edges] == [("a", "b"), ("b", "c"), ("late", "c")]
    assert found.width == 2 * NODE_WIDTH + GAP_X + 2 * MARGIN
    assert draw({}, {}, {}).nodes == []


def test_curves_are_finite_and_thinned_with_both_ends() -> None:
    rows = [{"step": n, "loss": n / 2, "bad": math.nan, "word": "x"} for n in range(5 * MAX_POINTS)]
    found = series(rows)
    assert list(found) == ["loss"]
    assert len(found["loss"]) == MAX_POINTS
    assert found["loss"][0] == (0.0, 0.0)
    assert found["loss"][-1] == (5.0 * MAX_POINTS - 1, (5 * MAX_POINTS - 1) / 2)


def test_lengths_are_counted_in_bins_that_hold_every_one() -> None:
    (found,) = histograms([Counted("s", {1: 2, 2: 1, 100: 1}, 1)])
    assert found.edges[0] == 0
    assert found.edges[-1] == 101
    assert sum(found.counts) == 4
    assert found.counts[found.edges.index(1)] == 2
    assert found.counts[-1] == 1
    assert (found.mean, found.truncated, found.highest) == (26.0, 0.25, "50.0 %")
    assert (found.shortest, found.longest) == (1, 100)
    (none,) = histograms([Counted("s", {0: 3}, 0)])
    assert (none.counts, none.ticks) == ([3], [(0.0, 0), (1.0, 0)])
    assert histograms([]) == []


def test_all_stages_have_the_same_bins_and_an_axis_with_numbers() -> None:
    short, long = histograms([Counted("a", {3: 1, 5: 3}, 0), Counted("b", {900: 1}, 0)])
    assert short.edges == long.edges
    assert [tokens for _, tokens in long.ticks][::4] == [0, 900]
    assert [at for at, _ in long.ticks] == sorted(at for at, _ in long.ticks)
    assert [(bar.height, bar.title) for bar in short.bars] == [
        (1 / 3, "3 tokens: 1 completion"),
        (1.0, "5 to 6 tokens: 3 completions"),
    ]
    assert len({bar.width for bar in (*short.bars, *long.bars)}) == 1


def test_a_flow_adds_up_to_what_was_sampled() -> None:
    parts = report().flows[0].parts
    assert [(p.label, p.count) for p in parts] == [
        ("failed: format", 2),
        ("dropped: verdict", 1),
        ("kept", 1),
    ]
    assert sum(p.frac for p in parts) == 1.0


def test_a_benchmark_that_no_model_solves_is_named_and_not_drawn(tmp_path: Path) -> None:
    zero, some = ({"value": v, "low": 0.0, "high": 2 * v} for v in (0.0, 0.25))
    values = {
        "a": {"easy": {"pass@1": some}, "hard": {"pass@1": zero}},
        "b": {"easy": {"pass@1": zero}, "hard": {"pass@1": zero}},
    }
    board = {"models": ["a", "b"], "values": values, "rough": {}, "paired": {}}
    (tmp_path / "scoreboard.json").write_text(json.dumps(board))
    store = SimpleNamespace(has_artifact=lambda _: True, output_dir=lambda *_: tmp_path)
    records = {"scoreboard": SimpleNamespace(kind="scoreboard")}
    found = board_of(records, store)  # type: ignore[arg-type]
    assert found is not None
    assert found.bought == []
    assert found.same == []
    assert [(p.title, [d.value for d in p.dots]) for p in found.panels] == [
        ("easy: pass@1", [0.25, 0.0])
    ]
    assert found.unsolved == ["hard: pass@1"]
    page = render(replace(report(), board=found))
    assert "Zero for every model: hard: pass@1." in page


def test_what_was_bought_has_the_order_of_the_models_and_names_what_did_not_differ(
    tmp_path: Path,
) -> None:
    one = {"pass@1": {"value": 0.5, "low": 0.4, "high": 0.6}}
    more, none = ({"mean": d, "low": d, "high": d} for d in (0.25, 0.0))
    paired = {
        "after": {
            "before": "zero",
            "differences": {"easy": {"pass@1": none}, "hard": {"pass@1": none}},
        },
        "zero": {"before": "base", "differences": {"easy": {"pass@1": more}}},
        "last": {"before": "after", "differences": {"easy": {"pass@1": more}}},
    }
    models = ["base", "zero", "after", "last"]
    board = {"models": models, "values": {key: {"easy": one} for key in models}, "rough": {}}
    (tmp_path / "scoreboard.json").write_text(json.dumps(board | {"paired": paired}))
    store = SimpleNamespace(has_artifact=lambda _: True, output_dir=lambda *_: tmp_path)
    records = {"scoreboard": SimpleNamespace(kind="scoreboard")}
    found = board_of(records, store)  # type: ignore[arg-type]
    assert found is not None
    assert [each.model for each in found.bought] == ["zero", "last"]
    assert found.same == ["hard pass@1 (all)", "easy pass@1 (after and zero)"]
    page = render(replace(report(), board=found))
    assert "No difference on any problem: hard pass@1 (all); easy pass@1 (after and zero)." in page


def test_a_training_sample_has_its_verdict_and_each_reward() -> None:
    made = _Collector(max_rows=9)
    row = {"prompt": "2+2", "gold": "4", "completion": "5", "reward": 0.5}
    parts = {"accuracy": 0.0, "format": 0.5}
    made.add_training("zero", [row, {**row, "verdict": "wrong", "rewards": parts}])
    assert [(each[4], each[6]) for each in made.rows] == [
        ("", "0.5"),  # as kept before rewards had names
        ("wrong", "0.5: accuracy 0, format 0.5"),
    ]


def test_empty_values_have_a_word() -> None:
    facts = {"kept": {}, "rows": [], "suffix": "", "given": {"levels": [1, 2], "none": {}}}
    assert list(_leaves(facts)) == [
        ("kept", "none"),
        ("rows", "none"),
        ("suffix", "empty"),
        ("given.levels", "1, 2"),
        ("given.none", "none"),
    ]


def test_samples_beyond_the_limit_are_counted() -> None:
    found = report(rows=2).samples
    assert len(found.rows) == 4
    assert found.left_out == 2
    assert [sum(each.counts) for each in found.lengths] == [3, 3], "lengths are those of all"


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_page_of_a_project_before_and_after_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    assert r1pipe("report", "manifests/small.yaml")[0] == 0
    before = Path("report.html").read_text()
    assert "0 of 3 stages built" in before
    assert r1pipe("run", "manifests/small.yaml")[0] == 0
    assert r1pipe("report", "manifests/small.yaml", "-o", "after.html")[0] == 0
    after = Path("after.html").read_text()
    assert "3 of 3 stages built" in after
    curves = json.loads(after[after.index('id="data">') + 10 :].split("</script>")[0])["curves"]
    assert curves[0]["metrics"]["loss"] == [[1.0, 1.0], [2.0, 0.5], [3.0, 1 / 3]]
    Path("mine").mkdir()
    Path("mine/kept").touch()
    for command in ("report", "lock"):
        code, _, err = r1pipe(command, "manifests/small.yaml", "-o", "mine")
        assert code == 2
        assert "'mine' is a directory" in err
    assert Path("mine/kept").exists()


def test_a_watched_page_shows_what_was_built_since_it_was_first_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    pages: list[str] = []

    def served(make: Callable[[], str], announce: object) -> None:
        pages.append(make())
        assert r1pipe("run", "manifests/small.yaml")[0] == 0
        pages.append(make())

    monkeypatch.setattr("r1pipe.report.serving.serve", served)
    assert r1pipe("report", "manifests/small.yaml", "--watch")[0] == 0
    assert "0 of 3 stages built" in pages[0]
    assert "3 of 3 stages built" in pages[1]
