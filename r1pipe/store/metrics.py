"""A stage's logs: metrics, samples and facts, beside the data and outside its id.

Each line is written at once, so a kill loses none; a resumed stage repeats the steps after its last
checkpoint, and the reader keeps the later line of a step and one of equal samples.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from r1pipe.errors import DamagedError
from r1pipe.keys import JsonObject
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store.resources import PeakMemory
from r1pipe.store.state import (
    Count,
    M,
    Seconds,
    StateModel,
    read_object,
    read_state,
    tell,
    write_state,
)

METRICS, SAMPLES, FACTS, SPENT = "metrics.jsonl", "samples.jsonl", "facts.json", "spent.json"
MAX_LOG_BYTES = 1 << 29
"""A larger log is not shown; a run of a million steps has less."""
SPENT_EVERY_S = 2.0
"""How often time and memory are written down: a killed attempt loses at most this."""


class _Spent(StateModel):
    seconds: Seconds = 0.0
    peak_rss_bytes: Count = 0


class _Facts(StateModel):
    facts: JsonObject


class StageLog:
    """The files of one attempt, or of one published record, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        spent = read_spent(folder)
        self._seconds_before = spent["seconds"]
        self._peak_before = int(spent["peak_rss_bytes"])
        self._began = self._written = time.monotonic()
        self._memory = PeakMemory()
        self._facts = read_facts(folder)
        self._metrics = _open_lines(folder / METRICS)
        self._samples = _open_lines(folder / SAMPLES)

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of one step."""
        plain = {name: _number(value) for name, value in values.items()}
        _write_line(self._metrics, {"step": step, **plain})
        if time.monotonic() - self._written >= SPENT_EVERY_S:
            self.write_spent()

    def sample(self, row: Mapping[str, object]) -> None:
        """Append one example row."""
        _write_line(self._samples, row)

    def note(self, facts: Mapping[str, object]) -> None:
        """Add to the facts; a number that is not finite is kept as its name."""
        self._facts.update(json.loads(json.dumps(facts), parse_constant=str))
        write_state(self.folder / FACTS, {"facts": self._facts})

    @property
    def facts(self) -> JsonObject:
        """All facts noted so far, by earlier attempts too."""
        return dict(self._facts)

    @property
    def seconds(self) -> float:
        """Time spent by this attempt and those before it."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that this attempt, or one before it, had at any time."""
        return max(self._peak_before, self._memory.read_bytes())

    def write_spent(self) -> None:
        """Write down time and memory so far."""
        self._written = time.monotonic()
        spent = {"seconds": self.seconds, "peak_rss_bytes": self.peak_rss_bytes}
        write_state(self.folder / SPENT, spent, durable=False)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._samples.close()


def read_spent(folder: Path) -> dict[str, float]:
    """Return the seconds and the peak memory that attempts noted; nothing of a damaged file."""
    found = _side_file(folder / SPENT, _Spent) or _Spent()
    return found.model_dump()


def read_facts(folder: Path) -> JsonObject:
    """Return the facts that attempts noted; none of a damaged file, which is said."""
    path = folder / FACTS
    with suppress(DamagedError):  # as earlier versions wrote them, without a digest
        value = read_object(path)
        if value is not None and value.keys() != {"facts"}:
            return value
    found = _side_file(path, _Facts)
    return {} if found is None else dict(found.facts)


def _side_file(path: Path, model: type[M]) -> M | None:
    """Return a file beside the results; a power cut or a failing disk may have spoiled it."""
    try:
        return read_state(path, model)
    except DamagedError as error:
        tell(f"{error}; what it noted is lost, nothing else")
        return None


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return the values of each step, in the order of the steps' first lines."""
    merged: dict[int, JsonObject] = {}
    for row in _read_lines(folder / METRICS):
        if isinstance(step := row.get("step"), int):
            merged.setdefault(step, {}).update(row)
    return list(merged.values())


def read_samples(folder: Path) -> list[JsonObject]:
    """Return the sample rows, equal ones once."""
    rows = _read_lines(folder / SAMPLES)
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def _number(value: float) -> float | int:
    """Return a plain number, also of a tensor or a numpy scalar."""
    item = value.item() if hasattr(value, "item") else value
    return item if isinstance(item, int) else float(item)


def _open_lines(path: Path) -> TextIO:
    """Open for appending; a line torn by a kill is ended first, so that it spoils no other."""
    file = path.open("a+", encoding="utf-8")
    if (end := file.tell()) and os.pread(file.fileno(), 1, end - 1) != b"\n":
        file.write("\n")
    return file


def _write_line(file: TextIO, row: Mapping[str, object]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _read_lines(path: Path) -> list[JsonObject]:
    """Return the objects of a log; a line torn by a kill is passed over, its step is repeated."""
    try:
        lines = read_regular(path, MAX_LOG_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnfitError) as error:
        tell(f"{path}: cannot be shown: {error}")
        return []
    rows = []
    for line in lines:
        with suppress(UnfitError):
            row = parse_json(line, is_finite=False)
            if isinstance(row, dict):
                rows.append(row)
    return rows
