"""The commands on the pages: every one is parsed, and run unless its page says why not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from r1pipe.cli.table import UsageError, app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "AGENTS")]
PAGES += sorted(DOCS.rglob("*.md"))
TUTORIALS = [
    DOCS / "tutorials" / f"{name}.md"
    for name in ("cluster", "shoebox", "your-model", "reward-and-stage")
]
BLOCK = re.compile(
    r"(?:^<!-- ci(?: (?P<how>with|none))?: (?P<ci>.+?) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
"""A block of code, and the comment before it that says how it is run here:

`ci: COMMAND` stands in for it; `ci with: OLD => NEW; ...` runs it with other words, where its own
are a placeholder or take minutes; `ci none: REASON` does not run it.
"""
ENDS = frozenset({"|", ";", "&&", ">", "2>", "&"})
"""Where the shell's own part of a line begins."""


def as_run(block: re.Match[str]) -> str:
    """Return the commands that are run for a block; none if its page says so."""
    if block["how"] == "none":
        return ""
    if block["how"] is None:
        return block["ci"] or block["text"]
    text = block["text"]
    for each in block["ci"].split("; "):
        old, new = each.split(" => ")
        assert old in text, f"there is no {old!r} to replace in\n{text}"
        text = text.replace(old, new)
    return text


def script(path: Path) -> str:
    """Return what a page tells to do, as one shell script: its files, then its commands."""
    parts = list[str]()
    for number, block in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8"))):
        text = block["text"]
        if block["language"] == "bash":
            parts.append(as_run(block))
        elif (name := re.match(r"# (\S+/\S+)\n", text)) is not None:
            end = f"END_OF_{number}"
            parts += [f"mkdir -p {Path(name[1]).parent}", f"cat > {name[1]} <<'{end}'\n{text}{end}"]
    return "\n".join(filter(None, parts))


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the arguments of every r1pipe command in the blocks of a page."""
    text = path.read_text(encoding="utf-8")
    blocks = [block["text"] for block in BLOCK.finditer(text) if block["language"] == "bash"]
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "r1pipe" in words:
            yield list(takewhile(lambda w: w not in ENDS, words[words.index("r1pipe") + 1 :]))


def parse(words: list[str]) -> None:
    """Read a command line as `r1pipe` would, and run nothing."""
    context = typer.main.get_command(app).make_context("r1pipe", words)
    while isinstance(context.command, TyperGroup):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_page_have_names_and_options_that_there_are(path: Path) -> None:
    for words in commands(path):
        try:
            parse(words)
        except UsageError as error:
            pytest.fail(f"r1pipe {shlex.join(words)}: {error.format_message()}")


def test_a_command_that_is_not_there_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("```bash\nr1pipe plam x\nA=1 r1pipe plan m.yaml --profle x | tail  # y\n```\n")
    assert list(commands(page)) == [["plam", "x"], ["plan", "m.yaml", "--profle", "x"]]
    for words in commands(page):
        with pytest.raises(UsageError, match=r"No such (option|command)"):
            parse(words)


def test_a_page_says_how_its_blocks_are_run(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "```bash\na X\n```\n<!-- ci: b -->\n```bash\nc\n```\n"
        "<!-- ci none: why -->\n```bash\nd\n```\n"
        "<!-- ci with: X => 1; Y Z => 2 -->\n```bash\ne X Y Z X\n```\n"
    )
    assert script(page).split("\n") == ["a X", "", "b", "e 1 2 1", ""]
    page.write_text("<!-- ci with: W => 1 -->\n```bash\nf\n```\n")
    with pytest.raises(AssertionError, match="no 'W' to replace"):
        script(page)


def test_a_page_whose_commands_are_not_run_says_why_and_names_tests_that_there_are() -> None:
    reasons = [
        block["ci"]
        for path in PAGES
        for block in BLOCK.finditer(path.read_text(encoding="utf-8"))
        if block["how"] == "none"
    ]
    for reason in reasons:
        for name in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / name).exists(), name


@pytest.mark.timeout(1800)  # each page has its own
def test_every_command_of_every_page_works(tmp_path: Path) -> None:
    """They share one folder, as a reader's would: the tutorials first, in their order."""
    command = tmp_path / "bin" / "r1pipe"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m r1pipe "$@"\n')
    command.chmod(0o755)
    project = tmp_path / "project"
    shutil.copytree(ROOT / "manifests", project / "manifests")
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}
    environment.pop("R1PIPE_STORE", None)
    for page in [*TUTORIALS, *(page for page in PAGES if page not in TUTORIALS)]:
        if not (text := script(page)):
            continue
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{text}"],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
