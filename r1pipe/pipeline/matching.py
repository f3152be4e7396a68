"""Refusing, in a plan, models that must share a tokenizer and do not.

The stage itself compares how both write its prompts; a plan knows less, and refuses only what
cannot work: other numbers of tokens, or the same tokens under other ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import ManifestError, Mistake
from r1pipe.manifest import Manifest, Ref, StageNode
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.costs.estimate import Estimator

MAX_JSON_BYTES = 100_000_000
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
SPECIALS = ("additional_special_tokens", "extra_special_tokens")
"""Fields of tokenizer_config.json whose tokens are added on loading."""


def refuse_other_tokenizers(
    manifest: Manifest, store: Store, records: Mapping[str, ActionRecord], names: Iterable[str]
) -> None:
    """Raise ManifestError, with every place, if models that stages read cannot go together.

    `records` are the results that are there; models that are not, or whose folder is not known, are
    left to the stage.
    """
    nodes = [manifest.stages[name] for name in names]
    nodes = [node for node in nodes if any(each.tokenizer_of for each in node.kind.inputs.values())]
    if not nodes:
        return
    from r1pipe.costs.estimate import make_estimator

    estimator = make_estimator(manifest, store, records)
    if mistakes := [mistake for node in nodes for mistake in _mistakes(node, estimator)]:
        raise ManifestError(*mistakes)


def _mistakes(node: StageNode, estimator: Estimator) -> Iterator[Mistake]:
    for name, asked in node.kind.inputs.items():
        given, other = node.inputs.get(name), node.inputs.get(asked.tokenizer_of or "")
        if not isinstance(given, Ref) or not isinstance(other, Ref):
            continue
        folders = [estimator.tokenizer_folder(ref) for ref in (given, other)]
        one, two = [None if folder is None else vocabulary(folder) for folder in folders]
        if one is None or two is None or are_alike(one, two):
            continue
        text = (
            f"stages.{node.name}: inputs.{name}: its tokenizer ({len(one):,} tokens, of"
            f" {folders[0]}) is another than that of inputs.{asked.tokenizer_of} ({len(two):,}"
            f" tokens, of {folders[1]}), so it cannot score what that model writes; give a model"
            " with the same tokenizer, or train by sft on its completions"
        )
        origin = node.origins.get(f"inputs.{name}")
        yield Mistake(text) if origin is None else origin.mistake(text)


def are_alike(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Return whether two vocabularies have as many tokens, and most of them under the same id."""
    same = sum(other.get(token) == number for token, number in one.items())
    return len(one) == len(other) and 2 * same > len(one)


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Return {token: id} of a tokenizer; None if it is not of the library `tokenizers`.

    Tokens that are added on loading have -1, as their ids are not written down.
    """
    found, config = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
    try:
        words = found["model"]["vocab"]
        if isinstance(words, list):  # Unigram: tokens with their scores
            words = {token: number for number, (token, _) in enumerate(words)}
        tokens = {**words, **{each["content"]: each["id"] for each in found["added_tokens"]}}
        listed = config.get("added_tokens_decoder", {})
        tokens |= {each["content"]: int(number) for number, each in listed.items()}
        added = [config.get(name) for name in SPECIAL]
        for name in SPECIALS:
            each = config.get(name) or []
            added += each.values() if isinstance(each, dict) else each
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    texts = (each["content"] if isinstance(each, dict) else each for each in added if each)
    return {**dict.fromkeys((text for text in texts if isinstance(text, str)), -1), **tokens}


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; an empty one for anything else."""
    try:
        value = parse_json(read_regular(path, MAX_JSON_BYTES), is_finite=False)
    except (OSError, UnfitError):
        return {}
    return value if isinstance(value, dict) else {}
