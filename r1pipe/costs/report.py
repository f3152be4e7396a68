"""What `plan` and `show` say about costs: ranges in a table, predicted and actual side by side."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.fitting import fitted_lines, wrapped_lines
from r1pipe.keys import JsonObject
from r1pipe.text import format_bytes, format_number, visible

if TYPE_CHECKING:
    from r1pipe.costs.estimate import Estimator
    from r1pipe.costs.work import Estimate, Range
    from r1pipe.manifest import Manifest
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

TIME_UNITS = ((31_557_600.0, "y"), (86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
BYTE_UNITS = (
    (float(1 << 40), "TiB"),
    (float(1 << 30), "GiB"),
    (float(1 << 20), "MiB"),
    (1024.0, "KiB"),
    (1.0, "B"),
)
COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
MAX_NAMED = 3
BUSY_LOAD = 0.5
"""Processes that want a core, for each core, from which a measurement is not to be trusted."""
NONE = "-"
PRICE = "price_per_gpu_hour"


@dataclass(frozen=True)
class Costs:
    """Estimates of the stages that a run would build; `unknown` says why one has none."""

    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What was assumed, in words, and for which stages."""
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    basis: str = ""
    calibration: str | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    """Stage -> the price of one of its GPUs for an hour, in any currency."""

    def lines(self, width: int | None = None) -> list[str]:
        """Return the table, its sum, what it rests on, and what could not be estimated."""
        unknown = [f"{name}: no estimate: {visible(why)}" for name, why in self.unknown.items()]
        if not self.estimates:
            return ["", *unknown] if unknown else []
        total = self.total()
        rows = [["STAGE", "TRAINS", "SAMPLES", "TIME", "MEMORY", "DISK", *self._money_titles()]]
        for name, found in self.estimates.items():
            rows.append([name, *_cells(found), *self._money_cells([name])])
        rows.append(["all", *_cells(total), *self._money_cells(self.estimates)])
        units = "tokens trained and sampled; memory per device"
        if total.scratch_bytes.high:
            scratch = _range_text(total.scratch_bytes, BYTE_UNITS)
            units += f"; besides, {scratch} of disk while it runs"
        below = [self.basis, units, *self._unpriced()]
        below += [f"assumed: {text}" for text in _grouped(self.assumed)]
        below += [f"warning: {text}" for text in _grouped(self.warnings)]
        table = fitted_lines(rows, width, spare=("TRAINS", "SAMPLES", "DISK"))
        return ["", *table, "", *wrapped_lines([*below, *unknown], width)]

    def short_titles(self) -> tuple[str, ...]:
        """Return the names of what `short_cells` returns; nothing without estimates."""
        return ("TIME", "MEMORY", *self._money_titles()) if self.estimates else ()

    def short_cells(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the time of some stages together, the memory of the largest, and their money."""
        found = {name: self.estimates[name] for name in names if name in self.estimates}
        if not found:
            return (NONE,) * len(self.short_titles())
        _, _, seconds, memory, _ = _cells(replace(self, estimates=found).total())
        return seconds, memory, *self._money_cells(found)

    def short_lines(self) -> list[str]:
        """Return the sum of all stages, what it rests on, and what could not be estimated."""
        unknown = [f"no estimate: {text}" for text in _grouped(_by_text(self.unknown))]
        if not self.estimates:
            return unknown
        trained, sampled, seconds, memory, disk = _cells(self.total())
        lines = [
            f"time {seconds}, memory {memory}, disk {disk}",
            f"tokens trained {trained}, sampled {sampled}",
        ]
        if titles := self._money_titles():
            cells = self._money_cells(self.estimates)
            named = [f"{title.lower()} {cell}" for title, cell in zip(titles, cells, strict=True)]
            lines += [", ".join(named), *self._unpriced()]
        count = len(self.assumed)
        things = "1 thing" if count == 1 else f"{count} things"
        more = f"; {things} assumed, which 'r1pipe plan --verbose' names" if count else ""
        lines.append(self.basis + more)
        return lines + [f"warning: {text}" for text in _grouped(self.warnings)] + unknown

    def gpu_hours(self) -> Range:
        """Return the hours times GPUs of all stages."""
        from r1pipe.costs.work import NOTHING

        return sum((each.gpu_hours for each in self.estimates.values()), NOTHING)

    def price(self, names: Iterable[str]) -> Range:
        """Return what the GPU-hours of some stages come to; those without a price count nothing."""
        from r1pipe.costs.work import NOTHING

        prices = (self.estimates[name].gpu_hours * self.prices.get(name, 0.0) for name in names)
        return sum(prices, NOTHING)

    def _money_titles(self) -> list[str]:
        if not self.gpu_hours().high:
            return []
        return ["GPU-HOURS", *(["PRICE"] if self.prices else [])]

    def _money_cells(self, names: Collection[str]) -> list[str]:
        hours = replace(self, estimates={name: self.estimates[name] for name in names}).gpu_hours()
        cells = [_range_text(found, COUNT_UNITS) for found in (hours, self.price(names))]
        return cells[: len(self._money_titles())]

    def _unpriced(self) -> list[str]:
        """Say which stages have no price, where others have one."""
        named = [n for n, each in self.estimates.items() if each.gpu_hours.high]
        missing = [name for name in named if name not in self.prices]
        text = "no price: set run.price_per_gpu_hour, or --price for all"
        return _grouped({text: missing}) if missing and self.prices else []

    def total(self) -> Estimate:
        """Return all stages together: sums, and the largest of memory and scratch."""
        from r1pipe.costs.work import NOTHING, Estimate, Range

        found = list(self.estimates.values())

        def largest(values: Sequence[Range]) -> Range:
            """Return the range of the largest."""
            return Range(max(v.low for v in values), max(v.high for v in values))

        return Estimate(
            trained_tokens=sum((each.trained_tokens for each in found), NOTHING),
            sampled_tokens=sum((each.sampled_tokens for each in found), NOTHING),
            seconds=sum((each.seconds for each in found), NOTHING),
            peak_bytes=largest([each.peak_bytes for each in found]),
            disk_bytes=sum((each.disk_bytes for each in found), NOTHING),
            scratch_bytes=largest([each.scratch_bytes for each in found]),
            device=next((each.device for each in found if each.device != "cpu"), "cpu"),
            devices=max(each.devices for each in found),
        )

    def to_json(self) -> JsonObject:
        """Return one document; ranges are [low, high]."""
        return {
            "stages": {name: found.to_json() for name, found in self.estimates.items()},
            "total": self.total().to_json() if self.estimates else None,
            "gpu_hours": self.gpu_hours().to_json(),
            "price": self.price(self.estimates).to_json() if self.prices else None,
            "unknown": dict(self.unknown),
            "assumed": {text: list(names) for text, names in self.assumed.items()},
            "warnings": {text: list(names) for text, names in self.warnings.items()},
            "calibration": self.calibration,
        }


def stage_costs(
    manifest: Manifest,
    store: Store,
    records: Mapping[str, ActionRecord],
    names: Sequence[str],
    price: float | None = None,
) -> Costs:
    """Return what the named stages will cost; `records` are the results that are in the store, and
    `price` is that of a GPU for an hour, in place of what the stages say."""
    if not names:
        return Costs()
    from r1pipe.costs.estimate import Unknown, make_estimator

    estimator = make_estimator(manifest, store, records)
    estimates: dict[str, Estimate] = {}
    unknown: dict[str, str] = {}
    assumed: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    for name in names:
        for misfit in estimator.misfits(name):
            warnings.setdefault(misfit.text, []).append(name)
        try:
            estimates[name] = estimator.estimate(name)
        except Unknown as reason:
            unknown[name] = str(reason)
            continue
        for text in estimates[name].assumes:
            assumed.setdefault(text, []).append(name)
        for text in estimates[name].warnings:
            warnings.setdefault(text, []).append(name)
    for source, text in estimator.assumed_sources.items():
        assumed.setdefault(text, []).append(f"source {source}")
    made = estimator.calibration.made if estimator.calibration else None
    prices = _prices(manifest, names, price)
    return Costs(estimates, unknown, assumed, warnings, basis_text(estimator), made, prices)


def _prices(manifest: Manifest, names: Sequence[str], price: float | None) -> dict[str, float]:
    """Return the price of a GPU-hour of each stage that has one."""
    if price is not None:
        return dict.fromkeys(names, price)
    own = {name: getattr(manifest.stages[name].run, PRICE, None) for name in names}
    return {name: value for name, value in own.items() if value is not None}


def basis_text(estimator: Estimator) -> str:
    """Say what the times rest on."""
    calibration = estimator.calibration
    if calibration is None:
        return (
            "times are rough: nothing was measured on this machine; 'r1pipe plan --probe' does so"
        )
    from r1pipe.costs.versions import changed_versions

    changed = changed_versions(calibration.versions)
    again = f"; {', '.join(changed)} changed since: 'r1pipe plan --probe'" if changed else ""
    engines = ", ".join(calibration.speeds)
    is_busy = calibration.load > BUSY_LOAD
    busy = "; the machine was busy then, so they are too long" if is_busy else ""
    return f"times from {engines}, measured here on {calibration.made[:10]}{busy}{again}"


def compared_lines(record: ActionRecord, store: Store, width: int | None = None) -> list[str]:
    """Return a stage's prediction beside what it took, as lines of `width`; none without one."""
    predicted = record.facts.get("predicted")
    if not isinstance(predicted, Mapping):
        return []
    actual = actual_values(record, store)
    rows = [("WHAT", "PREDICTED", "ACTUAL", "")]
    for name, label, units in (
        ("trained_tokens", "trained tokens", COUNT_UNITS),
        ("sampled_tokens", "sampled tokens", COUNT_UNITS),
        ("seconds", "time", TIME_UNITS),
        ("peak_bytes", "peak memory per device", BYTE_UNITS),
        ("disk_bytes", "disk", BYTE_UNITS),
    ):
        low, high = _noted_range(predicted.get(name))
        if not high and not actual.get(name):
            continue
        value = actual.get(name)
        shown = NONE if value is None else _number(value, units)
        rows.append((label, _span(low, high, units), shown, _compared(low, high, value)))
    return fitted_lines(rows, width)


def actual_values(record: ActionRecord, store: Store) -> dict[str, float | None]:
    """Return what a finished stage took, by the names of a prediction; None if not noted."""
    return {
        "trained_tokens": _noted(record.facts.get("trained_tokens")),
        "sampled_tokens": _sampled_tokens(record, store),
        "seconds": record.seconds,
        "peak_bytes": _noted(record.facts.get("peak_gpu_bytes")) or record.peak_rss_bytes,
        "disk_bytes": record.size,
    }


def _sampled_tokens(record: ActionRecord, store: Store) -> float | None:
    """Return the tokens a stage sampled: noted, else the sum of the rows' `num_tokens`, else the
    mean `completion_tokens` of its steps times the completions."""
    if (noted := _noted(record.facts.get("sampled_tokens"))) is not None:
        return noted
    counted = [
        total
        for output in (record.outputs if store.has_artifact(record) else ())
        if (total := _column_sum(store.output_dir(record, output), "num_tokens")) is not None
    ]
    if counted:
        return max(counted)  # the kept rows are among the candidates
    predicted = record.facts.get("predicted")
    completions = _noted(predicted.get("completions")) if isinstance(predicted, dict) else None
    means = [
        mean
        for row in store.metrics(record)
        if (mean := _noted(row.get("completion_tokens"))) is not None
    ]
    return completions * sum(means) / len(means) if completions and means else None


def _noted(value: object) -> float | None:
    """Return a number that a stage noted; None for anything else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _noted_range(value: object) -> tuple[float, float]:
    """Return the two numbers of a predicted range, zeros for anything else."""
    ends = [_noted(end) for end in value] if isinstance(value, list) else []
    return (ends[0] or 0.0, ends[1] or 0.0) if len(ends) == 2 else (0.0, 0.0)


def _column_sum(folder: Path, column: str) -> float | None:
    """Return the sum of a column of the Parquet files in a folder, or None without it."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if any(column not in pq.read_schema(path).names for path in files):
        return None
    tables = [pq.read_table(path, columns=[column]) for path in files]
    return float(sum(pc.sum(table[column]).as_py() or 0 for table in tables))


def _compared(low: float, high: float, value: float | None) -> str:
    """Say whether a value was inside its range, else by how much it was not."""
    if value is None:
        return ""
    if low <= value <= high:
        return "inside"
    if value < low:
        return f"{format_number(low / value)} times less" if value else "less"
    return f"{format_number(value / high)} times more" if high else "more"


def _grouped(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return each text with the first stages that it holds for."""
    lines = []
    for text, names in texts.items():
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        lines.append(f"{visible(text)} ({', '.join(names[:MAX_NAMED])}{more})")
    return lines


def _by_text(unknown: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the stages for which each text holds."""
    found: dict[str, list[str]] = {}
    for name, text in unknown.items():
        found.setdefault(text, []).append(name)
    return found


def _cells(found: Estimate) -> list[str]:
    devices = f" x {found.devices}" if found.devices > 1 else ""
    memory = _range_text(found.peak_bytes, BYTE_UNITS)
    return [
        _range_text(found.trained_tokens, COUNT_UNITS),
        _range_text(found.sampled_tokens, COUNT_UNITS),
        _range_text(found.seconds, TIME_UNITS),
        f"{memory}{devices}",
        _range_text(found.disk_bytes, BYTE_UNITS),
    ]


def _range_text(found: Range, units: Sequence[tuple[float, str]]) -> str:
    return _span(found.low, found.high, units)


def _span(low: float, high: float, units: Sequence[tuple[float, str]]) -> str:
    """Return a range in the unit of its upper end; one number if both ends look alike."""
    if not high:
        return NONE
    factor, unit = next(((f, u) for f, u in units if high >= f), units[-1])
    first, last = _short(low / factor), _short(high / factor)
    return f"{last} {unit}".rstrip() if first == last else f"{first}-{last} {unit}".rstrip()


def _number(value: float, units: Sequence[tuple[float, str]]) -> str:
    if units is BYTE_UNITS:
        return format_bytes(value)
    return _span(value, value, units) if value else "0"


def _short(value: float) -> str:
    """Return a number with about two digits that matter, as text."""
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.05 else "0"
