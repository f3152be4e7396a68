"""A reply while it is generated: token ids become text, and text becomes what a terminal shows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from r1pipe.chat import Think
from r1pipe.cli.printing import say_part

if TYPE_CHECKING:
    from r1pipe.models.interfaces import Tokenizer

UNFINISHED = "\ufffd"
"""What the bytes of a character decode to before all of them are there."""
MAX_HELD_TOKENS = 16
"""Most tokens that wait for the end of a character."""


class Detokenizer:
    """The text of token ids as they come; ids whose character is not whole yet are held.

    A token's text may depend on the one before (a blank, a byte), so two neighbouring pieces are
    decoded together: the time is linear in the number of tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = 0
        """Where the last piece that was given begins."""
        self._end = 0
        """Where it ends."""

    def text(self, ids: Sequence[int], *, is_last: bool = False) -> str:
        """Return what all ids so far add to the text given before; the last time all of it."""
        before = self._decoded(ids[self._start : self._end])
        now = self._decoded(ids[self._start :])
        is_full = is_last or len(ids) - self._end >= MAX_HELD_TOKENS
        if now.endswith(UNFINISHED) and not is_full:
            return ""
        self._start, self._end = self._end, len(ids)
        return now[len(before) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


class ReplyPrinter:
    """Prints a reply as its text comes: thought dimmed, tags left out, each part on lines of its
    own without blanks around it.

    What may be the beginning of a tag, or the blanks at a part's end, is held until more comes.
    """

    def __init__(self, think: Think, file: TextIO) -> None:
        self._opener, self._closer = think
        self._file = file
        self._held = ""
        self._is_thought = False
        self._has_begun = False

    def add(self, text: str) -> None:
        """Print what is certain now."""
        self._held += text
        while found := self._first_tag():
            place, tag = found
            self._print(self._held[:place].rstrip())
            self._end_line()
            self._held = self._held[place + len(tag) :]
            self._is_thought = tag == self._opener
        certain = self._held[: len(self._held) - self._begun_tag()].rstrip()
        self._print(certain)
        self._held = self._held[len(certain) :]

    def end(self) -> None:
        """Print what is held; the reply has ended."""
        self._print(self._held.rstrip())
        self._end_line()
        self._held = ""

    @property
    def _tags(self) -> tuple[str, ...]:
        return (self._closer,) if self._is_thought else (self._opener, self._closer)

    def _first_tag(self) -> tuple[int, str] | None:
        places = ((self._held.find(tag), tag) for tag in self._tags)
        return min((found for found in places if found[0] >= 0), default=None)

    def _begun_tag(self) -> int:
        """Return how many characters at the end may be the beginning of a tag."""
        return max(
            size
            for tag in self._tags
            for size in range(len(tag))
            if self._held.endswith(tag[:size])
        )

    def _print(self, text: str) -> None:
        text = text if self._has_begun else text.lstrip()
        if text:
            self._has_begun = True
            say_part(text, self._file, is_dimmed=self._is_thought)

    def _end_line(self) -> None:
        if self._has_begun:
            say_part("\n", self._file)
        self._has_begun = False


@contextmanager
def gentle_interrupt(is_checked: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if Ctrl-C was pressed since.

    So an engine is stopped between two tokens and not in the middle of its work. The second
    Ctrl-C, and the first one where nobody calls the function, is raised wherever the process is.
    """
    is_pressed = False

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal is_pressed
        if is_pressed or not is_checked:
            raise KeyboardInterrupt
        is_pressed = True

    def check() -> None:
        if is_pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
