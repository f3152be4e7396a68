"""What a shell offers: stages, profiles and results; never an error, never anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT
from handed_world import handed

HEAVY = ("torch", "transformers", "vllm", "sympy")
SCRIPT = (
    "import atexit, sys\n"
    "def told(): print(sorted({*sys.modules} & set(%r)), file=sys.stderr)\n"
    "atexit.register(told)\n"
    "sys.argv[0] = 'r1pipe'\n"
    "from r1pipe.cli.main import main\n"
    "main()\n"
)


def offered(line: str, folder: Path = ROOT, **variables: str) -> list[str]:
    """Return what is offered for the last word of a line, as bash would ask."""
    asked = {
        "_R1PIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "PYTHONPATH": str(ROOT),
    }
    kept = {name: value for name, value in os.environ.items() if name != "R1PIPE_STORE"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (HEAVY,)],
        cwd=folder,
        env=kept | asked | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n", "nothing is said, nothing heavy is loaded"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("r1pipe export-", ["export-gguf"]),
        ("r1pipe try cold", ["cold-start-data", "cold-start-sft"]),
        ("r1pipe run --to second", ["second-sft"]),
        ("r1pipe plan --profile s", ["smoke"]),
        ("r1pipe run manifests/smollm2.yaml --to ze", []),
        ("r1pipe plan manifests/nowhere.yaml --profile ", []),
        ("r1pipe why --manifest README.md x", []),
    ],
)
def test_stages_and_profiles_are_those_of_the_manifest_on_the_line(
    line: str, expected: list[str]
) -> None:
    assert offered(line) == expected


def test_results_are_those_of_the_store(tmp_path: Path) -> None:
    store = handed(tmp_path)[1]
    record, root = store.resolve("zero"), str(store.root)
    assert sorted(offered("r1pipe show ", R1PIPE_STORE=root)) == [
        "both",
        "eval-zero",
        "rows",
        "zero",
    ]
    assert offered(f"r1pipe chat --store {root} zero@") == [f"zero@{record.artifact_id[:8]}"]
    assert offered("r1pipe tag best ze", R1PIPE_STORE=root) == ["zero"]
    assert offered(f"r1pipe show {record.artifact_id[:6]}", R1PIPE_STORE=root) == [
        record.artifact_id
    ]


def test_a_folder_without_a_store_offers_no_results_and_makes_none(tmp_path: Path) -> None:
    assert offered("r1pipe show z", tmp_path) == []
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert offered("r1pipe show z", R1PIPE_STORE=str(tmp_path / "file")) == []
