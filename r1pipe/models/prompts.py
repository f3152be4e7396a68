"""From a problem's prompt to the token ids that the policy continues."""

from __future__ import annotations

import json
from pathlib import Path

from r1pipe.chat import Format, render_prompt
from r1pipe.models.interfaces import Tokenizer

POSITIONS = "max_position_embeddings"


def encode_prompt(tokenizer: Tokenizer, prompt: str, fmt: Format) -> list[int]:
    """Return prompt ids in the given format.

    `r1-zero` is plain text, so the tokenizer adds its own beginning-of-sequence token if it has
    one; `chat` is the tokenizer's chat template, which already holds it: encoding the rendered
    text again would put it there twice.
    """
    if fmt == "r1-zero":
        return list(tokenizer(render_prompt(prompt, fmt))["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)


def encode_completion(tokenizer: Tokenizer, completion: str) -> list[int]:
    """Return completion ids with the end-of-sequence token: a model learns to stop from it."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def max_positions(folder: Path) -> int | None:
    """Return a model's context length in tokens from its config.json; None if it has none."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    parts = config, config.get("text_config") or {}
    return next((p[POSITIONS] for p in parts if isinstance(p.get(POSITIONS), int)), None)
