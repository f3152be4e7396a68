"""Log-probabilities of given tokens by a server: a teacher that is somewhere else.

OpenAI's own API has none of a prompt; vLLM's completions API gives them for `prompt_logprobs`.
Tokens go as ids, and an answer names the ids that it scored: another tokenizer is found at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.generate.openai_answers import OTHER_BYTES
from r1pipe.generate.openai_client import Passing
from r1pipe.generate.openai_server import ServerGenerator
from r1pipe.models.interfaces import Tokenizer
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import TokenSequence
from r1pipe.regular import UnfitError, parse_json
from r1pipe.tables import gather_floats
from r1pipe.text import excerpt

if TYPE_CHECKING:
    from r1pipe.generate.openai_backend import OpenAISettings

BYTES_PER_TOKEN = 512
"""An answer may have so many bytes for each token that it scores."""


class ServerTeacher:
    """A teacher behind a server; each rank asks it about a share, and all get all of it."""

    def __init__(
        self, settings: OpenAISettings, tokenizer: Tokenizer, ranks: Ranks = ALONE
    ) -> None:
        """Raises StageError if the server has not the tokenizer, or gives no such numbers."""
        self._server = ServerGenerator(settings, tokenizer, [tokenizer.eos_token_id])
        self._tokenizer = tokenizer
        self._ranks = ranks

    def check(self, texts: Sequence[str]) -> None:
        """Raise StageError, before anything is sampled, unless it scores texts token by token and
        reads their tokens as the policy's tokenizer does."""
        ids = [list(self._tokenizer(text)["input_ids"]) for text in texts]
        sequences = [TokenSequence(each[:1], each[1:]) for each in ids if len(each) > 1]
        try:
            self._scores(sequences, has_texts=True)
        except BaseException:
            self.close()
            raise

    def logprobs(
        self, sequences: Sequence[TokenSequence], temperature: float, batching: object = None
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities; `temperature` is 1."""
        assert temperature == 1.0, "servers score prompts at temperature 1"
        mine = self._scores(self._ranks.share(sequences))
        return [row for rows in gather_floats(self._ranks, mine) for row in rows]

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """A teacher stays as it is."""
        raise AssertionError("a teacher never becomes the policy")

    def close(self) -> None:
        """Give up what is still under way."""
        self._server.close()

    def _scores(
        self, sequences: Sequence[TokenSequence], has_texts: bool = False
    ) -> list[list[float]]:
        """Return the log-probabilities of completions, given their prompts."""
        bodies = [
            {
                "prompt": [*each.prompt_ids, *each.completion_ids],
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 0,
            }
            for each in sequences
        ]
        limits = [OTHER_BYTES + BYTES_PER_TOKEN * len(each) for each in sequences]

        def read(place: int, data: bytes) -> list[float]:
            ids = [*sequences[place].prompt_ids, *sequences[place].completion_ids]
            row = self._read(data, ids, has_texts)
            return row[len(sequences[place].prompt_ids) :]

        return self._server.answers(bodies, limits, read)

    def _read(self, data: bytes, ids: Sequence[int], has_texts: bool) -> list[float]:
        """Return the log-probability of every token but the first, which has 0.

        Raises Passing for what is no answer, StageError for one that lacks what a teacher needs.
        """
        entries = _entries(data, self._server.url)
        if len(entries) != len(ids):
            raise Passing(f"{len(entries):,} tokens scored, though {len(ids):,} were sent")
        row = [0.0]
        for token, entry in zip(ids[1:], entries[1:], strict=True):
            found = entry.get(str(token)) if isinstance(entry, dict) else None
            value = found.get("logprob") if isinstance(found, dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._other(token, entry)
            if not isfinite(value) or value > 1e-3:
                raise Passing(f"a log-probability of {value!r}")
            if has_texts and isinstance(found, dict):
                self._check_text(token, found.get("decoded_token"))
            row.append(float(value))
        return row

    def _check_text(self, token: int, said: object) -> None:
        own = self._tokenizer.decode([token])
        if not isinstance(said, str) or "\ufffd" in said + own:
            return  # it does not say, or the token is a part of a character
        if said.strip() != own.strip():
            raise StageError(
                f"{self._server.url}: token {token} is {excerpt(repr(said), 40)} there and"
                f" {excerpt(repr(own), 40)} in the tokenizer of inputs.teacher; run.teacher must"
                " serve the model of that input"
            )

    def _other(self, token: int, entry: object) -> StageError:
        return StageError(
            f"{self._server.url} scored another token than {token}: {excerpt(repr(entry), 80)};"
            " run.teacher must serve the model of inputs.teacher, with the policy's tokenizer"
        )


def _entries(data: bytes, url: str) -> list[object]:
    """Return what an answer says of each prompt token."""
    try:
        answer = parse_json(data, is_finite=False)
    except UnfitError as error:
        raise Passing(f"an answer that cannot be read: {error}") from None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Passing("an answer without a completion")
    entries = choices[0].get("prompt_logprobs")
    if not isinstance(entries, list):
        raise StageError(
            f"{url} gives no log-probabilities of a prompt (prompt_logprobs), so it cannot be a"
            " teacher; `vllm serve` gives them. Or leave run.teacher out: the teacher is then"
            " computed here, from inputs.teacher"
        )
    return entries
