"""Keys that must not change by accident, and the question that every change of a stage asks.

`python tests/test_golden.py` writes the present values; commit them when the change is meant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r1pipe.keys import digest_json, key_of, key_preimage
from r1pipe.manifest import load_manifest
from r1pipe.manifest.kinds import load_kinds

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
MANIFEST = ROOT / "manifests" / "r1.yaml"
PROFILES = ("laptop", "smoke", "gpu", "node8", "paper")


def present_values() -> dict[str, Any]:
    """Return the keys of stages without inputs, the params of the others, and stage digests."""
    kinds = load_kinds(MANIFEST)
    keys: dict[str, dict[str, str]] = {}
    for profile in PROFILES:
        stages = load_manifest(MANIFEST, profile=profile).stages.values()
        keys[profile] = {
            node.name: key_of(key_preimage(node.kind.kind, node.kind.version, params, {}))[:16]
            for node in stages
            if (params := node.key_params()) is not None
        }
    names = sorted(path.stem.replace("_", "-") for path in (ROOT / "stages").glob("*.py"))
    versions = {name: [kinds[name].version, kinds[name].source_digest[:16]] for name in names}
    return {"keys": keys, "versions": versions}


def test_the_keys_of_r1_yaml_are_the_golden_ones_in_every_profile() -> None:
    golden, present = json.loads(GOLDEN.read_text())["keys"], present_values()["keys"]
    for profile in PROFILES:
        assert present[profile] == golden[profile], f"profile {profile}"


def test_a_changed_stage_file_has_been_asked_about_its_version() -> None:
    golden, present = json.loads(GOLDEN.read_text())["versions"], present_values()["versions"]
    changed = [name for name in present if present[name] != golden.get(name)]
    assert not changed, (
        f"stages {', '.join(changed)} changed: raise VERSION if their results change, then run"
        " python tests/test_golden.py"
    )


def test_a_key_depends_on_kind_version_params_and_inputs_alone() -> None:
    preimage = key_preimage("sft", 1, {"seed": 17}, {"model": "abc"})
    assert key_of(preimage) == digest_json(
        {"version": 1, "inputs": {"model": "abc"}, "params": {"seed": 17}, "kind": "sft"}
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(present_values(), indent=1, sort_keys=True) + "\n")
