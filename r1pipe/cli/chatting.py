"""A conversation with a model of a store, in the terminal or from a pipe.

The library is imported inside the functions: they load a model anyway.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from r1pipe.chat import HOUSE, PRESETS, Format, split_completion
from r1pipe.cli.printing import complain
from r1pipe.cli.streaming import Detokenizer
from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.settings import OwnFormat, Prompt, format_of

if TYPE_CHECKING:
    from r1pipe.generate.protocol import Generator, SamplingParams
    from r1pipe.generator_settings import SampleRun
    from r1pipe.models.interfaces import Tokenizer

ROOM_FRAC = 0.25
"""Share of a model's context that is kept free for an answer."""
CPU_TOKENS = 4096
"""Of a model's context, the most that vLLM keeps room for on a CPU."""
PROMPT = "> "
STOPPED = "interrupted"
"""Why a reply ended that Ctrl-C has ended."""
Tell: TypeAlias = Callable[[str], None]
Check: TypeAlias = Callable[[], None]


def _nothing(text: str) -> None:
    """Tell nobody."""


def _go_on() -> None:
    """Never end a reply."""


@dataclass(frozen=True)
class Reply:
    """What a model said; `thought` is None if it closed none."""

    thought: str | None
    answer: str
    finish_reason: str
    num_tokens: int


@dataclass
class Conversation:
    """The turns so far, and what continues them.

    A model is given its earlier answers without their thoughts, as R1 is served. In R1-Zero's
    format, which has one turn, it is given the last question only.
    """

    generator: Generator
    tokenizer: Tokenizer
    fmt: Format
    sampling: SamplingParams
    seed: int
    context: int | None
    """Tokens of the model's context; None if it has no end."""
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_telling(self) -> bool:
        """Whether text comes while it is generated, not only at the end."""
        from r1pipe.generate.protocol import TellingGenerator, TextTellingGenerator

        return isinstance(self.generator, TellingGenerator | TextTellingGenerator)

    def reply(self, text: str, tell: Tell = _nothing, check: Check = _go_on) -> Reply:
        """Return the model's answer to the next turn.

        `tell` is given the answer's text as it is generated, its last part at the end; some
        backends give all of it then. A KeyboardInterrupt, such as `check` may raise between two
        tokens, ends the reply there. A StageError, such as of a server that is gone, takes the turn
        out of the conversation.
        """
        if self.fmt.template == "r1-zero":
            self.turns.clear()
        self.turns.append({"role": "user", "content": text})
        try:
            said, num_tokens, reason = self._sampled(self._prompt_ids(), tell, check)
        except StageError:
            del self.turns[-1]
            raise
        reply = self._taken_apart(said, reason, num_tokens)
        self.turns.append({"role": "assistant", "content": reply.answer.strip()})
        if reason == STOPPED and not reply.answer:
            del self.turns[-2:]  # a model is not asked to continue from nothing
        return reply

    def _sampled(self, prompt_ids: Sequence[int], tell: Tell, check: Check) -> tuple[str, int, str]:
        """Return the text of a reply, how many tokens it has, and why it ended."""
        from r1pipe.generate.protocol import Request, TellingGenerator, TextTellingGenerator
        from r1pipe.generate.uniforms import request_seed
        from r1pipe.models.prompts import opened_thought

        request = Request(tuple(prompt_ids), request_seed(self.seed, "chat", len(self.turns)), 0)
        ids: Sequence[int] = ()
        text, parts = Detokenizer(self.tokenizer), list[str]()

        def on_tokens(index: int, so_far: Sequence[int]) -> None:
            nonlocal ids
            ids = so_far
            tell(text.text(ids))
            check()

        def on_text(part: str) -> None:
            parts.append(part)
            tell(part)
            check()

        if isinstance(self.generator, TellingGenerator):
            self.generator.on_tokens = on_tokens
        if isinstance(self.generator, TextTellingGenerator) and tell is not _nothing:
            self.generator.on_text = on_text
        tell(opened_thought(self.tokenizer, self.fmt))
        try:
            with redirect_stdout(sys.stderr):
                (sampled,) = self.generator.generate([request], self._fitted(len(prompt_ids)))
            ids, reason = sampled.token_ids, sampled.finish_reason.value
        except KeyboardInterrupt:
            if check is _go_on:
                raise
            reason = STOPPED
        if not (told := "".join(parts)):
            tell(text.text(ids, is_last=True))
        elif not ids:  # it was stopped: of the tokens only their text is known
            return told, len(self.tokenizer(told, add_special_tokens=False)["input_ids"]), reason
        return self.tokenizer.decode(ids, skip_special_tokens=True), len(ids), reason

    def _fitted(self, prompt_tokens: int) -> SamplingParams:
        """Return how to sample an answer that ends with the context; servers refuse others."""
        if self.context is None:
            return self.sampling
        room = max(1, self.context - prompt_tokens)
        return replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room))

    def _taken_apart(self, said: str, finish_reason: str, num_tokens: int) -> Reply:
        from r1pipe.models.prompts import opened_thought

        think = self.fmt.think or HOUSE
        text = opened_thought(self.tokenizer, self.fmt) + said
        parts = split_completion(text, think)
        if parts.answer_part is None:  # a thought that was opened and not closed
            return Reply(text.split(think[0], 1)[1].strip(), "", finish_reason, num_tokens)
        return Reply(parts.thought, parts.answer_part.strip(), finish_reason, num_tokens)

    def _prompt_ids(self) -> list[int]:
        """Return the prompt of all turns; the oldest go where the context is too short for them."""
        limit = None if self.context is None else int(self.context * (1 - ROOM_FRAC))
        ids, dropped = self._encoded(), 0
        while limit is not None and len(ids) > limit and len(self.turns) > 1:
            del self.turns[:2]
            dropped += 1
            ids = self._encoded()
        if dropped:
            complain(f"the context of {self.context} tokens is full: {dropped} turns are forgotten")
        return ids

    def _encoded(self) -> list[int]:
        from r1pipe.models.prompts import encode_prompt
        from r1pipe.models.templates import TemplateError, render_ids

        last = self.turns[-1]["content"]
        if self.fmt.template == "r1-zero" or len(self.turns) == 1:
            return encode_prompt(self.tokenizer, last, self.fmt)
        system = [{"role": "system", "content": self.fmt.system}] if self.fmt.system else []
        options = dict(self.fmt.options)
        try:
            return render_ids(self.tokenizer, [*system, *self.turns], options, is_asked=True)
        except TemplateError as error:
            raise StageError(f"the model's chat template refuses a second turn: {error}") from error


