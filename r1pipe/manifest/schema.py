"""The shape of a manifest, as models, and the JSON Schema made from them and from the kinds."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema

from r1pipe.keys import JsonObject
from r1pipe.manifest.expand import ANY_KIND
from r1pipe.manifest.names import NAME_PATTERN, path_fault
from r1pipe.stage import StageKind, StageModel

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A stage, source, profile or label: letters, digits, `-` and `_`, since `.` divides references."""


class SourceSpec(StageModel):
    """Something from outside the store: a local file or folder, or a hub repository."""

    path: str | None = None
    """A file or folder, relative to the folder of the file that says so."""
    hf: str | None = None
    """A repository on the Hugging Face hub, as `owner/name`."""
    revision: str | None = None
    """The hub commit (40 hex digits), branch or tag."""
    config: str | None = None
    """Of a data set that has several: the one whose files are meant."""
    split: str | None = None
    """Of a data set that has several: train, validation, test, or as its files are called."""
    as_: Annotated[str, Field(alias="as")]
    """The type of artifact that the source stands for: model, problems, rows, dataset, text, ..."""
    size: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?[BM](-A\d+(\.\d+)?[BM])?$")
    """Parameters of a model, stored and (with experts) active, such as `1.5B` or `671B-A37B`: what
    `plan` takes if the model is not there yet. It decides nothing."""

    licence: str | None = Field(default=None, pattern=r"^[\w.+-]{1,60}$")
    """Its licence as an SPDX name, for the cards of `r1pipe push`. It decides nothing."""

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str | None) -> str | None:
        if path is not None and (fault := path_fault(path)) is not None:
            raise ValueError(fault)
        return path

    @model_validator(mode="after")
    def _is_one_place(self) -> SourceSpec:
        if (self.path is None) == (self.hf is None):
            raise ValueError("give either 'path' or 'hf'")
        if self.hf is None and self.revision is not None:
            raise ValueError("'revision' goes with 'hf', not with 'path'")
        if self.hf is not None and self.revision is None:
            raise ValueError("'hf' needs a 'revision': a commit, a branch or a tag")
        if self.hf is not None and self.as_ == "text":
            raise ValueError("a text is one file; give its 'path'")
        if self.as_ in ("model", "text") and (self.config or self.split) is not None:
            raise ValueError("'config' and 'split' go with rows, problems and datasets")
        return self


class StageSpec(StageModel):
    """One stage: which kind, from what, with what parameters."""

    kind: str
    """The stage file, by name: `rejection-sample` is `stages/rejection_sample.py`."""
    inputs: dict[Name, str | dict[Name, str]] = Field(default_factory=dict)
    """Input name -> `stage`, `stage.output` or a source; if many go in, `{label: reference}`, or
    `NAME.*.output` for all entries of a stage with `each`."""
    params: JsonObject = Field(default_factory=dict)
    """Parameters that decide the result: always in the key."""
    run: JsonObject = Field(default_factory=dict)
    """How it is computed: never in the key."""


class DefaultsSpec(StageModel):
    """What every stage of a kind has in a layer, below what the layer says of the stage itself."""

    inputs: dict[Name, str | dict[Name, str | None] | None] = Field(default_factory=dict)
    params: JsonObject = Field(default_factory=dict)
    run: JsonObject = Field(default_factory=dict)


class LayerSpec(StageModel):
    """Values laid over those of the manifest."""

    defaults: dict[str, DefaultsSpec] = Field(default_factory=dict)
    """By kind of stage; `"*"` is every kind that has the field."""
    params: JsonObject = Field(default_factory=dict)
    sources: dict[str, JsonObject | None] = Field(default_factory=dict)
    stages: dict[str, JsonObject | None] = Field(default_factory=dict)


class ProfileSpec(LayerSpec):
    """Values laid over the manifest when the profile is chosen."""

    extends: str | None = None
    """Another profile, which is laid first."""
    targets: list[str] | None = None


class AblationsSpec(StageModel):
    """What `r1pipe ablate` leaves out of a chain in turn, and where it measures."""

    report: Name
    """The `evaluate` stage at the end of the chain."""
    without: dict[Name, LayerSpec]
    """Name of what is left out -> the values, over those of the profile, that leave it out."""


class ManifestSpec(StageModel):
    """A manifest."""

    r1pipe: int
    """The format of the manifest."""
    name: str
    """What `show` calls the run."""
    extends: str | None = None
    """A manifest beside this one, whose values lie below these."""
    profile: str | None = None
    """The profile that is used when none is asked for."""
    plugins: list[str] = Field(default_factory=list)
    """Python files with rewards, tasks and checkers, relative to the folder of this file."""
    params: JsonObject = Field(default_factory=dict)
    """Values that stages share, as `$params.name`."""
    defaults: dict[str, DefaultsSpec] = Field(default_factory=dict)
    """By kind of stage; `"*"` is every kind that has the field."""
    targets: list[str] | None = None
    """Wanted stages; those that they do not need are left out."""
    sources: dict[Name, SourceSpec] = Field(default_factory=dict)
    stages: dict[Name, StageSpec] = Field(default_factory=dict)
    profiles: dict[Name, ProfileSpec] = Field(default_factory=dict)
    ablations: AblationsSpec | None = None
    """What `r1pipe ablate` leaves out in turn."""


