"""Broken inputs, as they come: each ends with its place, what is wrong and what to do.

No traceback, no rows lost in silence, and the exit code of a user's mistake.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from data_forms import arrow, lines, parquet, parquet_of, place, saved, separated, zstd

from r1pipe.cli.main import main
from r1pipe.records import Row

ROWS: list[Row] = [{"question": f"What is {n}+1?", "answer": f"{n + 1}"} for n in range(200)]
GOOD = lines(ROWS)
CAFE = '{"question": "caf\u00e9?", "answer": "1"}\n'
TWO = lines(ROWS[:2])
PACKED = gzip.compress(GOOD)
CORRECT = "; correct or remove it"
AGAIN = "; copy or write the file again"
UTF_8 = r"; save it as UTF-8, for example with: iconv -f {} -t UTF-8"
ROWLESS = parquet_of(pa.table({"question": pa.array([], pa.string())}))
CARD = b"---\nconfigs: [\n---\n"
SPLITS = {"train.jsonl": TWO, "test.jsonl": TWO}

FILES: dict[str, tuple[bytes, str]] = {
    # file -> its bytes, and what is said of it, as a regular expression behind the file's name
    "broken.jsonl": (TWO + b'{"question": 5,}\n' + GOOD, f" row 3: it is not JSON: .*{CORRECT}"),
    "cut.jsonl": (GOOD[:-9], rf" row 200: it is not JSON: .* \(is the file cut off\?\){CORRECT}"),
    "open.jsonl": (
        TWO + b'{"question": "broken\n' + GOOD,
        f" row 3: it is not JSON: Unterminated string starting at character 14{CORRECT}",
    ),
    "list.jsonl": (b"[1, 2]\n" + GOOD, " row 1: it is an array, not an object; write"),
    "twice.jsonl": (
        TWO.replace(b"}\n{", b"} {"),
        f" row 1: it is not JSON: Extra data .*{CORRECT}",
    ),
    "half.jsonl": (TWO + b'{"question": "\\ud83d"}\n', f" row 3: half of a character .*{CORRECT}"),
    "deep.jsonl": (b'{"a":' * 99999, f" row 1: it is nested too deeply.*{CORRECT}"),
    "digits.jsonl": (b'{"a": ' + b"1" * 5000 + b"}\n", f" row 1: .*4300 digits.*{CORRECT}"),
    "latin.jsonl": (
        TWO + CAFE.encode("latin-1"),
        r" row 3: byte 0xe9 \(number 18 of the row\) is not UTF-8" + UTF_8.format("LATIN1"),
    ),
    "wide.jsonl": (
        CAFE.encode("utf-16"),
        r" it is not UTF-8 \(UTF-16\?\)" + UTF_8.format("UTF-16"),
    ),
    "empty.jsonl": (b"", " there are no rows in it; give a file with rows"),
    "blank.jsonl": (b"\n \n\r\n", " there are no rows in it; give a file with rows"),
    "cut.json": (json.dumps(ROWS).encode()[:-60], rf" row 199: .*cut off\?\){CORRECT}"),
    "comma.json": (b'[{"a": 1} {"a": 2}]', f" row 1: '{{' where a comma or ] should be{CORRECT}"),
    "number.json": (b'[{"a": 1}, 2]', f" row 2: '2' where an object should begin{CORRECT}"),
    "text.json": (b'"hello"', " it begins with '\"', .*; give an array of objects, or JSON lines"),
    "latin.json": (b"[" + CAFE.encode("latin-1") + b"]", " row 1: .*0xe9 is not UTF-8; save it"),
    "columns.json": (
        b'{"question": ["a", "b"], "answer": ["1"]}',
        r" its columns have different lengths \(question 2, answer 1\); give columns of one length",
    ),
    "wrapped.json": (
        json.dumps({"data": ROWS}).encode(),
        r" one object of arrays of objects \(data\): rows or columns\?; save the array of rows",
    ),
    "ragged.csv": (b"question,answer\na,1\nb,2,3\n", " row 2: line 3: 3 fields, the header 2; put"),
    "open.csv": (
        b'question,answer\na,"1\nb,2\n',
        r" row 1: line 3: .*cut off\?\); put fields with",
    ),
    "semicolons.csv": (
        b"question;answer\na;1\n",
        " its header is parted by ';', not by .*save it with commas",
    ),
    "same.csv": (b"answer,answer\n1,2\n", " two columns are called 'answer'; rename one of them"),
    "latin.csv": (b"question,answer\ncaf\xe9,1\n", " row 1: byte 0xe9 .*" + UTF_8.format("LATIN1")),
    "latin.tsv": (b"qu\xe9stion\tanswer\n", " header: byte 0xe9 .*" + UTF_8.format("LATIN1")),
    "cut.jsonl.gz": (PACKED[:-20], r" its .gz packing is damaged \(.*; copy or download the file"),
    "plain.csv.gz": (separated(ROWS), r" its .gz packing is damaged \(Not a gzipped file"),
    "cut.jsonl.zst": (zstd(GOOD)[:-9], r" its .zst packing is damaged \(Truncated compressed"),
    "half.parquet": (parquet(ROWS)[:900], f" it is damaged or not Parquet: .*{AGAIN}"),
    "none.parquet": (parquet(ROWS)[:0], f" it is empty{AGAIN}"),
    "rowless.parquet": (ROWLESS, " there are no rows in it; give a file with rows"),
    "text.parquet": (GOOD, f" it is damaged or not Parquet: .*{AGAIN}"),
    "cut.arrow": (arrow(ROWS)[:600], f" it is damaged or not Arrow: .*{AGAIN}"),
    "packed.parquet.gz": (
        gzip.compress(parquet(ROWS)),
        " cannot read '.parquet.gz' files; use one",
    ),
    "sheet.xlsx": (b"PK", r" cannot read '.xlsx' files; use one of .jsonl, .json, .csv"),
}
FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({"notes.txt": b"a"}, " no file in it holds rows; put files of .jsonl"),
    "mixed": ({"a.jsonl": TWO, "b.csv": b"a\n1\n"}, " it mixes formats: .*; give the files of one"),
    "splits": (SPLITS, " it has splits test, train; say which: split: train"),
    "saved": (
        {name: data for name, data in saved(ROWS).items() if "00001-of" not in name},
        r"/state.json: it names 'data-00001-of-00002.arrow', which is not there; copy the whole",
    ),
    "card": ({"README.md": CARD, "a.jsonl": TWO}, "/README.md: its header cannot be read .*; corr"),
    "unlisted": (
        {"README.md": CARD.replace(b"[", b"\n- {config_name: a, data_files: b*}"), "a.jsonl": TWO},
        " no file in it holds rows; put files of",
    ),
    "shard": (
        {"a.jsonl": TWO, "b.jsonl": b"{"},
        rf"/b.jsonl: row 1: .*cut off\?\){CORRECT}",
    ),
}
PROBLEMS: dict[str, tuple[list[Row], str]] = {
    "control characters": (
        [{"text": "a", "\x1b[31mred": "b"}],
        r" no known shape .*\(its columns: text, \\x1b\[31mred\); say which column",
    ),
    "unknown shape": (
        [{"text": "a"}],
        r" no known shape .*\(its columns: text\); say which column",
    ),
    "many columns": (
        [{f"column_{n}": "a" for n in range(60)}],
        r" no known shape .*\(its columns: column_0, .* column_11 and 48 more\); say which column",
    ),
    "lists": (
        [{"question": "a", "answer": ["1", "2"]}],
        r" none of the first 1 rows is usable: 1 x the answer is a list \(first at x.jsonl:1\)",
    ),
    "null prompts": (
        [*ROWS, *[{"question": None, "answer": "1"}] * 3],
        r" 3 of 203 rows cannot be used \(3 x the prompt is null \(first at x.jsonl:201\)\); corr"
        r"ect the rows, or raise max_bad_frac \(now 0.01\)",
    ),
    "two answers": (
        [*ROWS, *[row | {"answer": "none"} for row in ROWS[:9]]],
        r" 9 of 209 rows cannot be used \(9 x the same prompt as a row above, with another answer",
    ),
    "golds": (
        [*ROWS, *[{"question": f"{n}", "answer": r"\frac{1}{"} for n in range(9)]],
        r" 9 of 209 rows .*9 x the gold answer does not verify against itself .*raise params.col"
        r"umns.max_unusable",
    ),
}


def said_of(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int | str | None, str]:
    """Run a manifest that reads problems from a source; return the exit code and what was said."""
    path = tmp_path / "m.yaml"
    path.write_text(
        f"r1pipe: 1\nname: m\nsources: {{x: {{{source}, as: dataset}}}}\n"
        "stages: {p: {kind: problems, inputs: {source: x}, params: {seed: 1, num_problems: 999}}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["r1pipe", "run", str(path), "--store", str(tmp_path / "s")])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert said.out == ""
    return end.value.code, said.err


def assert_told(code: int | str | None, said: str, place: str, match: str) -> None:
    assert "Traceback" not in said
    assert code in (1, 7), said
    assert re.search(f"{re.escape(place)}:?{match}", said), said


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_told_with_place_and_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, match = FILES[name]
    place(tmp_path, {name: data})
    code, said = said_of(f"path: {name}", tmp_path, monkeypatch, capsys)
    assert_told(code, said, f"{tmp_path}/{name}", match)
    assert code == 7


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_read_is_told_with_place_and_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, match = FOLDERS[name]
    place(tmp_path / name, files)
    code, said = said_of(f"path: {name}", tmp_path, monkeypatch, capsys)
    assert_told(code, said, f"{tmp_path}/{name}", match)
    assert code == 7


@pytest.mark.parametrize("name", PROBLEMS)
def test_rows_that_are_no_problems_are_told_with_place_and_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, match = PROBLEMS[name]
    place(tmp_path, {"x.jsonl": lines(rows)})
    code, said = said_of("path: x.jsonl", tmp_path, monkeypatch, capsys)
    assert_told(code, said, f"{tmp_path}/x.jsonl", match)


SOURCES = {
    "path: gone.jsonl": "gone.jsonl does not exist; put the file there or give another with --set",
    "path: splits, split: trian": "no split 'trian'; did you mean 'train'",
    "path: splits, split: train, config: main": "no config 'main': it has no configs; leave 'con",
    f"hf: me/nothing, revision: {'c' * 40}": "me/nothing at c+ cannot be fetched from the hub",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_is_not_there_is_told_at_its_line(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place(tmp_path / "splits", SPLITS)
    code, said = said_of(source, tmp_path, monkeypatch, capsys)
    assert_told(code, said, f"{tmp_path}/m.yaml:3:11", f" source 'x': .*{SOURCES[source]}")
