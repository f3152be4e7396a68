"""Fixtures that many test files share, and what each worker of pytest-xdist is given."""

from __future__ import annotations

import sys

import pytest
from command import Run

from r1pipe.cli import main as cli
from r1pipe.machine import total_memory, usable_cores

WORKER_BYTES = 8 << 30
"""Memory for each worker: a test of the engines may start several processes."""
LONGEST = (
    "test_engine_equality",
    "test_whole_graph_engines",
    "test_engines_grpo",
    "test_ray_ranks",
    "test_engine_parts",
    "test_whole_graph",
    "test_page_commands",
    "test_engines_dpo",
    "test_real_stages",
    "test_ray_nodes",
)
"""Files that take longest: they come first, so that no worker is left with one at the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` means: one for each core, as far as the memory goes. One
    alone would only be slower than this process, which 0 means."""
    workers = min(usable_cores(), total_memory() // WORKER_BYTES)
    return workers if workers > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first. A file stays together, in its order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def r1pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["r1pipe", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            cli.main()
        out, err = capsys.readouterr()
        return int(error.value.code or 0), out, err

    return run
