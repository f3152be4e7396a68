"""Load a Python file of the user's, whose imports look into its own folder first.

`from _helpers import greet` in `stages/x.py` finds `stages/_helpers.py`, and the same line in
another project's file finds that project's: each file that is loaded gets an `__import__` of its
own. A folder on `sys.path` would not do, since all projects of a process share it and the modules
it gives.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from r1pipe.errors import StageError
from r1pipe.keys import digest_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PREFIX = "r1pipe_user."
RACY_S = 2.0
"""A file that is younger may change again without a new time, which Python counts in seconds."""
_numbers = itertools.count()
_lock = threading.RLock()


class UserCodeError(StageError):
    """A file of the user's cannot be loaded, or failed: where, and what is wrong there."""

    def __init__(self, path: Path | str, line: int, column: int, message: str) -> None:
        self.place, self.message = (str(path), line, column), message
        super().__init__(f"{path}:{line}:{column}: {message}")


def load_file(path: Path, name: str, what: str, is_cached: bool = False) -> ModuleType:
    """Return the module that a file gives, under a name of its own in `sys.modules`.

    Python takes cached bytecode for a source of the same size and the same second. A plugin, whose
    digest is in keys, must be read itself; so only stage files are cached, and not when they were
    just written.
    Raises UserCodeError at the line of the file, or of a neighbour, that is wrong.
    """
    try:
        return _load(path, _Loader(name, path, _Folder(path.parent), is_cached))
    except SyntaxError as error:
        place = error.filename or str(path), error.lineno or 1, error.offset or 1
        raise UserCodeError(*place, f"not Python: {error.msg}") from error
    except Exception as error:
        text = f"{what} cannot be loaded: {type(error).__name__}: {error}"
        raise UserCodeError(*place_of(error, path), 1, text) from error


def place_of(error: BaseException, path: Path) -> tuple[str, int]:
    """Return the innermost file and line of an error in a file or beside it; else the file."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).parent == path.parent:
            return frame.filename, frame.lineno or 1
    return str(path), 1


def neighbour(folder: Path, name: str) -> Path | None:
    """Return the file that an import of `name` finds in the folder of the file that imports it.

    The standard library and r1pipe keep their names.
    """
    if not name.isidentifier() or name == "r1pipe" or name in sys.stdlib_module_names:
        return None
    path = folder / f"{name}.py"
    return path if path.is_file() else None


def digests_of(path: Path) -> dict[str, str]:
    """Return the digests of a file and of all neighbours that it imports, by file name."""
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file.name not in found:
            source = file.read_bytes()
            found[file.name] = digest_bytes(source)
            waiting += [
                other
                for name in _imported(ast.parse(source))
                if (other := neighbour(path.parent, name.partition(".")[0])) is not None
            ]
    return found


def _imported(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(str(node.module))
    return names


class _Folder:
    """The neighbours of one file that was loaded: each is loaded once for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: dict[str, ModuleType] = {}

    def import_(
        self,
        name: str,
        namespace: Mapping[str, Any] | None = None,
        scope: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import as Python does, but look here first."""
        path = None if level else neighbour(self.path, name)
        if path is None:
            return builtins.__import__(name, namespace, scope, fromlist or (), level)
        with _lock:
            if name not in self.modules:
                _load(path, _Loader(f"{PREFIX}{next(_numbers)}.{name}", path, self))
            return self.modules[name]


class _Loader(SourceFileLoader):
    """Runs a file with the imports of its folder."""

    def __init__(self, name: str, path: Path, folder: _Folder, is_cached: bool = False) -> None:
        super().__init__(name, str(path))
        self.folder, self.is_cached = folder, is_cached

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the file's bytecode."""
        if self.is_cached:
            return super().get_code(fullname)
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def set_data(self, path: str, data: ReadableBuffer, *, _mode: int = 0o666) -> None:
        """Keep bytecode, unless the source could change in the second it was written in."""
        if time.time() - Path(self.path).stat().st_mtime > RACY_S:
            super().set_data(path, data, _mode=_mode)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file."""
        own = vars(builtins) | {"__import__": self.folder.import_}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)


def _load(path: Path, loader: _Loader) -> ModuleType:
    spec = spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None, f"a loader was given: {path}"
    module, loaded = module_from_spec(spec), loader.folder.modules
    sys.modules[loader.name] = loaded[path.stem] = module  # before it runs: it may be asked for
    try:
        loader.exec_module(module)
    except BaseException:
        loaded.pop(path.stem)
        raise
    return module
