"""Tables of many numbers, told by every rank to every rank: Arrow's bytes, never text.

A rollout on eight GPUs has millions of tokens a rank, with a few float64 numbers each: as JSON they
take seconds to write and to read.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from r1pipe.ranks import Ranks


def gather_tables(ranks: Ranks, table: pa.Table) -> list[pa.Table]:
    """Return the tables of all ranks, by rank, on every rank."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    told = ranks.exchange(sink.getvalue().to_pybytes())
    return [pa.ipc.open_stream(data).read_all() for data in told]


def gather_floats(ranks: Ranks, rows: Sequence[Sequence[float]]) -> list[list[list[float]]]:
    """Return every rank's rows of float64 numbers, by rank, on every rank; rows may be ragged."""
    tables = gather_tables(ranks, pa.table({"row": ragged(rows, np.float64)}))
    return [table["row"].to_pylist() for table in tables]


def ragged(rows: Sequence[Sequence[float]], dtype: type[np.generic]) -> pa.LargeListArray:
    """Return rows of numbers, of any lengths, as one column."""
    ends = [0, *accumulate(map(len, rows))]
    values = np.fromiter(chain.from_iterable(rows), dtype, ends[-1])
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values)


def rows_of(column: pa.ChunkedArray, code: Literal["i", "d"]) -> list[array[Any]]:
    """Return the rows of a column that `ragged` made, as arrays of a type code: int32, float64."""
    rows = []
    for chunk in column.chunks:
        values, ends = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        for start, end in pairwise(ends.tolist()):
            rows.append(array(code))
            rows[-1].frombytes(values[start:end].astype(code).tobytes())
    return rows
