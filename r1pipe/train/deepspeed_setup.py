"""Set-up of DeepSpeed: environment, configuration, process group."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]

from r1pipe.keys import JsonObject
from r1pipe.models.interfaces import LanguageModel
from r1pipe.settings import Precision
from r1pipe.train.batching import MicroBatch
from r1pipe.train.engine import LossFunction, TokenFunction

if TYPE_CHECKING:
    from r1pipe.train.deepspeed_backend import DeepSpeedSettings

# its logger and its accelerator are chosen when it is imported
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "ERROR")
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed as deepspeed  # for those that need this set-up first

PERSISTENT_NUMBERS = 1_000_000
"""ZeRO 3 keeps smaller parameters whole: gathering them costs more time than they take room."""


class RootModule(torch.nn.Module):
    """Computes a function inside a forward pass of the root module, where ZeRO-3 follows it."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: MicroBatch, function: LossFunction | TokenFunction) -> Any:
        part = function(self.policy, batch)
        return part if isinstance(part, Tensor) else (part.value, part)


def gathered(*parameters: Tensor, is_written: bool = False) -> AbstractContextManager[object]:
    """Give a block in which parameters of ZeRO-3 are whole on all ranks; if `is_written`, what
    rank 0 writes into them there stays."""
    block: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(
        list(parameters), modifier_rank=0 if is_written else None
    )
    return block


def config_of(
    settings: DeepSpeedSettings,
    precision: Precision,
    max_grad_norm: float = 0.0,
    *,
    is_trained: bool = True,
) -> JsonObject:
    """Return DeepSpeed's configuration. Micro-batches and accumulation are the engine's own.

    Gradients are summed in float32. DeepSpeed would take bfloat16 for weights of that: there a sum
    of hundreds of micro-batches stops growing. Its stage 1 cannot sum so, and is stage 2 then.
    """
    is_half = precision == "bfloat16"
    zero: JsonObject = {
        "stage": 2 if is_half and settings.zero_stage == 1 else settings.zero_stage,
        "stage3_param_persistence_threshold": PERSISTENT_NUMBERS,
    }
    if settings.offload != "none" and is_trained:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.zero_hpz_partition_size > 1:
        zero["zero_hpz_partition_size"] = settings.zero_hpz_partition_size
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "gradient_clipping": max_grad_norm if settings.zero_stage else 0.0,
        "bf16": {"enabled": is_half},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def neighbours(settings: DeepSpeedSettings) -> dist.ProcessGroup | None:
    """Return this rank's group of `zero_hpz_partition_size` ranks; None if weights are kept once.

    All ranks call it together. DeepSpeed makes these groups once in a process; left to itself it
    would try to for every model.
    """
    if settings.zero_hpz_partition_size == 1:
        return None
    from deepspeed.utils import groups

    if groups._get_zero_param_intra_parallel_group() is None:
        groups._create_zero_param_parallel_group(settings.zero_hpz_partition_size)
    found: dist.ProcessGroup = groups._get_zero_param_intra_parallel_group()
    return found


def join_process_group() -> None:
    """Have DeepSpeed use the stage's process group; without one, make a group of one.

    There may be one that vLLM has made in this process.
    """
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    if not torch.cuda.is_available():  # else it compiles a shared-memory kernel for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
