"""Rewards, tasks and checkers of the user's own: what `plugins: [my_rewards.py]` brings.

A plugin is a Python file with any of the tables

    REWARDS = {"brevity": brevity}      # (Problem, str) -> float in [0, 1]
    TASKS = {"doubling": TASK}          # r1pipe.tasks.world.Task
    CHECKERS = {"near": near}           # (Problem, str) -> Verdict

The pipeline sets the plugins of a manifest for as long as it reads it or runs a stage of it; the
library looks a name up in its own table first, then in these. Processes that are started meanwhile
inherit them by the environment. The bytes of a plugin are in the keys of the stages that name an
entry of it.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from r1pipe.errors import StageError
from r1pipe.keys import digest_json
from r1pipe.plugins.files import UserCodeError, digests_of, load_file, place_of

if TYPE_CHECKING:
    from r1pipe.records import Problem

TABLES = {"REWARDS": "rewards", "TASKS": "tasks", "CHECKERS": "checkers"}
"""Name of a table in a plugin file -> its name in a key."""
VARIABLE = "R1PIPE_PLUGINS"
"""The environment variable by which child processes get the plugins of a stage."""
STAMP = "checker_digest"
"""In the `meta` of a problem: the digest of the plugin whose checker it names."""
MODULE_PREFIX = "r1pipe_plugins."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Uses = Mapping[str, Mapping[str, str]]
"""Table -> entry -> digest of the plugin that has it: what a stage's key says of plugins."""


@dataclass(frozen=True)
class Entry:
    """One entry of a plugin's table."""

    table: str
    name: str
    value: Any
    path: Path
    digest: str
    """Of the file and of the neighbours that it imports."""

    def __call__(self, *args: Any) -> Any:
        """Call the entry; what it raises is an error at its line."""
        return self.run(self.value, *args)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the entry; what it raises is an error at its line."""
        try:
            return function(*args)
        except StageError:
            raise
        except Exception as error:
            text = f"{self.table[:-1]} '{self.name}' failed: {type(error).__name__}: {error}"
            raise UserCodeError(*place_of(error, self.path), 1, text) from error

    def wrong(self, message: str) -> UserCodeError:
        """Return the error for an entry that is not what its table takes."""
        code = getattr(self.value, "__code__", None)
        line = code.co_firstlineno if code else _line_of(self.path, self.table.upper())
        return UserCodeError(self.path, line, 1, f"{self.table[:-1]} '{self.name}' {message}")


@dataclass(frozen=True)
class Plugins:
    """The plugins of a manifest."""

    entries: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    """By table and name."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Absolute path -> digest."""
    is_partial: bool = False
    """Whether some could not be loaded, so that their names are not known."""
    used: Uses = field(default_factory=dict)
    """The entries in the key of the stage that runs."""

    def table(self, table: str) -> Mapping[str, Entry]:
        """Return the entries of one table."""
        return self.entries.get(table, {})

    def deciding(self, uses: Uses) -> Iterator[Path]:
        """Yield the files, with their neighbours, that may decide a stage's result: those that it
        names, and those with checkers, which its problems may name."""
        named = {digest for entries in uses.values() for digest in entries.values()}
        named |= {entry.digest for entry in self.table("checkers").values()}
        for path, digest in self.files.items():
            if digest in named:
                yield from (Path(path).parent / name for name in digests_of(Path(path)))

    def used_by(self, params: BaseModel) -> Uses:
        """Return the entries that a stage's parameters name."""
        found: dict[str, dict[str, str]] = {}
        for table, name in sorted(set(_named(params, Any))) if self.entries else ():
            if (entry := self.table(table).get(name)) is not None:
                found.setdefault(table, {})[name] = entry.digest
        return found


def load_plugins(paths: Iterable[Path]) -> Plugins:
    """Load plugin files; raises UserCodeError at the line that is wrong."""
    entries: dict[str, dict[str, Entry]] = {table: {} for table in TABLES.values()}
    files: dict[str, str] = {}
    for path in (path.resolve() for path in paths):
        if str(path) in files:
            continue
        for entry in _load_plugin(path):
            other = entries[entry.table].setdefault(entry.name, entry)
            if other is not entry:
                raise entry.wrong(f"is in {other.path} too; rename one of the two")
            files[str(path)] = entry.digest
    return Plugins(entries, files)


def load_again(files: Mapping[str, str]) -> Plugins:
    """Load plugins in another process, or raise if they are not what they were."""
    plugins = load_plugins(map(Path, files))
    for path, digest in files.items():
        if plugins.files[path] != digest:
            raise StageError(f"{path}: edited while a stage that uses it ran; run it again")
    return plugins


