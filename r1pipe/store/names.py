"""Names of artifacts resolve like git's: stage, stage@7f3a, a tag, an id or its prefix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from r1pipe.errors import ArtifactError
from r1pipe.store.actions import ActionRecord
from r1pipe.store.roots import last_runs, tagged
from r1pipe.text import did_you_mean

PREFIX = re.compile(r"[0-9a-f]{4,64}")


def resolve(root: Path, records: Sequence[ActionRecord], name: str) -> ActionRecord:
    """Return the one record that `name` names, or say which ones it might be.

    A stage's name without more is the artifact that its last run used, else the one made last.
    """
    key = tagged(root, name)
    if key is not None:
        by_key = {record.key: record for record in records}
        if key in by_key:
            return by_key[key]
        raise ArtifactError(f"tag '{name}' names {key[:12]}, which is gone")
    stage, at, prefix = name.partition("@")
    made = [record for record in records if record.stage_name == stage]
    if at:
        return _one(name, [record for record in made if _starts(record, prefix)], records)
    if made:
        runs = last_runs(root)[::-1]
        used = {run.stages.get(stage): number for number, run in enumerate(runs)}
        return max(made, key=lambda record: (used.get(record.key, -1), record.created))
    if PREFIX.fullmatch(name):
        return _one(name, [record for record in records if _starts(record, name)], records)
    return _one(name, [], records)


def _starts(record: ActionRecord, prefix: str) -> bool:
    ids = (record.artifact_id, record.key, *record.outputs.values())
    return any(item.startswith(prefix) for item in ids)


def _one(name: str, found: list[ActionRecord], records: Sequence[ActionRecord]) -> ActionRecord:
    if len({record.artifact_id for record in found}) == 1:
        return max(found, key=lambda record: record.created)
    if found:
        lines = [f"  {candidate(record)}" for record in found]
        raise ArtifactError("\n".join([f"'{name}' is ambiguous; it may be", *lines]))
    known = sorted({record.stage_name for record in records})
    hint = did_you_mean(name.partition("@")[0], known, "'r1pipe show' lists what there is")
    raise ArtifactError(f"no artifact '{name}'; {hint}")


def candidate(record: ActionRecord) -> str:
    """Return one line that tells a record from others of its stage."""
    profile = f", profile {record.profile}" if record.profile else ""
    return (
        f"{record.stage_name}@{record.artifact_id[:12]} (key {record.key[:12]}, manifest "
        f"{record.manifest_name}{profile}, made {record.created[:19]})"
    )
