"""Scores of an artifact for `r1pipe show`: a scoreboard, an evaluation, a harness's report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

FILES = {
    "scoreboard": "scoreboard.json",
    "evaluate": "summary.json",
    "benchmark": "harness.json",
}
"""Kind -> the file of its report that has the scores."""


def score_lines(record: Record, store: Store, width: int) -> list[str]:
    """Return the scores as lines of a width; none where there are none, or the data is gone."""
    if record.kind not in FILES or not store.has_artifact(record):
        return []
    from r1pipe.evaluation.board_text import (
        harness_table,
        render_text,
        report_table,
        table_text,
    )

    path = store.output_dir(record, "report") / FILES[record.kind]
    if not path.is_file():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if record.kind == "evaluate":
        return table_text(report_table(document), width)
    if record.kind == "benchmark":
        return table_text(harness_table(document), width)
    if "rough" not in document:  # written before every benchmark was shown
        return path.with_suffix(".txt").read_text(encoding="utf-8").rstrip().split("\n")
    return render_text(document, width, zeros=False).rstrip().split("\n")
