"""The nodes of a manifest's graph: sources and stages, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from r1pipe.keys import JsonObject, canonical_json
from r1pipe.manifest.references import Ref
from r1pipe.manifest.yaml_source import Origin
from r1pipe.plugins.tables import Uses
from r1pipe.stage import StageKind, StageModel


class SourceNode(NamedTuple):
    """Something from outside the store: a local file or folder, or a hub repository."""

    name: str
    path: Path | None
    hf: str | None
    revision: str | None
    type: str
    origin: Origin
    size: str | None = None
    """Parameters in words; only `plan` reads them."""
    config: str | None = None
    split: str | None = None
    licence: str | None = None

    @property
    def part(self) -> dict[str, str]:
        """The config and split that were asked for, if any."""
        asked = {"config": self.config, "split": self.split}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class StageNode:
    """One stage of a manifest, checked against its kind."""

    name: str
    kind: StageKind
    inputs: Mapping[str, Ref | Mapping[str, Ref]]
    params: StageModel
    run: StageModel
    origins: Mapping[str, Origin]
    """Dotted path such as `params.lr` or `inputs.model` -> where its value was written."""
    plugins: Uses = field(default_factory=dict)
    """The entries of plugins that the parameters name, with the digests of their files."""

    def key_params(self) -> JsonObject:
        """Return the parameters that differ from their frozen default, as JSON values."""
        return params_without_defaults(self.params)


def params_without_defaults(model: BaseModel) -> JsonObject:
    """Return a model's fields that differ from their default, as JSON values, inside too.

    A field that tells the members of a union apart is kept, since two members may look alike
    without it.
    """
    kept = {}
    for name, info in type(model).model_fields.items():
        value = _json_value(getattr(model, name))
        is_default = not info.is_required() and canonical_json(value) == canonical_json(
            _json_value(info.get_default(call_default_factory=True, validated_data={}))
        )
        if not is_default or _is_tag(info):
            kept[name] = value
    return kept


def _is_tag(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _json_value(value: object) -> Any:
    if isinstance(value, BaseModel):
        return params_without_defaults(value)
    if isinstance(value, Enum):
        return _json_value(value.value)
    if isinstance(value, Mapping):
        return {str(_json_value(key)): _json_value(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_json_value(item) for item in value), key=canonical_json)
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value
