"""The locks beside the recipe: they are those of its manifest and of the code's versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.errors import ManifestError
from r1pipe.manifest import load_manifest
from r1pipe.pipeline.lock import check_recipe, lock_path, read_lock
from r1pipe.pipeline.resolution import Resolver
from r1pipe.store.store import Store

RECIPE = Path(__file__).parents[1] / "manifests" / "r1.yaml"


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_a_lock_of_the_repository_is_of_its_manifest(profile: str, tmp_path: Path) -> None:
    manifest = load_manifest(RECIPE, profile=profile)
    lock = read_lock(lock_path(RECIPE, profile))
    assert len(lock.stages) == 34
    assert {name for name, stage in lock.stages.items() if stage.scores} == {
        name for name, node in manifest.stages.items() if node.kind.kind == "evaluate"
    }
    check_recipe(lock, manifest, Resolver(manifest, Store(tmp_path)))


def test_the_lock_of_one_profile_is_not_that_of_another(tmp_path: Path) -> None:
    manifest = load_manifest(RECIPE, profile="laptop")
    lock = read_lock(lock_path(RECIPE, "smoke"))
    with pytest.raises(ManifestError, match="stage zero: params"):
        check_recipe(lock, manifest, Resolver(manifest, Store(tmp_path)))
