"""Order the stages of a manifest, or find the cycle that forbids it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from r1pipe.manifest.references import Ref


class Order(NamedTuple):
    """Names in topological order; `cycle` is `a -> b -> a` if there is one, else empty."""

    names: list[str]
    cycle: list[str]


def topological_order(inputs: Mapping[str, Mapping[str, Ref | Mapping[str, Ref]]]) -> Order:
    """Order stages so that each follows what it reads; among free ones the first given goes first.

    A reference to a name that is not in `inputs` is left out: it has been reported elsewhere.
    """
    reads = {
        name: {ref.name for ref in refs_of(refs) if not ref.is_source and ref.name in inputs}
        for name, refs in inputs.items()
    }
    names: list[str] = []
    placed: set[str] = set()
    while len(names) < len(reads):
        free = next((name for name in reads if name not in placed and reads[name] <= placed), None)
        if free is None:
            return Order(names, _cycle({n: reads[n] - placed for n in reads if n not in placed}))
        names.append(free)
        placed.add(free)
    return Order(names, [])


def refs_of(inputs: Mapping[str, Ref | Mapping[str, Ref]]) -> list[Ref]:
    """Return all references of a stage's inputs, in their order."""
    refs: list[Ref] = []
    for given in inputs.values():
        refs.extend([given] if isinstance(given, Ref) else given.values())
    return refs


def _cycle(reads: Mapping[str, set[str]]) -> list[str]:
    """Follow first reads until a name returns; every name here reads another one here."""
    path = [next(iter(reads))]
    while True:
        after = next(name for name in reads if name in reads[path[-1]])
        if after in path:
            return [*path[path.index(after) :], after]
        path.append(after)
