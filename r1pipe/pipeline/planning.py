"""The plan of a run: per stage hit, run, resume, waits or lost, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from r1pipe.errors import ArtifactError, DamagedError, ManifestError, SourceError
from r1pipe.keys import key_of
from r1pipe.manifest import Manifest, StageNode
from r1pipe.pipeline import code, commands
from r1pipe.pipeline.resolution import Resolver, upstream
from r1pipe.pipeline.warm_start import is_extension, warm_start_text
from r1pipe.store.actions import ActionRecord
from r1pipe.store.preimages import different, flatten
from r1pipe.store.store import Store
from r1pipe.text import did_you_mean, listed, short_id

if TYPE_CHECKING:
    from r1pipe.pipeline.looking import Look

MAX_NAMED = 3
MISSING_SOURCE = "needs a source that is missing"


@dataclass(frozen=True)
class PlannedStage:
    """The plan of one stage.

    `status`: `hit` (its result is in the store), `run`, `resume` (an attempt goes on), `waits` (its
    key is known once the stages in `waits_for` are done; it may then turn out to be a hit), `lost`
    (the record is there, the artifact is not). `builds` tells whether a run would build it.
    """

    name: str
    kind: str
    status: str
    key: str | None = None
    artifact: str | None = None
    waits_for: list[str] = field(default_factory=list)
    reason: str = ""
    builds: bool = False


@dataclass(frozen=True)
class Plan:
    """All selected stages in topological order, and what the plan found on the way.

    `records` holds the results of hit and lost stages, `damage` what must not be used, `missing`
    the sources that stages to be built need, `looks` what they find in the first rows of others,
    `notes` what of the manifest may not be as it is meant.
    """

    stages: list[PlannedStage]
    records: dict[str, ActionRecord] = field(default_factory=dict)
    damage: dict[str, DamagedError] = field(default_factory=dict)
    missing: dict[str, SourceError] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    notes: Sequence[str] = ()


def plan(
    manifest: Manifest,
    store: Store,
    *,
    to: str | None = None,
    only: str | None = None,
    before: str | None = None,
    rebuild: Iterable[str] = (),
    resolver: Resolver | None = None,
) -> Plan:
    """Say what a run would do; writes nothing but caches."""
    rebuild = frozenset(rebuild)
    names = [name for name in (to, only, before, *rebuild) if name is not None]
    check_names(manifest, store, names)
    planner = _Planner(manifest, store, rebuild, resolver or Resolver(manifest, store))
    for name in selected(manifest, only or to, before):
        planner.add(manifest.stages[name])
    if before:
        return planner.finish(set(upstream(manifest.stages[before])), None)
    return planner.finish({only or to} if only or to else _sinks(manifest), only)


def check_names(manifest: Manifest, store: Store, names: Iterable[str]) -> None:
    """Raise for a stage that the manifest does not have; say whether the store has it of others."""
    for name in names:
        if name in manifest.stages:
            continue
        hint = did_you_mean(name, manifest.stages)
        others = {each.manifest_name for each in store.records() if each.stage_name == name}
        if others:
            hint += f"; the store has a '{name}' of {listed(sorted(others), MAX_NAMED)}:"
            hint += " name that manifest, and its profile"
        raise ManifestError(f"{manifest.path}: no stage '{name}'; {hint}")


def selected(manifest: Manifest, target: str | None, before: str | None = None) -> list[str]:
    """Return the stages that lead to `target` (all without one), in topological order.

    Given `before`, those that lead to it, without itself.
    """
    if before is not None:
        return selected(manifest, before)[:-1]
    if target is None:
        return list(manifest.stages)
    wanted, pending = {target}, [target]
    while pending:
        new = set(upstream(manifest.stages[pending.pop()])) - wanted
        wanted |= new
        pending += new
    return [name for name in manifest.stages if name in wanted]


def _sinks(manifest: Manifest) -> set[str | None]:
    read = {name for node in manifest.stages.values() for name in upstream(node)}
    return set(manifest.stages.keys() - read)


class _Planner:
    def __init__(
        self, manifest: Manifest, store: Store, rebuild: frozenset[str], resolver: Resolver
    ) -> None:
        self.manifest = manifest
        self.store = store
        self.rebuild = rebuild
        self.resolver = resolver
        self.plan = Plan([], notes=manifest.notes)
        self.planned: dict[str, PlannedStage] = {}

    def add(self, node: StageNode) -> None:
        """Plan one stage after all that it reads."""
        waits_for = [name for name in upstream(node) if name not in self.plan.records]
        planned = PlannedStage(node.name, node.kind.kind, "waits", waits_for=waits_for)
        if waits_for:
            self.planned[node.name] = planned
            return
        try:
            self.planned[node.name] = self._resolved(node, planned)
        except DamagedError as error:
            self.plan.damage[node.name] = error
            preimage = self.resolver.preimage(node, self.plan.records)
            key = None if preimage is None else key_of(preimage)
            reason = f"damaged: {error}"
            self.planned[node.name] = replace(planned, status="run", key=key, reason=reason)

    def _resolved(self, node: StageNode, planned: PlannedStage) -> PlannedStage:
        preimage = self.resolver.preimage(node, self.plan.records)
        if preimage is None:
            record = self.resolver.guess_record(node, self.plan.records)
            if record is None:
                reason = f"{MISSING_SOURCE}: {self.resolver.missing_source(node)}"
                return replace(planned, status="run", reason=reason)
            planned = replace(planned, reason="a source is missing; taken as last known")
        else:
            planned = replace(planned, key=key_of(preimage))
            record = self.store.lookup(str(planned.key))
        if record is None or node.name in self.rebuild:
            return self._to_build(node, planned, is_known=record is not None)
        planned = replace(planned, key=record.key, artifact=record.artifact_id)
        self.plan.records[node.name] = record
        return self._stored(node, record, planned)

    def _to_build(self, node: StageNode, planned: PlannedStage, is_known: bool) -> PlannedStage:
        attempt = self.store.attempt(str(planned.key))
        state = attempt.state or {}
        is_same = bool(state.get("is_rebuild")) == is_known
        if is_same and (progress := attempt.progress()):
            reason = f"goes on from {progress}"
            if (owner := self.store.lock_owner(str(planned.key))) is not None:
                reason = f"{owner} works on it ({progress})"
            if text := code.changed_text(state.get("code", {}), node.kind):
                reason = f"{reason}; {text}"
            return replace(planned, status="resume", reason=reason)
        reason = "asked for by --rebuild" if is_known else self._difference(node)
        return replace(planned, status="run", reason=reason)

    def _difference(self, node: StageNode) -> str:
        """Name the leaves in which a stage's preimage differs from the nearest stored one."""
        preimage = self.resolver.preimage(node, self.plan.records)
        assert preimage is not None, "the key is known"
        nearest = self.store.nearest(node.name, preimage, self.manifest.name)
        if nearest is None:
            return "not in the store yet"
        if is_extension(node.kind, nearest.preimage, preimage):
            return warm_start_text(node.kind, nearest)
        paths = different(flatten(nearest.preimage), flatten(preimage))
        label = f"{nearest.stage_name}@{short_id(nearest.artifact_id)}"
        return f"{listed(paths, MAX_NAMED)} not as in {label}"

    def _stored(self, node: StageNode, record: ActionRecord, planned: PlannedStage) -> PlannedStage:
        try:
            if not self.store.is_intact(record):
                return replace(planned, status="lost")
        except DamagedError as error:
            self.plan.damage[node.name] = error
            return replace(planned, status="lost", reason=f"damaged: {error}")
        reasons = [planned.reason] if planned.reason else []
        if text := code.changed_text(record.code, node.kind):
            reasons.append(f"{text}; --rebuild {node.name} runs it again")
        return replace(planned, status="hit", reason="; ".join(reasons))

    def finish(self, targets: Set[str | None], only: str | None) -> Plan:
        """Decide which lost stages a run would build, last stage first."""
        needed: set[str] = set()
        for name, planned in reversed(list(self.planned.items())):
            node = self.manifest.stages[name]
            builds = planned.status in ("run", "resume", "waits")
            if planned.status == "lost":
                builds = name in targets or name in needed
                planned = replace(planned, reason=self._lost_reason(planned, builds))
            if only is not None and name != only:
                builds = False
            if builds:
                needed.update(upstream(node))
                if (error := self.resolver.missing_source(node)) is not None:
                    self.plan.missing[name] = error
                    reason = planned.reason or f"{MISSING_SOURCE}: {error}"
                    planned = replace(planned, reason=reason)
            self.planned[name] = replace(planned, builds=builds)
        self.plan.stages.extend(
            planned for planned in self.planned.values() if only in (None, planned.name)
        )
        if only is not None:
            self._check_inputs(self.manifest.stages[only])
        if built := [each.name for each in self.plan.stages if each.builds]:
            from r1pipe.pipeline.looking import look_at_sources
            from r1pipe.pipeline.matching import refuse_other_tokenizers

            refuse_other_tokenizers(self.manifest, self.store, self.plan.records, built)
            self.plan.looks.extend(look_at_sources(self.manifest, built))
        return self.plan

    def _lost_reason(self, planned: PlannedStage, builds: bool) -> str:
        what = planned.reason or f"artifact {str(planned.artifact)[:12]} is gone"
        if builds:
            return f"{what}; the run builds it again"
        return f"{what}; nothing needs it now; --rebuild {planned.name} builds it again"

    def _check_inputs(self, node: StageNode) -> None:
        """Raise when a single stage's inputs are not all in the store."""
        absent = [name for name in upstream(node) if self.planned[name].status != "hit"]
        if absent:
            lines = [
                f"  {name}: {commands.stage_command(self.manifest, self.store, name)}"
                for name in absent
            ]
            raise ArtifactError(
                "\n".join([f"{node.name}: inputs are not in the store; make them with", *lines])
            )
