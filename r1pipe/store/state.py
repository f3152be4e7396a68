"""The one reader of the store's own files: plain, bounded, typed, and checked by their digest.

A file is written with a digest of all else in it, so that a changed digit is noticed; files of
earlier versions are without. What is wrong with a file is a DamagedError that names it. Who asked
decides what becomes of it: no file here may end a command for good.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r1pipe.errors import DamagedError, StoreError
from r1pipe.keys import JsonObject, digest_json
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store import disk

MAX_BYTES = 64 << 20
DIGEST = "digest"

HexId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A key, the id of an artifact, or a digest."""
Token = Annotated[str, Field(pattern=r"^[0-9a-z]{1,64}$")]
"""A name that `disk.token` made."""
FolderName = Annotated[str, Field(pattern=r"^[^/\x00-\x1f.][^/\x00-\x1f]{0,199}$")]
"""A name that is one folder below its parent, whatever else it says."""
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class StateModel(BaseModel):
    """The base of what the store's own files hold."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True
    )


M = TypeVar("M", bound=StateModel)


def read_object(path: Path, max_bytes: int = MAX_BYTES) -> JsonObject | None:
    """Return the JSON object of a file without its digest, or None if there is no such file.

    Raises DamagedError for what is no such object, StoreError for what cannot be read.
    """
    try:
        value = parse_json(read_regular(path, max_bytes))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise DamagedError(f"{path}: damaged: it is a folder") from error
    except UnfitError as error:
        raise DamagedError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path}: damaged: expected an object, found {type(value).__name__}")
    if DIGEST in value:
        stored = value.pop(DIGEST)
        if (found := digest_of(value)) != stored:
            raise DamagedError(
                f"{path}: damaged: expected digest {stored}, found {found}: it was edited"
            )
    return value


def digest_of(value: object) -> str:
    """Return the digest of a JSON value; one that has none (an infinite number) is damaged."""
    try:
        return digest_json(value)
    except (ValueError, TypeError, RecursionError, UnicodeError) as error:
        raise DamagedError(f"a value without a digest: {error}") from error


def checked(model: type[M], value: object, where: object) -> M:
    """Return a value as a model, or raise a DamagedError that names the first field at fault."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise DamagedError(f"{where}: damaged: {place}: {first['msg']}") from error


def read_state(path: Path, model: type[M], max_bytes: int = MAX_BYTES) -> M | None:
    """Return a file of the store as a model, or None if there is no such file."""
    value = read_object(path, max_bytes)
    return None if value is None else checked(model, value, path)


def write_state(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Place an object with its digest, whole or not at all."""
    disk.place_json(path, {**value, DIGEST: digest_json(value)}, durable=durable)


@cache
def tell(text: str) -> None:
    """Say on stderr, once, what was found wrong and what becomes of it; the command goes on."""
    import logging

    from r1pipe.text import visible

    logging.getLogger("r1pipe").warning("%s", visible(text))


def set_aside(root: Path, path: Path) -> Path:
    """Move a damaged file or folder of the store to the trash; return where it is."""
    with disk.store_errors(root, f"{path}: damaged, and cannot be set aside"):
        target = root / "trash" / f"damaged-{disk.token()}" / path.parent.name / path.name
        disk.move_tree(path, target)
    return target
