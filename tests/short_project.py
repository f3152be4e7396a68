"""A manifest with `defaults`, `each` and a star over the kinds of the small project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fake_project import mistakes_of, write_manifest

from r1pipe.manifest import Manifest, load_manifest

SHORT = """
r1pipe: 1
name: small
params: {seed: 3}
defaults:
  "*": {params: {seed: $params.seed}, run: {workers: 2}}
  numbers: {params: {count: 10, rate: 0.1}}
stages:
  numbers: {kind: numbers}
  few: {kind: numbers, params: {count: 2}}
  more:
    kind: join
    inputs: {rows: numbers.rows}
    params: {levels: [5]}
    each:
      a: {params: {name: first}}
      b: {inputs: {rows: few.rows}}
  joined: {kind: join, inputs: {rows: numbers.rows, extra: more.*.rows}}
profiles:
  tiny:
    defaults: {numbers: {params: {count: 4}}}
    stages: {few: {params: {rate: 0.7}}}
  tiniest:
    extends: tiny
    defaults: {numbers: {params: {count: 1}}}
"""


def load(project: Path, text: str = SHORT, **options: Any) -> Manifest:
    return load_manifest(write_manifest(project, text), **options)


def above(project: Path, text: str, **options: Any) -> Manifest:
    """Load a manifest that extends the short one."""
    write_manifest(project, SHORT)
    head = "r1pipe: 1\nname: above\nextends: small.yaml\n"
    return load_manifest(write_manifest(project, head + text, "above"), **options)


def mistakes_above(project: Path, text: str, **options: Any) -> list[str]:
    write_manifest(project, SHORT)
    head = "r1pipe: 1\nname: above\nextends: small.yaml\n"
    return mistakes_of(write_manifest(project, head + text, "above"), **options)


def value(manifest: Manifest, stage: str, name: str) -> Any:
    return getattr(manifest.stages[stage].params, name)


def counts(manifest: Manifest) -> dict[str, int]:
    return {name: value(manifest, name, "count") for name in ("numbers", "few")}


def reads(manifest: Manifest, stage: str) -> dict[str, Any]:
    """Return a stage's inputs as text."""
    given = manifest.stages[stage].inputs
    return {
        name: {label: str(ref) for label, ref in refs.items()}
        if isinstance(refs, Mapping)
        else str(refs)
        for name, refs in given.items()
    }
