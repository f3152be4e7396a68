"""Completions of all models side by side, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1pipe.records import FinishReason, Row
from r1pipe.report.lengths import Counted, Lengths, histograms
from r1pipe.rows import read_rows
from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

MAX_CHARS = 4_000
COLUMNS = (
    *("benchmark", "prompt", "gold", "task", "completion", "extracted", "verdict"),
    *("num_tokens", "finish_reason"),
)


@dataclass(frozen=True)
class Samples:
    """Completions as columns, so that many of them stay small.

    `problems` has [set, prompt, gold, task]; `rows` has [problem, stage, completion, answer read,
    verdict, tokens, rewards], the first two as places in `problems` and `stages`.
    """

    stages: list[str]
    problems: list[tuple[str, str, str, str]]
    rows: list[tuple[int, int, str, str, str, int | None, str]]
    lengths: list[Lengths]
    left_out: int
    """Completions that are in the store and not here."""


def collect_samples(records: Mapping[str, ActionRecord], store: Store, max_rows: int) -> Samples:
    """Collect the first `max_rows` completions of every evaluation, and those that GRPO kept.

    `records` has them by the name of the stage.
    """
    made = _Collector(max_rows)
    for name, record in records.items():
        is_read = record.kind == "evaluate" and store.has_artifact(record)
        folder = store.output_dir(record, "samples") if is_read else None
        if folder is not None and folder.is_dir():
            made.add_evaluation(visible(name), read_rows(folder, COLUMNS))
        elif record.kind == "grpo":
            made.add_training(visible(name), store.samples(record))
    return made.samples()


class _Collector:
    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.stages: list[str] = []
        self.problems: dict[tuple[str, str, str, str], int] = {}
        self.rows: list[tuple[int, int, str, str, str, int | None, str]] = []
        self.counted: list[Counted] = []
        self.left_out = 0

    def samples(self) -> Samples:
        """Return what was taken."""
        lengths = histograms(self.counted)
        return Samples(self.stages, list(self.problems), self.rows, lengths, self.left_out)

    def add_evaluation(self, stage: str, rows: Iterator[Row]) -> None:
        """Take the first rows of an evaluation, and the lengths of all."""
        self.stages.append(stage)
        tokens, num_cut = Counter[int](), 0
        for number, row in enumerate(rows):
            tokens[row["num_tokens"]] += 1
            num_cut += row["finish_reason"] == FinishReason.LENGTH
            if number >= self.max_rows:
                self.left_out += 1
                continue
            problem = self._place(row["benchmark"], row["prompt"], row["gold"], row["task"])
            texts = (_text(row["completion"]), _text(row["extracted"] or ""), row["verdict"])
            self.rows.append((problem, len(self.stages) - 1, *texts, row["num_tokens"], ""))
        if tokens:
            self.counted.append(Counted(stage, tokens, num_cut))

    def add_training(self, stage: str, rows: Sequence[Row]) -> None:
        """Take the samples that GRPO kept, with their rewards."""
        self.stages.append(stage)
        for row in rows[: self.max_rows]:
            if not {"prompt", "completion", "reward"} <= row.keys():
                continue
            problem = self._place("training", row["prompt"], row.get("gold", ""), "")
            texts = (_text(row["completion"]), "", _text(row.get("verdict") or ""))
            self.rows.append((problem, len(self.stages) - 1, *texts, None, _rewards(row)))

    def _place(self, *parts: str) -> int:
        benchmark, prompt, gold, task = map(_text, parts)
        return self.problems.setdefault((benchmark, prompt, gold, task), len(self.problems))


def _rewards(row: Row) -> str:
    """Return a completion's reward, and the rewards by name that it is the weighted sum of."""
    named = [f"{_text(name)} {value:.4g}" for name, value in (row.get("rewards") or {}).items()]
    return ": ".join([f"{row['reward']:.4g}", *([", ".join(named)] if named else [])])


def _text(text: str) -> str:
    """Return model or problem text as the page may hold it."""
    shown = visible(text[:MAX_CHARS], keep_lines=True)
    return shown if len(text) <= MAX_CHARS else f"{shown} ... ({len(text):,} characters)"
