"""The picture of the graph: lines that can be followed, boxes that nothing crosses."""

from __future__ import annotations

import re
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.manifest import load_manifest
from r1pipe.manifest.graph import refs_of
from r1pipe.report.graph import GAP_X, NODE_HEIGHT, NODE_WIDTH, Drawing, draw, fitted
from r1pipe.report.layers import Passing, Point, _apart, crossings, in_layers, placed

ROOT = Path(__file__).resolve().parents[1]
STEPS = re.compile(r"([MCV])([^MCV]+)")


def recipe() -> dict[str, list[str]]:
    nodes = load_manifest(ROOT / "manifests" / "r1.yaml", profile="smoke").stages.values()
    return {node.name: [ref.name for ref in refs_of(node.inputs)] for node in nodes}


def test_long_names_that_differ_at_their_ends_do_so_in_the_picture() -> None:
    names = [f"sample-for-the-second-run-{number:02}" for number in range(30)]
    found = [fitted(name, 20) for name in names]
    assert found[7] == "sample-fo...d-run-07"
    assert len(set(found)) == 30
    assert fitted("x" * 20, 20) == "x" * 20


def drawing(inputs: dict[str, list[str]]) -> Drawing:
    words = dict.fromkeys(inputs, "built")
    return draw(inputs, words, words)


def points_along(path: str) -> list[tuple[float, float]]:
    """Return points of a line, close to one another."""
    found: list[tuple[float, float]] = []
    for letter, text in STEPS.findall(path):
        numbers = [float(part) for part in re.split(r"[ ,]", text)]
        if letter == "M":
            found.append((numbers[0], numbers[1]))
        elif letter == "V":
            x, y = found[-1]
            found += [(x, y + (numbers[0] - y) * step / 20) for step in range(1, 21)]
        else:
            corners = [found[-1], *zip(numbers[::2], numbers[1::2], strict=True)]
            for step in range(1, 21):
                t = step / 20
                share = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                found.append(
                    (
                        sum(a * x for a, (x, _) in zip(share, corners, strict=True)),
                        sum(a * y for a, (_, y) in zip(share, corners, strict=True)),
                    )
                )
    return found


def test_no_line_of_the_recipe_crosses_a_box() -> None:
    found = drawing(recipe())
    assert len(found.nodes) == len(recipe())
    assert len(found.edges) > 60, "it is a graph with many lines"
    for edge, node in product(found.edges, found.nodes):
        inside = [
            (x, y)
            for x, y in points_along(edge.path)
            if node.x < x < node.x + NODE_WIDTH and node.y < y < node.y + NODE_HEIGHT
        ]
        assert not inside, f"{edge.source} to {edge.target} crosses {node.name}"


def test_lines_begin_and_end_at_their_boxes_and_stay_inside_the_picture() -> None:
    found = drawing(recipe())
    at = {node.name: (node.x + NODE_WIDTH / 2, node.y) for node in found.nodes}
    for edge in found.edges:
        along = points_along(edge.path)
        x, y = at[edge.source]
        assert along[0] == pytest.approx((x, y + NODE_HEIGHT), abs=1)
        assert along[-1] == pytest.approx(at[edge.target], abs=1)
        assert all(0 < x < found.width and 0 < y < found.height for x, y in along)


def test_the_recipe_is_drawn_with_less_than_half_of_the_crossings_it_is_written_with() -> None:
    layers = in_layers(recipe())
    written = [sorted(layer, key=list(_numbered(layer)).index) for layer in layers.points]
    assert crossings(layers.points, layers.below) < crossings(written, layers.below) / 2


def _numbered(layer: list[str | Passing]) -> list[str | Passing]:
    """Return a layer in the manifest's order, lines by the stage that they come from."""
    order = list(recipe())
    return sorted(layer, key=lambda p: order.index(p if isinstance(p, str) else p.source))


def test_crossings_are_those_counted_by_hand() -> None:
    two: dict[Point, list[Point]] = {"a": ["x", "y"], "b": ["x", "y"]}
    assert crossings([["a", "b"], ["x", "y"]], two) == 1
    assert crossings([["a", "b"], ["x", "y"]], {"a": ["y"], "b": ["x"]}) == 1
    assert crossings([["b", "a"], ["x", "y"]], {"a": ["y"], "b": ["x"]}) == 0
    assert crossings([["a"], ["x", "y"]], {"a": ["x", "y"]}) == 0


def test_lines_that_need_not_cross_do_not() -> None:
    inputs = {"a": [], "b": [], "x": ["b"], "y": ["a"], "u": ["y"], "v": ["x"]}
    layers = in_layers(inputs)
    assert crossings(layers.points, layers.below) == 0


def test_all_lines_of_a_stage_pass_a_layer_at_one_point() -> None:
    layers = in_layers({"a": [], "b": ["a"], "c": ["b"], "d": ["c", "a"], "e": ["c", "a"]})
    passing = [Passing("a", 1), Passing("a", 2)]
    assert layers.ways["a", "d"] == layers.ways["a", "e"] == passing
    assert [layer.count(p) for p, layer in zip(passing, layers.points[1:3], strict=True)] == [1, 1]


@given(st.lists(st.tuples(st.integers(-40, 40), st.booleans()), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_places_are_the_nearest_that_do_not_overlap(layer: list[tuple[int, bool]]) -> None:
    """Against all places on a grid."""
    points = [f"s{n}" if box else Passing("s", n) for n, (_, box) in enumerate(layer)]
    wanted = [float(place) for place, _ in layer]
    width = {point: 8.0 if isinstance(point, str) else 2.0 for point in points}
    weight = [1.0 if isinstance(point, str) else 4.0 for point in points]
    found = _apart(points, wanted, width, 2.0)
    for (one, x), (other, y) in pairwise(zip(points, found, strict=True)):
        assert y - x >= (width[one] + width[other]) / 2 + 2.0 - 1e-9

    def cost(places: list[float]) -> float:
        return sum(w * (p - q) ** 2 for w, p, q in zip(weight, places, wanted, strict=True))

    for place, step in product(range(len(found)), (-0.5, 0.5)):  # it cannot be bettered
        for end in range(place + 1, len(found) + 1):
            moved = [x + step * (place <= n < end) for n, x in enumerate(found)]
            fits = all(
                moved[n + 1] - moved[n] >= (width[a] + width[b]) / 2 + 2.0 - 1e-9
                for n, (a, b) in enumerate(pairwise(points))
            )
            assert not fits or cost(moved) >= cost(found) - 1e-9


def test_boxes_keep_their_distance() -> None:
    layers = in_layers(recipe())
    at = placed(layers, NODE_WIDTH, 2, GAP_X)
    for layer in layers.points:
        boxes = [at[point] for point in layer if isinstance(point, str)]
        assert all(y - x >= NODE_WIDTH + GAP_X - 1e-6 for x, y in pairwise(boxes))
