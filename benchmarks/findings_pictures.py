"""Pictures of findings, readable in greyscale: hatches, line styles and markers, never hue."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from findings import Measured
    from findings_list import Finding
    from matplotlib.axes import Axes

HATCHES = ("", "//", "..", "xx", "\\\\", "--")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vx"
GREYS = ("0.15", "0.45", "0.65", "0.8")


def draw(finding: Finding, by_seed: Mapping[int, Measured], path: Path) -> None:
    """Draw a finding's picture."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    {"scores": _bars, "samples": _over_k, "steps": _over_steps, "variants": _over_variants}[
        finding.picture.kind
    ](axes, finding, by_seed)
    axes.grid(alpha=0.3, axis="y")
    place = (1.12, 1) if len(figure.axes) > 1 else (1, 1)  # past the right axis
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=place)
    axes.set_title(finding.title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _levels(by_seed: Mapping[int, Measured], model: str, measure: str) -> list[list[float]]:
    from findings import measured

    return [list(measured(each.rows.get(model, ()), measure).values()) for each in by_seed.values()]


def _bars(axes: Axes, finding: Finding, by_seed: Mapping[int, Measured]) -> None:
    _bars_of(axes, finding.picture.models, finding.picture.measures, by_seed)


def _bars_of(
    axes: Axes, models: Sequence[str], measures: Sequence[str], by_seed: Mapping[int, Measured]
) -> None:
    """One group of bars for each model, a bar for each measure, with 95 % intervals."""
    from findings import over_seeds

    width = 0.8 / len(measures)
    for number, measure in enumerate(measures):
        found = [over_seeds(_levels(by_seed, model, measure)) for model in models]
        places = [i + number * width for i, each in enumerate(found) if each]
        there = [each for each in found if each]
        ends = [[e.mean - e.low for e in there], [e.high - e.mean for e in there]]
        axes.bar(
            places, [each.mean for each in there], width, yerr=ends, capsize=3, label=measure,
            color=GREYS[number + 1], hatch=HATCHES[number], edgecolor="0.1",
        )  # fmt: skip
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right", fontsize=8)


def _over_k(axes: Axes, finding: Finding, by_seed: Mapping[int, Measured]) -> None:
    """pass@k and maj@k over k: a line style for each model, a marker for each measure."""
    for number, model in enumerate(finding.picture.models):
        for place, what in enumerate(finding.picture.measures):
            points = []
            for k in (1, 2, 4, 8, 16, 32, 64):
                values = [v for v in _levels(by_seed, model, f"{what}{k}") if v]
                if values:
                    points.append((k, statistics.fmean(map(statistics.fmean, values))))
            if points:
                axes.plot(
                    *zip(*points, strict=True), linestyle=LINES[number], marker=MARKERS[place],
                    color=GREYS[number], label=f"{model}, {what}k", markersize=4,
                )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlabel("k")
    axes.set_ylabel("share right")


def _over_steps(axes: Axes, finding: Finding, by_seed: Mapping[int, Measured]) -> None:
    """What a stage logged over its updates: thick the mean of the seeds, thin each of them."""
    for number, measure in enumerate(finding.picture.measures):
        side = axes if number == 0 else _right_axis(axes)
        style: Any = {"linestyle": LINES[number], "color": GREYS[number]}
        values: dict[int, list[float]] = {}
        for each in by_seed.values():
            rows = each.metrics.get(finding.picture.models[0], [])
            points = {row["step"]: row[measure] for row in rows if measure in row}
            for step, value in points.items():
                values.setdefault(step, []).append(value)
            side.plot(list(points), list(points.values()), linewidth=0.6, alpha=0.45, **style)
        means = [statistics.fmean(values[step]) for step in sorted(values)]
        side.plot(sorted(values), means, linewidth=2, **style)
        side.set_ylabel(measure)
        axes.plot([], [], linewidth=2, label=measure, **style)
    axes.set_xlabel("update")


def _right_axis(axes: Axes) -> Axes:
    twins = [other for other in axes.figure.axes if other is not axes]
    side = twins[0] if twins else axes.twinx()
    assert hasattr(side, "plot")
    return side


def _over_variants(axes: Axes, finding: Finding, by_seed: Mapping[int, Measured]) -> None:
    """A measure over the variants, with intervals: a marker and line style for each model.

    With one variant there is no line to draw, and each model is a bar.
    """
    from findings import over_seeds

    variants = list(finding.variants or ())
    if len(variants) == 1:
        models = [f"{model}@{variants[0]}" for model in finding.picture.models]
        _bars_of(axes, models, finding.picture.measures, by_seed)
        return
    for number, model in enumerate(finding.picture.models):
        found = [over_seeds(_levels(by_seed, f"{model}@{v}", "pass@1")) for v in variants]
        places = [float(v) + 0.08 * number for v, each in zip(variants, found, strict=True) if each]
        there = [each for each in found if each]
        axes.errorbar(
            places, [e.mean for e in there],
            yerr=[[e.mean - e.low for e in there], [e.high - e.mean for e in there]],
            linestyle=LINES[number % 4], marker=MARKERS[number % 6], color=GREYS[number % 3],
            capsize=3, label=model,
        )  # fmt: skip
    axes.set_xticks([float(re.sub(r"\D", "", v)) for v in variants])
    axes.set_xlabel("n")
