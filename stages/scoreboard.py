"""The scoreboard: models down the side, benchmarks across, and what each stage bought.

Paper: arXiv:2501.12948v2, Table 3 (R1-Zero, Dev1, Dev2, Dev3, R1 side by side).

In: `reports` by model name, of evaluate or benchmark stages; optionally `benchmarks`, reports of
further benchmark stages by MODEL or MODEL-SOMETHING. Out: `report` (scoreboard.json, scoreboard.md,
scoreboard.txt). Every benchmark of every report is shown.

Run it with `r1pipe stage scoreboard`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 2
INPUTS = {
    "reports": Input("report", many=True),
    "benchmarks": Input("report", many=True, optional=True),
}
OUTPUTS = {"report": "report"}


class Params(StageModel):
    """Parameters that decide the table."""

    models: tuple[str, ...]
    """Rows, in order; each names one of `reports`."""
    before: dict[str, str] = Field(default_factory=dict)
    """Model -> the model of the stage before, for the paired difference; models that are no row
    are passed over."""
    seed: int = 0
    """Of the bootstrap."""

    def named_labels(self) -> dict[str, list[str]]:
        """Return which reports the parameters name."""
        before = [self.before[name] for name in self.models if name in self.before]
        return {"reports": list(dict.fromkeys([*self.models, *before]))}


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Read the reports, compare each model with the one before, write the table."""
    from r1pipe.evaluation.board_text import render_markdown, render_text
    from r1pipe.evaluation.harness import HARNESS_FILE, merged
    from r1pipe.evaluation.scoreboard import build, model_of

    before = {name: params.before[name] for name in params.models if name in params.before}
    paths = inputs.paths("reports")
    reports = {
        name: json.loads((path / "summary.json").read_text())
        for name, path in paths.items()
        if not (path / HARNESS_FILE).exists()
    }
    given = {name: [path] for name, path in paths.items() if name not in reports}
    for label, path in inputs.paths("benchmarks").items():
        given.setdefault(model_of(label, params.models), []).append(path)
    harness = {name: merged(context.name, name, folders) for name, folders in given.items()}
    board = build(reports, params.models, before, params.seed, harness)
    text = json.dumps(board, indent=1, sort_keys=True)
    board = json.loads(text)  # tables have the order of the file, as `show` will have it
    out = context.output("report")
    (out / "scoreboard.json").write_text(text + "\n")
    (out / "scoreboard.md").write_text(render_markdown(board))
    (out / "scoreboard.txt").write_text(render_text(board))


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: a moment."""
    from r1pipe.costs.work import Cost, Info, Range

    return Cost({"report": Info()}, other_s=Range(0.02, 2))
