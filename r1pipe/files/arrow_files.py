"""Parquet and Arrow files, one batch of rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from r1pipe.files.layout import DataFile
from r1pipe.files.record import broken
from r1pipe.files.text import unreadable
from r1pipe.records import Row

if TYPE_CHECKING:
    import pyarrow as pa  # when a file is read: plans of other stages need none of it

ROWS_AT_ONCE = 256
BUFFER_BYTES = 1 << 20
_AGAIN = "copy or write the file again"


def read_parquet(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield number and values of the rows of a Parquet file."""
    import pyarrow.parquet as pq

    with _opened(file) as stream:
        # with a buffer, column chunks are read piece by piece instead of whole
        parquet = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        yield from _rows(file, parquet.iter_batches(ROWS_AT_ONCE))


def read_arrow(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield number and values of the rows of an Arrow file, or of a stream of batches."""
    import pyarrow as pa

    with _opened(file) as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        if is_file:
            reader = pa.ipc.open_file(stream)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(stream))
        yield from _rows(file, batches)


@contextmanager
def _opened(file: DataFile) -> Iterator[IO[bytes]]:
    import pyarrow as pa

    try:
        with file.path.open("rb") as stream:
            if not stream.read(1):
                raise broken(file.path, "it is empty", _AGAIN)
            stream.seek(0)
            yield stream
    except pa.ArrowException as error:
        raise _damaged(file, error) from error
    except OSError as error:
        if error.errno is None:
            raise _damaged(file, error) from error
        raise unreadable(file, error) from error


def _damaged(file: DataFile, error: Exception) -> Exception:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return broken(file.path, f"it is damaged or not {file.format}: {first}", _AGAIN)


def _rows(file: DataFile, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Row]]:
    row = 0
    for batch in batches:
        names = batch.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise broken(file.path, f"two columns are called {twice[0]!r}", "rename one of them")
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            part = batch.slice(start, ROWS_AT_ONCE)
            for values in _values(file, part, row):
                row += 1
                yield row, values


def _values(file: DataFile, batch: pa.RecordBatch, before: int) -> list[Row]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                what = f"a text in it is not UTF-8 ({error.reason})"
                raise broken(file.path, what, "write it again", before + index + 1) from error
        raise
