"""The source of a package as syntax trees: its modules, functions, classes, and what a name means.

Nothing is imported or run. A name is followed through imports, those inside functions and those
that another module passes on as well; a method is found by its name where one class only has it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
BUILTIN_METHODS = {
    name for kind in (str, bytes, list, dict, set, tuple, Path) for name in dir(kind)
}
"""A call of one of these says nothing about the class that it is of."""


@dataclass(frozen=True, eq=False)
class Function:
    """A function or a method."""

    module: Module
    node: FunctionNode
    owner: Class | None = None
    """The class of a method."""
    is_nested: bool = False

    @property
    def num_lines(self) -> int:
        """Lines from `def` to the end, docstring and all, without decorators."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def arguments(self) -> list[ast.arg]:
        """Parameters with a name, without `self` and without `*args` and `**kwargs`."""
        found = self.node.args
        positional = [*found.posonlyargs, *found.args]
        return [*positional[self.binds_self :], *found.kwonlyargs]

    @property
    def binds_self(self) -> bool:
        """Whether the first parameter is the object or the class."""
        decorators = {ast.unparse(node) for node in self.node.decorator_list}
        return self.owner is not None and "staticmethod" not in decorators

    @property
    def is_typed(self) -> bool:
        """Whether each parameter and what is returned has an annotation."""
        return self.node.returns is not None and all(
            argument.annotation is not None for argument in self.arguments
        )


@dataclass(frozen=True, eq=False)
class Class:
    """A class and its methods."""

    module: Module
    node: ast.ClassDef
    methods: dict[str, Function] = field(default_factory=dict)

    @property
    def is_protocol(self) -> bool:
        """Whether it only says what other classes have."""
        return any("Protocol" in ast.unparse(base) for base in self.node.bases)

    @property
    def fields(self) -> list[str]:
        """Names of annotated fields, in the order in which a dataclass takes them."""
        return [
            node.target.id
            for node in self.node.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]

    @property
    def values(self) -> dict[str, ast.expr]:
        """Defaults of fields, by name."""
        return {
            node.target.id: node.value
            for node in self.node.body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.value is not None
        }


@dataclass(frozen=True, eq=False)
class Module:
    """A file."""

    name: str
    path: Path
    text: str
    functions: dict[str, Function] = field(default_factory=dict)
    """Functions at the top of the file, by name."""
    classes: dict[str, Class] = field(default_factory=dict)
    every: list[Function] = field(default_factory=list)
    """All functions, methods and nested ones too."""

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @property
    def num_lines(self) -> int:
        """Lines of the file, blank ones too."""
        return len(self.text.splitlines())

    @cached_property
    def imports(self) -> dict[str, str]:
        """What each imported name stands for: {"Store": "r1pipe.store.Store"}."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update({(a.asname or a.name): a.name for a in node.names})
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                found.update({(a.asname or a.name): f"{base}.{a.name}" for a in node.names})
        return found

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + (self.path.name == "__init__.py")]
        return ".".join([*parts, *([node.module] if node.module else [])])


class Source:
    """All modules below some folders of a checkout."""

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        for folder in folders:
            for path in sorted((root / folder).rglob("*.py")):
                self._read(path)
        self.methods: dict[str, list[Function]] = {}
        for module in self.modules.values():
            for kind in module.classes.values():
                for name, method in kind.methods.items():
                    if not kind.is_protocol:
                        self.methods.setdefault(name, []).append(method)

    def _read(self, path: Path) -> None:
        parts = path.relative_to(self.root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        module = Module(name, path, path.read_text(encoding="utf-8"))
        self.modules[name] = module
        _collect(module, module.tree, None, False)

    def file(self, module: Module) -> str:
        """Return a module's path below the checkout."""
        return module.path.relative_to(self.root).as_posix()

    def at(self, place: str) -> Function:
        """Return the function at `path/to/file.py:name`, or the method at `...:Class.name`."""
        path, _, name = place.partition(":")
        of, _, name = name.rpartition(".")
        for module in self.modules.values():
            if self.file(module) == path:
                found = module.classes[of].methods if of in module.classes else module.functions
                if name in found:
                    return found[name]
        raise SystemExit(f"no function {place} in {self.root}")

    def resolve(self, module: Module, node: ast.expr) -> Function | Class | None:
        """Return the function or class of this package that an expression names, if one is."""
        if isinstance(node, ast.Name):
            local = module.functions.get(node.id) or module.classes.get(node.id)
            return local or self._imported(module.imports.get(node.id))
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            head, _, rest = dotted.partition(".")
            if head in module.imports:
                return self._imported(f"{module.imports[head]}.{rest}")
        return None

    def method(self, name: str, owner: Class | None = None) -> Function | None:
        """Return the method that a call by name reaches: of `owner`, else the only one."""
        if owner is not None and (found := self._inherited(owner, name)):
            return found
        every = self.methods.get(name, [])
        return every[0] if len(every) == 1 and name not in BUILTIN_METHODS else None

    def _inherited(self, owner: Class, name: str) -> Function | None:
        if name in owner.methods:
            return owner.methods[name]
        for base in owner.node.bases:
            above = self.resolve(owner.module, base)
            if isinstance(above, Class) and (found := self._inherited(above, name)):
                return found
        return None

    def _imported(self, dotted: str | None) -> Function | Class | None:
        """Return what a full name stands for, through modules that pass it on."""
        for _ in range(8):
            module_name, _, name = (dotted or "").rpartition(".")
            module = self.modules.get(module_name)
            if module is None:
                return None
            found = module.functions.get(name) or module.classes.get(name)
            if found or name not in module.imports:
                return found
            dotted = module.imports[name]
        return None


def _collect(module: Module, node: ast.AST, owner: Class | None, is_nested: bool) -> None:
    """Note all functions and classes below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            function = Function(module, child, owner, is_nested)
            module.every.append(function)
            if owner is not None:
                owner.methods[child.name] = function
            elif not is_nested:
                module.functions[child.name] = function
            _collect(module, child, None, True)
        elif isinstance(child, ast.ClassDef):
            kind = Class(module, child)
            module.classes.setdefault(child.name, kind)
            _collect(module, child, kind, is_nested)
        else:
            _collect(module, child, owner, is_nested)


def has_docstring(node: FunctionNode | ast.ClassDef | ast.Module) -> bool:
    """Return whether a docstring is there."""
    return ast.get_docstring(node, clean=False) is not None


def names_in(node: ast.AST) -> Iterator[ast.expr]:
    """Yield each name and each dotted name that is read below a node."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name | ast.Attribute) and isinstance(child.ctx, ast.Load):
            yield child
