"""The graph of stages, laid out by layers: what a stage reads stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NODE_WIDTH, NODE_HEIGHT = 138, 40
GAP_X, GAP_Y = 14, 40
MARGIN = 8
ROUNDS = 6
"""Sweeps that bring what belongs together nearer."""


@dataclass(frozen=True)
class Node:
    """One stage as a box; pixels."""

    name: str
    state: str
    took: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """A line from a stage to one that reads it; `path` is SVG's `d`."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class Drawing:
    """Boxes and the lines between them."""

    width: float
    height: float
    nodes: list[Node]
    edges: list[Edge]


def draw(
    inputs: Mapping[str, Sequence[str]], states: Mapping[str, str], took: Mapping[str, str]
) -> Drawing:
    """Lay stages out; `inputs` has what each one reads, in topological order."""
    layers = _ordered(_layers(inputs), inputs)
    widest = max((len(layer) for layer in layers), default=1)
    width = widest * (NODE_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    at: dict[str, tuple[float, float]] = {}
    for depth, layer in enumerate(layers):
        left = (width - (len(layer) * (NODE_WIDTH + GAP_X) - GAP_X)) / 2
        for place, name in enumerate(layer):
            y = MARGIN + depth * (NODE_HEIGHT + GAP_Y)
            at[name] = (left + place * (NODE_WIDTH + GAP_X), y)
    nodes = [Node(name, states[name], took[name], *at[name]) for name in inputs]
    edges = [
        Edge(source, name, _path(at[source], at[name]))
        for name, sources in inputs.items()
        for source in dict.fromkeys(sources)
        if source in at
    ]
    height = len(layers) * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    return Drawing(width, max(height, 0.0), nodes, edges)


def _layers(inputs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the stages by the length of the longest way to them.

    What reads nothing stands right above the first stage that reads it.
    """
    depth: dict[str, int] = {}
    for name, sources in inputs.items():
        depth[name] = 1 + max((depth[source] for source in sources if source in depth), default=-1)
    for name, sources in inputs.items():
        if not any(source in depth for source in sources):
            readers = [depth[other] for other, read in inputs.items() if name in read]
            depth[name] = min(readers, default=1) - 1
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, number in depth.items():
        layers[number].append(name)
    return layers


def _ordered(layers: list[list[str]], inputs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Order each layer by the mean place of its neighbours: the barycentre heuristic."""
    neighbours: dict[str, set[str]] = {name: set() for name in inputs}
    for name, sources in inputs.items():
        for source in sources:
            if source in neighbours:
                neighbours[name].add(source)
                neighbours[source].add(name)
    for _ in range(ROUNDS):
        place = {
            name: (number + 0.5) / len(layer)
            for layer in layers
            for number, name in enumerate(layer)
        }

        def mean(name: str, place: Mapping[str, float] = place) -> float:
            near = [place[other] for other in neighbours[name]]
            return sum(near) / len(near) if near else place[name]

        layers = [sorted(layer, key=mean) for layer in layers]
    return layers


def _path(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Return a curve from the lower side of one box to the upper side of another."""
    x0, y0 = start[0] + NODE_WIDTH / 2, start[1] + NODE_HEIGHT
    x1, y1 = end[0] + NODE_WIDTH / 2, end[1]
    bend = (y1 - y0) / 2
    return f"M{x0:.0f},{y0:.0f}C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f} {x1:.0f},{y1:.0f}"
