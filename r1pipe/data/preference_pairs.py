"""From rows with chosen and rejected to the token sequences of both."""

from __future__ import annotations

from array import array
from pathlib import Path

from r1pipe.chat import as_format
from r1pipe.data.bad_rows import BadRows
from r1pipe.files import Record
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import Row, TokenSequence, messages_from_json
from r1pipe.rows import read_rows
from r1pipe.train.conversations import TurnEncoder, Untrainable


def encoded_pairs(
    folder: Path, encoder: TurnEncoder, max_tokens: int
) -> tuple[list[tuple[TokenSequence, TokenSequence]], int, BadRows]:
    """Return (chosen, rejected) of every row, how many rows were too long, and the bad ones.

    Both completions end with the token that ends a turn, as they were sampled.
    """
    pairs, too_long, bad = list[tuple[TokenSequence, TokenSequence]](), 0, BadRows()
    for number, row in enumerate(read_rows(folder), start=1):
        try:
            chosen, rejected = _encoded(row, encoder)
        except Untrainable as reason:
            bad.add(Record("rows", number, row), str(reason))
            continue
        if max(len(chosen), len(rejected)) > max_tokens:
            too_long += 1
        else:
            pairs.append((chosen, rejected))
    return pairs, too_long, bad


def _encoded(row: Row, encoder: TurnEncoder) -> tuple[TokenSequence, TokenSequence]:
    """Return both sequences of a row; raises Untrainable."""
    fmt, turns = as_format(row.get("format") or "chat"), row.get("messages")
    if turns is None:
        prompt = encode_prompt(encoder.tokenizer, row["prompt"], fmt)
    else:
        prompt = encoder.prompt(messages_from_json(turns), fmt)
    if not (row["chosen"] and row["rejected"]):
        raise Untrainable("an empty completion")
    chosen, rejected = (encoder.completion(row[name], fmt) for name in ("chosen", "rejected"))
    ids = array("i", prompt)  # four bytes a token, and the prompt once
    return TokenSequence(ids, array("i", chosen)), TokenSequence(ids, array("i", rejected))
