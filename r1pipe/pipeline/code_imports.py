"""The modules that a file imports, found in its source without importing anything.

Imports anywhere in the file count, but for those for type checking only; and modules of r1pipe that
are named in strings, which is how tables of backends and processes of their own name them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from r1pipe.manifest import recipe
from r1pipe.plugins.files import neighbour

_MODULE = re.compile(r"r1pipe(?:\.\w+)+")


@cache
def imported_modules(path: Path, is_stage: bool) -> list[str]:
    """Return the modules, as in `r1pipe.pipeline.code`, that a file imports or names.

    A stage file, or a neighbour of one, may import its neighbours.
    """
    modules: list[str] = []
    for name in _names(ast.parse(path.read_bytes())):
        if name.startswith("r1pipe"):
            modules += _package_modules(name)
        elif is_stage and (beside := neighbour(path.parent, name.partition(".")[0])) is not None:
            modules.append(f"stages/{beside.name}")
    return modules


def _package_modules(name: str) -> Iterator[str]:
    """Yield the modules that are loaded for a dotted name: packages on the way, then itself."""
    parts = name.split(".")[1:]
    for end in range(len(parts) + 1):
        path = recipe.PACKAGE.joinpath(*parts[:end])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            return  # what follows is a name inside the module
        if file.stat().st_size:
            yield file.relative_to(recipe.PACKAGE).as_posix()


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module imports, and modules of r1pipe that its strings name."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and (found := _MODULE.match(node.value)):
                yield found.group()
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            waiting += ast.iter_child_nodes(node)  # all but docstrings
