"""Reading a stranger's folder: whatever its reader says, the user is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from r1pipe.errors import R1PipeError, StageError
from r1pipe.text import visible

MAX_REASON_CHARS = 300
OWN_CODE = ("trust_remote_code", "custom code", "custom_code")
"""What transformers' refusals of a folder's own code have in common."""


@contextmanager
def refused_in_a_line(path: Path) -> Iterator[None]:
    """Turn what a reader of a model's files raises into a StageError; memory that is full is not
    the files' fault."""
    try:
        yield
    except (R1PipeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's files: pickles, headers, templates, anything
        reason = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
        if any(word in reason for word in OWN_CODE):
            raise StageError(
                f"{path} brings code of its own (auto_map in config.json or"
                " tokenizer_config.json), which is never run; give a model of a family that"
                " transformers has itself, or the same model converted to one"
            ) from error
        raise StageError(
            f"{path} is not a model that transformers reads as it is: {visible(reason)}; it needs"
            " config.json, tokenizer files, and weights as *.safetensors or one *.gguf"
        ) from error
