"""The report in a browser: headless Chromium, where it is installed, without any other package.

A page's content security policy lets no second script run, so what measures it is added to a copy
without the policy. Chromium's clock is virtual: nothing here waits for a time to pass.
"""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_report import HOSTILE, report
from test_report_served import served

from r1pipe.report import serving
from r1pipe.report.curves import Curve
from r1pipe.report.document import StageView
from r1pipe.report.flow import flow_of
from r1pipe.report.graph import draw
from r1pipe.report.page import render
from r1pipe.report.timeline import timeline_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
POLICY = re.compile(r"<meta[^>]+Content-Security-Policy[^>]*>")
READY = 'data-ready="yes"'
"""What the page's script sets when it has done everything."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def shown(address: str, folder: Path, budget_ms: int = 3000) -> str:
    """Return the page after its script, as Chromium holds it; nothing may be in the console."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'browser'}",
            "--window-size=1400,900",
            "--enable-logging=stderr",
            f"--virtual-time-budget={budget_ms}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, "nothing was logged: no error, no refused script"
    assert READY in done.stdout, "the script ended"
    return done.stdout


def measured(page: str, folder: Path, script: str, width: int = 1400) -> Any:
    """Return what a script returns, as JSON, after the page's own has run.

    The page is a frame: no window of Chromium is narrower than 500 pixels.
    """
    tell = "[document.body.dataset.ready, JSON.stringify(found)]"
    added = f"const found = (() => {{ {script} }})(); parent.postMessage({tell}, '*');"
    head, end, rest = POLICY.sub("", page).rpartition("</body>")
    (folder / "page.html").write_text(f"{head}<script>{added}</script>{end}{rest}")
    hear = "([document.body.dataset.ready, document.body.dataset.found] = event.data)"
    path = folder / "frame.html"
    path.write_text(
        f'<body><script>addEventListener("message", (event) => {hear});</script>'
        f'<iframe src="page.html" width="{width}" height="900"></iframe></body>'
    )
    found = re.search(r' data-found="([^"]*)"', shown(path.as_uri(), folder))
    assert found is not None
    return json.loads(html.unescape(found[1]))


def curve(name: str, *values: float, metric: str = "loss", since: int = 1) -> Curve:
    points = [(float(since + number), value) for number, value in enumerate(values)]
    return Curve(name, name, True, {metric: points})


def long_names() -> str:
    """Return a page whose names, values and texts are all as long as they may be."""
    names = [f"a-stage-with-a-long-name-{number:02}" for number in range(8)]
    facts = {"sampled": 2_000_000, "kept": 12, "dropped_a_filter_of_a_plugin": 1_999_988}
    flow = flow_of(names[0], SimpleNamespace(facts=facts))  # type: ignore[arg-type]
    times = {"sampled_from": 0.0, "sampled_to": 12345.6, "trained_from": 2e4, "trained_to": 3e4}
    line = timeline_of(names[0], {"timeline": [{"rollout": 123, **times}]})
    assert flow is not None
    assert line is not None
    inputs = {name: names[: number % 3] for number, name in enumerate(names)}
    took = dict.fromkeys(names, "13 h 20 min, 107,000 GPU-h")
    params = [("params." + "q" * 90, "v" * 500)]
    stages = [
        StageView(name, "kind", "built", "w" * 300, artifact="a" * 64, key="b" * 64, params=params)
        for name in names
    ]
    return render(
        replace(
            report(rows=40, text="word " * 300 + "y" * 400),
            stages=stages,
            drawing=draw(inputs, dict.fromkeys(names, "built"), took),
            flows=[flow],
            timelines=[line],
        )
    )


# ---- the script runs, and nothing else -----------------------------------------------------------


def test_a_browser_shows_the_page_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(report(rows=400, text=HOSTILE)))
    page = shown(path.as_uri(), tmp_path)
    assert "200 problems, page 1 of 20" in page
    assert page.count('class="answer ') == 10 * 4, "two completions of two models each"
    assert "<img" not in page


def test_a_line_of_a_million_characters_is_cut_and_runs_no_script(tmp_path: Path) -> None:
    text = HOSTILE + "<script>document.body.dataset.ran = 1</script>" + "\u202e\x00x" * 350_000
    path = tmp_path / "report.html"
    path.write_text(render(replace(report(), samples=report(rows=9, text=text).samples)))
    assert path.stat().st_size < 2_000_000
    page = shown(path.as_uri(), tmp_path)
    assert "data-ran" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert page.count("characters)") >= 20


# ---- what a person sees --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 500, 1400])
def test_no_window_is_too_narrow_for_the_page(tmp_path: Path, width: int) -> None:
    script = """
      document.querySelectorAll("details").forEach((each) => { each.open = true; });
      const isWide = (each) => each.getBoundingClientRect().right > innerWidth + 0.5;
      const all = [...document.querySelectorAll("main *, header *")];
      const wide = all.filter((each) => !each.closest(".wide, svg") && isWide(each));
      return [innerWidth, wide.map((each) => `${each.tagName} of ${each.closest("section")?.id}`)];
    """
    assert measured(long_names(), tmp_path, script, width) == [width, []]


