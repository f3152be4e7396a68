"""Layered layout of a graph: sources above what reads them, few crossings, lines between boxes.

Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(1981): layers, an order inside each by the mean place of neighbours, then places. A line over
several layers passes each of them at a point of its own; all lines of one stage share theirs.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

SWEEPS = 12
"""Passes over all layers, half of them downwards, for the order; as many for the places."""
MAX_EXCHANGED = 2000
"""Points up to which neighbours are exchanged: it takes a second then, and grows faster."""
STRAIGHT = 4.0
"""Weight of a line that passes a layer, where a box counts 1: long lines are straight."""


@dataclass(frozen=True, slots=True)
class Passing:
    """Where the lines of a stage pass a layer."""

    source: str
    depth: int


Point: TypeAlias = str | Passing
"""A stage by name, or a place where lines pass."""
Links: TypeAlias = Mapping[Point, Sequence[Point]]


@dataclass
class Layers:
    """Points layer by layer, in their order, and what is linked to each in the neighbouring ones.

    `ways` has the points that the line from a stage to one of its readers passes, downwards.
    """

    points: list[list[Point]]
    above: dict[Point, list[Point]] = field(default_factory=dict)
    below: dict[Point, list[Point]] = field(default_factory=dict)
    ways: dict[tuple[str, str], list[Passing]] = field(default_factory=dict)

    def near(self, point: Point) -> list[Point]:
        """Return what is linked to a point, above and below."""
        return [*self.above.get(point, ()), *self.below.get(point, ())]

    def link(self, upper: Point, lower: Point) -> None:
        """Note a line between points of two layers, one under the other, once."""
        if lower not in self.below.setdefault(upper, []):
            self.below[upper].append(lower)
            self.above.setdefault(lower, []).append(upper)


def in_layers(inputs: Mapping[str, Sequence[str]]) -> Layers:
    """Return the layers of stages, in an order with few crossings.

    `inputs` has what each stage reads, in topological order; other names are left out.
    """
    depth = _depths(inputs)
    layers = Layers([[] for _ in range(max(depth.values(), default=-1) + 1)])
    for name, number in depth.items():
        layers.points[number].append(name)
    for name, sources in inputs.items():
        for source in dict.fromkeys(sources):
            if source in depth:
                _lay(layers, source, name, depth)
    layers.points = _ordered(layers)
    return layers


def _lay(layers: Layers, source: str, reader: str, depth: Mapping[str, int]) -> None:
    """Link a stage to its reader, through the layers between them."""
    way = [Passing(source, number) for number in range(depth[source] + 1, depth[reader])]
    layers.ways[source, reader] = way
    for passing in way:
        if passing not in layers.above:
            layers.points[passing.depth].append(passing)
    points: list[Point] = [source, *way, reader]
    for upper, lower in pairwise(points):
        layers.link(upper, lower)


def _depths(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the length of the longest way to each stage.

    What reads nothing stands right above the first stage that reads it.
    """
    depth: dict[str, int] = {}
    for name, sources in inputs.items():
        depth[name] = 1 + max((depth[source] for source in sources if source in depth), default=-1)
    for name, sources in inputs.items():
        if not any(source in depth for source in sources):
            readers = [depth[other] for other, read in inputs.items() if name in read]
            depth[name] = min(readers, default=1) - 1
    return depth


# ---- the order of a layer ------------------------------------------------------------------------


def _ordered(layers: Layers) -> list[list[Point]]:
    """Return the order with the fewest crossings of those that the sweeps come by."""
    points = [list(layer) for layer in layers.points]
    best, fewest = points, crossings(points, layers.below)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        near = layers.above if is_down else layers.below
        numbers = range(1, len(points)) if is_down else range(len(points) - 2, -1, -1)
        points = [list(layer) for layer in points]
        for number in numbers:
            beside = points[number - 1] if is_down else points[number + 1]
            points[number] = _by_neighbours(points[number], beside, near)
        if len(layers.above) <= MAX_EXCHANGED:
            points = _exchanged(points, layers)
        if (count := crossings(points, layers.below)) < fewest:
            best, fewest = points, count
    return best


