"""Files that may be anything are read as plain files, within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r1pipe.regular import MAX_DEPTH, UnfitError, open_regular, parse_json, read_regular


def test_a_plain_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(UnfitError, match="it has 5 bytes, more than 4"):
        read_regular(path, 4)
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 5) == b"12345"


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(UnfitError, match="not a plain file"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_file_that_grows_while_it_is_read_is_bounded_too() -> None:
    with pytest.raises(UnfitError, match="more than 10"):
        read_regular(Path("/proc/self/status"), 10)  # its size is said to be 0


def test_json_is_finite_and_has_a_depth() -> None:
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(deep)
    for data, message in (
        (b"", "it is empty"),
        (b"{", "it is no JSON"),
        (b"\xff", "it is no JSON"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"[" + deep + b"]", "nested more than 100 levels deep"),
        (b"[" * 10**6, "it is no JSON"),
        (b"[" + b"9" * 5000 + b"]", "it is no JSON"),
    ):
        with pytest.raises(UnfitError, match=message):
            parse_json(data)
    wide = b"[" + b",".join([b"[]"] * 1000) + b"]"
    assert len(parse_json(wide)) == 1000  # type: ignore[arg-type]
    value = parse_json(b"[NaN]", is_finite=False)
    assert isinstance(value, list)
    assert value[0] != value[0]
