"""The reference pages of the documentation, written from the code.

`python tests/reference_pages.py [FOLDER]` writes them into `docs/reference/` or another folder.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from r1pipe import errors
from r1pipe.cli.table import app
from r1pipe.engine_settings import ENGINES
from r1pipe.generator_settings import GENERATORS
from r1pipe.keys import JsonObject
from r1pipe.manifest.json_schema import Documented
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.schema import SourceSpec, StageSpec
from r1pipe.rewards.table import REWARDS
from r1pipe.stage import Input, StageKind, StageModel
from r1pipe.store.actions import ActionRecord
from r1pipe.tasks.table import TASKS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
WRITTEN = "<!-- written by tests/reference_pages.py -->"
MAX_DEFAULT = 60
SIGNS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
    "minLength": "length >=",
    "minItems": "length >=",
}


def pages() -> dict[str, str]:
    """Return the text of every reference page by file name."""
    kinds = load_kinds(ROOT / "manifests" / "r1.yaml")
    return {
        "kinds.md": kinds_page(kinds),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "files.md": files_page(kinds),
        "errors.md": errors_page(),
    }


def kinds_page(kinds: Mapping[str, StageKind]) -> str:
    """Return every kind with its inputs, outputs and fields."""
    parts = [
        "# Kinds of stage",
        WRITTEN,
        "What a stage reads, writes and can be told. `params` decide the result and are in the"
        " key; `run` decides nothing of it. A field with a dot belongs to a group:"
        " `optimizer: {lr: 1e-5}`.",
    ]
    for name, kind in kinds.items():
        doc = inspect.cleandoc(importlib_doc(kind.path))
        parts += [f"## {name}", doc.split("\n\n")[0].replace("\n", " "), _places(kind)]
        for title, model in (("params", kind.params), ("run", kind.run_model)):
            rows = list(fields(model))
            parts += [f"**{title}**" if rows else f"**{title}**: none", _table(rows)]
    return _joined(parts)


def importlib_doc(path: Path) -> str:
    """Return the docstring of a file, which is not imported for it."""
    import ast

    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _places(kind: StageKind) -> str:
    inputs = []
    for name, item in kind.inputs.items():
        marks = ["optional"] * item.optional + ["many"] * item.many
        inputs.append(f"`{name}` ({', '.join([' or '.join(types_of(item)), *marks])})")
    outputs = [f"`{name}` ({what})" for name, what in kind.outputs.items()]
    reads = f"Reads {', '.join(inputs)}." if inputs else "Reads nothing."
    return f"{reads} Writes {', '.join(outputs)}. Version {kind.version}."


def types_of(item: Input) -> tuple[str, ...]:
    """Return the types of artifact that an input takes."""
    return (item.type,) if isinstance(item.type, str) else item.type


def fields(model: type[StageModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a model's fields: name, type, default and description; those of groups with a dot."""
    schema = model.model_json_schema(schema_generator=Documented)
    yield from _fields(schema, schema.get("$defs", {}), "")


def _fields(
    schema: JsonObject, definitions: JsonObject, before: str
) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        inner = _group(part, definitions)
        default = "required" if name in required else _default(part)
        text = str(part.get("description", "")).replace("\n", " ")
        if inner is not None:
            yield f"{before}{name}", "group", "" if default != "required" else default, text
            yield from _fields(inner, definitions, f"{before}{name}.")
        else:
            yield f"{before}{name}", type_text(part, definitions), default, text


def _group(part: JsonObject, definitions: JsonObject) -> JsonObject | None:
    """Return the schema of a group of fields, None for a single value."""
    if "$ref" not in part:
        return None
    found: JsonObject = definitions[part["$ref"].rpartition("/")[2]]
    return found if "properties" in found else None


def _default(part: JsonObject) -> str:
    if "default" not in part or (isinstance(part["default"], dict) and part["default"]):
        return ""
    text = json.dumps(part["default"])
    return f"`{text}`" if len(text) <= MAX_DEFAULT else "see the file"


def type_text(part: JsonObject, definitions: JsonObject) -> str:
    """Return a JSON Schema type in words."""
    if "$ref" in part:
        part = definitions[part["$ref"].rpartition("/")[2]]
        if "properties" in part:
            return str(part.get("title", "group"))
    for many in ("anyOf", "oneOf", "allOf"):
        if many in part:
            return " or ".join(dict.fromkeys(type_text(p, definitions) for p in part[many]))
    if "enum" in part:
        return " ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    kind = part.get("type", "value")
    if kind == "array" and "items" in part:
        kind = f"list of {type_text(part['items'], definitions)}"
    elif kind == "object" and isinstance(part.get("additionalProperties"), dict):
        kind = f"mapping to {type_text(part['additionalProperties'], definitions)}"
    bounds = [f"{sign} {part[name]}" for name, sign in SIGNS.items() if name in part]
    return " ".join([str(kind), *bounds])


