"""Near-duplicates by MinHash and locality-sensitive hashing, vectorised over rows.

Two texts are near when their sets of 16-byte windows (case-folded, white space as one blank) have a
Jaccard similarity of at least the threshold. One-permutation hashing (Li, Owen, Zhang 2012) splits
the hashes into 128 bins and keeps the least of each; empty bins borrow from others (Shrivastava
2017). Rows that agree in all eight bins of one of sixteen bands are compared by all bins: the
similarity is an estimate with a standard error of about 0.035 at 0.8.
"""

# N rows, K bins, B bands, W windows of one batch

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r1pipe.generate.uniforms import mixed
from r1pipe.records import Row

U64 = NDArray[np.uint64]
WINDOW = 16
BIN_BITS = 7
BINS = 1 << BIN_BITS
BANDS = 16
EMPTY = np.uint64(2**64 - 1)
MAX_LOANS = 64
BATCH_BYTES = 1 << 20
PAIRS_AT_ONCE = 1 << 16


class NearDuplicates:
    """Sketches of rows, 256 bytes each, and which of them are near an earlier one."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._sketches: list[NDArray[np.uint8]] = []
        self._bands: list[U64] = []

    def add(self, row: Row) -> None:
        """Sketch one row by its prompt and completion."""
        text = normalised(f"{row['prompt']}\n{row['completion']}")
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        if self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            bins = minhash(self._waiting)
            self._sketches.append(bins.astype(np.uint8))
            self._bands.append(band_keys(bins))
            self._waiting, self._waiting_bytes = [], 0

    def duplicates(self, rows: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
        """Return, for each of these rows in this order, the kept one before it that it is near to.

        -1 where there is none: that row is kept.
        """
        self._flush()
        sketches, bands = np.concatenate(self._sketches)[rows], np.concatenate(self._bands)[rows]
        near = np.full(len(rows), -1, np.int64)
        for later, earlier in _near_pairs(sketches, bands, threshold):
            if near[later] < 0 and near[earlier] < 0:
                near[later] = earlier
        return np.where(near < 0, -1, rows[near])


def normalised(text: str) -> bytes:
    """Return the bytes whose windows count: case-folded, white space as one blank, 16 or more.

    >>> normalised("Two  WORDS and\\n more")
    b'two words and more'
    """
    return " ".join(text.casefold().split()).encode("utf-8", "surrogatepass").ljust(WINDOW, b"\0")


def minhash(texts: Sequence[bytes]) -> U64:  # [N, K]
    """Return the least hash of each bin, empty bins filled, for texts of 16 bytes or more."""
    sizes = np.array([len(text) for text in texts], np.int64)
    hashes = window_hashes(np.frombuffer(b"".join(texts), np.uint8))  # [W]
    ends = np.cumsum(sizes)
    is_inside = np.ones(len(hashes), bool)  # windows that reach into the next text do not count
    for back in range(1, WINDOW):
        is_inside[ends[:-1] - back] = False
    owners = np.repeat(np.arange(len(texts)), sizes - WINDOW + 1)
    hashes = hashes[is_inside]
    bins = np.full(len(texts) * BINS, EMPTY, np.uint64)
    np.minimum.at(
        bins, owners * BINS + (hashes >> np.uint64(64 - BIN_BITS)).astype(np.int64), hashes
    )
    return _filled(bins.reshape(len(texts), BINS))


def window_hashes(data: NDArray[np.uint8]) -> U64:  # [W]
    """Return a hash of every 16-byte window, by doubling: pairs, fours, eights, sixteens."""
    hashes, width = _BYTE_HASHES[data], 1
    while width < WINDOW:
        hashes = hashes[:-width] * _FACTORS[width] + hashes[width:]
        width *= 2
    return mixed(hashes)


_BYTE_HASHES = mixed(np.arange(1, 257, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
_FACTORS = {1: np.uint64(0xD1342543DE82EF95), 2: np.uint64(0xAF251AF3B0F025B5),
            4: np.uint64(0xB564EF22EC7AECE5), 8: np.uint64(0xF7C2EBC08F67F2B5)}  # fmt: skip


def _filled(bins: U64) -> U64:
    """Let each empty bin borrow from a bin that its number decides, the same in all rows."""
    rows, holes = np.nonzero(bins == EMPTY)
    borrowed = bins.copy()
    for loan in range(MAX_LOANS):
        if not len(rows):
            return borrowed
        lender = (mixed((holes + BINS * (loan + 1)).astype(np.uint64)) % np.uint64(BINS)).astype(
            int
        )
        found = bins[rows, lender]
        is_full = found != EMPTY
        borrowed[rows[is_full], holes[is_full]] = found[is_full]
        rows, holes = rows[~is_full], holes[~is_full]
    least = bins.min(axis=1)  # a text of very few windows
    borrowed[rows, holes] = least[rows]
    return borrowed


def band_keys(bins: U64) -> U64:  # [N, K] -> [N, B]
    """Return one key per band of bins."""
    keys = np.zeros((len(bins), BANDS), np.uint64)
    for place in range(BINS // BANDS):
        keys = mixed(keys + bins[:, place :: BINS // BANDS])
    return keys


def _near_pairs(
    sketches: NDArray[np.uint8], bands: U64, threshold: float
) -> Sequence[tuple[int, int]]:
    """Return (later, earlier) pairs that are near, in the order of the later ones.

    In a band's bucket every row is compared with the first one and the one before it.
    """
    found: list[NDArray[np.int64]] = []
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        keys = bands[order, band]
        is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
        leaders = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
        later = order[~is_first]
        before = order[np.nonzero(~is_first)[0] - 1]
        pairs = np.stack([np.tile(later, 2), np.concatenate([leaders[~is_first], before])], axis=1)
        found.append(_similar(np.unique(pairs, axis=0), sketches, threshold))
    return list(map(tuple, np.unique(np.concatenate(found), axis=0).tolist()))


def _similar(
    pairs: NDArray[np.int64], sketches: NDArray[np.uint8], threshold: float
) -> NDArray[np.int64]:
    """Return the pairs whose share of equal bins reaches the threshold."""
    kept = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        equal = (sketches[part[:, 0]] == sketches[part[:, 1]]).mean(axis=1)
        kept.append(part[equal >= threshold])
    return np.concatenate(kept) if kept else pairs[:0]
