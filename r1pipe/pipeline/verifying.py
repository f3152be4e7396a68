"""Build an imported result again, and compare: what its key says against what its sender said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.planning import check_names, plan
from r1pipe.pipeline.run import run
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.pipeline.progress import Console


def verify_import(
    manifest: Manifest,
    store: Store,
    console: Console,
    imported: Sequence[ActionRecord],
    stage: str,
) -> ActionRecord:
    """Build a stage again, with all that it needs and that is not here; return its own record.

    Raises ArtifactError where the manifest makes another key than the import has of that stage, and
    DamagedError where the same key gives other bytes: the store then keeps those built here.
    """
    check_names(manifest, store, [stage])
    said = next((record for record in imported if record.stage_name == stage), None)
    if said is None:
        names = ", ".join(sorted({record.stage_name for record in imported}))
        raise ArtifactError(f"the import says nothing of a stage '{stage}'; it has {names}")
    planned = next(each for each in plan(manifest, store, to=stage).stages if each.name == stage)
    _check_key(manifest, said, planned.key)
    made = run(manifest, store, console, to=stage, rebuild=[stage]).stages[stage].record
    _check_key(manifest, said, made.key)
    if made.artifact_id != said.artifact_id:
        store.forget(said.key)
        if all(record.artifact_id != said.artifact_id for record in store.records()):
            store.set_artifact_aside(said.artifact_id)
        raise DamagedError(
            f"{stage}: built again it is {made.artifact_id[:12]}, the import says "
            f"{said.artifact_id[:12]}: not what its key makes on this machine; the store keeps the "
            "result that was built here"
        )
    return made


def _check_key(manifest: Manifest, said: ActionRecord, key: str | None) -> None:
    if key is not None and key != said.key:
        raise ArtifactError(
            f"{said.stage_name}: {manifest.path} makes key {key[:12]}, the import has "
            f"{said.key[:12]}: give the manifest, profile and --set texts that it was made with "
            f"(manifest {said.manifest_name}, profile {said.profile or '-'})"
        )
