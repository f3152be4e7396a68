"""Documents for pre-training, selected by their likeness to a seed corpus, ranked and cleaned.

Paper: arXiv:2402.03300 (DeepSeekMath), section 2.1: a classifier learns the seed (OpenWebMath)
against random pages, the best pages are collected, domains of which more than 10 % are collected
give further seed pages, and so on for four rounds; pages with ten words in a row of a benchmark are
taken out.

In: `seed` and `documents`, data sets with a column of texts; optionally `held_out`, the evaluation
sets by name. Out: `rows` (text, domain, score, rank; the best first), and `report`: report.json
with each round's counts and the share of every domain that is collected.

Departures: the classifier is logistic regression on hashed word n-grams (scikit-learn), not
fastText. In the paper people choose the addresses that join the seed; here all pages of such a
domain do that are not collected.

Run it with `r1pipe stage math-corpus --manifest manifests/corpus.yaml`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.data.corpus_selection import Round
    from r1pipe.data.overlap import OverlapIndex
    from r1pipe.files import Record

VERSION = 1
INPUTS = {
    "seed": Input(("dataset", "rows")),
    "documents": Input(("dataset", "rows")),
    "held_out": Input(("problems", "rows"), optional=True, many=True),
}
OUTPUTS = {"rows": "rows", "report": "report"}
INSTALL = "pip install 'r1pipe[corpus]'"
MAX_SHOWN_CHARS = 500
MAX_DOMAINS = 1000
"""Domains in the report, those with the most collected."""


class Params(StageModel):
    """Parameters that decide the documents."""

    seed: int
    num_rounds: int = Field(default=2, gt=0)
    """Times that the classifier learns; DeepSeekMath: 4."""
    collected_frac: float = Field(gt=0, lt=1)
    """Share of the documents that is collected in each round."""
    domain_from_frac: float = Field(default=0.1, ge=0, lt=1)
    """A domain of which more than this share is collected gives its other pages to the seed."""
    max_examples: int = Field(default=500_000, gt=0)
    """Most documents of the seed, and of the others, that a round learns from."""
    max_ngram: int = Field(default=3, gt=0, le=5)
    """Longest run of words that is a feature; DeepSeekMath: 3."""
    hash_bits: int = Field(default=20, ge=8, le=28)
    """Features are hashed into 2 to this power."""
    text: str = "text"
    """Column of the text, in both data sets."""
    domain: str | None = "url"
    """Column of an address or of a name of the origin; null if there is none."""
    held_out_column: str = "prompt"
    """Column of the evaluation sets."""
    ngram: int = Field(default=10, ge=3)
    """Words in a row that a document may not share with an evaluation text."""
    max_bad_frac: float = Field(default=0.01, ge=0, le=1)
    """Share of rows that may have no text; more than that stops the stage."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Select in rounds, take out what the evaluation sets have too, and write the rest by rank."""
    try:
        from r1pipe.data.corpus_selection import Pool, domain_of, select
    except ImportError as error:
        raise StageError(f"{context.name} needs scikit-learn ({error}): {INSTALL}") from None

    seed, documents = (_Documents(inputs.path(name), params) for name in ("seed", "documents"))
    domains = [domain_of(domain) for _, domain in documents.checked()]
    num_seed = sum(1 for _ in seed.checked())
    if num_seed < 1 or len(domains) < 2:
        raise StageError(f"{context.name}: {num_seed} seed documents and {len(domains)} others")
    pool = Pool(documents.texts, domains)
    rounds = select(seed.texts, pool, params, context.stop_if_asked)
    for number, each in enumerate(rounds, start=1):
        context.log(number, len(rounds), collected=float(len(each.order)))
    left_out = _write(context, params, inputs, documents, rounds[-1], domains)
    facts = {"num_seed": num_seed, "num_documents": len(domains), **left_out}
    context.note(**facts, num_bad_rows=len(seed.bad) + len(documents.bad))
    report = {**facts, "rounds": [_reported(each) for each in rounds]}
    path = context.output("report") / "report.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class _Documents:
    """A data set of texts, read again as often as it is needed."""

    def __init__(self, path: Path, params: Params) -> None:
        from r1pipe.data.bad_rows import BadRows

        self.path, self.params = path, params
        self.bad = BadRows()

    def checked(self) -> Iterator[tuple[str, str | None]]:
        """Yield texts with their domains; raise StageError, at the end, if too many have none."""
        num_read = 0
        for num_read, record in enumerate(self._records(), start=1):  # noqa: B007
            text = record.values.get(self.params.text)
            if not _is_text(text):
                self.bad.add(record, f"no text in column '{self.params.text}'")
                continue
            domain = record.values.get(self.params.domain) if self.params.domain else None
            yield text, None if domain is None else str(domain)
        self.bad.check(self.params.max_bad_frac, num_read, self.path)

    def texts(self) -> Iterator[str]:
        """Yield the texts alone."""
        for record in self._records():
            if _is_text(text := record.values.get(self.params.text)):
                yield text

    def _records(self) -> Iterator[Record]:
        from r1pipe.files import records

        return records(self.path)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _write(
    context: Context,
    params: Params,
    inputs: Inputs,
    documents: _Documents,
    last: Round,
    domains: Sequence[str],
) -> dict[str, int]:
    """Write the collected documents by rank; return how many were left out, and why."""
    from r1pipe.data.overlap import OverlapIndex
    from r1pipe.data.shuffle import rows_in_order
    from r1pipe.rows import read_rows, with_samples, write_rows

    held_out = [
        str(row[params.held_out_column])
        for folder in inputs.paths("held_out").values()
        for row in read_rows(folder, columns=[params.held_out_column])
    ]
    index = OverlapIndex(held_out, params.ngram, ("plain",))
    clean = _Clean(index, {int(number): place for place, number in enumerate(last.order)})
    out = context.output("rows")
    unsorted = out / "unsorted"
    write_rows(unsorted, clean.rows(documents, last, domains))
    count = len(clean.kept)
    order = sorted(range(count), key=clean.kept.__getitem__)
    columns = ("text", "domain", "score")
    found = rows_in_order(
        {"documents": unsorted},
        columns,
        {"documents": count},
        order,
        clean.num_chars,
        out / "spill",
    )
    ranked = ({**row, "rank": rank} for rank, row in enumerate(found, start=1)) if count else ()
    write_rows(out, with_samples(context, ranked, _shown))
    rmtree(unsorted)
    left_out = {name: clean.counts[name] for name in ("repeats", "overlapping")}
    return {"num_rows": count, **left_out}


