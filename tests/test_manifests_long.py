"""The manifests mean what they mean with everything written out, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from r1pipe.manifest import Ref, load_manifest
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.yaml_source import read_yaml

ROOT = Path(__file__).parents[1]
LONG = Path(__file__).with_name("manifests_long")
"""The same manifests without `defaults`, `each`, stars and `targets`."""
NAMES = sorted(path.name for path in LONG.glob("*.yaml"))
KINDS = load_kinds(ROOT / "manifests" / "r1.yaml")
R1_PROFILES = ("laptop", "smoke", "engines", "paper", "node8", "gpu")
UNREAD = {"r1-no-language.yaml": {"general-problems", "general-rows"}}
"""Stages of the long form that `targets` leaves out if nothing reads them."""
BY_PROFILE = ("engines", "paper", "node8", "gpu")
ON_GPUS = {("judge.yaml", profile, "open-candidates") for profile in BY_PROFILE} | {
    ("judge.yaml", "engines", "judge")
}
"""Stages that the long form left on a CPU in float32; they have what their profile says of all."""


def profiles_of(name: str) -> list[str | None]:
    document = read_yaml(LONG / name, [])
    assert document is not None
    profiles = document.get("profiles")
    own = profiles.entries() if profiles else ()
    return [None, *dict.fromkeys([*R1_PROFILES, *own])]


def written_out(path: Path, profile: str | None) -> list[dict[str, Any]]:
    """Return all that decides results and how they are computed, stage by stage, in their order."""
    stages = []
    for node in load_manifest(path, profile=profile, kinds=KINDS).stages.values():
        said = {"name": node.name, "kind": node.kind.kind, "inputs": dict(node.inputs)}
        settings = {"params": node.params, "run": node.run, "key": node.key_params()}
        if (path.name, profile, node.name) in ON_GPUS:
            settings = {"params": node.params.model_dump(exclude={"precision"})}
        stages.append(said | settings)
    return stages


def read_by(stages: list[dict[str, Any]]) -> set[str]:
    """Return the names of the stages that others read."""
    given = [ref for stage in stages for ref in stage["inputs"].values()]
    refs = [ref for each in given for ref in ([each] if isinstance(each, Ref) else each.values())]
    return {ref.name for ref in refs}


@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_resolves_as_with_everything_written_out(name: str) -> None:
    for profile in profiles_of(name):
        long = written_out(LONG / name, profile)
        short = written_out(ROOT / "manifests" / name, profile)
        unread = UNREAD.get(name, set()) - read_by(short)
        assert short == [stage for stage in long if stage["name"] not in unread], (name, profile)


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_those_of_the_long_form(name: str) -> None:
    for profile in profiles_of(name):
        long, short = (
            load_manifest(folder / name, profile=profile, kinds=KINDS)
            for folder in (LONG, ROOT / "manifests")
        )
        assert list(short.sources) == list(long.sources)
        for key, source in short.sources.items():
            other = long.sources[key]
            found = (source.hf, source.revision, source.type, source.size)
            assert found == (other.hf, other.revision, other.type, other.size), key
            assert (source.path and source.path.name) == (other.path and other.path.name), key


def test_a_manifest_is_read_in_one_sitting() -> None:
    for name in NAMES:
        lines = (ROOT / "manifests" / name).read_text().splitlines()
        assert len(lines) <= 300, name
        assert max(map(len, lines)) <= 120, name
