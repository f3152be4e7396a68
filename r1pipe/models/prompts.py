"""From a problem's prompt to the token ids that the policy continues, and back to a whole text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1pipe.chat import HOUSE, AnyFormat, Format, as_format, render_prompt
from r1pipe.errors import StageError
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.templates import TemplateError, render_ids

POSITIONS = "max_position_embeddings"
EMPTY_THOUGHT = "\n"
"""What closes a thought in which nothing stands: Qwen 3 writes `<think>\\n\\n</think>\\n\\n`."""


def encode_prompt(tokenizer: Tokenizer, prompt: str, fmt: AnyFormat) -> list[int]:
    """Return prompt ids in the given format.

    `r1-zero` is plain text, so the tokenizer adds its own beginning-of-sequence token if it has
    one; `chat` is the tokenizer's chat template, which already holds it: encoding the rendered
    text again would put it there twice. Raises StageError if there is no chat template.
    """
    fmt = as_format(fmt)
    if fmt.template == "r1-zero":
        ids = list(tokenizer(render_prompt(prompt, fmt))["input_ids"])
        return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    return _from_template(tokenizer, fmt, messages_of(prompt, fmt))


def messages_of(prompt: str, fmt: Format) -> list[dict[str, str]]:
    """Return a prompt as the messages of a chat template."""
    system = [{"role": "system", "content": fmt.system}] if fmt.system else []
    return [*system, {"role": "user", "content": fmt.question(prompt)}]


def _from_template(
    tokenizer: Tokenizer, fmt: Format, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    if not tokenizer.chat_template:
        raise StageError(
            "the model's tokenizer has no chat template; set params.format: r1-zero where it is"
            " prompted, or params.tags: own where it is imported"
        )
    try:
        return render_ids(tokenizer, messages, dict(fmt.options), is_asked=True)
    except TemplateError as error:
        raise StageError(
            f"the model's chat template refuses a prompt: {error}; if it takes no system message,"
            " leave out params.prompt.system"
        ) from error


def opened_thought(tokenizer: Tokenizer, fmt: AnyFormat) -> str:
    """Return what the end of a prompt has opened of the completion: `<think>` and blanks, or "".

    Templates of models that reason (R1-distill) open the thought themselves. Whoever decodes a
    completion puts this before it, so that its text is whole.
    """
    fmt = as_format(fmt)
    if fmt.template == "r1-zero":
        return ""
    end = tokenizer.decode(encode_prompt(tokenizer, "?", fmt)[-16:])
    openers = "|".join(re.escape(opener) for opener in {(fmt.think or HOUSE)[0], HOUSE[0]})
    found = re.search(rf"(?:{openers})\s*\Z", end)
    return found[0] if found else ""


def after_opened(text: str, opened: str, fmt: AnyFormat) -> str:
    """Return a completion's text without what its prompt has opened already.

    A text without a thought closes the prompt's: it would else be trained as one.
    """
    if not opened:
        return text
    if text.startswith(opened):
        return text[len(opened) :]
    opener, blank = opened.rstrip(), opened[len(opened.rstrip()) :]
    if text.startswith(opener):
        rest = text[len(opener) :]
        return rest.lstrip() if blank else rest
    closer = (as_format(fmt).think or HOUSE)[1]
    return text if closer in text else f"{EMPTY_THOUGHT}{closer}\n\n{text}"


def encode_completion(tokenizer: Tokenizer, completion: str) -> list[int]:
    """Return completion ids with one end-of-sequence token: a model learns to stop from it."""
    ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def max_positions(folder: Path) -> int | None:
    """Return a model's context length in tokens from its config.json; None if it has none."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    parts = config, config.get("text_config") or {}
    return next((p[POSITIONS] for p in parts if isinstance(p.get(POSITIONS), int)), None)
