"""Measure how easy the code is to read: sizes, types, docstrings, circles, and the trips it takes.

    python benchmarks/house.py [--checkout DIR] [--json]

Only the standard library is used; nothing of the package is imported or run. The code is
`r1pipe/` and `stages/`; tests and benchmarks are not counted.

files, lines       all lines count, blank ones and docstrings too; p90: nine in ten are not longer
functions          methods and nested functions too; length from `def` to the end, docstring and all
arguments          named parameters, without `self` or `cls`, `*args` and `**kwargs`
typed              functions whose parameters and result all have an annotation
public documented  functions and methods without a leading underscore that have a docstring
Any per 1,000      uses of the name `Any` per thousand lines, its imports not counted
one update         files that hold what `--update` reaches by name, over calls and mentions, within
                   `--folders` (the algorithm; aside are engine, batching, model and store, single
                   rewards, curricula, and what opens and watches a run), and their lines, whole; a
                   method is reached by name where one class only has it; and defaults of the
                   fields of its class
walk               the trip of `--parameter` of `--entry` through the calls: house_walk.py; "whole":
                   passed on as it is or inside an object; "with its parts": what is read from it,
                   such as `params.kl_coef`, is followed too
climbs             calls made from a function after the walk came back to it from another file
circles            pairs of folders of the package that import one another, at file level, inside
                   functions, or for type checking
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from house_source import Class, Function, Module, Source, has_docstring, names_in
from house_walk import Walk

PACKAGE, STAGES = "r1pipe", "stages"
MAX_FUNCTION_LINES, MANY_ARGUMENTS = 40, 7
Row: TypeAlias = dict[str, str | int | float]


def percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest value that `share` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


@dataclass(frozen=True)
class Sizes:
    """What is counted in some modules."""

    modules: Sequence[Module]

    @property
    def functions(self) -> list[Function]:
        """All functions of the modules."""
        return [function for module in self.modules for function in module.every]

    @property
    def lines(self) -> int:
        """Lines of all modules together."""
        return sum(module.num_lines for module in self.modules)

    def row(self) -> Row:
        """Return all counts, by the name of their column."""
        file_lines = [module.num_lines for module in self.modules]
        lengths = [function.num_lines for function in self.functions]
        return {
            "files": len(self.modules),
            "lines": self.lines,
            "file median/p90/max": "/".join(
                str(n)
                for n in (
                    round(statistics.median(file_lines or [0])),
                    percentile(file_lines, 0.9),
                    max(file_lines, default=0),
                )
            ),
            "function median/p90/longest": "/".join(
                str(n)
                for n in (
                    round(statistics.median(lengths or [0])),
                    percentile(lengths, 0.9),
                    max(lengths, default=0),
                )
            ),
            f"functions over {MAX_FUNCTION_LINES} lines": sum(
                n > MAX_FUNCTION_LINES for n in lengths
            ),
            f"functions with {MANY_ARGUMENTS} or more arguments": sum(
                len(function.arguments) >= MANY_ARGUMENTS for function in self.functions
            ),
            "public functions documented": self.documented(),
            "functions typed": _share(function.is_typed for function in self.functions),
            "`Any` per 1,000 lines": self.any_rate(),
        }

    def documented(self) -> str:
        """Return the share of public functions with a docstring."""
        public = [f for f in self.functions if not f.node.name.startswith("_")]
        return _share(has_docstring(function.node) for function in public)

    def any_rate(self) -> float:
        """Return how often `Any` is used per thousand lines."""
        uses = sum(
            isinstance(node, ast.Name) and node.id == "Any"
            for module in self.modules
            for node in ast.walk(module.tree)
        )
        return round(1000 * uses / max(self.lines, 1), 1)


def _share(flags: Iterable[bool]) -> str:
    values = list(flags)
    return f"{100 * sum(values) / len(values):.0f} %" if values else "-"


def folder_of(source: Source, module: Module) -> str:
    """Return the folder right below the package, `stages`, or "" for a file at the top."""
    parts = source.file(module).split("/")
    if parts[0] != PACKAGE:
        return parts[0]
    return parts[1] if len(parts) > 2 else ""


def by_folder(source: Source) -> dict[str, Sizes]:
    """Return each folder's modules; files at the top of the package come first."""
    found: dict[str, list[Module]] = {}
    for module in source.modules.values():
        found.setdefault(folder_of(source, module) or PACKAGE, []).append(module)
    return {name: Sizes(modules) for name, modules in sorted(found.items())}


