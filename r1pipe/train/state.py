"""Weights and optimizer state of a training checkpoint, by the parameter's name.

    weight:<parameter>                 float32, whole
    optimizer:exp_avg:<parameter>      likewise exp_avg_sq, and the count `step`

Every engine reads and writes this one form: it knows neither processes nor shards, so a checkpoint
continues on another number of processes, on another ZeRO stage and on the other engine. Large
models are spread over several files; a name is in one of them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from r1pipe.errors import DamagedError
from r1pipe.keys import write_digested
from r1pipe.models.finite import check_finite

FORMAT = 1
MAX_FILE_BYTES = 1 << 30
"""Bounds the memory for writing a file, which is two copies of it."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class HeldFiles:
    """Files of a checkpoint whose tensors are copied, and which are written later."""

    def __init__(self, limit: int) -> None:
        """At most `limit` bytes are held."""
        self._left = limit
        self._files = deque[tuple[dict[str, Tensor], Path]]()

    def take(self, tensors: dict[str, Tensor], path: Path) -> bool:
        """Hold a file, if there is room for it."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._left:
            return False
        self._left -= size
        self._files.append((tensors, path))
        return True

    def write(self) -> None:
        """Write the files, and let go of each."""
        while self._files:
            save_tensors(*self._files.popleft())


_held: ContextVar[HeldFiles | None] = ContextVar("held", default=None)


@contextmanager
def held(limit: int) -> Iterator[HeldFiles]:
    """Have what a `StateWriter` is given in the block held in memory, up to `limit` bytes; what is
    beyond is written at once."""
    files = HeldFiles(limit)
    token = _held.set(files)
    try:
        yield files
    finally:
        _held.reset(token)


class StateWriter:
    """Collects tensors and writes them into files of a bounded size, or has them `held`."""

    def __init__(self, folder: Path, name: str = "engine", limit: int = MAX_FILE_BYTES) -> None:
        self._folder = folder
        self._name = name
        self._limit = limit
        self._waiting: dict[str, Tensor] = {}
        self._size = 0
        self._files = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a copy of a tensor on the CPU; raise StageError if it is not finite."""
        check_finite([(name, tensor)], f"{self._folder}: the state of the training")
        self._waiting[name] = tensor.detach().to("cpu", copy=True).contiguous()
        self._size += tensor.nbytes
        if self._size >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write the tensors collected so far, if any, or have them held."""
        if not self._waiting:
            return
        suffix = f"-{self._files:05d}" if self._files else ""
        path, files = self._folder / f"{self._name}{suffix}.safetensors", _held.get()
        if files is None or not files.take(self._waiting, path):
            save_tensors(self._waiting, path)
        self._waiting, self._size, self._files = {}, 0, self._files + 1


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file of a checkpoint, digested as it is written."""
    write_digested(path, save(tensors))


def write_facts(folder: Path, **facts: object) -> None:
    """Say what wrote a checkpoint; it is complete once its tensors are there too."""
    (folder / "engine.json").write_text(json.dumps(facts | {"format": FORMAT}))


def read_state(folder: Path, names: list[str]) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Yield each parameter's name, float32 weight and optimizer state (empty before step 1).

    Raises DamagedError if the names are not those of the model.
    """
    with ExitStack() as stack:
        files: dict[str, safe_open] = {}
        for path in sorted(folder.glob("engine*.safetensors")):
            file = stack.enter_context(safe_open(path, framework="pt"))
            files |= dict.fromkeys(file.keys(), file)
        weights = {key.split(":", 1)[1] for key in files if key.startswith("weight:")}
        if weights != set(names):
            wrong = sorted(weights ^ set(names))
            raise DamagedError(f"{folder}: other parameters than the model's, such as {wrong[0]}")
        for name in names:
            state = {
                key: _read(files, f"optimizer:{key}:{name}")
                for key in (*MOMENTS, "step")
                if f"optimizer:{key}:{name}" in files
            }
            yield name, _read(files, f"weight:{name}"), state


def _read(files: Mapping[str, safe_open], key: str) -> Tensor:
    tensor: Tensor = files[key].get_tensor(key)  # type: ignore[no-untyped-call]
    return tensor.to(torch.float32)
