"""The JSON Schema of a manifest, made from its models and those of the kinds.

It is apart from the models because only `r1pipe schema` needs it, and pydantic's generator takes
its time to import.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from r1pipe.keys import JsonObject
from r1pipe.manifest.expand import ANY_KIND
from r1pipe.manifest.schema import ManifestSpec
from r1pipe.stage import StageKind, StageModel


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

    def tagged_union_schema(self, schema: Any) -> JsonObject:
        found: JsonObject = super().tagged_union_schema(schema)
        # a layer may leave `backend` to another one: then options that several have fit them all
        return {"anyOf": found["oneOf"]}


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
