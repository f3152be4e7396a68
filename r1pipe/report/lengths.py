"""How long the completions of each stage are: histograms over bins that all of them share."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1pipe.report.flow import counted, share_text

NUM_BINS = 24
NUM_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """One bin; `x`, `width` and `height` are shares of the picture's sides."""

    x: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Lengths:
    """A histogram of completions' tokens; bins grow in width as on a logarithmic axis."""

    stage: str
    edges: Sequence[int]
    """Bin i holds lengths from `edges[i]` up to `edges[i + 1]`, without the latter."""
    counts: Sequence[int]
    mean: float
    truncated: float
    """Share that was cut at the limit."""
    shortest: int
    longest: int

    @property
    def highest(self) -> str:
        """The share of completions in the fullest bin, as text: what the highest bar says."""
        return share_text(max(self.counts) / sum(self.counts))

    @property
    def bars(self) -> list[Bar]:
        """The bins that hold something, the fullest as high as the picture."""
        width, top = 1 / len(self.counts), max(self.counts)
        return [
            Bar(number * width, width, count / top, self._title(number))
            for number, count in enumerate(self.counts)
            if count
        ]

    @property
    def ticks(self) -> list[tuple[float, int]]:
        """Places of some edges, as shares of the width, and the tokens there."""
        last = len(self.edges) - 1
        chosen = sorted({round(last * n / (NUM_TICKS - 1)) for n in range(NUM_TICKS)})
        return [(n / last, self.edges[n] - (n == last)) for n in chosen]

    def _title(self, number: int) -> str:
        low, high = self.edges[number], self.edges[number + 1] - 1
        tokens = counted(low, "token") if low == high else f"{low:,} to {high:,} tokens"
        return f"{tokens}: {counted(self.counts[number], 'completion')}"


@dataclass
class Counted:
    """The lengths of one stage's completions, before the longest of all stages is known."""

    stage: str
    tokens: Mapping[int, int]
    """Length in tokens -> how many completions."""
    num_cut: int


def histograms(stages: Sequence[Counted]) -> list[Lengths]:
    """Return a histogram of each stage; all have the bins of the longest completion."""
    edges = bins(max((max(each.tokens) for each in stages), default=0))
    return [_histogram(each, edges) for each in stages]


def bins(longest: int) -> list[int]:
    """Return edges of bins for lengths of 0 to `longest`: whole numbers, of growing width."""
    top = longest + 1
    return sorted(
        {round(math.exp(math.log(top) * i / NUM_BINS)) for i in range(NUM_BINS + 1)} | {0}
    )


def _histogram(found: Counted, edges: Sequence[int]) -> Lengths:
    counts = [0] * (len(edges) - 1)
    for length, count in found.tokens.items():
        counts[bisect_right(edges, length) - 1] += count
    total = sum(counts)
    mean = sum(length * count for length, count in found.tokens.items()) / total
    shortest, longest = min(found.tokens), max(found.tokens)
    return Lengths(found.stage, edges, counts, mean, found.num_cut / total, shortest, longest)
