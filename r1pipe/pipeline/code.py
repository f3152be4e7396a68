"""The code that decides a stage's result: its modules, their digests, and which have changed.

A stage file decides with everything it imports, and so with a loss, a sampler or a verifier far
away from it. When a stage is built, the digest of every module in that closure is kept with the
result, outside of key and id; `plan` and `why` compare. A changed module makes nothing run by
itself: VERSION and `--rebuild` do.

`code_imports.py` finds the modules. `UNWATCHED` is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from r1pipe.keys import digest_bytes
from r1pipe.manifest import recipe
from r1pipe.stage import StageKind
from r1pipe.text import listed

UNWATCHED = ("__init__.py", "costs/", "doctor/", "tracking/")
"""Modules that describe stages and decide nothing in them: the version, estimates, what is
installed, where curves go. What runs stages (cli, pipeline, launch, lineage, store, manifest) no
stage imports."""
STAGES = "stages/"
"""The stage file and its neighbours, whose folder may be the user's own."""
MIXED = "mixed"
"""In place of a digest: the module changed while the stage was built, between two attempts."""
MAX_NAMED = 3
DIGITS = 16

Digests = Mapping[str, str]
"""Module, as a path such as `rl/objective.py` or `stages/grpo.py` -> digest of its bytes, cut to
`DIGITS` digits in hex."""


def code_of(kind: StageKind, plugins: Iterable[Path] = ()) -> dict[str, str]:
    """Return the digests of all modules that decide the results of a kind.

    The files of plugins are in the key; what they import of r1pipe is watched.
    """
    from r1pipe.pipeline.code_imports import imported_modules

    folder, found = kind.path.parent, dict[str, str]()
    waiting = [STAGES + kind.path.name]
    for path in plugins:
        waiting += imported_modules(path, is_stage=False)
    while waiting:
        module = waiting.pop()
        if module not in found and not module.startswith(UNWATCHED):
            found[module] = _digest(module, folder) or ""
            waiting += imported_modules(_path(module, folder), module.startswith(STAGES))
    return dict(sorted(found.items()))


def changed_modules(noted: Digests, kind: StageKind) -> list[str]:
    """Return the modules that are not as they were noted; one that is gone counts."""
    folder = kind.path.parent
    return [name for name, digest in noted.items() if _digest(name, folder) != digest]


def different_modules(before: Digests, after: Digests) -> list[str]:
    """Return the modules of two results that differ, or that only one of them has."""
    return sorted(n for n in {*before, *after} if before.get(n) != after.get(n))


def mixed(before: Digests, after: Digests) -> dict[str, str]:
    """Return the digests of a result that two states of the code have made together."""
    changed = different_modules(before, after)
    return {**after, **dict.fromkeys(changed, MIXED)}


def remember_package() -> None:
    """Take the digests of the package now: what a run imports later may be edited meanwhile."""
    for path in recipe.PACKAGE.rglob("*.py"):
        _package_digest(path.relative_to(recipe.PACKAGE).as_posix())


def as_it_ends(noted: Digests, kind: StageKind) -> dict[str, str]:
    """Return the digests to keep with a result; a module that changed meanwhile is marked."""
    now = {name: _read_digest(_path(name, kind.path.parent)) for name in noted}
    return {name: digest if now[name] == digest else MIXED for name, digest in noted.items()}


def changed_text(noted: Digests, kind: StageKind) -> str:
    """Say which modules have changed since a result was made; empty if none has."""
    if not noted:
        return "made before code was watched, so nobody knows whether it has changed"
    changed = changed_modules(noted, kind)
    meanwhile = [name for name in changed if noted[name] == MIXED]
    since = [name for name in changed if noted[name] != MIXED]
    texts = [f"code changed since: {named(since)}"] if since else []
    texts += [f"code changed while it was built: {named(meanwhile)}"] if meanwhile else []
    return "; ".join(texts)


def named(modules: Sequence[str]) -> str:
    """Return the first of some modules as text, and how many more there are."""
    return listed(modules, MAX_NAMED)


def _path(module: str, folder: Path) -> Path:
    return (
        folder / module.removeprefix(STAGES)
        if module.startswith(STAGES)
        else recipe.PACKAGE / module
    )


def _digest(module: str, folder: Path) -> str | None:
    """Return a module's digest when this process first asked for it; None if it is not there."""
    if module.startswith(STAGES):
        return _file_digest(_path(module, folder))
    return _package_digest(module)


@cache
def _package_digest(module: str) -> str | None:
    return _read_digest(recipe.PACKAGE / module)


@cache
def _file_digest(path: Path) -> str | None:
    return _read_digest(path)


def _read_digest(path: Path) -> str | None:
    try:
        return digest_bytes(path.read_bytes())[:DIGITS]
    except FileNotFoundError:
        return None
