"""Compare preimages leaf by leaf, and find the stored one that is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1pipe.store.actions import ActionRecord

ABSENT = "(absent)"
UNKNOWN = object()
"""Stands for the id of an input that is not made yet."""


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Return {dotted path: leaf}; a list is a leaf, and so is an empty mapping inside `params`."""
    if isinstance(value, Mapping) and (value or "." not in prefix):
        found: dict[str, object] = {}
        for name, item in value.items():
            found |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {prefix: value}


def nearest_record(
    stage: str, preimage: Mapping[str, object], records: Sequence[ActionRecord], manifest: str
) -> ActionRecord | None:
    """Return the stored result most like a preimage: of the same stage, else of the same kind.

    Among the same stage's results the one with the fewest different leaves is nearest; then one of
    the same manifest; then the one made last.
    """
    same = [record for record in records if record.stage_name == stage]
    same = [record for record in same if record.kind == preimage["kind"]] or same
    if not same:
        same = [record for record in records if record.kind == preimage["kind"]]

    def closeness(record: ActionRecord) -> tuple[int, bool, str]:
        return (
            -distance(record.preimage, preimage),
            record.manifest_name == manifest,
            record.created,
        )

    return max(same, key=closeness, default=None)


def different(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return the paths of two flat preimages whose leaves differ, those not yet known left out."""
    paths = sorted({*old, *new})
    return [
        path
        for path in paths
        if new.get(path) is not UNKNOWN and old.get(path, ABSENT) != new.get(path, ABSENT)
    ]


def distance(old: object, new: object) -> int:
    """Count the leaves in which two preimages differ; equal branches are not walked.

    A loop without a call per leaf: `why` does this for every record of a stage.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return int(new is not UNKNOWN and old != new)
    total = len(old)
    for name, item in new.items():
        was = old.get(name, ABSENT)
        if was is not ABSENT:
            total -= 1
        if was != item and item is not UNKNOWN:
            is_branch = isinstance(item, dict) and isinstance(was, dict)
            total += distance(was, item) if is_branch else 1
    return total
