"""Weights on their way to a sampler in another process: files in shared memory, never on a disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Weights
from r1pipe.text import format_bytes

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files get random names there
MAX_FILE_BYTES = 256 << 20
MORE_ROOM = (
    "start the container with more shared memory (--shm-size=8g, or an emptyDir with medium:"
    " Memory)"
)


@contextmanager
def weight_files(tensors: Weights, num_values: int = 0) -> Iterator[Iterator[str]]:
    """Give the paths of files that hold all tensors, written as they are asked for; the files are
    gone after the block.

    If all of them are to be there at once, `num_values` is how many numbers they hold: as wide as
    the first tensor's. Raises StageError before anything is written if there is no room for them.
    """
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="r1pipe-weights-", dir=place))
    try:
        yield write_weights(_with_room(tensors, num_values, folder.parent), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_room(tensors: Weights, num_values: int, place: Path) -> Iterator[tuple[str, Tensor]]:
    """Hand tensors on; raise StageError at the first one if a place has no room for all."""
    for number, (name, tensor) in enumerate(tensors):
        wanted, disk = num_values * tensor.element_size(), shutil.disk_usage(place)
        if number == 0 and wanted > disk.free:
            raise StageError(
                f"{place} has {format_bytes(disk.free)} free of {format_bytes(disk.total)}, and all"
                f" weights of the policy, {format_bytes(wanted)}, go through it to an engine of"
                f" several processes; {MORE_ROOM}, or sample with tensor_parallel: 1"
            )
        yield name, tensor


def write_weights(tensors: Weights, folder: Path) -> Iterator[str]:
    """Write tensors into files of bounded size, and yield each file's path."""
    for number, part in enumerate(in_parts(tensors, MAX_FILE_BYTES)):
        yield _write(part, folder, number)
        part.clear()


def in_parts(tensors: Weights, num_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Yield copies of tensors on the CPU by name, at least so many bytes together, but for the
    last ones. Whoever takes a part may clear it, so that one at a time is in memory."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        part[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += tensor.nbytes
        if size >= num_bytes:
            yield part
            part, size = {}, 0
    if part:
        yield part


def read_weights(paths: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of weight files by name, one at a time."""
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


def _write(tensors: dict[str, Tensor], folder: Path, number: int) -> str:
    path = folder / f"{number:05d}.safetensors"
    try:
        save_file(tensors, path)
    except (OSError, SafetensorError) as error:
        if os.strerror(ENOSPC) not in str(error):
            raise
        size = format_bytes(sum(tensor.nbytes for tensor in tensors.values()))
        raise StageError(
            f"{folder.parent} has no room for {size} of weights on their way to an engine of"
            f" several processes; {MORE_ROOM}: `r1pipe doctor` says how much there is"
        ) from error
    return str(path)