def manifest_schema(kinds: Mapping[str, StageKind]) -> JsonObject:
    """Return the JSON Schema (2020-12) of manifests that use these kinds."""
    schema = ManifestSpec.model_json_schema(schema_generator=Documented)
    definitions = schema["$defs"]
    parts = {
        name: {
            "inputs": _inputs_schema(kind),
            "params": _own_definitions(kind.params, f"{name}-params", definitions),
            "run": _own_definitions(kind.run_model, f"{name}-run", definitions),
        }
        for name, kind in kinds.items()
    }
    stage = definitions["StageSpec"]
    stage.pop("required")  # an extending manifest changes a stage without saying its kind
    stage["properties"]["kind"]["enum"] = list(kinds)
    stage["properties"]["each"] = _EACH
    stage["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"properties": {**part, "each": _entries(part)}},
        }
        for name, part in parts.items()
    ]
    defaults = {name: {"properties": part} | _CLOSED for name, part in parts.items()}
    defaults[ANY_KIND] = {"properties": _any_kind(kinds)} | _CLOSED
    for spec in (schema, definitions["LayerSpec"], definitions["ProfileSpec"]):
        own = spec["properties"]["defaults"]
        own.pop("additionalProperties")
        spec["properties"]["defaults"] = own | {"properties": defaults} | _CLOSED
    for table in (schema["properties"]["stages"], stage["properties"]["inputs"]):
        named = table["patternProperties"].items()
        table["patternProperties"] = {name: _or_null(entry) for name, entry in named}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_CLOSED = {"type": "object", "additionalProperties": False}
_EACH = {
    "description": "One stage NAME-LABEL per entry, which is laid over the rest; null takes one"
    " away.",
    "type": "object",
    "minProperties": 1,
}


def _or_null(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]}


def _entries(part: JsonObject) -> JsonObject:
    """Return the schema of `each` in a stage whose sections are these."""
    return _EACH | {"additionalProperties": _or_null({"type": "object", "properties": dict(part)})}


def _any_kind(kinds: Mapping[str, StageKind]) -> JsonObject:
    """Return the sections of `"*"`: every field of any kind, in the ways that kinds know it."""
    inputs: dict[str, list[Any]] = {}
    fields: dict[str, dict[str, list[Any]]] = {"params": {}, "run": {}}
    for name, kind in kinds.items():
        for field, schema in _inputs_schema(kind)["properties"].items():
            inputs.setdefault(field, []).append(schema)
        for section, model in (("params", kind.params), ("run", kind.run_model)):
            for field in model.model_fields:
                place = {"$ref": f"#/$defs/{name}-{section}/properties/{field}"}
                fields[section].setdefault(field, []).append(place)
    return {
        section: {"properties": {name: {"anyOf": ways} for name, ways in each.items()}} | _CLOSED
        for section, each in {"inputs": inputs, **fields}.items()
    }


class Documented(GenerateJsonSchema):
    """Takes the docstring under a field as its description.

    Pydantic can do so itself, but while a class is defined: every command would read every stage's
    source once more.
    """

    def model_schema(self, schema: Any) -> JsonObject:
        found: JsonObject = super().model_schema(schema)
        for field, text in field_docs(schema["cls"]).items():
            found["properties"][field]["description"] = text
        return found


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return {field as it is written in a manifest: the docstring below it}."""
    docs: dict[str, str] = {}
    for base in reversed([each for each in model.__mro__ if issubclass(each, StageModel)]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    docs[model.model_fields[name].alias or name] = inspect.cleandoc(text)
    return docs


def _own_definitions(model: type[StageModel], name: str, definitions: JsonObject) -> Any:
    """Add a model's schema under `name`, what it refers to below it, and return a reference.

    A required field stays optional here and a parameter reference is allowed for any value, since
    a profile may give the one and `params` the other.
    """
    template = f"#/$defs/{name}/$defs/{{model}}"
    own = model.model_json_schema(ref_template=template, schema_generator=Documented)
    for part in (own, *own.get("$defs", {}).values()):
        part.pop("required", None)
        for field, value in part.get("properties", {}).items():
            if isinstance(inner := value.get("additionalProperties"), dict):
                value["additionalProperties"] = _or_parameter(inner)
            part["properties"][field] = _or_parameter(value)
    definitions[name] = own
    return {"$ref": f"#/$defs/{name}"}


def _or_parameter(schema: JsonObject) -> JsonObject:
    """Return a schema that takes a reference to a parameter too."""
    return {"anyOf": [schema, {"type": "string", "pattern": r"^\$params\."}]}


def _inputs_schema(kind: StageKind) -> JsonObject:
    reference = {"type": ["string", "null"]}
    star = {"type": ["string", "null"], "pattern": r"^[^.]+\.\*(\..+)?$"}
    many = {"anyOf": [{"type": "object", "additionalProperties": reference}, star]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: (many if item.many else reference) for name, item in kind.inputs.items()
        },
    }
