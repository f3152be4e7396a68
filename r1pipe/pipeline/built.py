"""The inputs of a stage as they are in the store, for what runs beside a run."""

from __future__ import annotations

from r1pipe.errors import ArtifactError
from r1pipe.manifest import Manifest, StageNode
from r1pipe.pipeline.commands import try_command
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.resolution import Resolver
from r1pipe.stage import Inputs
from r1pipe.store.store import Store


def stage_with_inputs(manifest: Manifest, store: Store, name: str) -> tuple[StageNode, Inputs]:
    """Return a stage and the paths of its inputs.

    Raises SourceError if a source is missing, ArtifactError if an input is not built yet.
    """
    resolver = Resolver(manifest, store)
    planned = plan(manifest, store, before=name, resolver=resolver)
    node = manifest.stages[name]
    for error in (*planned.missing.values(), resolver.missing_source(node)):
        if error is not None:
            raise error
    absent = [stage.name for stage in planned.stages if stage.builds]
    if absent:
        raise ArtifactError(
            f"{name}: needs {', '.join(absent)}, not built with these parameters yet;"
            f" build first, then try: {try_command(manifest, store, name)}"
        )
    return node, resolver.paths(node, planned.records)
