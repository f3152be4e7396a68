"""The inputs of a stage as they are in the store, for what runs beside a run."""

from __future__ import annotations

from r1pipe.errors import ArtifactError
from r1pipe.keys import key_of
from r1pipe.manifest import Manifest, StageNode
from r1pipe.pipeline.commands import run_command
from r1pipe.pipeline.planning import check_names, selected
from r1pipe.pipeline.resolution import Resolver
from r1pipe.stage import Inputs
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store


def stage_with_inputs(manifest: Manifest, store: Store, name: str) -> tuple[StageNode, Inputs]:
    """Return a stage and the paths of its inputs; raise ArtifactError if one is not built yet."""
    check_names(manifest, [name])
    resolver, finished = Resolver(manifest, store), dict[str, ActionRecord]()
    for other in selected(manifest, name):
        node = manifest.stages[other]
        if (error := resolver.missing_source(node)) is not None:
            raise error
        if other == name:
            break
        preimage = resolver.preimage(node, finished)
        record = None if preimage is None else store.lookup(key_of(preimage))
        if record is None or not store.is_intact(record):
            raise ArtifactError(
                f"{name}: reads {other}, which is not built with these parameters; first run:"
                f" {run_command(manifest, store, to=other)}"
            )
        finished[other] = record
    node = manifest.stages[name]
    return node, resolver.paths(node, finished)
