"""How soon a model from outside writes the recipe's tags: as text, as whole tokens, or from a mean.

    python benchmarks/tags.py MODEL_FOLDER

Six updates of four rows at 1e-4. Each line is one way to have the tags, with the loss of the last
update, and the probability of the thought's opening and of the end at their places in a row that
was not trained on. `mean of all rows` is what import-model did before version 2.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from r1pipe import chat
from r1pipe.models.foreign import load_foreign, make_tags_whole
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.records import TokenSequence
from r1pipe.train.batching import one_batch
from r1pipe.train.engine import TorchEngine
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.supervised import negative_log_likelihood

UPDATES, ROWS, RATE = 6, 4, 1e-4


def row(number: int, tokenizer: Tokenizer) -> TokenSequence:
    """Return a written solution of a small sum."""
    a, b = 3 + 7 * number % 40, 5 + 11 * number % 40
    thought = f"I add {a} and {b}. {a} + {b} = {a + b}."
    said = chat.render_completion(thought, "", "chat", f"The answer is {chat.boxed(str(a + b))}.")
    asked = f"Tom has {a} apples and buys {b} more. How many apples does he have?"
    return TokenSequence(
        encode_prompt(tokenizer, asked, "chat"), encode_completion(tokenizer, said), number
    )


def train(model: LanguageModel, tokenizer: Tokenizer) -> float:
    """Make the updates; return the loss of the last one."""
    engine, found = TorchEngine(model, workers=1), 0.0
    for step in range(UPDATES):
        rows = [row(step * ROWS + i, tokenizer) for i in range(ROWS)]
        count = sum(len(each.completion_ids) for each in rows)
        batch = one_batch(rows, tokenizer.pad_token_id)
        loss = partial(negative_log_likelihood, num_tokens=count)
        measures = engine.accumulate([batch], loss)
        engine.step(RATE)
        found = measures["loss"]
    return found


@torch.no_grad()
def probabilities(model: LanguageModel, tokenizer: Tokenizer) -> tuple[float, float]:
    """Return those of the whole opening tag, and of the end, in a row that was not trained on."""
    held_out = row(999, tokenizer)
    scores: Tensor = token_logprobs(model.eval(), one_batch([held_out], tokenizer.pad_token_id))
    opening = len(tokenizer(chat.THINK_OPEN, add_special_tokens=False)["input_ids"])
    return float(scores[:opening].sum().exp()), float(scores[-1].exp())


def main(folder: Path) -> None:
    """Print a table of the three ways."""
    print("| tags | loss | P(`<think>`) before | after | P(end) before | after |")
    print("|---|---|---|---|---|---|")
    for way in ("text", "whole, from their text", "whole, mean of all rows"):
        found = load_foreign(folder, "float32")
        model, tokenizer, known = found.model, found.tokenizer, len(found.tokenizer)
        if way != "text":
            make_tags_whole(model, tokenizer)
        if way.endswith("rows"):
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight.data[known:] = table.weight.data[:known].mean(dim=0)
        before = probabilities(model, tokenizer)
        loss = train(model, tokenizer)
        after = probabilities(model, tokenizer)
        cells = [f"{value:.2g}" for pair in zip(before, after, strict=True) for value in pair]
        print(f"| {way} | {loss:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
