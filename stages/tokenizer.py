"""A byte-level BPE tokenizer from scratch, trained on rows.

Paper: none (the paper's bases bring theirs).

In: `rows` (one or more). Out: `tokenizer`, a directory that transformers loads.

Run it with `r1pipe stage tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.models.tokenizer import SplitName, train_tokenizer
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"rows": Input("rows", many=True)}
OUTPUTS = {"tokenizer": "tokenizer"}
BYTES_AND_TAGS = 256 + 9
COLUMNS = ("prompt", "format", "completion", "language")


class Params(StageModel):
    """Parameters that decide the tokenizer."""

    vocab_size: int = Field(gt=BYTES_AND_TAGS)
    """Largest number of tokens, tags included."""
    max_rows: int = Field(default=20_000, gt=0)
    """Rows read of each input."""
    split: SplitName = "words"
    """Where text is cut before pieces are merged: `words` leaves the blanks around a word with it;
    `qwen2`, Qwen 2's way, is one that llama.cpp has too (`r1pipe export-gguf`)."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train on prompts and completions as the model will see them."""
    texts = _texts(inputs.paths("rows"), params.max_rows)
    tokenizer = train_tokenizer(texts, params.vocab_size, params.split)
    tokenizer.save_pretrained(context.output("tokenizer"))
    context.note(vocab_size=len(tokenizer))


def _texts(folders: Mapping[str, Path], max_rows: int) -> Iterator[str]:
    from r1pipe.chat import R1_ZERO_PASSAGE, render_prompt
    from r1pipe.rows import read_rows
    from r1pipe.tasks.world import summarise

    for label in sorted(folders):
        for row in islice(read_rows(folders[label], COLUMNS), max_rows):
            yield render_prompt(row["prompt"], row["format"]).replace(R1_ZERO_PASSAGE, "")
            yield row["completion"]
            yield summarise("0", row["language"])


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many tokens at most."""
    from r1pipe.costs.work import NOTHING, Cost, Range, TokenizerInfo

    read = sum(
        (rows.num_rows.at_most(params.max_rows) for rows in inputs["rows"].values()), NOTHING
    )
    return Cost({"tokenizer": TokenizerInfo(params.vocab_size)}, other_s=read * Range(2e-5, 4e-4))
