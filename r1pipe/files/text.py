"""Bytes of text files, unpacked on the way, with the errors of broken files."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from r1pipe.errors import SourceError
from r1pipe.files.layout import DataFile
from r1pipe.files.record import broken

CHUNK_BYTES = 1 << 20
TO_UTF_8 = "save it as UTF-8, for example with: iconv -f {} -t UTF-8"
_CUT = "copy or download the file again"


@contextmanager
def opened(file: DataFile) -> Iterator[IO[bytes]]:
    """Open a file's bytes, unpacked, after a byte order mark.

    Raises SourceError, also while the bytes are read: damaged packing, UTF-16, a failing disk.
    """
    try:
        with file.path.open("rb") as raw:
            stream = io.BufferedReader(_unpacked(raw, file.packing), CHUNK_BYTES)
            start = stream.peek(4)[:4]
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
                raise broken(file.path, "it is not UTF-8 (UTF-16?)", TO_UTF_8.format("UTF-16"))
            if start.startswith(codecs.BOM_UTF8):
                stream.read(len(codecs.BOM_UTF8))
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise broken(file.path, f"its {file.packing} packing is damaged ({error})", _CUT) from error
    except OSError as error:
        if file.packing and error.errno is None:
            what = f"its {file.packing} packing is damaged ({error})"
            raise broken(file.path, what, _CUT) from error
        raise unreadable(file, error) from error


def unreadable(file: DataFile, error: OSError) -> SourceError:
    """Return the error of a file that the system does not give."""
    reason = error.strerror or str(error)
    return broken(file.path, f"it cannot be read: {reason}", "check the file and its permissions")


def _unpacked(raw: IO[bytes], packing: str) -> io.RawIOBase:
    if packing == ".gz":
        return cast(io.RawIOBase, gzip.GzipFile(fileobj=raw))
    if packing == ".zst":
        import pyarrow as pa

        return cast(io.RawIOBase, pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))
    return cast(io.RawIOBase, raw)


def decoded(file: DataFile, row: int, line: bytes) -> str:
    """Return the text of a row; SourceError if it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise not_utf_8(file, row, error) from error


def not_utf_8(file: DataFile, row: int, error: UnicodeDecodeError) -> SourceError:
    """Return the error of a row that is not UTF-8."""
    byte = error.object[error.start]
    what = f"byte 0x{byte:02x} (number {error.start + 1} of the row) is not UTF-8"
    return broken(file.path, what, TO_UTF_8.format("LATIN1"), row)
