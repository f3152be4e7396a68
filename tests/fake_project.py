"""A small project in a temporary folder: three kinds of stage that write a line of text."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from r1pipe.errors import ManifestError
from r1pipe.manifest import load_manifest

NUMBERS = '''
"""Write the numbers below a count."""

from r1pipe.stage import StageModel

VERSION = 1


class Params(StageModel):
    count: int
    """How many numbers."""
    rate: float = 0.5
    """A rate."""
    seed: int = 0
    """A seed."""


class Run(StageModel):
    workers: int = 1
    """How many processes."""


INPUTS = {}
OUTPUTS = {"rows": "rows", "report": "report"}


def run(context, params, run, inputs):
    (context.output("rows") / "rows.txt").write_text(" ".join(map(str, range(params.count))))
    (context.output("report") / "report.txt").write_text(str(params.count))
    for step in range(1, 4):
        context.log(step, 3, loss=1.0 / step, pass_rate=0.25 * step)
    context.sample(prompt="2+2", completion="[red]4[/red]\\x1b[31m\\nend")
    context.note(rows=params.count)
'''

JOIN = '''
"""Join rows."""

from typing import Literal

from r1pipe.stage import Input, StageModel

VERSION = 1


class Keep(StageModel):
    verdict: Literal["correct", "wrong"] = "correct"
    """Which verdict."""
    max_chars: int = 10
    """How long, in characters."""


class Params(StageModel):
    keep: Keep = Keep()
    """What is kept."""
    levels: tuple[int, ...] = (1, 2)
    """Levels."""
    weights: dict[str, float] = {}
    """A weight by name."""
    name: str | None = None
    """A name."""
    is_strict: bool = False
    """Whether it is strict."""


class Run(StageModel):
    workers: int = 1
    """How many processes."""


INPUTS = {
    "rows": Input("rows"),
    "extra": Input(("rows", "dataset"), optional=True, many=True),
}
OUTPUTS = {"rows": "rows"}


def run(context, params, run, inputs):
    parts = [inputs.path("rows"), *inputs.paths("extra").values()]
    text = []
    for part in parts:
        files = sorted(part.iterdir()) if part.is_dir() else [part]
        text.extend(file.read_text() for file in files)
    (context.output("rows") / "rows.txt").write_text("|".join(text))
'''

SCOREBOARD = '''
"""Compare rows."""

from r1pipe.stage import Input, StageModel

VERSION = 1


class Params(StageModel):
    pass


class Run(StageModel):
    pass


INPUTS = {"rows": Input("rows")}
OUTPUTS = {"report": "report"}


def run(context, params, run, inputs):
    folder = context.output("report")
    (folder / "scoreboard.txt").write_text("model  pass@1\\none    0.50\\n")
    (folder / "scoreboard.json").write_text("{}")
    (folder / "scoreboard.md").write_text("")
'''

MANIFEST = """
r1pipe: 1
name: small
profile: laptop
params: {seed: 3}
sources:
  prompts: {path: ../data/prompts.jsonl, as: dataset}
stages:
  joined:
    kind: join
    inputs: {rows: numbers.rows, extra: {again: numbers.rows, prompts: prompts}}
    params: {keep: {max_chars: 7}, levels: [3, 4]}
  numbers:
    kind: numbers
    params: {count: 10, seed: $params.seed}
    run: {workers: 2}
  scores: {kind: scoreboard, inputs: {rows: joined}}
profiles:
  laptop: {stages: {numbers: {params: {count: 5}}}}
  gpu: {extends: laptop, stages: {numbers: {params: {rate: 1e-6}}}}
"""


def make_project(root: Path) -> Path:
    """Write the project below `root` and return the path of its manifest."""
    for folder in ("stages", "manifests", "data"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in (("numbers", NUMBERS), ("join", JOIN), ("scoreboard", SCOREBOARD)):
        (root / "stages" / f"{name}.py").write_text(text.lstrip())
    (root / "data" / "prompts.jsonl").write_text('{"prompt": "2+2"}\n')
    return write_manifest(root, MANIFEST)


def write_manifest(root: Path, text: str, name: str = "small") -> Path:
    """Write one manifest of the project and return its path."""
    path = root / "manifests" / f"{name}.yaml"
    path.write_text(textwrap.dedent(text).lstrip("\n"))
    return path


def mistakes_of(path: Path, **options: Any) -> list[str]:
    """Return the lines of the error that a manifest gives, without the folder."""
    try:
        load_manifest(path, **options)
    except ManifestError as error:
        return [line.replace(f"{path.parent}/", "") for line in str(error).splitlines()]
    return []
