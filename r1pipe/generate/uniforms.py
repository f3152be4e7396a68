"""Counter-based random numbers: one uniform for every (seed, position), without any state.

A request's draws depend on its own seed and nothing else, so neither the batch it shares nor a
resume can change them. SplitMix64 (Steele, Lea, Flood 2014) is the mixing function.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from r1pipe.keys import canonical_json, digest_bytes, digest_json

Bits = TypeVar("Bits", np.uint64, npt.NDArray[np.uint64])
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: npt.NDArray[np.uint64], position: int) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) per seed for a token position.  [B] -> [B]"""
    with np.errstate(over="ignore"):
        z = mixed(seeds) + GOLDEN * np.uint64(position + 1)
        return (mixed(z) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mixed(z: Bits) -> Bits:
    """Return 64 bits each of which depends on every bit given; different ones stay different."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def request_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for a request from what identifies it (stage seed, problem, sample)."""
    return int(digest_json(list(parts))[:16], 16) >> 1


def request_seeds(*parts: int | str, numbers: range) -> list[int]:
    """Return `request_seed(*parts, number)` of every number; the other parts are written once."""
    shared = canonical_json([*parts, 0])[: -len("0]")]
    return [int(digest_bytes(b"%b%d]" % (shared, n))[:16], 16) >> 1 for n in numbers]


def short_seed(seed: int) -> int:
    """Return 32 bits that all 64 bits of a seed decide: torch's generator on a CPU reads no more,
    and some servers take no more."""
    return int(mixed(np.uint64(seed)) >> np.uint64(32))
