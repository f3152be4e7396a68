"""What a shell offers behind a command: stages, profiles, and results of the store.

Whatever goes wrong offers nothing and prints nothing: a half-typed line is nobody's mistake.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from r1pipe.cli.defaults import default_manifest
from r1pipe.text import SHORT_ID_CHARS, visible

Completer = Callable[[typer.Context, str], list[str]]


def _quiet(find: Callable[[typer.Context, str], Iterable[str]]) -> Completer:
    """Return a callback that offers what is found, and nothing where that fails."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                found = dict.fromkeys(find(ctx, incomplete))
        except (Exception, SystemExit):  # noqa: BLE001 - see the module's docstring
            return []
        return [name for name in found if name.startswith(incomplete) and visible(name) == name]

    return complete


def _manifest(ctx: typer.Context) -> Path:
    """Return the manifest on the line; an argument is not among the parameters there."""
    listed = [each for each in ctx.args if each.endswith((".yaml", ".yml"))]
    return Path(listed[0] if listed else ctx.params.get("manifest") or default_manifest())


def _stages(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from r1pipe.manifest import load_manifest

    return load_manifest(_manifest(ctx), profile=ctx.params.get("profile")).stages


def _profiles(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    from r1pipe.manifest.documents import read_manifest
    from r1pipe.manifest.recipe import find_manifest

    for document in read_manifest(find_manifest(_manifest(ctx)), []) or ():
        if (profiles := document.get("profiles")) is not None:
            yield from profiles.entries()


def _results(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Yield stages and tags; after `stage@` its artifacts, after a digit of an id whole ids."""
    from r1pipe.manifest.recipe import default_store
    from r1pipe.store import roots
    from r1pipe.store.store import Store

    given = ctx.params.get("store") or os.environ.get("R1PIPE_STORE")
    store = Store(Path(given) if given else default_store(_manifest(ctx)))
    records = sorted(store.known(), key=lambda record: record.created, reverse=True)
    if "@" in incomplete:
        for record in records:
            yield f"{record.stage_name}@{record.artifact_id[:SHORT_ID_CHARS]}"
        return
    yield from (record.stage_name for record in records)
    yield from roots.tags(store.root)
    if incomplete:
        yield from (record.artifact_id for record in records)


stages, profiles, results = _quiet(_stages), _quiet(_profiles), _quiet(_results)
