"""From a stage and its finished inputs to the key's preimage, the links and the paths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from r1pipe.errors import SourceError
from r1pipe.keys import InputIds, JsonObject, key_of, key_preimage
from r1pipe.manifest import Manifest, Ref, StageNode
from r1pipe.manifest.graph import refs_of
from r1pipe.manifest.sources import source_id, source_path
from r1pipe.stage import Inputs
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

MAX_GUESSES = 64
"""How many remembered ids of missing sources are tried for one stage."""

Finished = Mapping[str, ActionRecord]
"""Stage name -> the record that its references read."""
T = TypeVar("T")
PerInput: TypeAlias = dict[str, T | dict[str, T]]
"""Input name -> a value; {label: value} if an input takes many."""


class Resolver:
    """Resolves the references of one manifest in one store; ids of sources are found once."""

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self.manifest = manifest
        self.store = store
        self.source_errors: dict[str, SourceError] = {}
        self._source_ids: dict[str, str] = {}

    def source_id(self, name: str) -> str | None:
        """Return a source's id, or None when it is missing (the error is kept)."""
        if name not in self._source_ids and name not in self.source_errors:
            try:
                node = self.manifest.sources[name]
                self._source_ids[name] = source_id(node, self.store.sources)
            except SourceError as error:
                if node.part and node.path is not None and node.path.exists():
                    raise  # it is there, but has no such config or split
                self.source_errors[name] = error
        return self._source_ids.get(name)

    def missing_source(self, node: StageNode) -> SourceError | None:
        """Return the error of a source that a stage reads and that is missing."""
        for ref in refs_of(node.inputs):
            if ref.is_source and self.source_id(ref.name) is None:
                return self.source_errors[ref.name]
        return None

    def check_sources(self, node: StageNode) -> None:
        """Raise SourceError if a source that a stage reads is not what its key says (any more)."""
        for ref in refs_of(node.inputs):
            if not ref.is_source:
                continue
            source = self.manifest.sources[ref.name]
            if source_id(source, self.store.sources) != self._source_ids[ref.name]:
                raise SourceError(
                    f"{source.origin}: source '{source.name}' has changed since the run began, so"
                    f" the result of '{node.name}' would not be of the bytes in its key; run again"
                )

    def preimage(self, node: StageNode, finished: Finished) -> JsonObject | None:
        """Return the preimage of a stage's key; None if a source that it reads is missing."""
        if self.missing_source(node) is not None:
            return None
        return preimage_of(node, self.input_ids(node, finished))

    def input_ids(self, node: StageNode, finished: Finished) -> PerInput[str]:
        """Return {input: id} or {input: {label: id}} of what a stage reads."""
        return per_input(node, lambda ref: self._id(ref, finished))

    def links(self, node: StageNode, finished: Finished) -> PerInput[JsonObject]:
        """Return what an action record keeps of its inputs."""
        return per_input(node, lambda ref: self._link(ref, finished))

    def paths(self, node: StageNode, finished: Finished) -> Inputs:
        """Return the paths of a stage's inputs: what it is called with."""
        return Inputs(per_input(node, lambda ref: self._path(ref, finished)))

    def guess_record(self, node: StageNode, finished: Finished) -> ActionRecord | None:
        """Return a stage's result although sources are missing, if it used them as last known."""
        lost = list(
            dict.fromkeys(
                ref.name
                for ref in refs_of(node.inputs)
                if ref.is_source and self.source_id(ref.name) is None
            )
        )
        remembered = [self._remembered(node.name, source) for source in lost]
        for ids in itertools.islice(itertools.product(*remembered), MAX_GUESSES):
            guess = dict(zip(lost, ids, strict=True))
            inputs = per_input(node, lambda ref, guess=guess: self._id(ref, finished, guess))  # type: ignore[misc]
            record = self.store.lookup(key_of(preimage_of(node, inputs)))
            if record is not None:
                return record
        return None

    def _remembered(self, stage: str, source: str) -> list[str]:
        records = [record for record in self.store.records() if record.stage_name == stage]
        records.sort(key=lambda record: record.created, reverse=True)
        links = [link for record in records for _, link in record.links()]
        return list(dict.fromkeys(link["id"] for link in links if link.get("source") == source))

    def _id(self, ref: Ref, finished: Finished, guess: Mapping[str, str] | None = None) -> str:
        if ref.is_source:
            found = self.source_id(ref.name) or (guess or {}).get(ref.name)
            assert found is not None, f"source {ref.name} is missing"
            return found
        return finished[ref.name].outputs[str(ref.output)]

    def _link(self, ref: Ref, finished: Finished) -> JsonObject:
        found = self._id(ref, finished)
        if ref.is_source:
            return {"source": ref.name, "id": found}
        record = finished[ref.name]
        return {
            "stage": ref.name,
            "output": ref.output,
            "id": found,
            "key": record.key,
            "artifact": record.artifact_id,
        }

    def _path(self, ref: Ref, finished: Finished) -> Path:
        if ref.is_source:
            return source_path(self.manifest.sources[ref.name], self.store.sources)
        return self.store.output_dir(finished[ref.name], str(ref.output)).absolute()


def preimage_of(node: StageNode, inputs: InputIds) -> JsonObject:
    """Return the preimage of a stage's key, given what its inputs are."""
    kind = node.kind
    return key_preimage(kind.kind, kind.version, node.key_params(), inputs, node.plugins)


def per_input(node: StageNode, function: Callable[[Ref], T]) -> PerInput[T]:
    """Apply a function to each reference of a stage, keeping the inputs' shape."""
    return {
        name: function(given)
        if isinstance(given, Ref)
        else {label: function(ref) for label, ref in given.items()}
        for name, given in node.inputs.items()
    }


def upstream(node: StageNode) -> Iterator[str]:
    """Yield the stages that a stage reads, each once."""
    names = (ref.name for ref in refs_of(node.inputs) if not ref.is_source)
    yield from dict.fromkeys(names)
