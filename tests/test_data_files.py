"""Data files: every form gives the same rows, from the very bytes that are there."""

from __future__ import annotations

import gzip
import json
import math
import os
import tracemalloc
from pathlib import Path

import pytest
from data_forms import arrow, lines, parquet, place, saved, separated, zstd

from r1pipe.errors import SourceError
from r1pipe.files import records
from r1pipe.files.text import CHUNK_BYTES
from r1pipe.records import Row

ROWS: list[Row] = [{"q": "one, or \u4e8c", "a": "1"}, {"q": 'a "quoted"\nline', "a": "2"}]


def forms() -> dict[str, bytes]:
    """Return file name -> bytes of the same rows."""
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    numbered = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}
    found = {
        "a.jsonl": lines(ROWS),
        "a.ndjson": lines(ROWS),
        "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
        "crlf.jsonl": lines(ROWS).replace(b"\n", b"\r\n"),
        "blank.jsonl": lines(ROWS).replace(b"\n", b"\n\n  \n"),
        "lines.json": lines(ROWS),
        "array.json": json.dumps(ROWS, indent=2).encode(),
        "bom.json": b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
        "columns.json": json.dumps(columns).encode(),
        "pandas.json": json.dumps(numbered).encode(),
        "pretty.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "a.csv": separated(ROWS),
        "bom.csv": b"\xef\xbb\xbf" + separated(ROWS),
        "a.tsv": separated(ROWS, "\t"),
        "a.parquet": parquet(ROWS),
        "stream.arrow": arrow(ROWS),
        "file.arrow": arrow(ROWS, is_stream=False),
    }
    for name in ("a.jsonl", "array.json", "a.csv", "a.tsv"):
        found[f"{name}.gz"] = gzip.compress(found[name])
        found[f"{name}.zst"] = zstd(found[name])
    found["A.JSONL.GZ"] = found["a.jsonl.gz"]
    found["A.PARQUET"] = found["a.parquet"]
    return found


FORMS = forms()


def values(path: Path, config: str | None = None, split: str | None = None) -> list[Row]:
    return [record.values for record in records(path, config=config, split=split)]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert values(path) == ROWS


def test_a_row_knows_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a": 1}\n\n{"a": 2}\n')
    assert [record.place for record in records(path)] == ["a.jsonl:2", "a.jsonl:4"]
    place(tmp_path / "data", {"x/1.csv": b"a\n1\n2\n", "x/2.csv": b"a\n3\n"})
    places = [record.place for record in records(tmp_path / "data")]
    assert places == ["x/1.csv:1", "x/1.csv:2", "x/2.csv:1"]


def test_a_file_replaced_under_the_same_time_stamp_gives_its_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    before = path.stat()
    assert values(path) == [{"a": 1}]
    path.write_bytes(b'{"a": 2}\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert values(path) == [{"a": 2}]


def test_nothing_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name, data in FORMS.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        values(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_numbers_and_words_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 10000000000000000000000001}\n{"a": "text, late"}\n{"a": NaN}\n')
    big, late, nan = (row["a"] for row in values(path))
    assert (big, late) == (10**25 + 1, "text, late")
    assert math.isnan(nan)
    words = tmp_path / "a.csv"
    words.write_bytes(b"a,b\nNone,NA\n,1e5\n")
    assert values(words) == [{"a": "None", "b": "NA"}, {"a": "", "b": "1e5"}]


@pytest.mark.parametrize("name", ["big.jsonl", "big.json", "big.csv", "big.jsonl.gz"])
def test_memory_is_bounded_by_a_batch_and_not_by_the_file(tmp_path: Path, name: str) -> None:
    """The first row comes after a few chunks, however long the file is."""
    rows = [{"a": "x" * 1000} for _ in range(16 * CHUNK_BYTES // 1000)]
    data = {"jsonl": lines(rows), "json": json.dumps(rows).encode(), "csv": separated(rows)}
    plain = data[name.split(".")[1]]
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain, 1) if name.endswith("gz") else plain)
    del rows, data, plain
    tracemalloc.start()
    assert sum(1 for _ in records(path)) == 16 * CHUNK_BYTES // 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * CHUNK_BYTES


def test_rows_longer_than_a_chunk_are_read(tmp_path: Path) -> None:
    rows: list[Row] = [{"a": "x" * (3 * CHUNK_BYTES)}, {"a": "y", "b": "\u4e8c" * CHUNK_BYTES}]
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(rows, ensure_ascii=False).encode())
    assert values(path) == rows