def _exchanged(points: Sequence[Sequence[Point]], layers: Layers) -> list[list[Point]]:
    """Exchange neighbours as long as fewer lines cross for it (Gansner et al., "A technique for
    drawing directed graphs", 1993, section 3)."""
    found = [list(layer) for layer in points]
    place = {point: number for layer in found for number, point in enumerate(layer)}

    def crossed(left: Point, right: Point) -> int:
        """Lines of two neighbours that cross if they stand like this."""
        pairs = [
            (place[one], place[other])
            for near in (layers.above, layers.below)
            for one in near.get(left, ())
            for other in near.get(right, ())
        ]
        return sum(one > other for one, other in pairs)

    is_better = True
    while is_better:
        is_better = False
        for layer in found:
            for number in range(len(layer) - 1):
                left, right = layer[number], layer[number + 1]
                if crossed(left, right) > crossed(right, left):
                    layer[number : number + 2] = right, left
                    place[left], place[right] = number + 1, number
                    is_better = True
    return found


def _by_neighbours(layer: Sequence[Point], beside: Sequence[Point], near: Links) -> list[Point]:
    """Sort a layer by the mean place of each point's neighbours in the one beside it."""
    place = {point: (number + 0.5) / len(beside) for number, point in enumerate(beside)}
    own = {point: (number + 0.5) / len(layer) for number, point in enumerate(layer)}

    def mean(point: Point) -> float:
        return _mean([place[other] for other in near.get(point, ())], own[point])

    return sorted(layer, key=mean)


def crossings(points: Sequence[Sequence[Point]], below: Links) -> int:
    """Return how many pairs of lines between neighbouring layers cross."""
    count = 0
    for upper, lower in pairwise(points):
        place = {point: number for number, point in enumerate(lower)}
        ends: list[int] = []
        for point in upper:
            own = sorted(place[other] for other in below.get(point, ()))
            count += sum(len(ends) - bisect_right(ends, end) for end in own)
            for end in own:
                insort(ends, end)
    return count


# ---- places --------------------------------------------------------------------------------------


def placed(layers: Layers, box: float, line: float, gap: float) -> dict[Point, float]:
    """Return the middle of every point, pixels from the left edge of the leftmost one.

    `box` and `line` are the widths of a stage and of where lines pass; `gap` is left between.
    """
    width = {p: box if isinstance(p, str) else line for layer in layers.points for p in layer}
    at: dict[Point, float] = {}
    for layer in layers.points:
        at |= zip(layer, _apart(layer, [0.0] * len(layer), width, gap), strict=True)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        for layer in layers.points if is_down else reversed(layers.points):
            wanted = [_mean([at[other] for other in layers.near(p)], at[p]) for p in layer]
            at |= zip(layer, _apart(layer, wanted, width, gap), strict=True)
    left = min((at[point] - width[point] / 2 for point in at), default=0.0)
    return {point: x - left for point, x in at.items()}


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _apart(
    layer: Sequence[Point], wanted: Sequence[float], width: Mapping[Point, float], gap: float
) -> list[float]:
    """Return the places nearest to those wanted, by weighted squares, that do not overlap.

    Less what stands before it, no place may be left of the one before: isotonic regression, by
    pooling neighbours that are out of order.
    """
    before, offset = [0.0], 0.0
    for one, other in pairwise(layer):
        offset += (width[one] + width[other]) / 2 + gap
        before.append(offset)
    pools: list[tuple[float, float, int]] = []  # mean, weight, points
    for point, place, shift in zip(layer, wanted, before, strict=False):
        mean, weight, count = place - shift, STRAIGHT if isinstance(point, Passing) else 1.0, 1
        while pools and pools[-1][0] > mean:
            earlier, heavy, many = pools.pop()
            mean = (earlier * heavy + mean * weight) / (heavy + weight)
            weight, count = heavy + weight, count + many
        pools.append((mean, weight, count))
    level = [mean for mean, _, count in pools for _ in range(count)]
    return [place + shift for place, shift in zip(level, before, strict=False)]
