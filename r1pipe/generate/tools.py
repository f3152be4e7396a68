"""Programs inside completions: run in the sandbox, and what they print goes on in the completion.

Tool-integrated and program-of-thought answers (DeepSeekMath, arXiv:2402.03300, sections 2.3 and 3;
arXiv:2309.17452, arXiv:2211.12588). Where a completion closes a code block, it is cut at that
token, the program is run, and its output is appended as tokens that the policy did not sample. Then
sampling goes on from there.

Backends know nothing of it: they sample on past the block, and that is thrown away. Where to cut
depends only on what is before it, so what is kept has the distribution of sampling that stops
there. Programs share nothing with one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from r1pipe.generate.protocol import (
    Generator,
    GeneratorWrapper,
    Request,
    Sampled,
    SamplingParams,
    in_prompt_order,
)
from r1pipe.generate.room import room_of
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.programs import program_of
from r1pipe.records import FinishReason
from r1pipe.sandbox.pool import shared
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Limits, Outcome, Status
from r1pipe.sandbox.strength import require
from r1pipe.settings import Tools

SAID: dict[Status, str] = {
    Status.TIMEOUT: "timeout",
    Status.TOO_MUCH_OUTPUT: "too much output",
    Status.CRASHED: "the sandbox ended",
}
"""What stands in place of an error's last line, where a program did not write one."""


@dataclass
class _Written:
    """One completion while it is being written."""

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_sampled: list[bool] = field(default_factory=list)
    reason: FinishReason = FinishReason.STOP

    def add(self, ids: Sequence[int], logprobs: Sequence[float], is_sampled: bool) -> None:
        """Append tokens; those that were not sampled have log-probability 0, which nobody reads."""
        self.ids += ids
        self.logprobs += logprobs
        self.is_sampled += [is_sampled] * len(ids)

    def ended(self) -> Sampled:
        """Return it as a whole."""
        mask = None if all(self.is_sampled) else self.is_sampled
        return Sampled(self.request.index, self.ids, self.logprobs, self.reason, mask)


class ToolGenerator(GeneratorWrapper):
    """A generator whose completions run programs."""

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        tools: Tools,
        context: int | None,
        batch: int | None = None,
    ) -> None:
        """`context` is how many positions the model has. With `batch`, so many requests are
        finished before others begin, in the order in which an in-process sampler takes them."""
        require()
        super().__init__(generator)
        self.tokenizer = tokenizer
        self.tools = tools
        self.context = context
        self.batch = batch

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, outputs of its programs included.

        All of it counts towards `max_tokens`. An output that does not fit ends the completion
        before it.
        """
        ordered = sorted(requests, key=in_prompt_order)
        size = self.batch or max(1, len(ordered))
        for start in range(0, len(ordered), size):
            yield from self._rounds(ordered[start : start + size], sampling)

    def _rounds(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        written = {request.index: _Written(request) for request in requests}
        waiting = list(requests)
        for number in range(self.tools.max_rounds + 1):
            programs: dict[int, str] = {}
            for sampled in self.generator.generate(waiting, sampling):
                own = written[sampled.index]
                left = sampling.max_tokens - len(own.ids)
                program = self._take(own, sampled, left, number == self.tools.max_rounds)
                if program is None:
                    yield own.ended()
                else:
                    programs[sampled.index] = program
            waiting = []
            for index, output in sorted(self._run(programs).items()):
                if self._append(written[index], output, sampling):
                    waiting.append(self._next(written[index], number))
                else:
                    yield written[index].ended()
            if not waiting:
                return

    def _take(self, own: _Written, sampled: Sampled, left: int, is_last: bool) -> str | None:
        """Add what was sampled, up to the first closed program; return that program.

        In the last round programs are not run any more, and all is added that there is room for.
        """
        ids = sampled.token_ids[:left]
        count, program = (len(ids), None) if is_last else self._cut(ids)
        own.add(ids[:count], sampled.logprobs[:count], is_sampled=True)
        own.reason = FinishReason.LENGTH
        if len(ids) == len(sampled.token_ids):
            own.reason = sampled.finish_reason
        return program

    def _cut(self, ids: Sequence[int]) -> tuple[int, str | None]:
        """Return how many tokens there are up to the first closed program, and that program."""
        text = self.tokenizer.decode(list(ids))
        if program_of(text) is None:
            return len(ids), None
        low, high = 1, len(ids)  # a prefix of `high` tokens has it, one of `low` - 1 does not
        while low < high:
            middle = (low + high) // 2
            if program_of(self.tokenizer.decode(list(ids[:middle]))) is None:
                low = middle + 1
            else:
                high = middle
        return high, program_of(self.tokenizer.decode(list(ids[:high])))

    def _run(self, programs: dict[int, str]) -> dict[int, str]:
        """Run programs, as many at once as there are sandboxes; return what goes on by index."""
        wall_s = self.tools.wall_s
        limits = replace(Limits(), wall_s=wall_s, cpu_s=max(1, round(wall_s)))
        asked = {
            index: shared().submit(lambda text=text: run_python(text, limits=limits))  # type: ignore[misc]
            for index, text in programs.items()
        }
        return {index: shown(promise.result(), self.tools) for index, promise in asked.items()}

    def _append(self, own: _Written, output: str, sampling: SamplingParams) -> bool:
        """Append an output; return whether sampling goes on after it.

        One that leaves no room for a further token is left out, and the completion is cut there.
        """
        text = f"\n{output}" if self.tools.ends else f"\n```output\n{output}\n```\n"
        ids = self._encoded(text)
        room = room_of(own.request, sampling.max_tokens, self.context)
        own.reason = FinishReason.LENGTH
        if len(own.ids) + len(ids) + 1 > room:
            return False
        if self.tools.ends:
            ids.append(self.tokenizer.eos_token_id)
            own.reason = FinishReason.STOP
        own.add(ids, [0.0] * len(ids) if own.logprobs else [], is_sampled=False)
        return not self.tools.ends

    def _encoded(self, text: str) -> list[int]:
        """Return an output as tokens; none of them is a special one, whatever was printed."""
        for token in self.tokenizer.added_tokens_decoder.values():
            special = token.content
            text = text.replace(special, f"{special[:1]} {special[1:]}")
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _next(self, own: _Written, number: int) -> Request:
        """Return the request that goes on with a completion."""
        seed = request_seed(own.request.seed, "tool", number)
        return replace(own.request, prompt_ids=(*own.request.prompt_ids, *own.ids), seed=seed)


def with_tools(
    generator: Generator,
    tokenizer: Tokenizer,
    tools: Tools | None,
    context: int | None,
    batch: int | None = None,
) -> Generator:
    """Return a generator whose completions run programs, or without `tools` the same."""
    if tools is None:
        return generator
    return ToolGenerator(generator, tokenizer, tools, context, batch)


def shown(outcome: Outcome, tools: Tools) -> str:
    """Return what goes on in a completion: what was printed, and the last line of an error.

    Fences are no fences in it, so that an output opens and closes nothing.
    """
    text = outcome.stdout.strip("\n")
    if outcome.status is not Status.OK:
        lines = outcome.stderr.strip().splitlines()
        error = SAID.get(outcome.status) or (lines[-1] if lines else "failed")
        text = f"{text}\n{error}".strip("\n")
    if len(text) > tools.max_output_chars:
        text = text[: tools.max_output_chars] + "..."
    return text.replace("```", "'''").replace("\r", "")