MANY: list[Row] = [{"a": i} for i in range(5)]
LAYOUTS = {
    "shards of any name": {
        "b.jsonl": lines(MANY[2:]),
        "a.jsonl.gz": gzip.compress(lines(MANY[:2])),
    },
    "deep": {"x/y/1.parquet": parquet(MANY[:1]), "x/y/2.parquet": parquet(MANY[1:])},
    "hub": {
        "data/train-00000-of-00002.parquet": parquet(MANY[:2]),
        "data/train-00001-of-00002.parquet": parquet(MANY[2:]),
        "README.md": b"# no header\n",
        ".gitattributes": b"x",
    },
    "save_to_disk": saved(MANY),
    "our own rows": {"part-00000.parquet": parquet(MANY)},
    "an empty shard": {"a.jsonl": lines(MANY), "b.jsonl": b""},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_give_the_rows_of_their_files_in_order(tmp_path: Path, name: str) -> None:
    assert values(place(tmp_path, LAYOUTS[name])) == MANY


def one(value: int) -> bytes:
    return lines([{"a": value}])


SPLITS = {
    "names": {"train.jsonl": one(1), "test.jsonl": one(2), "dev.jsonl": one(3)},
    "folders": {"train/x.jsonl": one(1), "testing/x.jsonl": one(2), "valid/x.jsonl": one(3)},
    "hub": {
        "data/train-00000-of-00001.jsonl": one(1),
        "data/test-00000-of-00001.jsonl": one(2),
        "data/validation-00000-of-00001.jsonl": one(3),
    },
    "save_to_disk": {
        "dataset_dict.json": b'{"splits": ["train", "test", "validation"]}',
        **{
            f"{split}/{name}": data
            for value, split in enumerate(("train", "test", "validation"), start=1)
            for name, data in saved([{"a": value}], 1).items()
        },
    },
    "card": {
        "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n"
        b"  - {split: train, path: x/1.jsonl}\n  - {split: test, path: ['x/2*']}\n"
        b"  - {split: validation, path: '**/3.jsonl'}\n---\n# A card\n",
        **{f"x/{value}.jsonl": one(value) for value in (1, 2, 3)},
    },
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_found_and_one_must_be_chosen(tmp_path: Path, name: str) -> None:
    root = place(tmp_path, SPLITS[name])
    for value, split in enumerate(("train", "test", "validation"), start=1):
        assert values(root, split=split) == [{"a": value}]
    with pytest.raises(SourceError, match=r"has splits test, train, validation; say which: split"):
        values(root)
    with pytest.raises(SourceError, match=r"no split 'trian'; did you mean 'train'\?"):
        values(root, split="trian")


CONFIGS = {
    "folders": {
        "main/train-00000-of-00001.jsonl": one(1),
        "main/test-00000-of-00001.jsonl": one(2),
        "socratic/train-00000-of-00001.jsonl": one(3),
    },
    "card": {
        "README.md": b"---\nconfigs:\n- config_name: main\n  data_dir: m\n"
        b"- config_name: socratic\n  data_files: s/*\n---\n",
        "m/train.jsonl": one(1),
        "m/test.jsonl": one(2),
        "s/x.jsonl": one(3),
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_found_and_one_must_be_chosen(tmp_path: Path, name: str) -> None:
    root = place(tmp_path, CONFIGS[name])
    assert values(root, config="main", split="train") == [{"a": 1}]
    assert values(root, config="main", split="test") == [{"a": 2}]
    assert values(root, config="socratic") == [{"a": 3}]
    with pytest.raises(SourceError, match=r"has configs main, socratic; say which: config: main"):
        values(root, split="train")
    with pytest.raises(SourceError, match=r"no config 'mian'; did you mean 'main'\?"):
        values(root, config="mian")


def test_a_word_inside_another_word_is_no_split(tmp_path: Path) -> None:
    place(tmp_path, {"latest.jsonl": one(1), "trainer-rows.jsonl": one(2)})
    assert values(tmp_path) == [{"a": 1}, {"a": 2}]


def test_a_file_with_a_split_of_its_own_serves_no_other(tmp_path: Path) -> None:
    place(tmp_path, {"test.jsonl": one(1)})
    assert values(tmp_path / "test.jsonl", split="test") == [{"a": 1}]
    with pytest.raises(SourceError, match=r"its name says split 'test', not 'train'"):
        values(tmp_path / "test.jsonl", split="train")


def test_a_folder_of_several_formats_is_refused(tmp_path: Path) -> None:
    place(tmp_path, {"a.parquet": parquet(MANY), "b.jsonl": one(1)})
    match = r"it mixes formats: JSON \(b.jsonl\), Parquet \(a.parquet\); give the files of one"
    with pytest.raises(SourceError, match=match):
        values(tmp_path)
