"""Refusing stages that cannot start where they were placed, before a run spends time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.errors import ManifestError

if TYPE_CHECKING:
    from r1pipe.manifest import Manifest, StageNode
    from r1pipe.pipeline.planning import Plan
    from r1pipe.store.store import Store


def refuse_misplaced(manifest: Manifest, store: Store, planned: Plan) -> None:
    """Raise ManifestError, with every place, if a stage to be built certainly cannot start."""
    names = [each.name for each in planned.stages if each.builds]
    names = [name for name in names if _is_placed(manifest.stages[name])]
    if not names:
        return
    from r1pipe.costs.estimate import make_estimator
    from r1pipe.costs.placement import mistake

    estimator = make_estimator(manifest, store, planned.records)
    mistakes = [
        mistake(manifest.stages[name], misfit)
        for name in names
        for misfit in estimator.misfits(name)
        if misfit.is_certain
    ]
    if mistakes:
        raise ManifestError(*mistakes)


def _is_placed(node: StageNode) -> bool:
    """Return whether a stage is placed elsewhere than in this process on the CPU."""
    is_on_cpu = str(getattr(node.run, "device", "cpu")).startswith("cpu")
    backends = [getattr(node.run, name, None) for name in ("engine", "generator")]
    plain = (None, "torch", "transformers", "openai")
    return not is_on_cpu or any(getattr(each, "backend", None) not in plain for each in backends)
