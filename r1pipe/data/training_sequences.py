"""From training rows to the token sequences of supervised training.

Apart from the reading of rows, since what only reads them does not depend on how models train.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from r1pipe.data.bad_rows import MAX_BAD_FRAC
from r1pipe.data.training_rows import ExampleReader, check_gives, checked_format
from r1pipe.errors import StageError
from r1pipe.records import TokenSequence
from r1pipe.train.conversations import TrainOn, TurnEncoder
from r1pipe.train.supervised import sequences_of


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
    reader = ExampleReader(path)
    check_gives(reader, "rows")
    rows = (
        (record, checked_format(path, record, example), example.messages)
        for record, example in islice(reader.examples(), max_rows)
    )
    sequences, too_long = sequences_of(encoder, rows, max_tokens, reader.bad.add, train_on)
    reader.check(max_bad_frac)
    if not sequences:
        raise StageError(f"{path}: no row to train on ({too_long} are over {max_tokens} tokens)")
    return sequences, {"too_long": too_long, **reader.facts()}
