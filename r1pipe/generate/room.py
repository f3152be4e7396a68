"""How many tokens a completion may have: prompt and completion share the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request

DROP = "drop such problems"


def check_room(requests: Sequence[Request], limit: int | None, remedy: str = "") -> None:
    """Raise StageError, before anything is sampled, if prompts leave no room in `limit` tokens.

    A model would go on past its context in silence, on positions that it was never trained on.
    """
    if limit is None:
        return
    prompts = {request.prompt_ids for request in requests}
    too_long = [len(prompt) for prompt in prompts if len(prompt) >= limit]
    if too_long:
        raise no_room(too_long, len(prompts), limit, DROP, remedy)


def no_room(
    too_long: Sequence[int], num_prompts: int, limit: int, drop: str, remedy: str = ""
) -> StageError:
    """Return what is said of prompts of too many tokens, `drop` being how to leave them out."""
    return StageError(
        f"{len(too_long)} of {num_prompts} prompts leave no room in the {limit} tokens of the"
        f" model's context (the longest has {max(too_long)}); {drop}, or take a model with a longer"
        f" context{remedy}"
    )


def room_of(request: Request, max_tokens: int, limit: int | None) -> int:
    """Return the most tokens that a request's completion may have."""
    return max_tokens if limit is None else min(max_tokens, limit - len(request.prompt_ids))
