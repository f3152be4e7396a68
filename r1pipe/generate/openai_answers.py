"""What a completions server answers, read strictly: whatever does not fit is no answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r1pipe.generate.openai_client import Passing
from r1pipe.generate.protocol import Sampled
from r1pipe.models.interfaces import Tokenizer
from r1pipe.records import FinishReason

FINISHED = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
BYTES_PER_TOKEN, OTHER_BYTES = 128, 65_536
"""An answer may have so many bytes for each token of prompt and completion, and for the rest."""
TOKENIZED_AGAIN = 2
"""A text without ids may have so many times `max_tokens`: tokenizing again may give more tokens
than were sampled."""
BROKEN = "\ufffd"
"""What decoding gives for bytes that are no character; servers may leave the last of them out."""

TokenId = Annotated[int, Field(ge=0)]


class AnswerModel(BaseModel):
    """What a server says, without conversions; what nobody reads may be there."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Choice(AnswerModel):
    finish_reason: Literal["stop", "length"]
    text: str | None = None
    token_ids: list[TokenId] | None = None


class _Completion(AnswerModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


class _Model(AnswerModel):
    id: str


class _Models(AnswerModel):
    data: list[_Model]


Read = TypeVar("Read", bound=AnswerModel)


def served_names(data: bytes) -> list[str]:
    """Return the names of the models that a server has. Raises Passing for anything else."""
    return [each.id for each in read_answer(_Models, data).data]


def max_answer_bytes(prompt_tokens: int, max_tokens: int) -> int:
    """Return the most bytes that one completion's answer may have."""
    return OTHER_BYTES + BYTES_PER_TOKEN * (prompt_tokens + max_tokens)


def read_completion(
    data: bytes, index: int, tokenizer: Tokenizer, end_ids: Collection[int], max_tokens: int
) -> Sampled:
    """Return the completion in an answer: its ids, or those of its text.

    Ids must be of the vocabulary, no more than were asked for, and read as the text does. An end
    that the server left out is put back. Raises Passing for anything else.
    """
    (choice,) = read_answer(_Completion, data).choices
    reason, limit = FINISHED[choice.finish_reason], max_tokens
    if choice.token_ids is not None:
        ids = choice.token_ids
        _check_ids(ids, choice.text, tokenizer, end_ids)
    elif choice.text is not None:
        ids = list(tokenizer(choice.text, add_special_tokens=False)["input_ids"])
        limit = TOKENIZED_AGAIN * max_tokens
    else:
        raise Passing("an answer without a completion: neither text nor token_ids")
    if len(ids) > limit:
        raise Passing(f"{len(ids):,} tokens, though max_tokens is {max_tokens:,}")
    if reason is FinishReason.LENGTH and not ids:
        raise Passing("an answer without a completion: cut off, but no token")
    has_end = bool(ids) and ids[-1] in end_ids
    if reason is FinishReason.STOP and not has_end:
        ids = [*ids, tokenizer.eos_token_id]
    return Sampled(index, ids, [], reason)


def _check_ids(
    ids: Sequence[int], text: str | None, tokenizer: Tokenizer, end_ids: Collection[int]
) -> None:
    """Raise Passing for ids that no token has, or that read otherwise than the text."""
    if wrong := [i for i in ids if i >= len(tokenizer)]:
        raise Passing(
            f"token id {str(wrong[0])[:20]}, though the vocabulary has {len(tokenizer):,} tokens;"
            " does the server have the model of this stage?"
        )
    if text is None:
        return
    inner = ids[:-1] if ids and ids[-1] in end_ids else ids
    readings = {
        _letters(tokenizer.decode(each, skip_special_tokens=skip))
        for each in (ids, inner)
        for skip in (True, False)
    }
    if not any(BROKEN in each for each in readings) and not _reads_as(_letters(text), readings):
        raise Passing(
            "token_ids that read otherwise than the text; does the server have the model of this"
            " stage?"
        )


def _reads_as(text: str, readings: Collection[str]) -> bool:
    """Return whether a text is one of the readings, or ends with one.

    vLLM gives the end of a prompt again if its last bytes are no whole character.
    """
    return text in readings or any(each and text.endswith(each) for each in readings)


def _letters(text: str) -> str:
    """Return text without blanks, which servers and tokenizers join to words differently."""
    return "".join(text.split())


def read_answer(kind: type[Read], data: bytes) -> Read:
    """Return what a server says. Raises Passing for anything else."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise Passing(f"an answer without a completion: {said[:200]}") from None
