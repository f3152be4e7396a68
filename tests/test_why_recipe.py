"""`why` finds the one thing that was changed in the recipe, from the scoreboard back to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_keys_recipe import R1, valid_changes

from r1pipe.keys import FileEntry, digest_bytes, key_of
from r1pipe.manifest import Manifest, StageNode, load_manifest
from r1pipe.pipeline.code import code_of
from r1pipe.pipeline.planning import selected
from r1pipe.pipeline.resolution import Resolver
from r1pipe.pipeline.why import Explanation, explain
from r1pipe.store import disk, signatures
from r1pipe.store.actions import ActionRecord
from r1pipe.store.sealing import make_seal, write_seal
from r1pipe.store.store import Store


def finish(store: Store, manifest: Manifest) -> None:
    """Place a made-up result of every stage of a manifest."""
    store.prepare()
    resolver = Resolver(manifest, store)
    finished: dict[str, ActionRecord] = {}
    for name, node in manifest.stages.items():
        data = name.encode()
        files = [FileEntry(f"{out}/x", len(data), digest_bytes(data)) for out in node.kind.outputs]
        seal = make_seal(files)
        root = store.objects / seal.artifact
        for entry in files:
            (root / entry.path).parent.mkdir(parents=True)
            (root / entry.path).write_bytes(data)
        write_seal(root, seal)
        signatures.write_signatures(store.stats / seal.artifact, disk.walk(root)[0])
        preimage = resolver.preimage(node, finished)
        assert preimage is not None
        finished[name] = ActionRecord(
            key=key_of(preimage),
            preimage=preimage,
            kind=node.kind.kind,
            stage_name=name,
            manifest_name=manifest.name,
            profile=manifest.profile,
            artifact_id=seal.artifact,
            outputs=dict(seal.outputs),
            created="2026-01-01T00:00:00+00:00",
            seconds=1.0,
            peak_rss_bytes=1,
            inputs=resolver.links(node, finished),
            logs="none",
            size=seal.size,
            code=code_of(node.kind),
        )
        record = finished[name]
        disk.place_json(store.record_path(record.key), record.to_json(), durable=False)


WITH_OTHERS = (
    *("sft-data.shares", "sft-data.num_rows", "alignment-rl.dynamic_sampling"),
    *(f"{stage}.staleness" for stage in ("zero", "reasoning-rl", "alignment-rl", "student-rl")),
)
"""Fields that do not go with others of the recipe: counts of rows, a preference, a sampler that is
not corrected for."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    store, manifest = Store(tmp_path_factory.mktemp("store") / "s"), load_manifest(R1)
    finish(store, manifest)
    return store, manifest


def with_stage(manifest: Manifest, node: StageNode) -> Manifest:
    return replace(manifest, stages={**manifest.stages, node.name: node})


def furthest(manifest: Manifest, name: str) -> str:
    """Return the last stage of the recipe that depends on another one."""
    return [each for each in manifest.stages if name in selected(manifest, each)][-1]


def single_changes(manifest: Manifest) -> Iterator[tuple[str, str, Manifest]]:
    """Yield (stage, dotted path, manifest in which only that value differs)."""
    for name, node in manifest.stages.items():
        params: Any
        for path, base, params in valid_changes(node.params):
            if f"{name}.{path}".startswith(WITH_OTHERS):
                continue
            assert base == node.params, f"{name}.{path} takes more than one change"
            yield name, f"params.{path}", with_stage(manifest, replace(node, params=params))


def roots(explanation: Explanation) -> set[tuple[str, str]]:
    return {(stage, change.path) for stage, change in explanation.roots()}


def test_the_recipe_as_it_is_hits(recipe: tuple[Store, Manifest]) -> None:
    store, manifest = recipe
    for name in manifest.stages:
        assert explain(manifest, store, name).status == "hit"


def test_every_single_change_of_a_param_is_found_from_the_last_stage(
    recipe: tuple[Store, Manifest],
) -> None:
    store, manifest = recipe
    count = 0
    for name, path, changed in single_changes(manifest):
        found = roots(explain(changed, store, furthest(manifest, name)))
        # a mapping or a value that is absent by default shows as the leaves inside it
        assert found, f"{name}: {path}"
        for stage, leaf in found:
            assert stage == name, f"{name}: {path} was blamed on {stage}"
            assert f"{leaf}.".startswith(f"{path}.") or f"{path}.".startswith(f"{leaf}."), leaf
        count += 1
    assert count > 100


def test_a_raised_version_is_found_from_the_last_stage(recipe: tuple[Store, Manifest]) -> None:
    store, manifest = recipe
    for name, node in manifest.stages.items():
        raised = replace(node, kind=node.kind._replace(version=node.kind.version + 1))
        changed = with_stage(manifest, raised)
        assert roots(explain(changed, store, furthest(manifest, name))) == {(name, "version")}


def test_a_redirected_input_is_found_with_its_place(recipe: tuple[Store, Manifest]) -> None:
    store, _ = recipe
    text = "stages.reasoning-rl.inputs.model=base"
    changed = load_manifest(R1, overrides=[text])
    ((stage, change),) = explain(changed, store, "reasoning-rl").roots()
    assert (stage, change.path) == ("reasoning-rl", "inputs.model")
    assert change.origin == f"--set {text}"


def test_a_change_by_profile_names_the_profile(recipe: tuple[Store, Manifest]) -> None:
    store, _ = recipe
    changed = load_manifest(R1, profile="smoke")
    origins = {change.origin or "" for _, change in explain(changed, store, "base").roots()}
    assert any(origin.endswith("(profile smoke)") for origin in origins)
    assert all(Path(origin.partition(":")[0]).name == "r1.yaml" for origin in origins if origin)
