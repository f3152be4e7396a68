"""Measure a report of many completions: making it, and using it in headless Chromium.

    python benchmarks/report_speed.py [--completions 200000] [--chromium chromium] [--keep FOLDER]

Two evaluations of canned completions (`canned.py`) share their problems, a sample of each. The page
is opened from its file; a copy without the content security policy holds the script that measures,
and tells a server on loopback what it found. Times of a filter are those until the next frame is
drawn; a scroll is 200 steps of 120 pixels, one a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
POLICY = re.compile(r"<meta[^>]+Content-Security-Policy[^>]*>")
KIND = '''
"""Canned completions in the place of an evaluation's."""
import random
from canned import ODD, OUTCOMES, WORDS, canned_problem
from r1pipe.rows import write_rows
from r1pipe.stage import StageModel
VERSION = 1
class Params(StageModel):
    seed: int
    num_problems: int
class Run(StageModel):
    pass
INPUTS = {}
OUTPUTS = {"report": "report", "samples": "rows"}
def rows(params):
    rng, words = random.Random(params.seed), WORDS.split()
    for number in range(params.num_problems):
        problem = canned_problem(number)
        outcome = rng.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
        text = " ".join(rng.choices(words, k=90)) + ODD.get(outcome, "")
        verdict = {"right": "correct", "no_answer": "no_answer"}.get(outcome, "wrong")
        answer = problem.gold if verdict == "correct" else str(number)
        completion = f"<think>\\n{text}\\n</think>\\n\\nIt is {answer}"
        yield {"benchmark": problem.task, "prompt": problem.prompt, "gold": problem.gold,
               "task": problem.task, "completion": completion, "extracted": answer,
               "verdict": verdict, "num_tokens": len(text) // 4,
               "finish_reason": "length" if outcome == "cut" else "stop"}
def run(context, params, run, inputs):
    write_rows(context.output("samples"), rows(params))
    (context.output("report") / "summary.json").write_text("{}")
'''
MANIFEST = """
r1pipe: 1
name: many
stages:
  eval-first: {{kind: evaluate, params: {{seed: 1, num_problems: {problems}}}}}
  eval-second: {{kind: evaluate, params: {{seed: 2, num_problems: {problems}}}}}
"""
SCRIPT = """
<script>
addEventListener("load", async () => {
  const found = { load_ms: performance.now() };
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const byId = (id) => document.getElementById(id);
  const timed = async (name, act) => {
    const since = performance.now();
    act();
    await frame();
    found[name] = performance.now() - since;
    found[`${name} shows`] = byId("position").textContent;
  };
  await frame();
  found.first_frame_ms = performance.now();
  const set = (id, value) => {
    if (value === true) byId(id).click(); else byId(id).value = value;
    byId(id).dispatchEvent(new Event("input"));
  };
  await timed("search of a word", () => set("search", "halved"));
  await timed("search without a hit", () => set("search", "no such words"));
  await timed("search undone", () => set("search", ""));
  await timed("verdict", () => set("verdict", "correct"));
  await timed("models differ", () => set("differ", true));
  set("differ", true);
  await timed("model left out", () => document.querySelector("#models input").click());
  await timed("next page", () => byId("next").click());
  const gaps = [];
  let last = performance.now();
  for (let step = 0; step < 200; step += 1) {
    scrollBy(0, 120);
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }
  gaps.sort((a, b) => a - b);
  found["scroll, median frame"] = gaps[100];
  found["scroll, longest frame"] = gaps[199];
  found.heap_mb = performance.memory ? performance.memory.usedJSHeapSize / 1e6 : null;
  navigator.sendBeacon("ADDRESS", JSON.stringify(found));
});
</script>
"""


def command(folder: Path, *words: str) -> list[str]:
    """Return a command of r1pipe on the project in `folder`."""
    manifest = str(folder / "manifests" / "many.yaml")
    return [
        *(sys.executable, "-m", "r1pipe", words[0], manifest, "--store", str(folder / "store")),
        *words[1:],
    ]


def prepare(folder: Path, completions: int) -> None:
    """Write the project and build its two evaluations."""
    for name in ("stages", "manifests"):
        (folder / name).mkdir(parents=True)
    (folder / "stages" / "evaluate.py").write_text(KIND)
    text = MANIFEST.format(problems=completions // 2)
    (folder / "manifests" / "many.yaml").write_text(text)
    subprocess.run(command(folder, "run"), env=environment(), check=True)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])}


def make(folder: Path, completions: int) -> dict[str, float]:
    """Write the page and return what that took."""
    page, began = folder / "report.html", time.monotonic()
    words = command(folder, "report", "--samples", str(completions), "-o", str(page))
    subprocess.run(words, env=environment(), check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "make_s": time.monotonic() - began,
        "peak_mb": peak * 1024 / 1e6,
        "page_mb": page.stat().st_size / 1e6,
    }


def used(folder: Path, chromium: str) -> dict[str, Any]:
    """Return what the page's script measures in Chromium, milliseconds."""
    told: queue.Queue[bytes] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    page = POLICY.sub("", (folder / "report.html").read_text("utf-8"))
    head, end, rest = page.rpartition("</body>")
    copy = folder / "measured.html"
    copy.write_text(f"{head}{SCRIPT.replace('ADDRESS', address)}{end}{rest}", "utf-8")
    words = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    words += [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", copy.as_uri()]
    browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found: dict[str, Any] = json.loads(told.get(timeout=300))
    finally:
        browser.terminate()
        browser.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=200_000)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--keep", type=Path, help="folder for the store and the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary) / "many").resolve()
        if not folder.exists():
            prepare(folder, given.completions)
        for name, value in {
            **make(folder, given.completions),
            **used(folder, given.chromium),
        }.items():
            print(f"{name:28} {value if isinstance(value, str) else f'{value:,.1f}'}")


if __name__ == "__main__":
    main()