def settings_page() -> str:
    """Return the backends with their fields, sources, rewards, tasks and variables."""
    parts = ["# Settings", WRITTEN, "Groups of fields that stages share, and the tables of names."]
    for title, table in (("run.generator", GENERATORS), ("run.engine", ENGINES)):
        parts.append(f"## {title}")
        for name, place in table.items():
            module, _, attribute = place.rpartition(".")
            model = getattr(importlib.import_module(module), attribute)
            rows = [row for row in fields(model) if row[0] != "backend"]
            parts += [f"### {title}: {name}", _table(rows) or "No fields."]
    for title, spec in (("sources", SourceSpec), ("stages", StageSpec)):
        parts += [f"## {title}", _table(list(fields(spec)))]
    for title, names in (("Rewards", REWARDS), ("Tasks", TASKS)):
        parts += [f"## {title}", ", ".join(f"`{name}`" for name in names) + "."]
    parts += [
        "## Environment variables",
        "| variable | what it does |\n|---|---|\n"
        "| `R1PIPE_STORE` | the store, in place of `artifacts/` beside the manifest's folder |\n"
        "| `R1PIPE_SANDBOX` | `weak`: programs of models run where a layer is missing |\n"
        "| `HF_HUB_OFFLINE` | `1` keeps every command off the network |\n"
        "| `COLUMNS`, `NO_COLOR` | the width of tables on a terminal; no colours |",
    ]
    return _joined(parts)


def cli_page() -> str:
    """Return what every command says of itself."""
    group = typer.main.get_group(app)
    runner = CliRunner()
    shown = {"COLUMNS": "96", "TERMINAL_WIDTH": "96", "NO_COLOR": "1"}
    parts = ["# Commands", WRITTEN, "What each command says with `--help`."]
    os.environ.update(shown)
    for name in ["", *group.commands]:
        arguments = [name, "--help"] if name else ["--help"]
        found = runner.invoke(app, arguments, prog_name="r1pipe", terminal_width=96)
        assert found.exit_code == 0, found.output
        lines = [line.rstrip() for line in found.output.strip("\n").split("\n")]
        title = f"## r1pipe {name}".rstrip()
        parts += [title, "\n".join(["```text", *lines, "```"])]
    return _joined(parts)


def files_page(kinds: Mapping[str, StageKind]) -> str:
    """Return the types of artifact and the fields of a record."""
    writes: dict[str, list[str]] = {}
    reads: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        for what in dict.fromkeys(kind.outputs.values()):
            writes.setdefault(what, []).append(name)
        for what in dict.fromkeys(each for item in kind.inputs.values() for each in types_of(item)):
            reads.setdefault(what, []).append(name)
    rows = [
        (
            f"`{what}`",
            FORMS.get(what, ""),
            ", ".join(writes.get(what, [])),
            ", ".join(reads.get(what, [])),
        )
        for what in sorted({*writes, *reads})
    ]
    record = [
        (f"`{name}`", _hint(hint)) for name, hint in inspect.get_annotations(ActionRecord).items()
    ]
    return _joined(
        [
            "# Files",
            WRITTEN,
            "An output is a folder in the store. Its type says which files are in it, and which"
            " inputs take it.",
            _rows(("type", "files", "written by", "read by"), rows),
            "## The record of a result",
            "One JSON file for each key, in `records/`, with its own digest."
            " `r1pipe show NAME --json` prints it.",
            _rows(("field", "type"), record),
            "The layout of the store is in [The store](../reliability.md#how-it-is-laid-out); the"
            " shapes of your own files are in [Data](../data.md#your-data).",
        ]
    )


FORMS = {
    "model": "a Hugging Face directory: `config.json`, `*.safetensors`, tokenizer, chat template",
    "dataset": "your own files: JSON lines, JSON, CSV, Parquet, Arrow, or a folder of them",
    "text": "one file of text, such as a template",
    "tokenizer": "a Hugging Face tokenizer directory",
    "problems": "`part-*.parquet`, a problem in each row",
    "rows": "`part-*.parquet`: rows to train on, candidates, pairs or samples",
    "report": "JSON: `summary.json`, `report.json` or `scoreboard.json`, and tables as text",
}


def _hint(hint: object) -> str:
    return f"`{hint if isinstance(hint, str) else getattr(hint, '__name__', hint)}`"


def errors_page() -> str:
    """Return every error of a user with its exit code."""
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    base = errors.R1PipeError
    rows = [
        (
            f"`{each.__name__}`",
            "75, 130" if each is errors.Interrupted else str(each.exit_code),
            _line(each),
        )
        for each in sorted(found, key=lambda each: getattr(each, "exit_code", 0))
        if issubclass(each, base) and each is not base
    ]
    return _joined(
        [
            "# Errors",
            WRITTEN,
            "An expected error ends a command with its message and exit code, without a traceback."
            " Anything else is a bug. What to do about a message:"
            " [Troubleshooting](../troubleshooting.md).",
            _rows(("error", "exit code", "when"), rows),
        ]
    )


def _line(each: type) -> str:
    return (inspect.getdoc(each) or "").split("\n")[0]


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    if not rows:
        return ""
    named = [(f"`{name}`", what, default, text) for name, what, default, text in rows]
    return _rows(("field", "type", "default", ""), named)


def _rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