def test_no_name_or_time_leaves_its_box_of_the_graph(tmp_path: Path) -> None:
    script = """
      return [...document.querySelectorAll("#graph a[data-stage]")].map((node) => {
        const box = node.querySelector("rect").getBBox();
        return [...node.querySelectorAll("text")].map((text) => text.getBBox())
          .every(({ x, width }) => x > box.x && x + width < box.x + box.width);
      });
    """
    assert measured(long_names(), tmp_path, script) == [True] * 8


def test_what_scrolls_is_reached_by_the_keyboard(tmp_path: Path) -> None:
    script = """
      const scrolls = [...document.querySelectorAll("p, div")].filter((each) =>
        each.scrollHeight > each.clientHeight + 1 && getComputedStyle(each).overflowY === "auto");
      return [scrolls.length > 20, scrolls.filter((each) => each.tabIndex < 0).length];
    """
    assert measured(long_names(), tmp_path, script, 500) == [True, 0]


TICKS = """
  const all = (chosen) => [...document.querySelectorAll(`#plot ${chosen}`)];
  const texts = (chosen) => all(chosen).map((each) => each.textContent);
  return [texts(".tick.last"), texts(".tick:not(.last)")];
"""


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.1953, 0.7813, 0.4), ["0.2", "0.4", "0.6", "0.8"]),
        ((0.0, 0.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ((3e-6, 3e-6), ["2e-6", "3e-6", "4e-6"]),
        ((1_000_000.25, 1_000_001.5), ["1,000,000.5", "1,000,001.0", "1,000,001.5"]),
        ((-0.04, 9.6), ["0", "2", "4", "6", "8", "10"]),
    ],
)
def test_axes_have_round_numbers_that_are_told_apart(
    tmp_path: Path, values: Sequence[float], ticks: Sequence[str]
) -> None:
    page = render(replace(report(), curves=[curve("a", *values)]))
    found, steps = measured(page, tmp_path, TICKS)
    assert found == ticks
    assert steps == [*map(str, range(1, len(values) + 1)), "step"]


def test_curves_differ_in_colour_or_dashes_and_keep_them_beside_others(tmp_path: Path) -> None:
    curves = [curve(f"run-{number:02}", 1.0, float(number)) for number in range(32)]
    other = curve("other", 0.5, 0.7, metric="accuracy")
    script = """
      const all = (chosen) => [...document.querySelectorAll(chosen)];
      const name = (element) => element.textContent.trim().split(" ")[0];
      const look = (entry) => [name(entry), entry.querySelector("path").getAttribute("style")];
      const looks = () => Object.fromEntries(all("#plot .entry").map(look));
      const every = looks(), labels = all("#runs label");
      for (const label of labels) if (!name(label).startsWith("run-3")) label.click();
      return [every, looks(), labels.filter((label) => !label.hidden).length];
    """
    page = render(replace(report(), curves=[other, *curves]))
    every, few, boxes = measured(page, tmp_path, script)
    assert len(set(every.values())) == len(every) == boxes == 32, "those with the metric alone"
    assert few == {name: every[name] for name in ("run-30", "run-31")}


def test_steps_are_zoomed_into_and_moved_along_by_buttons(tmp_path: Path) -> None:
    made = curve("a", *(math.sqrt(step) for step in range(101)), since=0)
    script = """
      const line = () => document.querySelector("#plot .line").getAttribute("d");
      const steps = () => line().split("L").length;
      const press = (id) => { document.getElementById(id).click(); return steps(); };
      const found = [steps(), ...["zoom-in", "later", "later", "earlier", "zoom-out"].map(press)];
      for (let time = 0; time < 9; time += 1) press("zoom-in");
      return [...found, steps() > 1];
    """
    found = measured(render(replace(report(), curves=[made])), tmp_path, script)
    assert found == [101, 51, 51, 51, 51, 101, True]


def test_the_pages_of_samples_are_turned_below_them_too(tmp_path: Path) -> None:
    script = """
      document.getElementById("next-below").click();
      return ["position", "position-below"].map((id) => document.getElementById(id).textContent);
    """
    page = render(report(rows=40))
    assert measured(page, tmp_path, script) == ["20 problems, page 2 of 2"] * 2
    few = measured(render(report()), tmp_path, "return document.getElementById('below').hidden;")
    assert few is True


# ---- a page that is watched ----------------------------------------------------------------------


def test_a_watched_page_follows_and_keeps_what_its_reader_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FRESH_S", 0.0)
    monkeypatch.setattr(serving, "REST", 0.0)
    choose = """<script>
      if (!document.title.startsWith("new")) {
        const set = (id, value) => {
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event("input"));
        };
        set("metric", "reward");
        set("search", "fine 7");
        document.querySelector("#models input").click();
        document.querySelector("#stages details").open = true;
      }
    </script>"""
    num_made = 0

    def make() -> str:
        nonlocal num_made
        num_made += 1
        made = report(rows=40) if num_made == 1 else replace(report(rows=60), title="new")
        head, end, rest = POLICY.sub("", render(made, is_watched=True)).rpartition("</body>")
        return f"{head}{choose}{end}{rest}"

    page = shown(served(make), tmp_path, budget_ms=12_000)
    assert "<title>new" in page, "what changed before the first look is seen"
    assert "1 problem, page 1 of 1" in page
    assert "reward by step" in page
    assert page.count('class="answer ') == 2, "one model's completions of one problem"
    assert re.search(r'<details id="stage-a"[^>]* open', page)
