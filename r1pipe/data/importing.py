"""From a data set of any known shape to r1pipe's own rows and preferences."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa
from pydantic import Field

from r1pipe.data.readings import Example
from r1pipe.data.shapes import Gives, Meaning, ShapeName
from r1pipe.data.training_rows import ExampleReader, Reading, check_gives
from r1pipe.errors import StageError
from r1pipe.files import Record
from r1pipe.keys import digest_bytes, digest_json
from r1pipe.records import Message, Row, messages_to_json
from r1pipe.rows import with_samples, write_rows
from r1pipe.stage import Context, StageModel

ROWS_PER_CHECK = 10_000
ID_DIGITS = 16
TEXT = pa.string()
PAIR_SCHEMA = pa.schema(
    [(name, TEXT) for name in ("problem_id", "prompt", "chosen", "rejected", "messages", "source")]
)
LABEL_SCHEMA = pa.schema(
    [
        *((name, TEXT) for name in ("problem_id", "prompt", "completion")),
        ("is_safe", pa.float64()),
        *((name, TEXT) for name in ("messages", "source")),
    ]
)
ROW_SCHEMA = pa.schema(
    [
        *((n, TEXT) for n in ("problem_id", "task", "language", "format", "prompt", "completion")),
        *((n, TEXT) for n in ("messages", "source")),
    ]
)


class ImportParams(StageModel):
    """What both kinds of import take."""

    seed: int = 0
    """Of the choice of `num_rows`."""
    num_rows: int | None = Field(default=None, gt=0)
    """Most rows to write, drawn by `seed`, in the order of the source; default: all."""
    columns: dict[Meaning, str] = Field(default_factory=dict)
    """What it means -> the column, such as `{prompt: question, completion: answer}`; then no other
    column counts. Default: found by the names of the columns."""
    shape: ShapeName | None = None
    """One shape in place of the first that fits the columns."""
    max_bad_frac: float = Field(default=0.01, ge=0, le=1)
    """Share of rows that may be empty, null or not text; more than that stops the stage."""
    max_chars: int | None = Field(default=None, gt=0)
    """Rows with more characters are left out and counted."""
    duplicates: Literal["drop-equal", "one-per-prompt", "keep"] = "drop-equal"
    """Rows equal to an earlier one are left out, or all rows but the first of each prompt."""


@dataclass
class LeftOut:
    """Good rows that are left out, and prompts that have several answers."""

    repeats: int = 0
    """Equal to an earlier row."""
    other_answers: int = 0
    """The prompt of an earlier row with another answer; kept unless one per prompt is asked for."""
    over_max_chars: int = 0
    over_num_rows: int = 0


ToRow = Callable[[Record, Example], Row]
Makers: TypeAlias = Mapping[Gives, tuple[pa.Schema, ToRow]]
"""For each of what a source may give: the schema, and what makes the row of an example."""


def write_imported(
    context: Context,
    path: Path,
    params: ImportParams,
    reading: Reading,
    makers: Makers,
) -> None:
    """Write what a source holds as the output `rows`, and note what was left out and why.

    In memory are one shard and digests of 16 bytes of all rows.
    """
    reader = ExampleReader(path, reading)
    check_gives(reader, *makers)
    schema, to_row = makers[reader.shape.gives]
    left_out, chosen = LeftOut(), None
    if params.num_rows is not None:
        count = sum(1 for _ in _kept(ExampleReader(path, reading), params, LeftOut()))
        if count > params.num_rows:
            draw = random.Random(f"import:{params.seed}")
            chosen = frozenset(draw.sample(range(count), params.num_rows))
            left_out.over_num_rows = count - params.num_rows

    def rows() -> Iterator[Row]:
        for number, (record, example) in enumerate(_kept(reader, params, left_out)):
            if number % ROWS_PER_CHECK == 0:
                context.stop_if_asked()
            if chosen is None or number in chosen:
                yield to_row(record, example)

    num_rows = write_rows(context.output("rows"), with_samples(context, rows()), schema)
    reader.check(params.max_bad_frac)
    context.note(num_rows=num_rows, **reader.facts(), **asdict(left_out))
    if not num_rows:
        raise StageError(f"{context.name}: nothing of {path} is left to write ({asdict(left_out)})")


def _kept(
    reader: ExampleReader, params: ImportParams, left_out: LeftOut
) -> Iterator[tuple[Record, Example]]:
    """Yield the examples that are neither too long nor repeats."""
    whole: set[bytes] = set()
    prompts: set[bytes] = set()
    for record, example in reader.examples():
        if params.max_chars is not None and _num_chars(example) > params.max_chars:
            left_out.over_max_chars += 1
            continue
        if params.duplicates == "keep":
            yield record, example
            continue
        mark, asked = _mark(example), _mark_of(example.messages[:-1])
        if mark in whole:
            left_out.repeats += 1
            continue
        left_out.other_answers += asked in prompts
        is_new = asked not in prompts
        whole.add(mark)
        prompts.add(asked)
        if is_new or params.duplicates != "one-per-prompt":
            yield record, example


def _num_chars(example: Example) -> int:
    return sum(len(each.content) for each in example.messages) + len(example.rejected or "")


def _mark(example: Example) -> bytes:
    """Return 16 bytes that are equal for equal examples."""
    more = [Message("rejected", example.rejected or ""), Message("label", str(example.label))]
    return _mark_of([*example.messages, *more])


def _mark_of(messages: list[Message]) -> bytes:
    return bytes.fromhex(digest_bytes(messages_to_json(messages).encode())[:32])


# ---- one row -------------------------------------------------------------------------------------


def prompt_text(before: list[Message]) -> str:
    """Return what comes before an answer as one text, without the system message.

    It is there for reading, mixing and decontamination; a model is given the messages.
    """
    return "\n\n".join(each.content for each in before if each.role != "system")


def is_plain(before: list[Message]) -> bool:
    """Return whether one user's text is all that comes before an answer."""
    return len(before) == 1 and before[0].role == "user"


def problem_id(task: str, prompt: str) -> str:
    """Return the id of rows with the same prompt."""
    return f"{task}-{digest_json([prompt])[:ID_DIGITS]}"


def place_of(path: Path, record: Record) -> str:
    """Return where a row stood; a single file's name is not in its digest, and so not in here."""
    return record.place if path.is_dir() else str(record.row)


def asked(path: Path, record: Record, example: Example) -> Row:
    """Return what a row of preferences has beside its answers."""
    before = example.messages[:-1]
    prompt = prompt_text(before)
    return {
        "problem_id": problem_id("preference", prompt),
        "prompt": prompt,
        "messages": None if is_plain(before) else messages_to_json(before),
        "source": place_of(path, record),
    }
