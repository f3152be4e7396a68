"""A stage's logs: metrics, samples and facts, beside the data and outside its id.

Each line is written at once, so a kill loses none; a resumed stage repeats the steps after its last
checkpoint, and the reader keeps the later line of a step and one of equal samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from r1pipe.keys import JsonObject
from r1pipe.store import disk
from r1pipe.store.resources import PeakMemory

METRICS, SAMPLES, FACTS, SPENT = "metrics.jsonl", "samples.jsonl", "facts.json", "spent.json"
SPENT_EVERY_S = 2.0
"""How often time and memory are written down: a killed attempt loses at most this."""


class StageLog:
    """The files of one attempt, or of one published record, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        spent = disk.read_json(folder / SPENT) or {}
        self._seconds_before = float(spent.get("seconds", 0.0))
        self._peak_before = int(spent.get("peak_rss_bytes", 0))
        self._began = self._written = time.monotonic()
        self._memory = PeakMemory()
        self._facts: JsonObject = disk.read_json(folder / FACTS) or {}
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
        """Add to the facts."""
        self._facts.update(json.loads(json.dumps(facts)))
        disk.place_json(self.folder / FACTS, self._facts, durable=False)

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
        disk.place_json(self.folder / SPENT, spent, durable=False)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._samples.close()


def read_metrics(folder: Path) -> list[JsonObject]:
    """Return the values of each step, in the order of the steps' first lines."""
    merged: dict[int, JsonObject] = {}
    for row in _read_lines(folder / METRICS):
        merged.setdefault(row["step"], {}).update(row)
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
    if file.tell() and not path.read_bytes().endswith(b"\n"):
        file.write("\n")
    return file


def _write_line(file: TextIO, row: Mapping[str, object]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _read_lines(path: Path) -> list[JsonObject]:
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # torn by a kill; its step is repeated
            continue
    return rows
