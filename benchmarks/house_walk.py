"""Where one value goes: a walk through the code, from a function's parameter, call by call.

A path is how a local name reaches the value: `params` itself, `plan.params` where an object holds
it, `self.plan.params` in that object's methods. Each call of a function of the package that is
given the value, or an object that holds it, is a stop; so is a constructor. Statements are read in
their order, branches one after the other, loops once. A function that was entered with the same
paths before counts as a stop again but is not read again. What is read out of the value, such as
`params.kl_coef`, is not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from house_source import Class, Function, Source

Held = frozenset[str]
"""Where the value is in what an expression gives: "" is the value, "a.b" is in attribute b of a."""
NOTHING: Held = frozenset()


@dataclass
class Trip:
    """What a walk met."""

    stops: list[tuple[int, str, str]] = field(default_factory=list)
    """Depth, file and function of each call that takes the value along."""
    climbs: int = 0
    """Ways back up: another call from a function that had been left into another file."""
    lost: set[str] = field(default_factory=set)
    """Calls that take the value along to an unknown place: other packages, ambiguous methods."""

    @property
    def files(self) -> set[str]:
        """The files that the stops are in."""
        return {file for _, file, _ in self.stops}


class Walk:
    """Follows a value from function to function."""

    def __init__(self, source: Source, parts: bool = False) -> None:
        self.source = source
        self.parts = parts
        self.trip = Trip()
        self.returned: dict[tuple[Function, Held], Held] = {}

    def start(self, function: Function, parameter: str) -> Trip:
        """Follow a parameter of a function and return what was met."""
        self._enter(function, {parameter: frozenset({""})}, 0)
        return self.trip

    def _enter(self, function: Function, bound: dict[str, Held], depth: int) -> Held:
        """Read a function whose parameters hold the value so; return where its result holds it."""
        file = self.source.file(function.module)
        owner = f"{function.owner.node.name}." if function.owner else ""
        self.trip.stops.append((depth, file, owner + function.node.name))
        paths = frozenset(_joined(bound))
        key = (function, paths)
        if key not in self.returned:
            self.returned[key] = NOTHING  # it may call itself
            reader = Reader(self, function, set(paths), depth)
            reader.statements(function.node.body)
            self.returned[key] = frozenset(reader.results)
        return self.returned[key]

    def construct(self, kind: Class, bound: dict[str, Held], depth: int) -> Held:
        """Return where a new object holds the value; its `__init__` is read if it has one."""
        init = kind.methods.get("__init__")
        if init is None:
            file = self.source.file(kind.module)
            self.trip.stops.append((depth, file, kind.node.name))
            return frozenset(_joined(bound))
        self._enter(init, bound, depth)
        reader = Reader(self, init, _joined(bound), depth, is_silent=True)
        reader.statements(init.node.body)
        return frozenset(path[5:] for path in reader.paths if path.startswith("self."))

    def call(self, callee: Function | Class, bound: dict[str, Held], depth: int) -> Held:
        """Go into what is called."""
        if isinstance(callee, Class):
            return self.construct(callee, bound, depth)
        return self._enter(callee, bound, depth)


class Reader:
    """Reads the statements of one function in their order."""

    def __init__(
        self,
        walk: Walk,
        function: Function,
        paths: set[str],
        depth: int,
        is_silent: bool = False,
    ) -> None:
        self.walk = walk
        self.function = function
        self.paths = paths
        self.depth = depth
        self.is_silent = is_silent
        """Only note where the value is put; enter no call."""
        self.results: set[str] = set()
        self.has_left = False

    def statements(self, body: Iterable[ast.stmt]) -> None:
        """Read statements; those inside others, and nested functions, at their place."""
        for node in body:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assign(node)
        elif isinstance(node, ast.Return):
            self.results |= self.value(node.value)
        else:
            for child in ast.iter_child_nodes(node):
                self._below(child)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if isinstance(node.value, ast.Tuple):
            held = [self.value(part) for part in node.value.elts]
            for target in targets:
                if isinstance(target, ast.Tuple) and len(target.elts) == len(held):
                    for place, part in zip(target.elts, held, strict=True):
                        self._put(place, part)
            return
        whole = self.value(node.value)
        for target in targets:
            self._put(target, whole)

    def _below(self, child: ast.AST) -> None:
        """Read what is in a statement: others, expressions, `with` items, handlers and cases."""
        if isinstance(child, ast.stmt):
            self._statement(child)
        elif isinstance(child, ast.expr):
            self.value(child)
        elif isinstance(child, ast.withitem):
            held = self.value(child.context_expr)
            if child.optional_vars is not None:
                self._put(child.optional_vars, held)
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            self.statements(child.body)

    def _put(self, target: ast.expr, held: Held) -> None:
        name = _dotted(target)
        if name is not None:
            self.paths |= {f"{name}.{suffix}".rstrip(".") for suffix in held}

    def value(self, node: ast.expr | None) -> Held:
        """Return where an expression's value holds what is followed; enter the calls in it."""
        if node is None:
            return NOTHING
        if isinstance(node, ast.Call):
            return self._call(node)
        name = _dotted(node)
        if name is not None:
            below = {path for path in self.paths if path == name or path.startswith(f"{name}.")}
            if self.walk.parts and any(name.startswith(f"{path}.") for path in self.paths):
                below = {name}
            return frozenset(path[len(name) + 1 :] for path in below)
        if isinstance(node, ast.IfExp):
            self.value(node.test)
            return self.value(node.body) | self.value(node.orelse)
        found = frozenset().union(*(self.value(child) for child in _children(node)))
        if isinstance(node, ast.Yield):  # what a `with` block is given
            self.results |= found
        if isinstance(node, ast.NamedExpr):
            self._put(node.target, found)
        return found if isinstance(node, ast.BoolOp | ast.NamedExpr | ast.Starred) else NOTHING

    def _call(self, node: ast.Call) -> Held:
        function, arguments = node.func, list(node.args)
        if ast.unparse(function).rpartition(".")[2] == "partial" and arguments:
            function = arguments.pop(0)
        callee = self.walk.source.resolve(self.function.module, function)
        receiver: Held = NOTHING
        if callee is None and isinstance(function, ast.Attribute):
            receiver = self.value(function.value)
            is_self = isinstance(function.value, ast.Name) and function.value.id == "self"
            owner = self.function.owner if is_self else None
            if owner is not None and (value := owner.values.get(function.attr)) is not None:
                callee = self.walk.source.resolve(owner.module, value)
            else:
                callee = self.walk.source.method(function.attr, owner)
        given = [self.value(argument) for argument in arguments]
        named = {word.arg: self.value(word.value) for word in node.keywords}
        if not (any(given) or any(named.values()) or receiver) or self.is_silent:
            return NOTHING
        if callee is None:
            if any(given) or any(named.values()):
                self.walk.trip.lost.add(ast.unparse(function))
            return NOTHING
        if isinstance(callee, Function) and callee.node is self.function.node:
            return NOTHING
        return self._go(callee, _bind(callee, receiver, given, named))

    def _go(self, callee: Function | Class, bound: dict[str, Held]) -> Held:
        trip, here = self.walk.trip, self.walk.source.file(self.function.module)
        if not bound:
            return NOTHING
        trip.climbs += self.has_left
        self.has_left = self.walk.source.file(callee.module) != here
        return self.walk.call(callee, bound, self.depth + 1)


def _bind(
    callee: Function | Class, receiver: Held, given: list[Held], named: dict[str | None, Held]
) -> dict[str, Held]:
    """Return which parameters hold the value: {parameter: where}."""
    if isinstance(callee, Class):
        init = callee.methods.get("__init__")
        names = [argument.arg for argument in init.arguments] if init else callee.fields
    else:
        names = [argument.arg for argument in callee.arguments]
    bound = {name: held for name, held in zip(names, given, strict=False) if held}
    bound |= {name: held for name, held in named.items() if held and name is not None}
    if receiver and isinstance(callee, Function) and callee.binds_self:
        bound["self"] = receiver
    return bound


def _joined(bound: dict[str, Held]) -> set[str]:
    """Return the paths by which parameters hold the value."""
    return {f"{name}.{suffix}".rstrip(".") for name, held in bound.items() for suffix in held}


def _dotted(node: ast.expr) -> str | None:
    """Return `a.b.c` for a name or attributes of one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value)
        return None if above is None else f"{above}.{node.attr}"
    return None


def _children(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions right below one, through comprehensions and the like."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif not isinstance(child, ast.expr_context):
            yield from _children(child)
