"""Models sharded by ZeRO-3, which no rank ever holds whole: built empty, filled one parameter at a
time.

Rank 0 reads each parameter from its file and sends it to all, and it is sharded at once: what a
rank holds while a model is loaded is its shard of it and one parameter. (transformers' own way, by
`HfDeepSpeedConfig`, first reads all files into the memory of every rank.)
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from r1pipe.engine_settings import EngineSettings
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import OFFLINE, load_model, persistent_buffers, with_attention
from r1pipe.models.precision import dtype_of
from r1pipe.models.refusals import refused_in_a_line
from r1pipe.models.stored_adapters import stored_adapter
from r1pipe.ranks import Ranks
from r1pipe.settings import Precision
from r1pipe.train.batching import MicroBatch
from r1pipe.train.data_parallel import BatchSharder
from r1pipe.train.deepspeed_setup import (
    RootModule,
    config_of,
    deepspeed,
    gathered,
    join_process_group,
    neighbours,
)
from r1pipe.train.engine import TokenFunction
from r1pipe.train.logprobs import measure_in_one_call

if TYPE_CHECKING:
    from r1pipe.train.deepspeed_backend import DeepSpeedSettings

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class _OtherNames(Exception):  # noqa: N818 - handled here
    """The files of a model do not hold its parameters under the names that its class gives them."""


def load_sharded(
    folder: Path,
    kind: Any,
    settings: DeepSpeedSettings,
    precision: Precision,
    device: str,
    fresh: str | None = None,
    **changes: Any,
) -> Any:
    """Return a folder's model with this rank's shard of each parameter; all ranks call it together.

    `kind` is the class of transformers that reads it, `changes` go into its config. `fresh` names
    the module that no file has: rank 0 draws it from the global generator, as `from_pretrained`
    does. A model whose files use other names than its class (transformers merges the experts of
    some) is loaded whole, with a warning, and sharded by the engine.
    """
    join_process_group()
    with refused_in_a_line(folder):
        config = AutoConfig.from_pretrained(folder, **OFFLINE, **changes)
    with init_empty_weights(include_buffers=False):
        model = with_attention(partial(kind.from_config, config, dtype=torch.float32))
    model.tie_weights()
    try:
        with ExitStack() as stack:
            _fill(model, _Files(folder, stack), settings, precision, fresh)
    except _OtherNames as found:
        warnings.warn(f"{folder}: {found}; every rank loads the whole model", stacklevel=2)
        return load_model(folder, device=device, kind=kind, **changes)
    model.tie_weights()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    if model.can_generate() and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


class _Files:
    """The safetensors of a model, by the parameter's name; nothing is read before it is asked."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        names = [SINGLE]
        if (folder / INDEX).exists():
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        if not all((folder / name).exists() for name in names):
            raise _OtherNames(f"{names[0]} is not there")
        opened = [stack.enter_context(safe_open(folder / n, framework="pt")) for n in names]
        self.files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
        self.adapter = stored_adapter(folder)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter, None if no file has it."""
        file = self.files.get(name)
        return None if file is None else tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a parameter, whole, with what an adapter beside it adds."""
        found: Tensor = self.files[name].get_tensor(name)
        return found if self.adapter is None else self.adapter.added_to(name, found)


def _fill(
    model: LanguageModel,
    files: _Files,
    settings: DeepSpeedSettings,
    precision: Precision,
    fresh: str | None,
) -> None:
    """Give the parameters of an empty model their values, and shard each one among the ranks."""
    named = dict(model.named_parameters())  # of tied ones the first
    new = [name for name in named if files.shape(name) is None]
    for name, parameter in named.items():
        if name in new:
            if fresh is None or not name.startswith(f"{fresh}."):
                raise _OtherNames(f"no file has {name}")
        elif files.shape(name) != tuple(parameter.shape):
            raise _OtherNames(f"{name} has another shape in its file")
    for name, buffer in persistent_buffers(model).items():
        if files.shape(name) == tuple(buffer.shape):
            buffer.copy_(files.read(name))
    zero = config_of(settings, precision)
    is_reader = dist.get_rank() == 0
    for name, empty in named.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        value = files.read(name) if is_reader and name not in new else torch.empty(empty.shape)
        parameter = torch.nn.Parameter(value, requires_grad=empty.requires_grad)
        owner._parameters[name.rpartition(".")[2]] = parameter
        if is_reader and name in new:
            model._init_weights(owner)
        parameter.data = value.to(dtype_of(precision))
        holder = torch.nn.Module()
        holder.sharded = parameter
        group = neighbours(settings)
        deepspeed.zero.Init(  # rank 0's value for all
            module=holder, config_dict_or_path=zero, zero_param_parallel_group=group
        )


class ShardedReference:
    """A frozen model that is sharded among all ranks, as ZeRO-3 has the one that is trained."""

    def __init__(
        self, model: LanguageModel, settings: EngineSettings, ranks: Ranks, precision: Precision
    ) -> None:
        zero = cast("DeepSpeedSettings", settings)  # no other backend shards weights
        self.model = model
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._sharder = BatchSharder(model, ranks, zero.sequence_parallel)
        measure_in_one_call(model)
        self._engine, *_ = deepspeed.initialize(
            model=RootModule(model), config=config_of(zero, precision, is_trained=False)
        )
        self._engine.eval()

    def per_token(
        self, batches: Iterable[MicroBatch], function: TokenFunction
    ) -> list[list[float]]:
        """Return the function's numbers for every micro-batch, in their order, on every rank.

        Afterwards all is sharded again: DeepSpeed would keep what it gathered for the next pass.
        """
        found = self._sharder.per_token(self._engine, batches, function)
        self._engine.optimizer.empty_partition_cache()
        return found

    def writing(self, parameter: Tensor) -> AbstractContextManager[object]:
        """Gather a parameter, and shard what rank 0 has made of it after the block."""
        return gathered(parameter, is_written=True)

    def close(self) -> None:
        """Free DeepSpeed's memory."""
        self._sharder.close()
        self._engine.destroy()
