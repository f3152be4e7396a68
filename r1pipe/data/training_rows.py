"""From a source to training rows: its shape is found, bad rows are counted, the rest is yielded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from r1pipe.chat import PRESETS, Format, as_format
from r1pipe.data.bad_rows import MAX_BAD_FRAC, BadRows
from r1pipe.data.files import Record, records
from r1pipe.data.messages import BadRow
from r1pipe.data.readings import LABELLED, Example, Generations, NoneCorrect
from r1pipe.data.shapes import Shape, ShapeName, advice, detect
from r1pipe.errors import StageError
from r1pipe.records import TokenSequence

if TYPE_CHECKING:
    from r1pipe.train.conversations import TrainOn, TurnEncoder

ROWS_LOOKED_AT = 100
"""Rows from the first, of which one has to have a known shape."""
OWN = ("prompt", "format", "completion", "messages", *LABELLED)
"""Columns that are read of r1pipe's own rows."""
MISSING = "chat"
"""The format of rows that do not say theirs."""


@dataclass(frozen=True)
class Reading:
    """How a source is read; what is not said is found."""

    columns: Mapping[str, str] = field(default_factory=dict)
    shape: ShapeName | None = None
    generations: Generations = "first-correct"


class ExampleReader:
    """Reads the examples of one source, and counts what it leaves out."""

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:
        """Find the shape; raises StageError if the first rows have none, SourceError if broken."""
        self.path = path
        self.reading = reading
        first = [record for record, _ in zip(self._records(), range(ROWS_LOOKED_AT), strict=False)]
        self.shape = self._found(first)
        self.bad = BadRows()
        self.num_read = 0
        self.none_correct = 0

    def examples(self) -> Iterator[tuple[Record, Example]]:
        """Yield every example with its row, one batch of rows in memory; call it once."""
        for record in self._records():
            self.num_read += 1
            try:
                found = self.shape.examples(record.values, self.reading.generations)
            except BadRow as reason:
                self.bad.add(record, str(reason))
            except NoneCorrect:
                self.none_correct += 1
            else:
                yield from ((record, example) for example in found)

    def check(self, max_bad_frac: float) -> None:
        """Raise StageError if too many rows were bad."""
        to_do = f"they were read as {self.shape.does}"
        self.bad.check(max_bad_frac, self.num_read, self.path, to_do)

    def facts(self) -> dict[str, object]:
        """Return what a stage notes of the source."""
        facts = {"shape": self.shape.name, "read_as": self.shape.does, "num_read": self.num_read}
        none = {"none_correct": self.none_correct} if self.shape.name == "openr1" else {}
        return facts | none | self.bad.as_note()

    def _records(self) -> Iterator[Record]:
        shards = sorted(self.path.glob("part-*.parquet"))
        if not shards:
            yield from records(self.path)
        for shard in shards:
            yield from _records_of_shard(shard)

    def _found(self, first: Sequence[Record]) -> Shape:
        """Return the shape of the first row that has one."""
        columns, name = self.reading.columns, self.reading.shape
        if not first:
            raise StageError(f"{self.path}: there are no rows in it")
        known = dict.fromkeys(column for record in first for column in record.values)
        for column in columns.values():
            if column not in known:
                close = difflib.get_close_matches(column, known, 1)
                end = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
                raise StageError(f"{self.path}: params.columns: no column '{column}'; {end}")
        shapes = (detect(record.values, columns, name) for record in first)
        found = next((shape for shape in shapes if shape is not None), None)
        if found is None and name is not None:
            have = ", ".join(known)
            raise StageError(f"{self.path}: its columns {have} are not those of shape '{name}'")
        if found is None and columns:
            raise StageError(
                f"{self.path}: params.columns {', '.join(columns)} make no row; give prompt and"
                " completion, messages, or prompt, chosen and rejected"
            )
        if found is None:
            raise StageError(f"{self.path}: {advice(first[0].values)}")
        return found


def _records_of_shard(shard: Path) -> Iterator[Record]:
    """Yield the rows of one shard as r1pipe writes it; of its own shape only what is needed."""
    file = pq.ParquetFile(shard)
    names = file.schema_arrow.names
    is_own = all(name in names for name in OWN[:3])
    columns = [name for name in OWN if name in names] if is_own else None
    row = 0
    for batch in file.iter_batches(1024, columns=columns):
        for values in batch.to_pylist():
            row += 1
            yield Record(shard.name, row, values)


def training_sequences(
    path: Path,
    encoder: TurnEncoder,
    max_tokens: int,
    *,
    max_rows: int | None = None,
    train_on: TrainOn = "every-turn",
    max_bad_frac: float = MAX_BAD_FRAC,
) -> tuple[list[TokenSequence], dict[str, object]]:
    """Return what supervised training reads of a source, and what a stage notes of it.

    Raises StageError for rows of another kind, too many bad ones, or none.
    """
    from r1pipe.train.supervised import sequences_of

    reader = ExampleReader(path)
    check_gives(reader, "rows")
    rows = (
        (record, format_of(path, record, example), example.messages)
        for record, example in islice(reader.examples(), max_rows)
    )
    sequences, too_long = sequences_of(encoder, rows, max_tokens, reader.bad.add, train_on)
    reader.check(max_bad_frac)
    if not sequences:
        raise StageError(f"{path}: no row to train on ({too_long} are over {max_tokens} tokens)")
    return sequences, {"too_long": too_long, **reader.facts()}


def check_gives(reader: ExampleReader, *wanted: str) -> None:
    """Raise StageError if a source does not give what a stage reads; say which kind does."""
    shape = reader.shape
    if shape.gives in wanted:
        return
    if shape.gives == "rows":
        raise StageError(
            f"{reader.path}: these are rows ({shape.does}), not preferences; a stage of kind"
            " import-rows reads them. Preferences have chosen and rejected, or a label: say which"
            " columns with params.columns of a stage of kind import-preferences"
        )
    better = "chosen" if shape.gives == "pairs" else "completion"
    raise StageError(
        f"{reader.path}: these are preferences ({shape.does}), not rows to train on; a stage of"
        " kind import-preferences reads them. To train on the good answers alone, add a stage of"
        f" kind import-rows with params.columns: {{prompt: prompt, completion: {better}}}"
    )


def format_of(path: Path, record: Record, example: Example) -> Format:
    """Return a row's format; raises StageError for one that is unknown."""
    given = MISSING if example.format is None else example.format
    try:
        return as_format(str(given))
    except StageError as error:
        close = difflib.get_close_matches(str(given), PRESETS, 1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise StageError(f"{path}: {record.place}: {error}{hint}") from None