class _Clean:
    """The collected documents without repeats and without overlap, in the order of the files.

    `places` has their ranks by number; `kept` those of the rows that were given out.
    """

    def __init__(self, index: OverlapIndex, places: Mapping[int, int]) -> None:
        self.index = index
        self.places = places
        self.counts = Counter[str]()
        self.kept: list[int] = []
        self.num_chars = 0

    def rows(self, documents: _Documents, last: Round, domains: Sequence[str]) -> Iterator[Row]:
        """Yield the rows, and count what is left out."""
        from r1pipe.keys import digest_bytes

        seen = set[str]()
        for number, text in enumerate(documents.texts()):
            if number not in self.places:
                continue
            mark = digest_bytes(text.encode("utf-8", "surrogatepass"))
            reason = "repeats" if mark in seen else self._overlapping(text)
            if reason is not None:
                self.counts[reason] += 1
                continue
            seen.add(mark)
            self.kept.append(self.places[number])
            self.num_chars += len(text)
            yield {"text": text, "domain": domains[number], "score": float(last.scores[number])}

    def _overlapping(self, text: str) -> str | None:
        return "overlapping" if self.index.matches(text) else None


def _shown(row: Mapping[str, Any]) -> Row:
    """Return a row with the beginning of its text."""
    return {**row, "text": row["text"][:MAX_SHOWN_CHARS]}


def _reported(each: Round) -> dict[str, object]:
    """Return what the report says of a round."""
    return {
        "positive": each.num_positive,
        "negative": each.num_negative,
        "collected": len(each.order),
        "recall": dict(islice(each.recall.items(), MAX_DOMAINS)),
        "joined": each.joined,
    }


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many documents, and how long."""
    from r1pipe.costs.recipes import imported_rows
    from r1pipe.costs.work import Cost, Info, Range

    documents = imported_rows(inputs["documents"], None)
    count = documents.num_rows * params.collected_frac
    rows = replace(documents, num_rows=Range(0.5 * count.low, count.high))
    seconds = documents.num_rows * Range(2e-4, 2e-2) * params.num_rounds
    return Cost({"rows": rows, "report": Info()}, other_s=seconds + Range(1.0, 5.0))
