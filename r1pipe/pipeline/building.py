"""Build one stage whose lock is held: go on from its attempt, run it, publish what it wrote.

Imported when there is something to build: a run that only hits needs none of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import Interrupted, Paused, SourceError, StageError
from r1pipe.keys import JsonObject
from r1pipe.launch.context import Progress, RunContext
from r1pipe.launch.launcher import run_kind
from r1pipe.launch.process import prepare_process
from r1pipe.launch.stopping import Stopper
from r1pipe.machine import give_back_memory
from r1pipe.manifest import Manifest, StageNode
from r1pipe.pipeline import code, warm_start
from r1pipe.pipeline.planning import PlannedStage
from r1pipe.pipeline.predictions import Predictions
from r1pipe.pipeline.resolution import Resolver
from r1pipe.plugins.tables import using
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.attempt import Attempt
from r1pipe.store.metrics import read_metrics
from r1pipe.store.publish import finish_prepared, publish
from r1pipe.store.store import Store
from r1pipe.tracking.table import TrackerRun
from r1pipe.tracking.tracked import Tracked

if TYPE_CHECKING:
    from r1pipe.pipeline.progress import Console


@dataclass(kw_only=True)
class Builder:
    """Builds the stages of one run."""

    manifest: Manifest
    store: Store
    console: Console
    resolver: Resolver
    stopper: Stopper
    finished: Mapping[str, ActionRecord]
    """Results that the run has reached; they grow in number while it goes on."""
    keep: Callable[[str], None]
    """Keeps a further key's artifact from being collected while the run lasts."""
    command: str
    """The command that goes on with the run after a failure."""
    checkpoint_every_s: float
    predictions: Predictions = field(init=False)

    def __post_init__(self) -> None:
        prepare_process()
        code.remember_package()
        self.predictions = Predictions(self.manifest, self.store, self.finished)

    def build(
        self, node: StageNode, key: str, preimage: JsonObject, is_rebuild: bool
    ) -> ActionRecord:
        """Return the record of a stage that was published now; the key's lock is held."""
        attempt = self.store.attempt(key)
        is_same = bool((attempt.state or {}).get("is_rebuild")) == is_rebuild
        record = finish_prepared(self.store, attempt) if is_same else None
        if record is not None:
            return record
        status = "resume" if is_same and attempt.progress() else "run"
        self.console.stage_started(PlannedStage(node.name, node.kind.kind, status, key))
        previous = None if is_rebuild else self._previous(node, preimage)
        journals = None
        if status == "run" and not is_rebuild:
            journals = warm_start.previous_work(self.store, node.kind, preimage)
        started_from = [attempt.state] if status == "resume" else []
        started_from += [self.store.attempt(journals.parent.name).state] if journals else []
        noted = [state.get("code", {}) for state in started_from if state is not None]
        noted += [previous.code] if previous is not None else []
        facts = {
            "preimage": preimage,
            "stage": node.name,
            "is_rebuild": is_rebuild,
            "code": self._code(node, noted),
            "run_id": self._run_id(node, key, attempt if is_same else None),
        }
        attempt.begin(facts, fresh=not is_same, journals_of=journals)
        return self._run_stage(node, key, preimage, attempt, previous)

    def _code(self, node: StageNode, noted: Sequence[code.Digests]) -> code.Digests:
        """Return the digests of a stage's code; marked if what it goes on from had other code."""
        digests: code.Digests = code.code_of(
            node.kind, self.manifest.plugins.deciding(node.plugins)
        )
        for before in filter(None, noted):
            if changed := code.different_modules(before, digests):
                self.console.message(
                    f"{node.name}: goes on from what other code began: {code.named(changed)}"
                )
            digests = code.mixed(before, digests)
        return digests

    def _run_id(self, node: StageNode, key: str, attempt: Attempt | None) -> str:
        """Return what trackers call the attempt: the same for as long as it is gone on with."""
        state = None if attempt is None or attempt.work is None else attempt.state
        return str((state or {}).get("run_id") or f"{node.name}-{key[:8]}-{disk.token()}")

    def _tracked(self, node: StageNode, key: str, attempt: Attempt, work: Path) -> Tracked:
        """Return the trackers that a stage asks for; the steps in its log they have already."""
        names = getattr(node.run, "track", ())
        steps = [int(row["step"]) for row in read_metrics(work / "logs")] if names else []
        config: JsonObject = {
            "kind": node.kind.kind,
            "profile": self.manifest.profile or "",
            "key": key,
            **node.params.model_dump(mode="json"),
        }
        project, run_id = self.manifest.name, str((attempt.state or {}).get("run_id"))
        asked = TrackerRun(project, run_id, self.store.root / "tracked", config)
        tell = self.console.message
        return Tracked(
            names, asked, max(steps, default=0), lambda text: tell(f"{node.name}: {text}")
        )

    def _previous(self, node: StageNode, preimage: JsonObject) -> ActionRecord | None:
        """Return the result that a stage goes on from, kept from collection while it runs."""
        record = warm_start.previous_record(self.store, node.kind, preimage)
        if record is None:
            return None
        self.keep(record.key)
        if not self.store.is_intact(record):
            return None
        self.console.message(f"{node.name}: {warm_start.warm_start_text(node.kind, record)}")
        return record

    def _run_stage(
        self,
        node: StageNode,
        key: str,
        preimage: JsonObject,
        attempt: Attempt,
        previous: ActionRecord | None,
    ) -> ActionRecord:
        """Run a stage in its attempt, and publish what it wrote."""
        assert attempt.work is not None, "the attempt was begun"
        tracked = self._tracked(node, key, attempt, attempt.work)
        context = self._context(node, attempt.work, previous, tracked)
        paths = self.resolver.paths(node, self.finished)
        began = time.monotonic()
        plugins = using(self.manifest.plugins, node.plugins)
        with self._failures_told(node.name, began), _closing(context), tracked, plugins:
            context.note(**self.predictions.note(node.name))
            self.resolver.check_sources(node)
            run_kind(node.kind, context, node.params, node.run, paths)
        give_back_memory()  # else the process keeps what its largest stage has needed
        noted: code.Digests = (attempt.state or {})["code"]
        self._check_what_was_read(node, attempt, began)
        draft = self._draft(node, key, preimage, context, noted)
        return publish(self.store, attempt, draft, tuple(node.kind.outputs))

    def _context(
        self, node: StageNode, work: Path, previous: ActionRecord | None, tracked: Tracked
    ) -> RunContext:
        """Return what a stage is given beside its parameters and inputs."""
        return RunContext(
            node.name,
            work,
            tuple(node.kind.outputs),
            self.resolver.input_ids(node, self.finished),
            self._progress(tracked),
            self.stopper,
            self.checkpoint_every_s,
            self._folder(previous),
            self.console.message,
            self.console.doing,
        )

    @contextmanager
    def _failures_told(self, name: str, began: float) -> Iterator[None]:
        """Tell the console how a stage ended that did not finish, and its user how to go on."""
        try:
            yield
        except BaseException as error:
            self.console.stage_finished(name, _status(error), time.monotonic() - began, None)
            if (hint := self._hint(name, error)) is not None:
                error.add_note(hint)
            raise

    def _progress(self, tracked: Tracked) -> Progress:
        """Return what is told of each step: the console, then the trackers."""

        def progress(name: str, step: int, total: int | None, values: Mapping[str, float]) -> None:
            self.console.progress(name, step, total, values)
            tracked.log(step, values)

        return progress

    def _check_what_was_read(self, node: StageNode, attempt: Attempt, began: float) -> None:
        """Give up an attempt whose sources changed while they were read: nothing of it is sound."""
        try:
            self.resolver.check_sources(node)
        except SourceError:
            self.console.stage_finished(node.name, "failed", time.monotonic() - began, None)
            attempt.remove()
            raise

    def _hint(self, name: str, error: BaseException) -> str | None:
        """Return how to go on after an error; the same command serves once its cause is gone."""
        if isinstance(error, Interrupted | KeyboardInterrupt):
            return None  # said where the run ends
        if isinstance(error, StageError | SourceError):
            return (
                f"{name}: what it has done is kept; when that is put right, go on with:"
                f" {self.command}"
            )
        return f"{name}: the attempt is kept; go on with: {self.command}"

    def _folder(self, record: ActionRecord | None) -> Path | None:
        return None if record is None else self.store.artifact_dir(record.artifact_id).absolute()

    def _draft(
        self,
        node: StageNode,
        key: str,
        preimage: JsonObject,
        context: RunContext,
        noted: code.Digests,
    ) -> ActionRecord:
        log = context.stage_log
        return ActionRecord(
            key=key,
            preimage=preimage,
            kind=node.kind.kind,
            stage_name=node.name,
            manifest_name=self.manifest.name,
            profile=self.manifest.profile,
            artifact_id="",
            outputs={},
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            seconds=round(log.seconds, 3),
            peak_rss_bytes=log.peak_rss_bytes,
            inputs=self.resolver.links(node, self.finished),
            logs=disk.token(),
            size=0,
            facts=log.facts,
            code=code.as_it_ends(noted, node.kind),
        )


def _status(error: BaseException) -> str:
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "stopped"
    return "paused" if isinstance(error, Paused) else "failed"


@contextmanager
def _closing(context: RunContext) -> Iterator[None]:
    """Close a context's files; what fails on the way out of a failure does not hide it."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            context.close()
        raise
    context.close()
