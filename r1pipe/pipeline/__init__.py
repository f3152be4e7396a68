"""Run a manifest: reach each stage in order, and build only what is not in the store.

A key is computed when a stage's inputs are known, so a stage that was built again with the same
bytes leaves all behind it as they are (early cutoff), whatever the plan had to assume.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import DamagedError, Interrupted
from r1pipe.keys import key_of
from r1pipe.manifest import Manifest, StageNode
from r1pipe.pipeline import commands, growth, torchrun
from r1pipe.pipeline.context import CHECKPOINT_EVERY_S, RunContext
from r1pipe.pipeline.launch import run_kind
from r1pipe.pipeline.planning import Plan, PlannedStage, plan, selected
from r1pipe.pipeline.predictions import Predictions
from r1pipe.pipeline.process import prepare_process
from r1pipe.pipeline.resolution import Resolver, upstream
from r1pipe.pipeline.stopping import Stopper
from r1pipe.store import Store, disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.attempt import Attempt
from r1pipe.store.locks import describe_owner
from r1pipe.store.publish import finish_prepared, publish
from r1pipe.store.roots import LastRun, LiveRun, remember_run

if TYPE_CHECKING:
    from r1pipe.cli.console import Console

__all__ = ["Plan", "PlannedStage", "RunResult", "StageResult", "plan", "run"]


@dataclass(frozen=True)
class StageResult:
    """How one stage ended: `hit`, `done`, or `lost` (its artifact is gone, nothing needed it)."""

    name: str
    status: str
    seconds: float
    record: ActionRecord


@dataclass(frozen=True)
class RunResult:
    """How a run ended; `stages` in the order in which they were reached."""

    plan: Plan
    stages: dict[str, StageResult] = field(default_factory=dict)

    @property
    def built(self) -> list[str]:
        """The stages that this run built."""
        return [name for name, stage in self.stages.items() if stage.status == "done"]


def run(
    manifest: Manifest,
    store: Store,
    console: Console,
    *,
    to: str | None = None,
    only: str | None = None,
    rebuild: Iterable[str] = (),
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> RunResult:
    """Bring a manifest's results into the store (up to stage `to`, or stage `only` alone)."""
    with torchrun.leading():
        return _run(manifest, store, console, to, only, frozenset(rebuild), checkpoint_every_s)


def _run(
    manifest: Manifest,
    store: Store,
    console: Console,
    to: str | None,
    only: str | None,
    rebuild: frozenset[str],
    checkpoint_every_s: float,
) -> RunResult:
    prepare_process()
    resolver = Resolver(manifest, store)
    planned = plan(manifest, store, to=to, only=only, rebuild=rebuild, resolver=resolver)
    console.plan(planned)
    _refuse_damage(store, planned)
    for error in planned.missing.values():
        raise error
    runner = _Runner(manifest, store, console, resolver, planned, rebuild, checkpoint_every_s)
    runner.command = (
        commands.stage_command(manifest, only)
        if only
        else commands.run_command(manifest, to, rebuild)
    )
    try:
        with _stoppable(runner), _store_written(runner):
            for name in selected(manifest, only or to):
                runner.reach(name)
    finally:
        console.close()
    if not runner.result.built:
        console.message(f"nothing to do: all {len(runner.result.stages)} stages are in the store")
    return runner.result


def _refuse_damage(store: Store, planned: Plan) -> None:
    """Set damaged artifacts and records aside and say what was found."""
    if not planned.damage:
        return
    keys = {stage.name: stage.key for stage in planned.stages}
    for name in planned.damage:
        record = planned.records.get(name)
        if record is not None:
            store.set_artifact_aside(record.artifact_id)
        elif (key := keys[name]) is not None:
            store.set_record_aside(key)
    lines = [f"{name}: {error}" for name, error in planned.damage.items()]
    raise DamagedError(
        "\n".join([*lines, "moved to the trash of the store; run again to build it anew"])
    )


@contextmanager
def _stoppable(runner: _Runner) -> Iterator[None]:
    """Listen to SIGTERM and Ctrl-C, and say how to go on after them."""
    try:
        with runner.stopper.listening():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else runner.stopper.interrupted()
        text = f"{stop}; what was done is kept; go on with: {runner.command}"
        raise Interrupted(text, stop.exit_code) from None


@contextmanager
def _store_written(runner: _Runner) -> Iterator[None]:
    """Keep the run's artifacts from being collected, while it runs and afterwards."""
    try:
        yield
    finally:
        runner.live.end()
        if runner.result.stages:
            used = {name: result.record.key for name, result in runner.result.stages.items()}
            run = LastRun(runner.manifest.name, runner.manifest.profile, used, _now())
            with suppress(OSError):  # a store that is only readable still gives hits
                remember_run(runner.store.root, run, runner.manifest.stages.keys())


