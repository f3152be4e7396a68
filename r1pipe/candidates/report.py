"""The report of adaptive sampling beside its candidates, with the quotas in force."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from r1pipe.candidates.quotas import Quotas
from r1pipe.errors import ArtifactError
from r1pipe.keys import JsonObject

REPORT = "sampling.json"


def write_report(folder: Path, report: Mapping[str, object], quotas: Quotas) -> None:
    """Write the report, and the quotas that were in force, beside the candidates' shards."""
    document = {**report, "quotas": quotas.model_dump(mode="json")}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def read_report(candidates: Path) -> tuple[JsonObject, Quotas] | None:
    """Return the report on adaptive sampling beside its candidates, and the quotas in force; None
    for candidates that were sampled in another way.

    A stage that verifies or judges candidates again selects by these quotas and passes the report
    on. Raises ArtifactError for a report that is none.
    """
    path = candidates / REPORT
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text("utf-8"))
        quotas = Quotas.model_validate_json(json.dumps(report.pop("quotas")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: not the report that adaptive sampling writes ({type(error).__name__});"
            " take the candidates as they were written"
        ) from error
    return report, quotas
