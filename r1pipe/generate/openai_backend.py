"""The backend `openai`: a server on another machine (`r1pipe.generate.openai_server`)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Generator, GeneratorBackend
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.settings import Placement, Precision

ADDRESS = re.compile(
    r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[a-z0-9._~%+=:-]*)*", re.I | re.A
)


class OpenAISettings(GeneratorBackend):
    """A server that speaks OpenAI's API."""

    backend: Literal["openai"]
    url: str | tuple[str, ...]
    """Where the server is, such as `http://host:8000/v1`; or a list of such servers."""
    model: str | None = None
    """The model's name there; default: the only one that it serves."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the server asks for one."""
    max_concurrency: int = Field(default=32, gt=0)
    """Most requests under way at each server at once."""
    max_retries: int = Field(default=5, ge=0)
    """How often a request is sent again after a failure that may pass."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Longest wait for one completion, from the request to the last byte of the answer."""

    @field_validator("url")
    @classmethod
    def _are_addresses(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Refuse what is no plain address, and an address that comes twice."""
        each = [url] if isinstance(url, str) else list(url)
        if not each:
            raise ValueError("names no server; give an address, or leave the backend out")
        for one in each:
            cls._check_address(one)
        if len(set(each)) < len(each):
            raise ValueError("names a server twice; leave one out, or raise max_concurrency")
        return url

    @staticmethod
    def _check_address(url: str) -> None:
        """Refuse what is no plain address, without showing it: it may hold a password."""
        if "@" in url:
            raise ValueError(
                "holds a user or a password; put the key into an environment variable, and name"
                " that in api_key_env"
            )
        if not ADDRESS.fullmatch(url):
            raise ValueError(
                "is no address of a server; write http:// or https://, a host, perhaps a port and a"
                " path, such as http://host:8000/v1"
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of all servers."""
        return (self.url,) if isinstance(self.url, str) else self.url

    def concurrency(self, max_batch: int) -> int:
        """Return how many completions are sampled at once."""
        return self.max_concurrency * len(self.urls)

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where sampling is done, for its cost."""
        return replace(super().place(device, precision), is_server=True)

    def open_sealed(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return a client; the server computes in a precision of its own."""
        from r1pipe.generate.openai_server import ServerGenerator
        from r1pipe.models.policy import stored_end_ids

        return ServerGenerator(self, tokenizer, stored_end_ids(folder, tokenizer))

    def open_beside(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Refuse: a server takes no weights."""
        raise StageError(
            "run.generator.backend openai cannot follow a policy that is being trained, since a"
            " server takes no weights; use vllm or transformers"
        )
