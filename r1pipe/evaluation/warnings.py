"""What looks wrong in the completions of an evaluation: hardly any answers, or most of them cut."""

from __future__ import annotations

from collections.abc import Sequence

from r1pipe.audit.reasons import example_lines, reason_of
from r1pipe.chat import CHAT, AnyFormat
from r1pipe.records import FinishReason, Row, Verdict

NO_ANSWER_FRAC = 0.9
TRUNCATED_FRAC = 0.8
NUM_EXAMPLES = 2


def completion_warnings(rows: Sequence[Row], benchmark: str, fmt: AnyFormat = CHAT) -> list[str]:
    """Return what to say of one benchmark's samples, with two examples and their reasons.

    Completions without an answer count as wrong, so a model that is only cut off, or answers in
    another format, would pass for one that knows nothing.
    """
    unanswered = [row for row in rows if row["verdict"] == Verdict.NO_ANSWER]
    cut = [row for row in rows if row["finish_reason"] == FinishReason.LENGTH]
    said = []
    if len(unanswered) >= NO_ANSWER_FRAC * len(rows) > 0:
        said.append(
            f"{benchmark}: {len(unanswered)} of {len(rows)} completions have no answer; does the"
            f" model answer in this format?{_examples(unanswered, fmt)}"
        )
    if len(cut) >= TRUNCATED_FRAC * len(rows) > 0:
        said.append(
            f"{benchmark}: {len(cut)} of {len(rows)} completions are cut off at max_tokens; give"
            f" more tokens, or see whether the model ends its completions.{_examples(cut, fmt)}"
        )
    return said


def _examples(rows: Sequence[Row], fmt: AnyFormat) -> str:
    """Return the first and the middle one of some rows as examples."""
    lines = [" Examples:"]
    for row in rows[:: max(1, len(rows) // NUM_EXAMPLES)][:NUM_EXAMPLES]:
        verdict, finish_reason = row["verdict"], row["finish_reason"]
        reason = reason_of(row["completion"], row["gold"], verdict, finish_reason, fmt)
        lines += example_lines(row["prompt"], row["completion"], reason)
    return "\n".join(lines)
