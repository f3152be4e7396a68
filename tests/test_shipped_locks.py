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
LOCKS = sorted(RECIPE.parent.glob("*.lock"))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_of_the_repository_is_of_its_manifest(path: Path, tmp_path: Path) -> None:
    lock = read_lock(path)
    assert lock.profile is not None
    assert lock.manifest == RECIPE.name
    assert path.name.startswith(lock_path(RECIPE, lock.profile).stem)
    manifest = load_manifest(RECIPE, profile=lock.profile)
    assert len(lock.stages) == 34
    assert {name for name, stage in lock.stages.items() if stage.scores} == {
        name for name, node in manifest.stages.items() if node.kind.kind == "evaluate"
    }
    check_recipe(lock, manifest, Resolver(manifest, Store(tmp_path)))


def test_the_locks_of_smoke_are_of_different_processors_and_have_the_same_data() -> None:
    locks = [lock for path in LOCKS if (lock := read_lock(path)).profile == "smoke"]
    assert len(locks) == 2
    one, other = ({name: stage.artifact for name, stage in lock.stages.items()} for lock in locks)
    assert {name for name in one if one[name] == other[name]} == {
        "held-out", "held-out-general", "held-out-safety", "problems", "general-problems",
        "general-rows", "helpful-pairs", "safety-labels", "corpus", "tokenizer",
        "eval-student-base", "eval-student-rl",
    }  # fmt: skip
    assert len({(lock.processor, *lock.instructions) for lock in locks}) == 2


def test_the_lock_of_one_profile_is_not_that_of_another(tmp_path: Path) -> None:
    manifest = load_manifest(RECIPE, profile="laptop")
    lock = read_lock(lock_path(RECIPE, "smoke"))
    with pytest.raises(ManifestError, match="stage zero: params"):
        check_recipe(lock, manifest, Resolver(manifest, Store(tmp_path)))
