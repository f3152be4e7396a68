"""Importing vLLM: quietly, quickly, and only if it can work."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from r1pipe.doctor.packages import INSTALL_CPU, INSTALL_GPU
from r1pipe.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

CPU_HEAD_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Head sizes that vLLM 0.32's attention on a CPU has kernels for; others fail at the first step."""
ENVIRONMENT = {
    # the engine core in this process: a second one would import everything again
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # workers of a tensor-parallel engine on one memory node of a CPU
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def kind_of_device(device: str) -> str:
    """Return `cpu` or `cuda` of a name such as `cuda:1`."""
    return device.partition(":")[0]


def require_vllm(device: str) -> None:
    """Raise StageError, with the command that installs it, if vLLM is missing."""
    if importlib.util.find_spec("vllm") is None:
        command = INSTALL_CPU if kind_of_device(device) == "cpu" else INSTALL_GPU
        raise StageError(
            f"run.generator.backend is vllm, which is not installed here; install it with\n"
            f"    {command}\n(docs/engines.md), or sample with the backend transformers"
        )


def check_head_size(config: PretrainedConfig, device: str) -> None:
    """Raise StageError if vLLM has no attention kernel for a model's heads."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if kind_of_device(device) == "cpu" and size not in CPU_HEAD_SIZES:
        raise StageError(
            f"the model's attention heads have {size} dimensions; on a CPU vLLM computes"
            f" {', '.join(map(str, CPU_HEAD_SIZES))}. Choose other params.architecture, or"
            " run.generator.backend transformers"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back warnings about what vLLM itself uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def import_vllm(device: str) -> Any:
    """Return the names of vLLM that the generator uses.

    Raises StageError if vLLM was built for another device.
    """
    warn_of_slow_start()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    with quiet():
        from vllm import SamplingParams
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext

        kind = current_platform.device_type
        if kind != kind_of_device(device):
            raise StageError(
                f"run.device is {device}, and the vLLM that is installed here computes on {kind}"
            )
        if kind == "cpu":
            # else the first log-probabilities wait for a C++ compiler
            type(current_platform).simple_compile_backend = "eager"
            rotate_all_heads()
        from vllm.v1.engine.llm_engine import LLMEngine

        keep_groups()
        share_expert_group()
    return SimpleNamespace(
        SamplingParams=SamplingParams,
        EngineArgs=EngineArgs,
        LLMEngine=LLMEngine,
        RequestOutputKind=RequestOutputKind,
        OFFLINE=UsageContext.LLM_CLASS,  # vLLM's settings for throughput
    )


def keep_groups() -> None:
    """Have an engine that ends leave the process groups: a second engine and the trainer have the
    same. In vLLM 0.32 an engine's core would end them, in 0.33 the executor of ranks as well."""
    from vllm.v1.engine import core
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher, UniProcExecutor

    core.cleanup_dist_env_and_memory = free_memory
    ExecutorWithExternalLauncher.shutdown = UniProcExecutor.shutdown


def share_expert_group() -> None:
    """Give a mixture of experts its group of processes where an earlier engine of this process,
    without experts, has made all others: it is that of tensor parallelism."""
    from vllm.distributed import parallel_state

    if parallel_state.model_parallel_is_initialized() and parallel_state._EP is None:
        parallel_state._EP = parallel_state._TP


def rotate_all_heads() -> None:
    """Have a CPU rotate queries of shape [tokens, heads, size] by PyTorch: vLLM 0.32's kernel
    rotates their first head only, which latent attention would compute with in silence."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    if hasattr(RotaryEmbedding, "forward_kernel"):
        return
    RotaryEmbedding.forward_kernel = RotaryEmbedding.forward_cpu

    def forward_cpu(self: Any, positions: Tensor, query: Tensor, key: Tensor | None = None) -> Any:
        forward = self.forward_kernel if query.dim() == 2 else self.forward_native
        return forward(positions, query, key)

    RotaryEmbedding.forward_cpu = forward_cpu


def exchange_by_process_group() -> None:
    """Have the ranks of an engine on a CPU exchange by their process group: the shared memory that
    vLLM 0.32 takes has one name for all such engines of a machine, and outlives them."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = _is_false


def _is_false(self: object) -> bool:
    return False


def is_spanning() -> bool:
    """Return whether this process is an actor of Ray that has several bundles for one engine."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    group = ray.util.get_current_placement_group()
    return group is not None and len(group.bundle_specs) > 1


def free_memory() -> None:
    """Give back what a closed engine held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def warn_of_slow_start() -> None:
    """Warn if every start must compile all of vLLM's modules again."""
    if sys.dont_write_bytecode and sys.pycache_prefix is None and "vllm" not in sys.modules:
        warnings.warn(
            "PYTHONDONTWRITEBYTECODE is set: vLLM may take 15 s longer to import each time; unset"
            " it, or set PYTHONPYCACHEPREFIX to a folder",
            RuntimeWarning,
            stacklevel=2,
        )
