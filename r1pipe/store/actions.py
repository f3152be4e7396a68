"""The action record: how an artifact was made, as JSON with its own digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from r1pipe.errors import DamagedError, StoreError
from r1pipe.keys import JsonObject, digest_json
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store.state import (
    MAX_BYTES,
    Count,
    FolderName,
    HexId,
    Seconds,
    StateModel,
    Token,
    checked,
    digest_of,
)

RECORD_FORMAT = 2
"""Format 1 had the digest of the stage file in place of `code`."""


Name = Annotated[str, Field(min_length=1, max_length=500)]


class _Link(StateModel):
    """What an input read: an output of a stage, or a source."""

    id: HexId
    stage: Name | None = None
    source: Name | None = None
    output: FolderName | None = None
    key: HexId | None = None
    artifact: HexId | None = None


class _Preimage(StateModel):
    kind: Name
    version: int
    params: JsonObject
    inputs: dict[str, HexId | dict[str, HexId]]
    plugins: dict[str, dict[str, str]] = Field(default_factory=dict)


class _RecordFile(StateModel):
    """What a record's file must hold, whoever sent it: nothing in it leads out of the store."""

    model_config = ConfigDict(extra="ignore")

    key: HexId
    preimage: _Preimage
    kind: Name
    stage_name: Name
    manifest_name: Name
    profile: Name | None
    artifact_id: HexId
    outputs: Annotated[dict[FolderName, HexId], Field(min_length=1)]
    created: Annotated[str, Field(max_length=64)]
    seconds: Seconds
    peak_rss_bytes: Count
    inputs: dict[str, _Link | dict[str, _Link]]
    logs: Token
    size: Count
    facts: JsonObject
    code: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class ActionRecord:
    """One finished action: its key and preimage, and the artifact that came of it.

    `inputs` holds, per input name, a link {`stage` or `source`: name, `output`, `id`, and for
    stages the `key` and `artifact` that it came from}; for an input that takes many, {label: link}.
    `logs` names the folder of the metrics, samples and notes. `seconds` counts the run's attempts
    together. Times are for people: nothing decides by them.
    """

    key: str
    preimage: JsonObject
    kind: str
    stage_name: str
    manifest_name: str
    profile: str | None
    artifact_id: str
    outputs: Mapping[str, str]
    created: str
    seconds: float
    peak_rss_bytes: int
    inputs: JsonObject
    logs: str
    size: int
    facts: JsonObject = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    """Module that decides the result, such as `rl/objective.py` -> digest of its bytes; empty in
    records made before it was noted."""

    def to_json(self) -> dict[str, object]:
        """Return the record as JSON values with a digest of itself."""
        value = {"format": RECORD_FORMAT, **asdict(self)}
        return value | {"digest": digest_json(value)}

    @classmethod
    def from_json(cls, value: object, where: str) -> ActionRecord:
        """Read a record back; an edited one is a DamagedError that names its file."""
        try:
            return cls._from_object(value, where)
        except DamagedError as error:
            raise DamagedError(f"{error}; delete it and run the stage again") from error

    @classmethod
    def _from_object(cls, value: object, where: str) -> ActionRecord:
        if not isinstance(value, dict) or not isinstance(version := value.get("format"), int):
            raise DamagedError(f"{where}: expected an action record, found none")
        if version > RECORD_FORMAT:
            raise StoreError(
                f"{where}: record format {version}, this r1pipe reads {RECORD_FORMAT}: "
                "upgrade r1pipe"
            )
        stored = value.get("digest")
        found = digest_of({name: item for name, item in value.items() if name != "digest"})
        if found != stored:
            raise DamagedError(
                f"{where}: expected digest {stored}, found {found}: the record was edited"
            )
        checked(_RecordFile, value, where)
        key = digest_of(value["preimage"])
        if value["key"] != key:
            raise DamagedError(f"{where}: expected key {key}, found {value['key']}")
        present = _FIELDS if "code" in value else _FIELDS - {"code"}
        return cls(**{name: value[name] for name in present})

    def links(self) -> list[tuple[str, JsonObject]]:
        """Return (input name, link) pairs; an input that takes many gives `name.label`."""
        pairs: list[tuple[str, JsonObject]] = []
        for name, link in self.inputs.items():
            if isinstance(link.get("id"), str):
                pairs.append((name, link))
            else:
                pairs += [(f"{name}.{label}", item) for label, item in link.items()]
        return pairs

    @property
    def nothing_learned(self) -> str | None:
        """Why nothing was learned, and what to set, of a training whose rewards never differed."""
        text = self.facts.get("nothing_learned")
        return text if isinstance(text, str) else None

    def warnings(self) -> list[str]:
        """Return what looked wrong though nothing failed; of facts that are no texts, nothing."""
        noted = self.facts.get("warnings", [])
        texts = [text for text in noted if isinstance(text, str)] if isinstance(noted, list) else []
        if (reason := self.nothing_learned) is not None:
            texts = [f"nothing was learned: {reason}", *texts]
        return [*texts, *self.unchanged()]

    def unchanged(self) -> list[str]:
        """Say which outputs have the id, so the very bytes, of another stage's.

        What comes from outside is meant to stay as it is.
        """
        return [
            f"its output {output} is its input {name}, byte for byte: nothing was changed"
            for output, identifier in sorted(self.outputs.items())
            for name, link in self.links()
            if link.get("id") == identifier and "source" not in link
        ]


_FIELDS = frozenset(item.name for item in fields(ActionRecord))


def read_record(path: Path, key: str) -> ActionRecord | None:
    """Return the record of a key from its file, or None if there is none."""
    try:
        value = parse_json(read_regular(path, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (UnfitError, IsADirectoryError) as error:
        raise DamagedError(
            f"{path}: expected an action record, found that {error}; delete it and run the stage "
            "again"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    record = ActionRecord.from_json(value, str(path))
    if record.key != key:
        raise DamagedError(f"{path}: expected key {key}, found {record.key}")
    return record
