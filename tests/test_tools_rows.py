"""Rows with programs: sampled and verified with their outputs, trained without these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from sampling_world import sample, table
from test_tools import SUM, ByPrompt, adds, completion

from r1pipe.chat import as_format
from r1pipe.models.programs import outputs_of, outputs_with
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import Message, Problem, TokenSequence
from r1pipe.settings import Tools
from r1pipe.train.conversations import TurnEncoder

PLAIN = as_format("r1-zero")
PROBLEM = Problem("p", "arithmetic", "19+23", "42", checker="number")


def encoder(tools: Tools) -> TurnEncoder:
    return TurnEncoder(tiny.tokenizer(), (), outputs_with(tools))


def encoded(text: str, tools: Tools) -> TokenSequence:
    """Return a row's tokens as `sft` has them."""
    return encoder(tools).encode_row("19+23", text, PLAIN)


def twice(text: str) -> str:
    """Write two programs, then nothing but an end."""
    return "" if text.count("```output") == 2 else SUM


@pytest.mark.parametrize("script", [adds, twice, lambda text: "\\boxed{7}"])
@pytest.mark.parametrize("tools", [Tools(), Tools(ends=True), Tools(max_rounds=1)])
def test_a_row_is_trained_on_the_very_tokens_that_were_sampled(
    script: Callable[[str], str], tools: Tools
) -> None:
    sampled = completion(script, tools)
    found = encoded(tiny.tokenizer().decode(sampled.token_ids[:-1]), tools)
    assert list(found.completion_ids) == sampled.token_ids
    assert found.trained == sampled.is_sampled


@pytest.mark.parametrize(
    ("text", "untrained"),
    [
        (f"{SUM}\n```output\n42\n```\nso", ["\n```output\n42\n```\n"]),
        (f"{SUM}\n\n```output\n42\n```\nso", ["\n```output\n42\n```\n"]),  # a fence with its break
        (f"{SUM}\n```output\n\n```\nso", ["\n```output\n\n```\n"]),
        (f"{SUM}\nso\n```output\n42\n```\n", []),  # not where an output is put
        ("```output\n42\n```\nso", []),
        (SUM, []),
        (f"{SUM}\n```output\n42", []),
    ],
)
def test_an_output_stands_right_behind_its_program(text: str, untrained: list[str]) -> None:
    assert [text[start:end] for start, end in outputs_of(text, Tools())] == untrained


def test_outputs_in_turns_of_a_conversation_have_no_loss() -> None:
    tokenizer = tiny.tokenizer()
    if not tokenizer.chat_template:
        pytest.skip("this tokenizer has no template")
    said = f"{SUM}\n```output\n42\n```\nit is 42"
    turns = [Message("user", "19+23"), Message("assistant", said)]
    (found,) = encoder(Tools()).encode([*turns, *turns], "every-turn")
    kept = zip(found.trained or (), found.completion_ids, strict=True)
    text = tokenizer.decode([token for is_trained, token in kept if is_trained])
    assert text.count("print(19 + 23)") == text.count("it is 42") == 2
    assert "output" not in text


def test_finding_outputs_takes_time_linear_in_the_text() -> None:
    for text in (
        f"{SUM}\n```output\n" * 20_000,
        f"{SUM}\n" + " " * 400_000,
        "\n".join([SUM] * 9_999),
    ):
        outputs_of(text, Tools(max_rounds=4))


def test_rejection_sampling_runs_programs_and_keeps_what_is_right_with_them(
    tmp_path: Path, monkeypatch: Any
) -> None:
    script = ByPrompt(adds, len(encode_prompt(tiny.tokenizer(), PROBLEM.prompt, "chat")))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 256}')
    changes: dict[str, Any] = {"tools": {}, "format": {"think": "none"}, "max_tokens": 200}
    context = sample(tmp_path, script, [PROBLEM], monkeypatch, **changes)
    assert [row["verdict"] for row in table(context)] == ["correct", "correct"]
    (row,) = table(context, "rows")  # the other one is the same text
    assert "```output\n42\n```" in row["completion"]
    whole = encoded(row["completion"], Tools())
    assert whole.num_trained < len(whole.completion_ids)
