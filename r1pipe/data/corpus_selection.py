"""Documents like those of a seed corpus, found among many (DeepSeekMath, section 2.1).

A linear classifier on hashed word n-grams learns the seed against documents drawn from the pool,
and every document of the pool gets a score. The best are collected. A domain of which many pages
are collected is one of the kind, so its other pages join the seed, and the next round learns again.

In memory are the hashed n-grams of what is learned from (at most `max_examples` of each kind), and
a few numbers for each document; texts are read again in every round.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from r1pipe.data.overlap import words

Texts: TypeAlias = Callable[[], Iterable[str]]
"""Reads texts from the first one on, each time that it is called."""
TEXTS_AT_ONCE = 512


class SelectionParams(Protocol):
    """What decides which documents are collected."""

    seed: int
    num_rounds: int
    collected_frac: float
    domain_from_frac: float
    max_examples: int
    max_ngram: int
    hash_bits: int


def domain_of(value: str | None) -> str:
    """Return the host of an address, without www; of another value the value itself.

    >>> domain_of("https://www.mathoverflow.net/questions/1"), domain_of("books"), domain_of(None)
    ('mathoverflow.net', 'books', '')
    """
    host = urlsplit(value or "").hostname
    return (host or value or "").removeprefix("www.")


@dataclass
class Pool:
    """The documents to choose from, by number."""

    texts: Texts
    domains: Sequence[str]
    """Of each document; "" is none."""


@dataclass
class Round:
    """What a round found."""

    num_positive: int
    num_negative: int
    order: NDArray[np.int64]
    """The collected documents, the best first."""
    scores: NDArray[np.float32]
    """Of all documents: the larger, the more alike."""
    recall: dict[str, float]
    """Domain -> the share of its documents that are collected."""
    joined: dict[str, int] = field(default_factory=dict)
    """Domain -> documents that join the seed after it."""


def select(
    seed_texts: Texts, pool: Pool, params: SelectionParams, check: Callable[[], object]
) -> list[Round]:
    """Return the rounds; `check` is called now and then and may raise."""
    hashing, rounds = _hashing(params), list[Round]()
    joined = set[int]()
    for number in range(params.num_rounds):
        rng = random.Random(f"corpus:{params.seed}:{number}")
        positive = _hashed_seed(hashing, seed_texts, pool, joined, params.max_examples, rng)
        others = [i for i in range(len(pool.domains)) if i not in joined]
        size = min(positive.shape[0], len(others), params.max_examples)
        negative = _hashed(hashing, _at(pool.texts(), set(rng.sample(others, size))))
        model = _learned(positive, negative, params.seed)
        scores = _scores(model, hashing, pool.texts(), check)
        found = _collected(scores, pool, params)
        rounds.append(Round(positive.shape[0], size, found, scores, recalls(found, pool.domains)))
        if number + 1 < params.num_rounds:
            more = _joining(rounds[-1], pool, params)
            rounds[-1].joined = dict(Counter(pool.domains[i] for i in sorted(more - joined)))
            joined |= more
    return rounds


def recalls(collected: NDArray[np.int64], domains: Sequence[str]) -> dict[str, float]:
    """Return for every domain which share of its documents is collected, the largest first."""
    totals = Counter(domain for domain in domains if domain)
    found = Counter(domains[number] for number in collected.tolist())
    shares = {domain: found[domain] / total for domain, total in totals.items()}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def _joining(last: Round, pool: Pool, params: SelectionParams) -> set[int]:
    """Return the documents of domains of which more than `domain_from_frac` is collected, but for
    those that are collected."""
    known = {domain for domain, share in last.recall.items() if share > params.domain_from_frac}
    collected = set(last.order.tolist())
    return {i for i, d in enumerate(pool.domains) if d in known and i not in collected}


def _collected(
    scores: NDArray[np.float32], pool: Pool, params: SelectionParams
) -> NDArray[np.int64]:
    """Return the documents with the best scores; of equal ones the first."""
    count = round(len(pool.domains) * params.collected_frac)
    return np.argsort(-scores, kind="stable")[:count].astype(np.int64)


def _hashing(params: SelectionParams) -> HashingVectorizer:
    return HashingVectorizer(
        analyzer="word",
        tokenizer=words,  # case-folded; a Chinese character and a sign before a digit are words
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, params.max_ngram),
        n_features=1 << params.hash_bits,
        alternate_sign=False,
    )


def _hashed_seed(
    hashing: HashingVectorizer,
    seed_texts: Texts,
    pool: Pool,
    joined: set[int],
    max_examples: int,
    rng: random.Random,
) -> csr_matrix:
    """Return the n-grams of the seed and of the documents that joined it, or of a sample."""
    chosen = set(rng.sample(sorted(joined), min(len(joined), max_examples)))
    parts = [_hashed(hashing, islice(seed_texts(), max_examples))]
    if chosen:
        parts.append(_hashed(hashing, _at(pool.texts(), chosen)))
    return vstack(parts, format="csr")


def _at(texts: Iterable[str], numbers: set[int]) -> Iterator[str]:
    return (text for number, text in enumerate(texts) if number in numbers)


def _hashed(hashing: HashingVectorizer, texts: Iterable[str]) -> csr_matrix:
    """Return hashed n-grams, a row each, batch by batch."""
    rows, source = [], iter(texts)
    while batch := list(islice(source, TEXTS_AT_ONCE)):
        rows.append(hashing.transform(batch))
    return vstack(rows, format="csr")


def _learned(positive: csr_matrix, negative: csr_matrix, seed: int) -> SGDClassifier:
    """Return logistic regression by stochastic gradient descent, the same for the same seed."""
    labels = np.repeat([1, 0], [positive.shape[0], negative.shape[0]])
    model = SGDClassifier(loss="log_loss", class_weight="balanced", random_state=seed)
    return model.fit(vstack([positive, negative], format="csr"), labels)


def _scores(
    model: SGDClassifier,
    hashing: HashingVectorizer,
    texts: Iterable[str],
    check: Callable[[], object],
) -> NDArray[np.float32]:
    """Return the score of every text, one batch in memory."""
    found, source = [], iter(texts)
    while batch := list(islice(source, TEXTS_AT_ONCE)):
        found.append(model.decision_function(hashing.transform(batch)).astype(np.float32))
        check()
    return np.concatenate(found)
