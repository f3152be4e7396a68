"""Conversations as token sequences: every trained turn after the prompt that the model would see.

A turn is trained as it would be sampled: its prompt is the chat template's rendering of all
messages before it, with the opening of an answer, and then come the turn's own text and the token
that ends it. What follows in the template shows that text as history. If the next turn's prompt
begins with exactly the tokens trained so far, both turns share one sequence; if not, the next turn
gets a sequence of its own. So a template that rewrites earlier turns is trained exactly too:
Qwen 3 and DeepSeek R1 take the thoughts out of them, and Llama 3 trims blanks.

No template is asked which tokens are the assistant's: most say nothing about it. It renders all
messages again for every turn, but only what it adds is tokenized (`r1pipe.models.pieces`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from typing import Literal

from r1pipe.chat import CHAT, Format
from r1pipe.errors import StageError
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.many_texts import ManyTexts
from r1pipe.models.pieces import Pieces
from r1pipe.models.prompts import after_opened, encode_prompt, opened_thought
from r1pipe.models.templates import TemplateError, render
from r1pipe.records import Message, TokenSequence

TrainOn = Literal["every-turn", "last-turn"]
Spans = Callable[[str], list[tuple[int, int]]]
"""A text -> parts of it, from character to character, ascending; one that goes past the text holds
the token that ends it too."""


def nothing(text: str) -> list[tuple[int, int]]:
    """Return no part of a text."""
    return []


class Untrainable(Exception):  # noqa: N818 - a reason to leave a row out
    """Why a row cannot be trained by this model, in words that are the same for all such rows."""


class TurnEncoder:
    """Makes token sequences of one model's prompts, completions and conversations."""

    def __init__(
        self, tokenizer: Tokenizer, end_ids: Collection[int] = (), untrained: Spans = nothing
    ) -> None:
        """`end_ids` are the tokens at which sampling of the model stops, beside the tokenizer's;
        `untrained` are the parts of what it says that it did not write."""
        self.tokenizer = tokenizer
        self.untrained = untrained
        self._ends = {tokenizer.eos_token_id, *end_ids} - {None}
        if not self._ends:
            raise StageError(
                "the tokenizer has no end-of-sequence token, so the model could never learn to"
                " stop; set eos_token in its tokenizer_config.json"
            )
        self._end = min(self._ends) if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self._pieces = Pieces(tokenizer)
        self._texts = ManyTexts(tokenizer)
        self._opened: dict[Format, str] = {}
        self._end_texts = [tokenizer.decode([end]) for end in sorted(self._ends)]

    def prepare(
        self, conversations: Iterable[tuple[Sequence[Message], Format]], train_on: TrainOn
    ) -> None:
        """Tokenize at once what the model says in conversations that will be encoded next."""
        self._texts.prepare(self._all_said(conversations, train_on))

    def _all_said(
        self, conversations: Iterable[tuple[Sequence[Message], Format]], train_on: TrainOn
    ) -> Iterator[str]:
        for messages, fmt in conversations:
            for number in _trained(messages, train_on):
                with suppress(Untrainable):  # encoding says why
                    parts, _ = self._parts(messages[number].content, fmt)
                    yield from (text for text, _ in parts if text)

    def encode(
        self, messages: Sequence[Message], train_on: TrainOn, fmt: Format = CHAT
    ) -> list[TokenSequence]:
        """Return the sequences of a conversation, usually one; raises Untrainable.

        A format's system message is for conversations without one; its suffix follows every
        question.
        """
        messages = _as_asked(messages, fmt)
        turns = _trained(messages, train_on)
        if not turns:
            raise Untrainable("no turn of the assistant is to be trained")
        sequences: list[TokenSequence] = []
        self._pieces.forget()
        for number in turns:
            prompt = self._prompt(messages[:number], fmt)
            turn = self._turn(prompt, messages[number].content, fmt)
            if not sequences or not _extend(sequences[-1], turn):
                sequences.append(turn)
        return sequences

    def encode_row(self, prompt: str, completion: str, fmt: Format) -> TokenSequence:
        """Return the sequence of one prompt and its completion; raises Untrainable."""
        return self._turn(encode_prompt(self.tokenizer, prompt, fmt), completion, fmt)

    def prompt(self, messages: Sequence[Message], fmt: Format = CHAT) -> list[int]:
        """Return what the model is given before its next turn, by its chat template.

        A template without a place for a system message gets it before the first user's words.
        """
        self._pieces.forget()
        return self._prompt(messages, fmt)

    def _prompt(self, messages: Sequence[Message], fmt: Format) -> list[int]:
        if not self.tokenizer.chat_template:
            return encode_prompt(self.tokenizer, messages[-1].content, fmt)  # says what to do
        try:
            return self._rendered(messages, fmt, is_asked=True)
        except Untrainable:
            if messages[0].role != "system" or len(messages) == 1:
                raise
            return self._rendered(_folded(messages), fmt, is_asked=True)

    def completion(self, text: str, fmt: Format) -> list[int]:
        """Return the tokens of what the model says, with one token that ends it.

        An end that the text has itself is not doubled, nor is a thought's opening that the prompt
        ends with. A text without a thought, after a prompt that opens one, closes it first.
        """
        return list(self._turn([], text, fmt).completion_ids)

    def _turn(self, prompt: list[int], text: str, fmt: Format) -> TokenSequence:
        """Return a turn after its prompt. Parts without loss are encoded apart from the others, as
        they were when it was sampled."""
        ids, trained = list[int](), list[bool]()
        parts, end_is_own = self._parts(text, fmt)
        for piece, is_own in parts:
            found = self._texts.ids(piece) if piece else []
            ids += found
            trained += [is_own] * len(found)
        if not self._ends.isdisjoint(ids):
            raise Untrainable("a token that ends a turn stands inside the completion")
        ids.append(self._end if fmt.template == "r1-zero" else self._chat_end)
        trained.append(end_is_own)
        return TokenSequence(prompt, ids, trained=None if all(trained) else trained)

    def _parts(self, text: str, fmt: Format) -> tuple[list[tuple[str, bool]], bool]:
        """Return the parts of what is said, each with whether it is trained; and whether the end of
        the turn is."""
        if fmt not in self._opened:
            self._opened[fmt] = opened_thought(self.tokenizer, fmt)
        text = after_opened(self._without_end(text), self._opened[fmt], fmt)
        parts, start, end_is_own = list[tuple[str, bool]](), 0, True
        for first, last in [*self.untrained(text), (len(text), len(text))]:
            parts += [(text[start:first], True), (text[first:last], False)]
            start, end_is_own = last, end_is_own and last <= len(text)
        return parts, end_is_own

    @cached_property
    def _chat_end(self) -> int:
        """The token with which the chat template ends an answer, if sampling stops at it; else the
        tokenizer's end of sequence."""
        asked = [Message("user", "a")]
        try:
            before = self._rendered(asked, CHAT, is_asked=True)
            whole = self._rendered([*asked, Message("assistant", "b")], CHAT, is_asked=False)
        except Untrainable:
            return self._end
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
        ends = (token for token in whole[len(list(same)) :] if token in self._ends)
        return next(ends, self._end)

    def _without_end(self, text: str) -> str:
        """Return a text without the end tokens that it was given at its end."""
        kept, is_ended = len(text), True
        while is_ended:
            last = kept
            while last and text[last - 1].isspace():
                last -= 1
            ends = [end for end in self._end_texts if text.endswith(end, 0, last)]
            if is_ended := bool(ends):
                kept = last - len(ends[0])
        text = text[:kept]
        if not text.strip():
            raise Untrainable("the completion is only a token that ends a turn")
        return text

    def _rendered(self, messages: Iterable[Message], fmt: Format, *, is_asked: bool) -> list[int]:
        turns = [{"role": each.role, "content": each.content} for each in messages]
        try:
            text = render(self.tokenizer, turns, dict(fmt.options), is_asked=is_asked)
        except TemplateError as error:
            raise Untrainable(f"the model's chat template refuses it ({error})") from error
        return self._pieces.ids(text)


