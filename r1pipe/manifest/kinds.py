"""Load stage files by path, each when its kind is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from r1pipe.errors import ManifestError, Mistake, sorted_mistakes
from r1pipe.manifest.recipe import stage_folders
from r1pipe.plugins.files import UserCodeError, load_file
from r1pipe.stage import Input, StageKind, StageModel

MODULE_PREFIX = "r1pipe_stages."


class KindTable(Mapping[str, StageKind]):
    """Kinds of stage by name; a file is loaded when its kind is asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(sorted(files.items()))
        self._loaded: dict[str, StageKind] = {}

    def __getitem__(self, kind: str) -> StageKind:
        if kind not in self._loaded:
            self._loaded[kind] = load_kind(kind, self._files[kind])
        return self._loaded[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_kinds(manifest_path: Path) -> KindTable:
    """Return the kinds a manifest can use: `stages/` beside its folder, then r1pipe's own."""
    files: dict[str, Path] = {}
    for folder in stage_folders(manifest_path):
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                files.setdefault(path.stem.replace("_", "-"), path)
    return KindTable(files)


def load_kind(kind: str, path: Path) -> StageKind:
    """Return the kind that a stage file defines, or raise a ManifestError that names the line."""
    source = path.read_bytes()
    module = _import_file(path)
    mistakes: list[Mistake] = []

    def part(name: str, base: type, what: str) -> Any:
        value = getattr(module, name, None)
        is_right = isinstance(value, base) and not (base is int and isinstance(value, bool))
        if not is_right:
            line = _line_of(name, source.decode(errors="replace"))
            lack = "is missing" if value is None else f"is {value!r}"
            mistakes.append(Mistake(f"{name} {lack}; a stage file has {what}", str(path), line, 1))
        return value

    version = part("VERSION", int, "VERSION = 1, a number that is raised when results change")
    params = part("Params", type(StageModel), "class Params(StageModel)")
    run_model = part("Run", type(StageModel), "class Run(StageModel)")
    inputs = part("INPUTS", dict, "INPUTS = {name: Input(type)}")
    outputs = part("OUTPUTS", dict, "OUTPUTS = {name: type}")
    run: Any = getattr(module, "run", None)
    if not callable(run):
        mistakes.append(Mistake("run is missing; a stage file has def run(...)", str(path), 1, 1))
    if mistakes:
        raise ManifestError(*sorted_mistakes(mistakes))
    stage_kind = StageKind(
        kind,
        version,
        params,
        run_model,
        inputs,
        outputs,
        run,
        path,
        cost=getattr(module, "cost", None),
        look=getattr(module, "look", None),
        extends=getattr(module, "EXTENDS", None),
    )
    _check_parts(stage_kind, source.decode())
    return stage_kind


def _check_parts(kind: StageKind, source: str) -> None:
    """Report models of another base, and inputs or outputs that are not what they should be."""
    others = {getattr(item, "tokenizer_of", None) for item in kind.inputs.values()}
    checks = [
        (issubclass(kind.params, StageModel), "Params", "must derive from r1pipe.stage.StageModel"),
        (issubclass(kind.run_model, StageModel), "Run", "must derive from r1pipe.stage.StageModel"),
        (bool(kind.outputs), "OUTPUTS", "must name at least one output"),
        (
            all(isinstance(item, Input) for item in kind.inputs.values()),
            "INPUTS",
            "must map names to Input(...)",
        ),
        (
            all(isinstance(item, str) for item in kind.outputs.values()),
            "OUTPUTS",
            "must map names to a type of artifact such as 'model'",
        ),
        (others <= {None, *kind.inputs}, "INPUTS", "must name another input in tokenizer_of"),
        (
            kind.extends is None or kind.extends in kind.params.model_fields,
            "EXTENDS",
            f"is {kind.extends!r}; it must name a field of Params",
        ),
        (
            kind.cost is None or callable(kind.cost),
            "cost",
            "must be a function: def cost(params, run, inputs)",
        ),
        (
            kind.look is None or callable(kind.look),
            "look",
            "must be a function: def look(params, inputs)",
        ),
    ]
    mistakes = [
        Mistake(f"{name} {message}", str(kind.path), _line_of(name, source), 1)
        for is_right, name, message in checks
        if not is_right
    ]
    if mistakes:
        raise ManifestError(*sorted_mistakes(mistakes))


def _import_file(path: Path) -> ModuleType:
    try:
        return load_file(path, MODULE_PREFIX + path.stem, "the stage file", is_cached=True)
    except UserCodeError as error:
        raise ManifestError(Mistake(error.message, *error.place)) from error


def _line_of(name: str, source: str) -> int:
    """Return the line that defines a module-level name, or 1."""
    starts = (f"{name} ", f"{name}:", f"{name}=", f"class {name}(", f"class {name}:")
    for number, line in enumerate(source.splitlines(), start=1):
        if line.startswith(starts):
            return number
    return 1
