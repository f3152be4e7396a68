"""Kept traces as training rows of another format."""

from __future__ import annotations

from r1pipe.chat import CHAT, AnyFormat, as_format, render_completion, split_completion
from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.tasks.world import summarise
from r1pipe.verify.reading.extract import extract_answer
from r1pipe.verify.reading.recast import recast


def rewritten(row: Row, target: AnyFormat = CHAT) -> Row:
    """Return a kept trace as a row in another format, with a readable summary.

    Raises StageError for a trace without a thought where the format has one.
    """
    plain = recast(row["completion"], row["format"])
    answer, thought = extract_answer(plain), split_completion(plain).thought
    assert answer is not None, f"{row['id']}: a correct trace has an answer"
    if thought is None and as_format(target).think is not None:
        raise StageError(
            f"{row['id']}: a trace without a thought cannot become a row with one; give"
            " params.format a `think`, or set `think: none` in params.rows_format"
        )
    summary = summarise(answer, row["language"])
    completion = render_completion(thought or "", answer, target, summary)
    return row | {"format": as_format(target).text, "completion": completion}