def _load_plugin(path: Path) -> list[Entry]:
    module = load_file(path, f"{MODULE_PREFIX}{path.stem}", "the plugin")
    neighbours = digests_of(path)
    digest = digest_json([neighbours.pop(path.name), neighbours])
    entries = []
    for label, table in TABLES.items():
        found = getattr(module, label, {})
        if not isinstance(found, dict):
            raise UserCodeError(path, _line_of(path, label), 1, f"{label} must be a dict by name")
        for name, value in found.items():
            entry = Entry(table, str(name), value, path, digest)
            if not _NAME.fullmatch(entry.name):
                raise entry.wrong("may hold letters, digits, - and _ only")
            if table != "tasks" and not callable(value):
                raise entry.wrong("must be a function: (Problem, str)")
            entries.append(entry)
    if not entries:
        tables = " or ".join(f"{label} = {{name: ...}}" for label in TABLES)
        raise UserCodeError(path, 1, 1, f"the plugin has no entries; give it {tables}")
    return entries


def _line_of(path: Path, name: str) -> int:
    """Return the line of a file that defines a name, or 1."""
    lines = path.read_text(errors="replace").splitlines()
    return next((n for n, line in enumerate(lines, 1) if re.match(rf"{name}\b", line)), 1)


# ---- the plugins of this process -----------------------------------------------------------------

NONE = Plugins()
_set: list[Plugins] = []
"""Those that are set, innermost last. Stages run one after another, so a list will do."""


@contextmanager
def using(plugins: Plugins, used: Uses | None = None) -> Iterator[None]:
    """Set the plugins for a block, for this process and those that it starts."""
    before = os.environ.get(VARIABLE)
    _set.append(replace(plugins, used=used or {}))
    os.environ[VARIABLE] = json.dumps(dict(plugins.files))
    try:
        yield
    finally:
        _set.pop()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def active() -> Plugins:
    """Return the plugins that are set here, or were where this process was started."""
    return _set[-1] if _set else _inherited(os.environ.get(VARIABLE, "{}"))


@lru_cache(maxsize=1)
def _inherited(text: str) -> Plugins:
    return load_again(json.loads(text))


def with_plugins(table: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of r1pipe's with the entries of plugins, which may not take its names."""
    entries = active().table(table)
    for name in entries.keys() & own.keys():
        raise entries[name].wrong("has the name of one of r1pipe's own; rename it")
    return {**own, **entries}


# ---- parameters that name entries ----------------------------------------------------------------


@dataclass(frozen=True)
class EntryOf:
    """Marks a text in `Params` as the name of an entry of a table.

    With the names of r1pipe's own entries, a name that is neither one of them nor a plugin's is a
    mistake of the manifest.
    """

    table: str
    own: Callable[[], Iterable[str]] | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check the name after the text."""
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Offer the names of r1pipe's own; an editor does not know of plugins."""
        text = dict(handler(schema))
        return text if self.own is None else text | {"anyOf": [{"enum": sorted(self.own())}, text]}

    def _known(self, name: str) -> str:
        if self.own is not None and not active().is_partial:
            names = sorted(with_plugins(self.table, dict.fromkeys(self.own())))
            if name not in names:
                quoted = [f"'{each}'" for each in names]
                expected = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
                context = {"expected": expected}
                raise PydanticCustomError("literal_error", "should be {expected}", context)
        return name


TaskName = Annotated[str, EntryOf("tasks")]
CheckerName = Annotated[str, EntryOf("checkers")]
"""For parameters of a user's own stages (docs/plugins.md)."""


def _named(value: Any, annotation: Any) -> Iterator[tuple[str, str]]:
    """Yield (table, name) of the entries that a value names, as its type marks them."""
    arguments = typing.get_args(annotation)
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            inner = getattr(value, name)
            yield from _marked(inner, info.metadata)
            yield from _named(inner, info.annotation)
    elif typing.get_origin(annotation) is Annotated:
        yield from _marked(value, arguments[1:])
        yield from _named(value, arguments[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for choice in arguments:
            yield from _named(value, choice)
    elif isinstance(value, Mapping):
        key_type, item_type = arguments if len(arguments) == 2 else (Any, Any)
        for key, item in value.items():
            yield from _named(key, key_type)
            yield from _named(item, item_type)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _named(item, arguments[0] if arguments else Any)


def _marked(value: Any, marks: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for mark in marks:
        if isinstance(mark, EntryOf) and isinstance(value, str):
            yield mark.table, value


# ---- checkers, which problems name ---------------------------------------------------------------


def stamped(problem: Problem) -> Problem:
    """Return a problem that says which plugin its checker is from, if it is from one.

    Whatever reads problems verifies by their checkers, and has their bytes in its key: so a changed
    checker changes the problems, and these the keys of what reads them. The stage that writes them
    must have the plugin in its own key.
    """
    entry = active().table("checkers").get(problem.checker)
    if entry is None or STAMP in problem.meta:
        return problem
    if all(entry.digest not in used.values() for used in active().used.values()):
        raise entry.wrong(
            "is named by problems of a stage whose parameters name nothing of this file; put it"
            " into the file of their task, or name it in the stage's parameters"
        )
    return replace(problem, meta={**problem.meta, STAMP: entry.digest})


def plugin_checker(problem: Problem) -> Entry | None:
    """Return the plugin's checker that a problem names, if it is the one it was made with."""
    entry = active().table("checkers").get(problem.checker)
    if entry is not None and problem.meta.get(STAMP) != entry.digest:
        raise entry.wrong(
            f"is not the one that problem {problem.id} was made with; build its problems again"
        )
    return entry
