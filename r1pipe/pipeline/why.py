"""Why a stage hits or runs: its key's preimage beside the nearest stored one, back to the cause.

Only preimages are compared, so an explanation cannot disagree with the key. An input whose id
changed is followed into the stage that made it, until something changed by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r1pipe.keys import JsonObject
from r1pipe.manifest import Manifest, Ref, StageNode
from r1pipe.pipeline import code
from r1pipe.pipeline.planning import PlannedStage, check_names, plan
from r1pipe.pipeline.resolution import Resolver, per_input, preimage_of
from r1pipe.pipeline.warm_start import warm_start_text
from r1pipe.store.actions import ActionRecord
from r1pipe.store.preimages import ABSENT, UNKNOWN, flatten
from r1pipe.store.store import Store
from r1pipe.text import short_id


@dataclass(frozen=True)
class Change:
    """One leaf that differs: `params.lr`, `version`, `kind`, `inputs.model`.

    `origin` is where the present value was written; `cause` explains the stage that made an input.
    """

    path: str
    old: object
    new: object
    origin: str | None = None
    cause: Explanation | None = None

    def lines(self, indent: str) -> Iterator[str]:
        """Yield the change, and below it its cause."""
        place = f"   [{self.origin}]" if self.origin else ""
        yield f"{indent}{self.path}: {_text(self.old)} -> {_text(self.new)}{place}"
        if self.cause is not None:
            yield from self.cause.lines(indent + "  ")


@dataclass(frozen=True)
class Explanation:
    """Why a stage has its status; `nearest` is the key of the record that it is compared with."""

    stage: str
    status: str
    summary: str
    key: str | None = None
    nearest: str | None = None
    changes: list[Change] = field(default_factory=list)

    def lines(self, indent: str = "") -> Iterator[str]:
        """Yield the explanation as indented lines, root causes innermost."""
        yield f"{indent}{self.stage}: {self.status}: {self.summary}"
        for change in self.changes:
            yield from change.lines(indent + "  ")

    def roots(self) -> list[tuple[str, Change]]:
        """Return (stage, change) of everything that changed by itself, each once."""
        found: dict[tuple[str, str], Change] = {}
        for change in self.changes:
            if change.cause is None:
                found[self.stage, change.path] = change
            else:
                found |= {(stage, root.path): root for stage, root in change.cause.roots()}
        return [(stage, change) for (stage, _), change in found.items()]

    def to_json(self) -> JsonObject:
        """Return the explanation as JSON values."""
        return asdict(self)


def explain(manifest: Manifest, store: Store, stage: str) -> Explanation:
    """Explain one stage of a manifest."""
    check_names(manifest, store, [stage])
    return _Explainer(manifest, store).stage(stage)


class _Explainer:
    def __init__(self, manifest: Manifest, store: Store) -> None:
        self.manifest = manifest
        self.resolver = Resolver(manifest, store)
        self.plan = plan(manifest, store, resolver=self.resolver)
        self.planned = {stage.name: stage for stage in self.plan.stages}
        self.store = store
        self.seen: dict[str, Explanation] = {}

    def stage(self, name: str) -> Explanation:
        """Explain a stage as the manifest has it now."""
        if name not in self.seen:
            self.seen[name] = self._stage(self.manifest.stages[name], self.planned[name])
        return self.seen[name]

    def _stage(self, node: StageNode, planned: PlannedStage) -> Explanation:
        if planned.status in ("hit", "lost"):
            return self._stored(node, planned)
        preimage = self._known_preimage(node)
        nearest = self.store.nearest(node.name, preimage, self.manifest.name)
        if nearest is None:
            summary = f"no result of kind '{node.kind.kind}' is in the store yet"
            return Explanation(node.name, planned.status, summary, planned.key)
        changes = self._changes(node, preimage, nearest)
        summary = _summary(node, planned, nearest, changes)
        return Explanation(node.name, planned.status, summary, planned.key, nearest.key, changes)

    def _stored(self, node: StageNode, planned: PlannedStage) -> Explanation:
        record = self.plan.records[node.name]
        made = f"made {record.created[:19]} as {record.manifest_name}/{record.profile or '-'}"
        same = f"kind, VERSION, params and input ids are those of key {short_id(record.key)}"
        summary = f"{same}, {made}" + (f"; {planned.reason}" if planned.reason else "")
        return Explanation(node.name, planned.status, summary, record.key, record.key)

    def _known_preimage(self, node: StageNode) -> JsonObject:
        """Return a stage's preimage with UNKNOWN for what is not made yet."""

        def known(ref: Ref) -> Any:
            if ref.is_source:
                return self.resolver.source_id(ref.name) or UNKNOWN
            record = self.plan.records.get(ref.name)
            return UNKNOWN if record is None else record.outputs[str(ref.output)]

        return preimage_of(node, per_input(node, known))

    def _changes(
        self, node: StageNode, preimage: JsonObject, nearest: ActionRecord
    ) -> list[Change]:
        old, new = flatten(nearest.preimage), flatten(preimage)
        links = {f"inputs.{name}": link for name, link in nearest.links()}
        changes = []
        for path in sorted({*old, *new}):
            was, now = old.get(path, ABSENT), new.get(path, ABSENT)
            if now is UNKNOWN:
                change = self._unknown_input(node, path, was)
            elif was != now and path.startswith("inputs."):
                change = self._changed_input(node, path, links.get(path), was, now)
            elif was != now:
                old_text, new_text = _shown(node, path, was), _shown(node, path, now)
                change = Change(path, old_text, new_text, origin_of(node, path))
            else:
                continue
            changes.append(change)
        return changes

    def _ref(self, node: StageNode, path: str) -> Ref | None:
        _, name, *label = path.split(".", 2)
        given = node.inputs.get(name)
        if isinstance(given, Mapping):
            return given.get(label[0]) if label else None
        return given

    def _unknown_input(self, node: StageNode, path: str, was: object) -> Change:
        """Explain an input that has no id yet: its stage must run, or its source is missing."""
        ref = self._ref(node, path)
        assert ref is not None, f"{path} is an input of {node.name}"
        if ref.is_source:
            return Change(path, was, f"source {ref.name} is missing", origin_of(node, path))
        cause = self.stage(ref.name)
        return Change(path, was, f"{ref}, not made yet", origin_of(node, path), cause)

    def _changed_input(
        self,
        node: StageNode,
        path: str,
        link: JsonObject | None,
        was: object,
        now: object,
    ) -> Change:
        """Explain an input with another id: another reference, source, or another making of it."""
        ref, origin = self._ref(node, path), origin_of(node, path)
        if ref is None or link is None:
            return Change(path, was, now, origin)
        if ref.is_source:
            source = self.manifest.sources[ref.name]
            return Change(path, was, now, f"source {ref.name} at {source.origin}")
        before = self.store.readable(str(link.get("key")))
        if before is None or link.get("stage") != ref.name:
            return Change(path, was, now, origin)
        after = self.plan.records[ref.name]
        return Change(path, was, now, origin, self._between(ref.name, before, after))

    def _between(self, name: str, before: ActionRecord, after: ActionRecord) -> Explanation:
        """Explain why a finished stage has another result than a previous one."""
        node = self.manifest.stages[name]
        if before.key == after.key:
            summary = "the same key gave other bytes; it was built again"
            if changed := code.different_modules(before.code, after.code):
                summary += f" with other code of the same VERSION: {code.named(changed)}"
            return Explanation(name, "done", summary, after.key, before.key)
        changes = self._changes(node, after.preimage, before)
        return Explanation(name, "done", "its result changed", after.key, before.key, changes)


