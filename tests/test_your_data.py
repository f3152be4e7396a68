"""The page "Your data" in `docs/data.md`: every example is run, and the table says what each is.

`python tests/test_your_data.py` writes the table.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from data_forms import arrow, lines, parquet, place, separated
from tiny import FakeContext, stage

from r1pipe.data.problem_sets import Rules, columns_of, load_problems
from r1pipe.data.problem_shapes import detect
from r1pipe.data.training_rows import ExampleReader
from r1pipe.errors import StageError
from r1pipe.files import first_records, records
from r1pipe.records import Row
from r1pipe.rows import read_problems
from r1pipe.stage import Inputs

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
TABLE = re.compile(r"(?<=<!-- shapes -->\n).*?(?=<!-- shapes -->)", re.DOTALL)
EXAMPLE = re.compile(
    r"^\*\*([^*]+)\*\*(?:(?!\n\*\*|\n##).)*?^```json\n(.+?)\n```$", re.DOTALL | re.MULTILINE
)
PROBLEMS = ("GSM8K", "MATH", "verl", "OpenR1-Math", "problems with answers", "Countdown")
NOT = "-"


def section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## Your data") : text.index("### Bad rows")]


def examples() -> dict[str, Row]:
    return {name: json.loads(text) for name, text in EXAMPLE.findall(section())}


def taken_for(row: Row, folder: Path) -> tuple[str, str, str]:
    """Return what a row is as a problem, as a training row and as a preference."""
    path = place(folder, {"x.jsonl": lines([row])}) / "x.jsonl"
    problem, rows, preference = NOT, NOT, NOT
    if (columns := detect([row])) is not None:
        load_problems(path, Rules(columns_of(path, first_records(path), None)), None, 0)
        problem = columns.shape
    try:
        reader = ExampleReader(path)
    except StageError:
        return problem, rows, preference
    assert list(reader.examples()), reader.facts()
    if reader.shape.gives == "rows":
        rows = reader.shape.name
    else:
        preference = reader.shape.name
    return problem, rows, preference


def table(folder: Path) -> str:
    found = {name: taken_for(row, folder) for name, row in examples().items()}
    lines = [" | ".join(["", name, *cells, ""]).strip() for name, cells in found.items()]
    head = ["| example | as problems | as training rows | as preferences |", "|---|---|---|---|"]
    return "\n".join([*head, *lines, ""])


def test_the_table_says_what_every_example_is_taken_for(tmp_path: Path) -> None:
    written = TABLE.search(section())
    assert written is not None
    assert written[0] == table(tmp_path), "python tests/test_your_data.py writes the table"


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_example_of_a_problem_becomes_one_in_every_form(tmp_path: Path, name: str) -> None:
    row = examples()[name]
    forms = {"a.jsonl": lines([row]), "a.json": json.dumps([row]).encode()}
    forms |= {"a.parquet": parquet([row]), "a.arrow": arrow([row])}
    if not any(isinstance(value, list | dict) for value in row.values()):
        forms |= {"a.csv": separated([row]), "a.tsv": separated([row], "\t")}
    found = []
    for form, data in forms.items():
        place(tmp_path, {form: data})
        kind, context = stage("problems"), FakeContext(tmp_path / f"work-{form}")
        params = kind.params(seed=1, num_problems=5)
        kind.run(context, params, kind.run_model(), Inputs({"source": tmp_path / form}))
        assert context.notes["shape"].startswith(f"{name}: ")
        found += read_problems(context.output("problems"))
    assert len(found) == len(forms)
    assert all(problem == found[0] for problem in found)


def test_the_page_names_every_suffix_that_is_read() -> None:
    from r1pipe.files.layout import FORMATS, PACKED, SPLIT_WORDS

    named = set(re.findall(r"`([.\w]+)`", section()))
    words = {word for known in SPLIT_WORDS.values() for word in known}
    assert {*FORMATS, *PACKED, *words} <= named


def test_an_example_is_read_as_it_stands(tmp_path: Path) -> None:
    for name, row in examples().items():
        place(tmp_path, {"x.jsonl": lines([row])})
        assert [record.values for record in records(tmp_path / "x.jsonl")] == [row], name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        made = table(Path(scratch))
    PAGE.write_text(TABLE.sub(lambda _: made, PAGE.read_text(encoding="utf-8"), count=1), "utf-8")
