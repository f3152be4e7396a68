"""The flow of a stage's candidates as a picture: problems, candidates, what took each, rows.

Heights are shares. Bars and bands stand in three columns; pixels throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from r1pipe.report.flow import Flow, Part, counted
from r1pipe.text import display_width

WIDTH = 960.0
PROBLEMS, CANDIDATES, OUTCOMES = 170.0, 330.0, 560.0
"""Left sides of the columns' bars."""
BAR = 14.0
"""Width of a bar."""
TOP, BOTTOM = 40.0, 12.0
"""Room above the bars, for the headings, and below them."""
HEIGHT = 190.0
"""Of all candidates."""
SLOT, GAP = 20.0, 5.0
"""Least height that an outcome takes, so that its words have room; what is between two."""
THINNEST = 1.5
"""Of a band: the smallest share is seen."""
ASIDE = 60.0
"""Room on the left of the candidates, where no column of problems is."""
MAX_LABEL = 34
"""Columns of an outcome's name; `title` and the table below have the whole."""


@dataclass(frozen=True)
class Bar:
    """A bar with its words beside it; `css` says how it is filled."""

    x: float
    y: float
    height: float
    css: str
    text: str
    title: str

    @property
    def middle(self) -> float:
        """The height at which its words stand."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Band:
    """What flows from one bar to another; `path` is SVG's `d`."""

    path: str
    css: str
    title: str


@dataclass(frozen=True)
class Picture:
    """Bars and bands; `problems` and `outcomes` have words, on their left and right."""

    left: float
    """Where it begins: further right without a column of problems."""
    right: float
    height: float
    problems: list[Bar]
    candidates: Bar
    outcomes: list[Bar]
    bands: list[Band]


def picture_of(flow: Flow) -> Picture:
    """Lay a flow out; it must have candidates."""
    assert flow.total, "a picture needs candidates"
    heights = [max(THINNEST, part.frac * HEIGHT) if part.count else 0.0 for part in flow.parts]
    tops, inner = _slots(heights)
    left_tops = _stacked(heights, TOP + max(0.0, inner - sum(heights)) / 2)
    whole = Bar(
        CANDIDATES,
        left_tops[0],
        sum(heights),
        "whole",
        counted(flow.total, "completion"),
        flow.summary,
    )
    outcomes = [
        Bar(OUTCOMES, top, height, _css(part), _text(part, flow), f"{part.label}: {part.count:,}")
        for part, top, height in zip(flow.parts, tops, heights, strict=True)
    ]
    problems = _problems(flow, whole)
    trunk = [_band(PROBLEMS + BAR, p.y, p.height, whole, "trunk") for p in problems[:1]]
    bands = [
        _band(CANDIDATES + BAR, top, bar.height, bar, bar.css)
        for top, bar in zip(left_tops, outcomes, strict=True)
        if bar.height
    ]
    lowest = max(bar.middle + max(SLOT, bar.height) / 2 for bar in (whole, *problems, *outcomes))
    left = 0.0 if problems else CANDIDATES - ASIDE
    return Picture(left, WIDTH, lowest + BOTTOM, problems, whole, outcomes, [*trunk, *bands])


def _slots(heights: Sequence[float]) -> tuple[list[float], float]:
    """Return the top of each bar, centred in a slot that has room for words, and their height."""
    slots = [max(SLOT, height) + GAP for height in heights]
    starts = _stacked(slots, TOP)
    tops = [
        start + (slot - GAP - height) / 2
        for start, slot, height in zip(starts, slots, heights, strict=True)
    ]
    return tops, sum(slots) - GAP


def _stacked(heights: Sequence[float], top: float) -> list[float]:
    """Return where each of some heights begins, one below the other."""
    return list(accumulate(heights[:-1], initial=top))


def _problems(flow: Flow, whole: Bar) -> list[Bar]:
    """Return the bars of problems, those with candidates first; none where they are not known."""
    if flow.problems is None:
        return []
    counts = [("sampled", flow.num_sampled), *flow.unused]
    named = [(what, count) for what, count in counts if count]
    every = sum(count for _, count in named) or 1
    heights = [max(THINNEST, whole.height * count / every) for _, count in named]
    tops, _ = _slots(heights)
    shift = whole.y - tops[0] if tops else 0.0
    return [
        Bar(
            PROBLEMS,
            top + shift,
            height,
            "whole" if what == "sampled" else "lost",
            f"{count:,} {what}",
            f"{counted(count, 'problem')} {what}",
        )
        for (what, count), top, height in zip(named, tops, heights, strict=True)
    ]


def _css(part: Part) -> str:
    return "kept" if part.is_kept else "lost"


def _text(part: Part, flow: Flow) -> str:
    """Return what stands beside an outcome: its name, count and share."""
    if not part.is_kept:
        return f"{shortened(part.label, MAX_LABEL)}, {part.count:,} ({part.share})"
    of = ""
    if flow.problems is not None and flow.without_rows is not None:
        of = f" of {counted(flow.num_sampled - flow.without_rows, 'problem')}"
    return f"kept, {counted(part.count, 'row')}{of} ({part.share})"


def _band(x0: float, y0: float, height: float, to: Bar, css: str) -> Band:
    """Return the band from a place on the right of a bar to the whole left side of another."""
    x1, y1 = to.x, to.y
    bend = (x0 + x1) / 2
    below, below_to = y0 + height, y1 + to.height
    path = (
        f"M{x0:.1f},{y0:.1f}C{bend:.1f},{y0:.1f} {bend:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
        f"V{below_to:.1f}C{bend:.1f},{below_to:.1f} {bend:.1f},{below:.1f} {x0:.1f},{below:.1f}Z"
    )
    return Band(path, css, to.title)


def shortened(text: str, columns: int) -> str:
    """Return text cut to so many columns, with three dots where it was cut.

    >>> shortened("failed: a very long name", 12)
    'failed: a...'
    """
    if display_width(text) <= columns:
        return text
    while display_width(text) > columns - 3:
        text = text[:-1]
    return text + "..."