def circles(source: Source) -> list[str]:
    """Return the pairs of folders that import one another, `a <-> b`."""
    arrows: set[tuple[str, str]] = set()
    for module in source.modules.values():
        for dotted in module.imports.values():
            found = source.modules.get(dotted) or source.modules.get(dotted.rpartition(".")[0])
            if found is not None:
                arrows.add((folder_of(source, module), folder_of(source, found)))
    return sorted(f"{a} <-> {b}" for a, b in arrows if a and b and a < b and (b, a) in arrows)


def reached(source: Source, entry: Function, folders: Sequence[str]) -> list[Module]:
    """Return the modules within some folders, and the entry's, whose code the entry reaches."""
    modules: dict[str, Module] = {}
    seen: set[Function | Class] = set()
    waiting: list[Function | Class] = [entry]
    while waiting:
        place = waiting.pop()
        is_inside = place is entry or place.module is entry.module
        if place in seen or not (is_inside or folder_of(source, place.module) in folders):
            continue
        seen.add(place)
        modules[place.module.name] = place.module
        owner = place.owner if isinstance(place, Function) else place
        values = owner.values.values() if owner is not None else ()
        defaults = (name for value in values for name in names_in(value))
        for node in (*names_in(place.node), *defaults):
            found = source.resolve(place.module, node)
            if found is None and isinstance(node, ast.Attribute):
                is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                found = source.method(node.attr, owner if is_self else None)
            if found is not None:
                waiting.append(found)
    return sorted(modules.values(), key=source.file)


def trips(
    source: Source, entry: Function, update: Function, parameter: str, folders: Sequence[str]
) -> Row:
    """Return what one update takes a reader through, and where the parameters go."""
    modules = reached(source, update, folders)
    whole = Walk(source).start(entry, parameter)
    parts = Walk(source, parts=True).start(entry, parameter)
    row: Row = {
        "one update: files": len(modules),
        "one update: lines": sum(module.num_lines for module in modules),
        "one update: which": ", ".join(source.file(module) for module in modules),
    }
    for name, trip in (("whole", whole), ("with its parts", parts)):
        row[f"walk of `{parameter}`, {name}: stops"] = len(trip.stops)
        row[f"walk of `{parameter}`, {name}: files"] = len(trip.files)
        row[f"walk of `{parameter}`, {name}: climbs"] = trip.climbs
    return row


def measure(
    source: Source, entry: str, update: str, parameter: str, folders: Sequence[str]
) -> dict[str, Row]:
    """Return all tables: {name: {column: value}}."""
    stages = [m for m in source.modules.values() if folder_of(source, m) == STAGES]
    library = [m for m in source.modules.values() if folder_of(source, m) != STAGES]
    tops = [m for m in library if not folder_of(source, m)]
    tables = {PACKAGE: Sizes(library).row(), STAGES: Sizes(stages).row()}
    for name, sizes in by_folder(source).items():
        row = sizes.row()
        tables[f"folder {name}"] = {k: row[k] for k in ("files", "lines", "`Any` per 1,000 lines")}
    tables["trips"] = trips(source, source.at(entry), source.at(update), parameter, folders)
    tables["layout"] = {
        "folder circles": ", ".join(circles(source)) or "none",
        "modules at the top of the package": len(tops),
    }
    return tables


def markdown(tables: dict[str, Row]) -> str:
    """Return the tables as Markdown: the two packages side by side, then folders, then trips."""
    lines = [f"| | {PACKAGE} | {STAGES} |", "|---|---|---|"]
    own = tables[STAGES]
    lines += [f"| {k} | {_text(v)} | {_text(own[k])} |" for k, v in tables[PACKAGE].items()]
    folders = {
        name.removeprefix("folder "): row for name, row in tables.items() if "folder " in name
    }
    columns = list(next(iter(folders.values())))
    lines += ["", f"| folder | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(_text(row[column]) for column in columns)} |"
        for name, row in folders.items()
    ]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {k} | {_text(v)} |" for k, v in {**tables["trips"], **tables["layout"]}.items()]
    return "\n".join(lines)


def _text(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, default=here)
    parser.add_argument("--entry", default="stages/grpo.py:run", help="where the walk starts")
    parser.add_argument("--update", default="r1pipe/rl/grpo.py:Grpo.train", help="one update")
    parser.add_argument("--parameter", default="params", help="what the walk follows")
    parser.add_argument("--folders", nargs="+", default=["rl"], help="what holds the algorithm")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = Source(options.checkout.resolve(), (PACKAGE, STAGES))
    tables = measure(source, options.entry, options.update, options.parameter, options.folders)
    print(json.dumps(tables, indent=1) if options.json else markdown(tables))


if __name__ == "__main__":
    main()