def _summary(
    node: StageNode, planned: PlannedStage, nearest: ActionRecord, changes: Sequence[Change]
) -> str:
    what = "nearest result" if nearest.stage_name == node.name else "nearest result of this kind"
    label = f"{nearest.stage_name}@{short_id(nearest.artifact_id)}"
    if planned.key == nearest.key:
        return planned.reason or f"asked for, though {label} is in the store"
    if not changes:
        return f"no difference is known yet to the {what}, {label}"
    if [change.path for change in changes] == [f"params.{node.kind.extends}"]:
        what = f"{warm_start_text(node.kind, nearest)}; it differs from that"
        return f"{what} (made {nearest.created[:19]}) in"
    return f"differs from the {what}, {label} (made {nearest.created[:19]}), in"


def origin_of(node: StageNode, path: str) -> str | None:
    """Return where a leaf's present value was written, or the nearest value around it."""
    if path == "version":
        return str(node.kind.path)
    parts = path.split(".")
    while parts:
        if (origin := node.origins.get(".".join(parts))) is not None:
            return str(origin)
        parts.pop()
    return None


def _shown(node: StageNode, path: str, value: Any) -> Any:
    """Return a leaf, or the default of one that the key leaves out."""
    section, _, name = path.partition(".")
    if value is not ABSENT or section != "params" or "." in name:
        return value
    fields = type(node.params).model_fields
    if name not in fields or fields[name].is_required():
        return value
    return f"default {fields[name].get_default(call_default_factory=True, validated_data={})!r}"


def _text(value: Any) -> str:
    is_id = isinstance(value, str) and len(value) == 64
    return short_id(value) if is_id else str(value)