def _trained(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Return the places of the turns to be trained."""
    turns = [
        number
        for number, each in enumerate(messages)
        if each.role == "assistant" and each.is_trained
    ]
    return turns if train_on == "every-turn" else turns[-1:]


def _extend(sequence: TokenSequence, turn: TokenSequence) -> bool:
    """Add a turn to a sequence if its prompt begins with all of it; return whether it does."""
    before = [*sequence.prompt_ids, *sequence.completion_ids]
    if turn.prompt_ids[: len(before)] != before:
        return False
    between = turn.prompt_ids[len(before) :]
    trained = [*_marks(sequence), *[False] * len(between), *_marks(turn)]
    sequence.completion_ids = [*sequence.completion_ids, *between, *turn.completion_ids]
    sequence.trained = trained
    return True


def _marks(sequence: TokenSequence) -> Sequence[bool]:
    return sequence.trained or [True] * len(sequence.completion_ids)


def _as_asked(messages: Sequence[Message], fmt: Format) -> Sequence[Message]:
    """Return messages with what the format says in every prompt."""
    if fmt.system and messages[0].role != "system":
        messages = [Message("system", fmt.system), *messages]
    if not fmt.suffix:
        return messages
    return [
        replace(each, content=fmt.question(each.content)) if each.role == "user" else each
        for each in messages
    ]


def _folded(messages: Sequence[Message]) -> list[Message]:
    """Return messages with the system's text before the first user's."""
    system, first, *rest = messages
    return [Message(first.role, f"{system.content}\n\n{first.content}"), *rest]
