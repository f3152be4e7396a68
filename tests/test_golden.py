"""Keys that must not change by accident, and the question that every change of a stage asks.

`python tests/test_golden.py` writes the present values; commit them when the change is meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1pipe.keys import digest_json, key_of, key_preimage
from r1pipe.manifest import load_manifest
from r1pipe.manifest.kinds import load_kinds
from r1pipe.pipeline.code import code_of, different_modules

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
    code = {module: digest for name in names for module, digest in code_of(kinds[name]).items()}
    return {
        "keys": keys,
        "versions": {name: kinds[name].version for name in names},
        "code": dict(sorted(code.items())),
    }


def question(changed: Mapping[str, list[str]]) -> str:
    """Return what a change of modules asks: whether the results of these kinds move."""
    lines = [f"{module} changed; it decides {', '.join(k)}" for module, k in changed.items()]
    return "\n".join(
        [
            *lines,
            "raise VERSION of the kinds whose results move, with a line in CHANGELOG.md;"
            " then run: python tests/test_golden.py",
        ]
    )


def kinds_of(module: str) -> list[str]:
    """Return the kinds whose results a module decides, or decided until it was taken away."""
    kinds = load_kinds(MANIFEST)
    return [name for name in kinds if module in code_of(kinds[name])] or ["(no kind any more)"]


def test_the_keys_of_r1_yaml_are_the_golden_ones_in_every_profile() -> None:
    golden, present = json.loads(GOLDEN.read_text())["keys"], present_values()["keys"]
    for profile in PROFILES:
        assert present[profile] == golden[profile], f"profile {profile}"


def test_a_changed_module_has_been_asked_about_the_versions_of_its_kinds() -> None:
    golden, present = json.loads(GOLDEN.read_text()), present_values()
    changed = different_modules(golden["code"], present["code"])
    assert not changed, question({module: kinds_of(module) for module in changed})
    assert golden["versions"] == present["versions"], "run: python tests/test_golden.py"


def test_the_question_names_the_module_and_the_kinds_it_decides() -> None:
    modules = ("train/schedule.py", "tasks/parity.py")
    text = question({module: kinds_of(module) for module in modules})
    training = "dpo, grpo, on-policy-distil, online-rft, ppo, pretrain, reward-model, sft"
    assert f"train/schedule.py changed; it decides {training}\n" in text
    assert "tasks/parity.py changed; it decides corpus, dpo, grpo, " in text  # rules of its steps


def test_a_key_depends_on_kind_version_params_and_inputs_alone() -> None:
    preimage = key_preimage("sft", 1, {"seed": 17}, {"model": "abc"})
    assert key_of(preimage) == digest_json(
        {"version": 1, "inputs": {"model": "abc"}, "params": {"seed": 17}, "kind": "sft"}
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(present_values(), indent=1, sort_keys=True) + "\n")
