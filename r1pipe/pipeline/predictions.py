"""Predicted costs of stages, kept with their results outside keys and ids.

An estimate decides nothing; a run goes on without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from r1pipe.manifest import Manifest
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.costs.estimate import Estimator

FACT = "predicted"
"""The note that holds a prediction; `show` puts it beside what was measured."""


class Predictions:
    """Predicts each stage when it is about to run, from what has been finished by then."""

    def __init__(
        self, manifest: Manifest, store: Store, finished: Mapping[str, ActionRecord]
    ) -> None:
        self.manifest = manifest
        self.store = store
        self.finished = finished
        self._estimator: Estimator | None = None

    def note(self, name: str) -> dict[str, object]:
        """Return {'predicted': ...} for a stage, or nothing if its cost is unknown."""
        from r1pipe.costs.estimate import Unknown, make_estimator

        if self._estimator is None:
            self._estimator = make_estimator(self.manifest, self.store, self.finished)
        self._estimator.forget(self.manifest.stages)
        try:
            return {FACT: self._estimator.prediction(name)}
        except Unknown:
            return {}