class _Runner:
    command: str

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        console: Console,
        resolver: Resolver,
        planned: Plan,
        rebuild: frozenset[str],
        checkpoint_every_s: float,
    ) -> None:
        self.manifest = manifest
        self.store = store
        self.console = console
        self.resolver = resolver
        self.result = RunResult(planned)
        self.planned = {stage.name: stage for stage in planned.stages}
        self.to_rebuild = set(rebuild)
        self.checkpoint_every_s = checkpoint_every_s
        self.stopper = Stopper(console.message)
        self.live = LiveRun(store.root)
        self.finished: dict[str, ActionRecord] = {}
        self.predictions = Predictions(manifest, store, self.finished)

    def reach(self, name: str) -> None:
        """Have a stage's result at hand, or build it."""
        self.stopper.raise_if_asked()
        node, planned = self.manifest.stages[name], self.planned.get(name)
        preimage = self.resolver.preimage(node, self.finished)
        if preimage is None:
            record = self.resolver.guess_record(node, self.finished)
        else:
            record = self.store.lookup(key_of(preimage))
        if record is not None and name not in self.to_rebuild:
            if self.store.is_intact(record):
                self._finish(name, "hit", 0.0, record, quiet=planned is None or not planned.builds)
                return
            if planned is None or not planned.builds:
                self._finish(name, "lost", 0.0, record, quiet=True)
                return
        self.build(name)

    def build(self, name: str) -> None:
        """Build a stage, after those of its inputs whose artifacts are gone."""
        node = self.manifest.stages[name]
        self._rely_on_finished()
        for other in upstream(node):
            if not self.store.is_intact(self.finished[other]):
                self.build(other)
        if (error := self.resolver.missing_source(node)) is not None:
            raise error
        preimage = self.resolver.preimage(node, self.finished)
        assert preimage is not None, "all sources are there"
        key = key_of(preimage)
        with (
            disk.store_errors(self.store.root, f"stage {name} stopped"),
            self.store.lock(key).held(
                lambda owner: self.console.message(f"{name}: {waiting_text(owner)}"),
                self.stopper.raise_if_asked,
            ),
        ):
            self.store.forget(key)
            record = self.store.lookup(key)
            is_rebuild = name in self.to_rebuild
            if record is not None and not is_rebuild and self.store.is_intact(record):
                self._finish(name, "hit", 0.0, record)
                return
            self._build_locked(node, key, preimage, is_rebuild)

    def _rely_on_finished(self, *further: str) -> None:
        """From here on no collection of garbage takes what is finished, nor what has one of these
        further keys; before, it may have."""
        self.store.prepare()
        with disk.store_errors(self.store.root, "the run cannot begin"), self.store.publishing():
            self.live.rely_on([*(record.key for record in self.finished.values()), *further])

    def _build_locked(
        self, node: StageNode, key: str, preimage: dict[str, Any], is_rebuild: bool
    ) -> None:
        attempt = self.store.attempt(key)
        is_same = bool((attempt.state or {}).get("is_rebuild")) == is_rebuild
        record = finish_prepared(self.store, attempt) if is_same else None
        if record is None:
            status = "resume" if is_same and attempt.progress() else "run"
            self.console.stage_started(PlannedStage(node.name, node.kind.kind, status, key))
            facts = {"preimage": preimage, "stage": node.name, "is_rebuild": is_rebuild}
            earlier = None if is_rebuild else self._earlier(node, preimage)
            journals = growth.earlier_work(self.store, node.kind, preimage)
            is_new = status == "run" and not is_rebuild
            attempt.begin(facts, fresh=not is_same, journals_of=journals if is_new else None)
            record = self._run_stage(node, key, preimage, attempt, earlier)
        self.to_rebuild.discard(node.name)
        self._finish(node.name, "done", record.seconds, record)

    def _earlier(self, node: StageNode, preimage: dict[str, Any]) -> Path | None:
        """Return the artifact that a stage goes on from, kept from collection while it runs."""
        record = growth.earlier_record(self.store, node.kind, preimage)
        if record is None:
            return None
        self._rely_on_finished(record.key)
        if not self.store.is_intact(record):
            return None
        self.console.message(f"{node.name}: {growth.growth_text(node.kind, record)}")
        return self.store.artifact_dir(record.artifact_id).absolute()

    def _run_stage(
        self,
        node: StageNode,
        key: str,
        preimage: dict[str, Any],
        attempt: Attempt,
        earlier: Path | None,
    ) -> ActionRecord:
        work = attempt.work
        assert work is not None, "the attempt was begun"
        outputs = tuple(node.kind.outputs)
        ids = self.resolver.input_ids(node, self.finished)
        every_s = self.checkpoint_every_s
        context = RunContext(
            node.name, work, outputs, ids, self.console, self.stopper, every_s, earlier
        )
        paths = self.resolver.paths(node, self.finished)
        began = time.monotonic()
        try:
            with _closing(context):
                context.note(**self.predictions.note(node.name))
                run_kind(node.kind, context, node.params, node.run, paths)
        except BaseException as error:
            is_stop = isinstance(error, Interrupted | KeyboardInterrupt)
            status = "stopped" if is_stop else "failed"
            self.console.stage_finished(node.name, status, time.monotonic() - began, None)
            if not is_stop:
                error.add_note(f"{node.name}: the attempt is kept; go on with: {self.command}")
            raise
        draft = self._draft(node, key, preimage, context)
        return publish(self.store, attempt, draft, outputs)

    def _draft(
        self, node: StageNode, key: str, preimage: dict[str, Any], context: RunContext
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
            created=_now(),
            seconds=round(log.seconds, 3),
            peak_rss_bytes=log.peak_rss_bytes,
            source_digest=node.kind.source_digest,
            inputs=self.resolver.links(node, self.finished),
            logs=disk.token(),
            size=0,
            facts=log.facts,
        )

    def _finish(
        self, name: str, status: str, seconds: float, record: ActionRecord, quiet: bool = False
    ) -> None:
        self.finished[name] = record
        self.result.stages[name] = StageResult(name, status, seconds, record)
        if status == "hit" or not quiet:
            names = (self.manifest.name, self.manifest.profile, name)
            self.store.link_latest(*names, record.artifact_id)
        if not quiet:
            self.console.stage_finished(name, status, seconds, record.artifact_id)


@contextmanager
def _closing(context: RunContext) -> Iterator[None]:
    """Close a context's files; what fails on the way out of a failure does not hide it."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            context.close()
        raise
    context.close()


def waiting_text(owner: dict[str, Any]) -> str:
    """Say whom a run waits for."""
    return f"waiting for {describe_owner(owner)}, which builds it"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
