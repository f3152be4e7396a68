"""The graph of stages, laid out by layers: what a stage reads stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from r1pipe.report.layers import Point, in_layers, placed

NODE_WIDTH, NODE_HEIGHT = 150, 40
MAX_NAME = 20
"""Columns of a name that a box has room for."""
MAX_TOOK = 21
"""Columns of the time below it that a box has room for; what is longer is drawn narrower."""
GAP_X, GAP_Y = 14, 40
LINE_WIDTH = 2
"""Of the lines of one stage that pass a layer."""
MARGIN = 8


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
    layers = in_layers(inputs)
    middle = placed(layers, NODE_WIDTH, LINE_WIDTH, GAP_X)
    top = {
        point: MARGIN + depth * (NODE_HEIGHT + GAP_Y)
        for depth, layer in enumerate(layers.points)
        for point in layer
    }
    nodes = [
        Node(name, states[name], took[name], MARGIN + middle[name] - NODE_WIDTH / 2, top[name])
        for name in inputs
    ]
    edges = []
    for (source, reader), way in layers.ways.items():
        points: list[Point] = [source, *way, reader]
        path = _path([(MARGIN + middle[point], top[point]) for point in points])
        edges.append(Edge(source, reader, path))
    lines = (middle[point] + LINE_WIDTH / 2 + MARGIN for point in middle)
    width = max((*lines, *(node.x + NODE_WIDTH for node in nodes)), default=0.0) + MARGIN
    height = len(layers.points) * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    return Drawing(width, max(height, 0.0), nodes, edges)


def fitted(name: str, columns: int) -> str:
    """Return a name, a longer one with dots in its middle: names often differ at their ends.

    >>> fitted("a-long-name-17", 11), fitted("short", 11)
    ('a-lo...e-17', 'short')
    """
    if len(name) <= columns:
        return name
    end = (columns - 3) // 2
    return f"{name[: columns - 3 - end]}...{name[-end:]}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Return a line from the lower side of the first box to the upper side of the last one.

    Points are the middles of upper sides; a layer between is passed straight down.
    """
    x, y = points[0]
    steps = [f"M{x:.0f},{y + NODE_HEIGHT:.0f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        half = (y0 + NODE_HEIGHT + y1) / 2
        steps.append(f"C{x0:.0f},{half:.0f} {x1:.0f},{half:.0f} {x1:.0f},{y1:.0f}")
        if (x1, y1) != points[-1]:
            steps.append(f"V{y1 + NODE_HEIGHT:.0f}")
    return "".join(steps)
