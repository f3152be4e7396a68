"""Contrast of the report's colours by WCAG 2.2 (1.4.3 and 1.4.11), light and dark.

A browser's checker cannot judge text in SVG; its colours are these.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSS = Path(__file__).parents[1] / "r1pipe" / "report" / "assets" / "report.css"
TEXTS = ("text", "quiet", "link", "built", "running", "stopped", "gone")
"""Colours of words: 4.5 to 1."""
MARKS = ("bar", "kept", "edge", *(f"c{number}" for number in range(8)))
"""Colours of dots, bars, curves and the edges of the graph: 3 to 1."""


def schemes() -> dict[str, dict[str, str]]:
    """Return light and dark colours by name: the first two blocks of them."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS.read_text("utf-8"), re.S)[:2]
    found = {"light": light, "dark": dark}
    return {
        name: dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", it)) for name, it in found.items()
    }


def luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_words_and_marks_stand_out_from_what_is_behind_them(scheme: str, ground: str) -> None:
    colours = schemes()[scheme]
    ratios = {name: contrast(colours[name], colours[ground]) for name in (*TEXTS, *MARKS)}
    low = {name: round(r, 2) for name, r in ratios.items() if r < (4.5 if name in TEXTS else 3.0)}
    assert not low


def test_edges_of_the_graph_have_a_colour_that_is_checked() -> None:
    drawn = re.findall(r"\.edge[^{]*\{[^}]*stroke: var\(--([a-z0-9]+)\)", CSS.read_text("utf-8"))
    assert drawn == ["edge", "link"], "at rest, and next to the stage that is pointed at"
    assert {*drawn} <= {*MARKS, *TEXTS}


def test_text_in_pictures_has_the_colours_that_are_checked() -> None:
    css = CSS.read_text("utf-8")
    filled = re.findall(r"svg (?:text|\.[a-z]+)[^{]*\{ fill: var\(--([a-z0-9]+)\)", css)
    assert {*filled} <= {*TEXTS}
    assert {"text", "quiet"} <= {*filled}


@pytest.mark.parametrize("name", ["facts", "note", "legend"])
def test_what_stands_beside_a_picture_is_quiet(name: str) -> None:
    rules = re.findall(r"^([^{}@]*)\{([^{}]*)\}", CSS.read_text("utf-8"), re.M)
    own = [body for selector, body in rules if f".{name}" in selector.replace(",", " ").split()]
    assert any("color: var(--quiet)" in body for body in own)
