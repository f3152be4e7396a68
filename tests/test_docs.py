"""The pages: links and anchors, the navigation, the reference."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from reference_pages import FOLDER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CHECKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md"]
FENCE = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
LATEST = re.compile(r"artifacts/latest/([^/\s`\"]+)/([^/\s`\"]+)/([^/\s`\"]+)")
MAX_README_LINES = 100


def prose(path: Path) -> str:
    """Return a page without its code."""
    return CODE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page, as its site names them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        kept = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.add(re.sub(r"[-\s]+", "-", kept))
    return found


def links(path: Path) -> Iterator[str]:
    """Yield the targets of a page's links within the repository."""
    for target in LINK.findall(prose(path)):
        if not target.startswith(("http://", "https://", "mailto:")):
            yield target


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_links_to_files_and_headings_that_are_there(path: Path) -> None:
    for target in links(path):
        name, _, anchor = target.partition("#")
        found = path if not name else (path.parent / name).resolve()
        assert found.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def test_the_link_checker_sees_a_wrong_link(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One thing: 2 `x`\n[a](#one-thing-2-x) [b](c.md)\n```\n# [d](e)\n```\n")
    assert anchors(page) == {"one-thing-2-x"}
    assert list(links(page)) == ["#one-thing-2-x", "c.md"]


def test_a_page_names_results_by_manifest_profile_and_stage() -> None:
    found = 0
    for path in CHECKED:
        for name, profile, stage in LATEST.findall(path.read_text(encoding="utf-8")):
            manifest = read_manifest(ROOT / "manifests" / f"{name}.yaml")
            profiles = manifest.get("profiles", {})
            assert profile in profiles or (profile == "default" and not profiles), path
            assert stage in manifest["stages"], path
            found += 1
    assert found >= 3


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest as it is written."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the reference in a process of its own: other tests add backends to this one."""
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / "tests" / "reference_pages.py", folder], check=True)
    return folder


@pytest.mark.parametrize("name", ["kinds.md", "settings.md", "cli.md", "files.md", "errors.md"])
def test_the_reference_is_that_of_the_code(written: Path, name: str) -> None:
    found, expected = ((each / name).read_text(encoding="utf-8") for each in (FOLDER, written))
    assert found.split() == expected.split(), "run: python tests/reference_pages.py"


def test_the_messages_that_are_explained_are_said_somewhere() -> None:
    source = "\n".join(
        re.sub(r'"\n\s+f?"', "", path.read_text())
        for folder in ("r1pipe", "stages")
        for path in (ROOT / folder).rglob("*.py")
    )
    rows = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for message in rows:
        for part in re.split(r" 'X'; | \.\.\. ", message):
            assert part in source, part


def test_the_readme_is_short_and_has_what_a_newcomer_needs() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert "bash tests/run.sh" in text
    for command in ("plan manifests/own.yaml", "try rl --before", "run manifests/own.yaml"):
        assert f"r1pipe {command}" in text


CONTAINERS = sorted((ROOT / "containers").iterdir())


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda p: p.name)
def test_a_container_copies_what_is_there(path: Path) -> None:
    for names in re.findall(r"^COPY (.+) \S+$", path.read_text(), re.MULTILINE):
        for name in names.split():
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda p: p.name)
def test_a_container_locks_every_requirement_in_a_version_that_the_project_allows(
    path: Path,
) -> None:
    text = path.read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    (lock,) = re.findall(r"--constraint (\S+)", text)
    locked = dict(line.split("==") for line in (ROOT / lock).read_text().split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in extras.split(","):
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name]), requirement


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt"])
def test_a_lock_names_versions_and_nothing_else(name: str) -> None:
    for line in (ROOT / "constraints" / name).read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line), line


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
