"""Run a manifest: reach each stage in order, and build only what is not in the store.

A key is computed when a stage's inputs are known, so a stage that was built again with the same
bytes leaves all stages after it as they are (early cutoff), whatever the plan had to assume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from r1pipe.errors import DamagedError, Interrupted
from r1pipe.keys import key_of
from r1pipe.launch import torchrun
from r1pipe.launch.stopping import Stopper
from r1pipe.manifest import Manifest
from r1pipe.pipeline import commands
from r1pipe.pipeline.failures import Failures
from r1pipe.pipeline.placing import refuse_misplaced
from r1pipe.pipeline.planning import Plan, PlannedStage, plan, selected
from r1pipe.pipeline.resolution import Resolver, upstream
from r1pipe.stage import CHECKPOINT_EVERY_S
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.locks import describe_owner
from r1pipe.store.roots import LastRun, LiveRun, remember_run
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.pipeline.building import Builder
    from r1pipe.pipeline.progress import Console

__all__ = ["Plan", "PlannedStage", "RunResult", "StageResult", "plan", "run"]


class StageResult(NamedTuple):
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


def run(  # noqa: PLR0913 - the options of one command
    manifest: Manifest,
    store: Store,
    console: Console,
    *,
    to: str | None = None,
    only: str | None = None,
    before: str | None = None,
    rebuild: Iterable[str] = (),
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    check: Callable[[str, ActionRecord], None] = lambda name, record: None,
    keep_going: bool = False,
) -> RunResult:
    """Bring a manifest's results into the store.

    Those up to stage `to`, only stage `only`, or all that stage `before` reads.
    `check` is given every result, with its stage's name; what it raises ends the run.
    With `keep_going` a failed stage ends only those that need it; the error comes at the end.
    """
    again, resolver = frozenset(rebuild), Resolver(manifest, store)
    with torchrun.leading():
        planned = plan(
            manifest, store, to=to, only=only, before=before, rebuild=again, resolver=resolver
        )
        console.plan(planned)
        _refuse_damage(store, planned)
        for error in planned.missing.values():
            raise error
        refuse_misplaced(manifest, store, planned)
        runner = _Runner(resolver, console, planned, again, checkpoint_every_s, check)
        if only:
            runner.command = commands.stage_command(manifest, store, only)
        elif before:
            runner.command = commands.try_command(manifest, store, before)
        else:
            runner.command = commands.run_command(manifest, store, to, again, keep_going)
        return _reach_all(runner, selected(manifest, only or to, before), keep_going)


def _reach_all(runner: _Runner, names: Iterable[str], keep_going: bool) -> RunResult:
    console, failures = runner.console, Failures(runner.console.message)
    try:
        with _stoppable(runner), _store_written(runner):
            for name in names:
                if failures.rule_out(name, upstream(runner.manifest.stages[name])):
                    continue
                with failures.keeping(name) if keep_going else nullcontext():
                    runner.reach(name)
    finally:
        console.close()
    failures.check()
    _tell_unlearned(runner)
    if not runner.result.built:
        console.message(f"nothing to do: all {len(runner.result.stages)} stages are in the store")
    return runner.result


def _tell_unlearned(runner: _Runner) -> None:
    """Say again, where a run ends, which trainings came to nothing, unless it was said just now."""
    stages = runner.result.stages
    names = [name for name, stage in stages.items() if stage.record.nothing_learned is not None]
    for name in names:
        if runner.result.built[-1:] != [name]:
            runner.console.message(f"{name}: nothing was learned; `r1pipe show {name}` says why")


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
        "\n".join([*lines, "moved to the trash of the store; run again to rebuild it"])
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
        resolver: Resolver,
        console: Console,
        planned: Plan,
        rebuild: frozenset[str],
        checkpoint_every_s: float,
        check: Callable[[str, ActionRecord], None],
    ) -> None:
        self.manifest = resolver.manifest
        self.store = resolver.store
        self.console = console
        self.resolver = resolver
        self.result = RunResult(planned)
        self.planned = {stage.name: stage for stage in planned.stages}
        self.to_rebuild = set(rebuild)
        self.checkpoint_every_s = checkpoint_every_s
        self.check = check
        self.stopper = Stopper(console.message)
        self.live = LiveRun(resolver.store.root)
        self.finished: dict[str, ActionRecord] = {}
        self._builder: Builder | None = None

    def reach(self, name: str) -> None:
        """Find a stage's result in the store, or build it."""
        self.stopper.raise_if_asked()
        node, planned = self.manifest.stages[name], self.planned.get(name)
        preimage = self.resolver.preimage(node, self.finished)
        if preimage is None:
            record = self.resolver.guess_record(node, self.finished)
        else:
            record = self._lookup(name, key_of(preimage))
        if record is not None and name not in self.to_rebuild:
            if self._is_intact(record):
                self._finish(name, "hit", 0.0, record, quiet=planned is None or not planned.builds)
                return
            if planned is None or not planned.builds:
                self._finish(name, "lost", 0.0, record, quiet=True)
                return
        self.build(name)

    def _lookup(self, name: str, key: str) -> ActionRecord | None:
        """Return a key's record; a damaged one, which the plan could not know, is set aside."""
        try:
            return self.store.lookup(key)
        except DamagedError as error:
            self.store.set_record_aside(key)
            self.console.message(f"{name}: {error}; moved to the trash")
            return None

    def _is_intact(self, record: ActionRecord) -> bool:
        """Return whether an artifact is whole; a damaged one is set aside, and is gone then."""
        try:
            return self.store.is_intact(record)
        except DamagedError as error:
            self.store.set_artifact_aside(record.artifact_id)
            self.console.message(f"{record.stage_name}: {error}; moved to the trash")
            return False

    def build(self, name: str) -> None:
        """Build a stage, after those of its inputs whose artifacts are gone."""
        node = self.manifest.stages[name]
        self._rely_on_finished()
        for other in upstream(node):
            if not self._is_intact(self.finished[other]):
                self.build(other)
        if (error := self.resolver.missing_source(node)) is not None:
            raise error
        preimage = self.resolver.preimage(node, self.finished)
        assert preimage is not None, "all sources are there"
        key = key_of(preimage)
        with (
            disk.store_errors(self.store.root, f"stage {name} stopped", disk.STAGE_ADVICE),
            self.store.lock(key).held(
                lambda owner: self.console.message(
                    f"{name}: waiting for {describe_owner(owner)}, which builds it"
                ),
                self.stopper.raise_if_asked,
            ),
        ):
            self.store.forget(key)
            record = self._lookup(name, key)
            is_rebuild = name in self.to_rebuild
            if record is not None and not is_rebuild and self._is_intact(record):
                self._finish(name, "hit", 0.0, record)
                return
            if self._builder is None:
                self._builder = self._make_builder()
            record = self._builder.build(node, key, preimage, is_rebuild)
            self.to_rebuild.discard(name)
            self._finish(name, "done", record.seconds, record)

    def _make_builder(self) -> Builder:
        from r1pipe.pipeline.building import Builder

        return Builder(
            manifest=self.manifest,
            store=self.store,
            console=self.console,
            resolver=self.resolver,
            stopper=self.stopper,
            finished=self.finished,
            keep=self._rely_on_finished,
            command=self.command,
            checkpoint_every_s=self.checkpoint_every_s,
        )

    def _rely_on_finished(self, *further: str) -> None:
        """From now on, protect finished results and these further keys from garbage collection."""
        self.store.prepare()
        with disk.store_errors(self.store.root, "the run cannot begin"), self.store.publishing():
            self.live.rely_on([*(record.key for record in self.finished.values()), *further])

    def _finish(
        self, name: str, status: str, seconds: float, record: ActionRecord, quiet: bool = False
    ) -> None:
        self.finished[name] = record
        self.result.stages[name] = StageResult(name, status, seconds, record)
        if status == "hit" or not quiet:
            names = (self.manifest.name, self.manifest.profile, name)
            self.store.link_latest(*names, record.artifact_id)
        if not quiet:
            facts = record.facts
            self.console.stage_finished(name, status, seconds, record.artifact_id, facts)
        if status == "done":
            for text in record.unchanged():
                self.console.message(f"{name}: warning: {text}")
        self.check(name, record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
