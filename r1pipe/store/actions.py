"""The action record: how an artifact was made, as JSON with its own digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from r1pipe.errors import DamagedError, StoreError
from r1pipe.keys import JsonObject, digest_json, key_of

RECORD_FORMAT = 2
"""Format 1 had the digest of the stage file in place of `code`."""


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
    """Module that decides the result, such as `rl/losses.py` -> digest of its bytes; empty in
    records made before it was noted."""

    def to_json(self) -> dict[str, object]:
        """Return the record as JSON values with a digest of itself."""
        value = {"format": RECORD_FORMAT, **asdict(self)}
        return value | {"digest": digest_json(value)}

    @classmethod
    def from_json(cls, value: JsonObject, where: str) -> ActionRecord:
        """Read a record back; an edited one is a DamagedError that names its file."""
        try:
            if value["format"] > RECORD_FORMAT:
                raise StoreError(
                    f"{where}: record format {value['format']}, this r1pipe reads "
                    f"{RECORD_FORMAT}: upgrade r1pipe"
                )
            stored = value["digest"]
            found = digest_json({name: item for name, item in value.items() if name != "digest"})
            if found != stored:
                raise DamagedError(
                    f"{where}: expected digest {stored}, found {found}: the record was edited; "
                    "delete it and run the stage again"
                )
            present = _FIELDS if "code" in value else _FIELDS - {"code"}
            record = cls(**{name: value[name] for name in present})
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(
                f"{where}: expected an action record, found {type(error).__name__}: {error}; "
                "delete it and run the stage again"
            ) from error
        if record.key != key_of(record.preimage):
            raise DamagedError(
                f"{where}: expected key {key_of(record.preimage)}, found {record.key}"
            )
        return record

    def links(self) -> list[tuple[str, JsonObject]]:
        """Return (input name, link) pairs; an input that takes many gives `name.label`."""
        pairs: list[tuple[str, JsonObject]] = []
        for name, link in self.inputs.items():
            if isinstance(link.get("id"), str):
                pairs.append((name, link))
            else:
                pairs += [(f"{name}.{label}", item) for label, item in link.items()]
        return pairs

    def unchanged(self) -> list[str]:
        """Say which outputs have the id, so the very bytes, of an input."""
        return [
            f"its output {output} is its input {name}, byte for byte: nothing was changed"
            for output, identifier in sorted(self.outputs.items())
            for name, link in self.links()
            if link.get("id") == identifier
        ]


_FIELDS = frozenset(item.name for item in fields(ActionRecord))
