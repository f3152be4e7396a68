"""What a reward is given: a completion, of which most rewards read the text alone."""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.records import FinishReason


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion as rewards see it."""

    text: str
    num_tokens: int = 0
    """Those that the policy wrote, end of sequence included."""
    finish_reason: FinishReason = FinishReason.STOP
    max_tokens: int | None = None
    """The limit that it was sampled under, if it is known."""