def format_for(params: JsonObject, chosen: str | None, system: str) -> Format:
    """Return the format to talk in: the one chosen, else the one that a stage was trained in.

    `params` are those of the stage's key; a kind without a format was trained on chat rows.
    """
    own = params.get("format", "chat")
    prompt = Prompt.model_validate(params.get("prompt") or {})
    named = chosen or (own if isinstance(own, str) else None)
    found = PRESETS[named] if named else format_of(OwnFormat.model_validate(own, strict=False))
    found = found if chosen else replace(found, system=prompt.system or found.system)
    return replace(found, system=system or found.system)


@contextmanager
def conversation(
    folder: Path, fmt: Format, run: SampleRun, sampling: SamplingParams, seed: int
) -> Iterator[Conversation]:
    """Yield a conversation with the model in a folder."""
    from r1pipe.generate.backends import open_generator
    from r1pipe.models.prompts import max_positions

    is_on_gpu, context = run.device.startswith("cuda"), max_positions(folder)
    if not is_on_gpu and run.generator.backend == "vllm":
        context = min(context or CPU_TOKENS, CPU_TOKENS)
        options = {"max_model_tokens": context, "kv_cache_mb": 1024}
        run = run.model_copy(update={"generator": run.generator.model_copy(update=options)})
    opened = open_generator(folder, run, "bfloat16" if is_on_gpu else "float32")
    with ExitStack() as stack:
        with redirect_stdout(sys.stderr):  # vLLM prints
            generator, tokenizer = stack.enter_context(opened)
        yield Conversation(generator, tokenizer, fmt, sampling, seed, context)


def turns_of_user() -> Iterator[str]:
    """Yield what the user says, a line each; Ctrl-D ends it. Empty lines are passed over."""
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - lines can then be edited
        with suppress(EOFError):
            while True:
                if line := input(PROMPT).strip():
                    yield line
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="backslashreplace")
    for line in sys.stdin:
        if line := line.strip():
            yield line
