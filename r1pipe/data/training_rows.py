"""From a source to training rows: its shape is found, bad rows are counted, the rest is yielded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from r1pipe.chat import PRESETS, Format, as_format
from r1pipe.data.bad_rows import BadRows
from r1pipe.data.messages import BadRow
from r1pipe.data.readings import LABELLED, Example, Generations, NoneCorrect
from r1pipe.data.shapes import Gives, Meaning, Shape, ShapeName, advice, detect
from r1pipe.errors import ArtifactError, StageError
from r1pipe.files import Record, described, records
from r1pipe.files.reading import FIRST_ROWS
from r1pipe.files.record import broken, some_names
from r1pipe.rows import SHARDS, check_columns, count_rows, schema_of, shards_of
from r1pipe.text import did_you_mean

OWN = ("prompt", "format", "completion", "messages", *LABELLED)
"""Columns that are read of r1pipe's own rows."""


@dataclass(frozen=True)
class Reading:
    """How a source is read; what is not said is found."""

    columns: Mapping[Meaning, str] = field(default_factory=dict)
    shape: ShapeName | None = None
    generations: Generations = "first-correct"
    check: Callable[[Example], object] = lambda _: None
    """Raises BadRow for an example that the stage cannot use."""


class ExampleReader:
    """Reads the examples of one source, and counts what it leaves out."""

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:
        """Find the shape; raises StageError if the first rows have none, SourceError if broken."""
        self.path = path
        self.reading = reading
        self.first = list(islice(self._records(), FIRST_ROWS))
        self.shape = self._found(self.first)
        self.bad = BadRows()
        self.num_read = 0
        self.none_correct = 0

    def examples(self) -> Iterator[tuple[Record, Example]]:
        """Yield every example with its row, one batch of rows in memory; call it once."""
        yield from self._examples(self._records())

    def _examples(self, rows: Iterable[Record]) -> Iterator[tuple[Record, Example]]:
        for record in rows:
            self.num_read += 1
            try:
                found = self.shape.examples(record.values, self.reading.generations)
                for example in found:
                    self.reading.check(example)
            except BadRow as reason:
                self.bad.add(record, str(reason))
            except NoneCorrect:
                self.none_correct += 1
            else:
                yield from ((record, example) for example in found)

    def found(self) -> str:
        """Say what the first rows are taken for; raises StageError if none can be used."""
        for record, example in self._examples(self.first):
            checked_format(self.path, record, example)
        count, bad = len(self.first), self.bad
        if len(bad) == count:
            raise StageError(
                f"{self.path}: none of the first {count} rows is usable: {bad.as_text()}; they were"
                f" read as {self.shape.does}"
            )
        first = f"the first {count} rows are usable"
        if bad:
            first = f"of the first {count} rows {count - len(bad)} are usable: {bad.as_text()}"
        files = "r1pipe's Parquet" if self._is_own else described(self.path)
        return f"{files}: {self.shape.does}; {first}"

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
        if not self._is_own:
            yield from records(self.path)
            return
        for shard in shards_of(self.path):
            yield from _records_of_shard(shard)

    @cached_property
    def _is_own(self) -> bool:
        """Whether a folder has rows as r1pipe writes them, with other files beside them or not."""
        if self.reading.columns or self.reading.shape or not list(self.path.glob(SHARDS)):
            return False
        try:
            names = schema_of(self.path).names
        except (OSError, pa.ArrowInvalid):  # told by whatever reads the files of others
            return False
        return all(name in names for name in OWN[:3])

    def _found(self, first: Sequence[Record]) -> Shape:
        """Return the shape of the first row that has one."""
        columns, name = self.reading.columns, self.reading.shape
        if not first:
            raise StageError(f"{self.path}: there are no rows in it")
        known = dict.fromkeys(column for record in first for column in record.values)
        for column in columns.values():
            if column not in known:
                end = did_you_mean(column, known)
                raise StageError(f"{self.path}: params.columns: no column '{column}'; {end}")
        shapes = (detect(record.values, columns, name) for record in first)
        found = next((shape for shape in shapes if shape is not None), None)
        if found is None and name is not None:
            have = some_names([*known])
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
    """Yield the rows of one shard as r1pipe writes it, with the columns that are needed."""
    row = 0
    try:
        file = pq.ParquetFile(shard)
        columns = [name for name in OWN if name in file.schema_arrow.names]
        for batch in file.iter_batches(1024, columns=columns):
            for values in batch.to_pylist():
                row += 1
                yield Record(shard.name, row, values)
    except (OSError, pa.ArrowInvalid) as error:
        what = f"it cannot be read after row {row} ({error})"
        raise broken(shard, what, "copy it again, or run what made it") from error


def rows_found(path: Path, reading: Reading | None = None, *wanted: Gives) -> str:
    """Say what a stage will make of a source's first rows, as `plan` shows it.

    Raises StageError, or SourceError, for what it could not read.
    """
    reader = ExampleReader(path, reading or Reading())
    check_gives(reader, *(wanted or ("rows",)))
    return reader.found()


def own_rows_found(path: Path, columns: Iterable[str], kind: str = "import-rows") -> str:
    """Say how many of r1pipe's own rows a source has; raise StageError for any others."""
    advice = f"put a stage of kind {kind} between the source and this one, and read its rows"
    if not list(path.glob(SHARDS)):
        raise StageError(f"{path}: these are not rows as r1pipe writes them; {advice}")
    try:
        check_columns(path, columns, advice)
    except ArtifactError as error:
        raise StageError(str(error)) from None
    return f"{count_rows(path):,} of r1pipe's own rows"


def check_gives(reader: ExampleReader, *wanted: Gives) -> None:
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
    column = shape.columns.get("completion", shape.columns.get("chosen", "messages"))
    value = reader.first[0].values.get(column)
    is_whole = isinstance(value, list) and len(value) > 1
    prompt = shape.columns.get("prompt", "prompt")
    columns = f"messages: {column}" if is_whole else f"prompt: {prompt}, completion: {column}"
    raise StageError(
        f"{reader.path}: these are preferences ({shape.does}), not rows to train on; a stage of"
        " kind import-preferences reads them. To train on the good answers alone, add a stage of"
        f" kind import-rows with params.columns: {{{columns}}}"
    )


def checked_format(path: Path, record: Record, example: Example, default: str = "chat") -> Format:
    """Return a row's format, or the default; raises StageError for one that is unknown."""
    given = default if example.format is None else str(example.format)
    try:
        return as_format(given)
    except StageError as error:
        close = difflib.get_close_matches(given, PRESETS, 1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise StageError(f"{path}: {record.place}: {error}{hint}") from None
