"""A store with a model, rows and an evaluation of the model, for what is handed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from store_world import Params, QuietConsole, Run, flat, kind, manifest, stage

from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run as run_manifest
from r1pipe.rows import write_rows
from r1pipe.stage import Input, Inputs
from r1pipe.store.store import Store

HOSTILE = "</think> | <script>alert(1)</script> \x1b[31m [x](javascript:1) `"
"""What a model or a user may have written."""
ROWS = [{"prompt": HOSTILE, "completion": "2"}, {"prompt": "b", "completion": "3"}]


def write_model(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write a tiny policy."""
    tiny.save_policy(context.output("model"), params.number)
    context.log(1, 1, loss=0.5)


def write_both(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write a tiny policy and rows."""
    tiny.save_policy(context.output("model"), params.number)
    write_rows(context.output("rows"), ROWS)


def write_some_rows(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write two rows."""
    flat(inputs)
    write_rows(context.output("data"), ROWS)


def write_summary(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write what an evaluation reports."""
    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    found = {"benchmarks": {"sums": {"pass@1": score, "num_problems": 8}}}
    (context.output("report") / "summary.json").write_text(json.dumps(found))


MODEL = kind(write_model, name="grpo", outputs={"model": "model"})
BOTH = kind(write_both, name="distil", outputs={"model": "model", "rows": "rows"})
ROWS_KIND = kind(write_some_rows, name="mix", outputs={"data": "rows"})
EVALUATE = kind(write_summary, name="evaluate", outputs={"report": "report"})._replace(
    inputs={"model": Input("model")}
)


def handed(root: Path) -> tuple[Manifest, Store]:
    """Return a manifest and the store with all its results: rows, zero, both, eval-zero."""
    source = root / "numbers.json"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("7")
    made = manifest(
        stage("rows", ROWS_KIND, {"a": "@numbers"}, text=HOSTILE),
        stage("zero", MODEL, {"a": "rows"}),
        stage("both", BOTH, {"a": "rows"}),
        stage("eval-zero", EVALUATE, {"model": "zero.model"}),
        sources={"numbers": source},
    )
    store = Store(root / "store")
    run_manifest(made, store, QuietConsole())
    return made, store
