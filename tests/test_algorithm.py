"""The tables from Algorithm 1 (`docs/architecture.md`) and the methods (`docs/methods.md`) to code.

`python tests/test_algorithm.py` writes the present line numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, METHODS = ROOT / "docs" / "architecture.md", ROOT / "docs" / "methods.md"
ROW = re.compile(r"^(\| ([^|\n]+) \| .* \| `)(\S+\.py):(\d+)(` \| `)(.*)(` \|)$", re.MULTILINE)


def rows_of(page: Path) -> list[str]:
    """Check a page's rows; return what the first cell of each says."""
    rows = ROW.findall(page.read_text())
    for _, name, path, line, _, code, _ in rows:
        present = (ROOT / path).read_text().splitlines()
        assert present[int(line) - 1].strip().startswith(code), (
            f"{name} is not at {path}:{line}; run python tests/test_algorithm.py"
        )
    return [name for _, name, *_ in rows]


def test_every_line_of_algorithm_1_is_where_the_table_says() -> None:
    assert [int(number) for number in rows_of(PAGE)] == list(range(1, 13))


def test_every_method_is_where_the_table_says() -> None:
    assert len(rows_of(METHODS)) >= 25


def test_the_loop_names_the_lines_of_the_paper_in_their_order() -> None:
    text = (ROOT / "r1pipe" / "rl" / "grpo.py").read_text()
    loop = text[text.index("def train(") : text.index("def roll_out(")]
    marks = [int(mark) for mark in re.findall(r"\[(\d+)\]", loop)]
    assert marks == [4, 5, 6, 7, 8, 9, 10, 11, 3]


def present_line(row: re.Match[str]) -> str:
    """Return a row with the number of the only line that begins with its code."""
    before, _, path, _, middle, code, end = row.groups()
    lines = (ROOT / path).read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, start=1) if line.strip().startswith(code)]
    return f"{before}{path}:{number}{middle}{code}{end}"


if __name__ == "__main__":
    for page in (PAGE, METHODS):
        page.write_text(ROW.sub(present_line, page.read_text()))
