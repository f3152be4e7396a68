"""The backend `vllm`: an engine in this process, or several in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from r1pipe.generate.clusters import ClusterBackend
from r1pipe.generate.protocol import Generator
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.settings import Placement, Precision

MIB = 1 << 20
SEALED_FRACTION, BESIDE_FRACTION = 0.9, 0.45
"""Of a GPU's memory, without and with a model that is trained."""
CPU_NUM_SEQS = 256
"""Completions that are decoded together on a CPU, as vLLM has it on its smaller GPUs."""
GPU_NUM_SEQS = 1024
"""The most that vLLM decodes together on any GPU unless it is told."""


class VllmSettings(ClusterBackend):
    """vLLM."""

    package = "vllm"

    backend: Literal["vllm"]
    tensor_parallel: int = Field(default=1, gt=0)
    """GPUs that share the weights of one engine."""
    gpu_memory_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of each GPU's memory; default: 0.9, and 0.45 beside a trainer."""
    kv_cache_mb: int | None = Field(default=None, gt=0)
    """Size of the KV cache in MiB; default: 256 on a CPU, what is free on a GPU."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Most completions that are decoded together; default: 256 on a CPU, on a GPU what vLLM takes
    for it."""
    max_model_tokens: int | None = Field(default=None, gt=1)
    """Longest prompt with its completion; default: what the stage's prompts need if it knows them,
    else what the model allows."""
    eager: bool = False
    """No CUDA graphs: starts sooner, samples more slowly. On a CPU always so."""
    sleep: bool = True
    """In GRPO on a GPU, free the engine's memory while the policy trains."""

    @property
    def fills_slots(self) -> bool:
        """Whether an engine takes more requests than it has slots, and keeps those full."""
        return True

    @property
    def devices_per_engine(self) -> int:
        """GPUs, or cores of a CPU, of one engine."""
        return self.tensor_parallel

    @property
    def ranks_together(self) -> int:
        """How many processes of a trainer have an engine together."""
        return self.tensor_parallel

    def concurrency(self, max_batch: int) -> int:
        """Return how many completions are sampled at once, as far as that is known."""
        return self.max_num_seqs or CPU_NUM_SEQS

    def most_at_once(self, device: str, max_batch: int) -> int:
        """Return how many completions one engine samples at once, if it has room for them."""
        is_cpu = device.startswith("cpu")
        return self.max_num_seqs or (CPU_NUM_SEQS if is_cpu else GPU_NUM_SEQS)

    def fitted(self, most_tokens: Callable[[], int]) -> VllmSettings:
        """Return settings for no longer context than requests need: a cache that holds the model's
        own longest may not fit."""
        if self.max_model_tokens is not None:
            return self
        return self.model_copy(update={"max_model_tokens": max(2, most_tokens())})

    def incompatible_on(self, device: str) -> str | None:
        """Say what to set if vLLM would take another GPU than the one that is named."""
        kind, _, number = device.partition(":")
        if self.cluster is None and number.strip("0"):
            return (
                f"device: {device}: vLLM takes the first GPU that it sees; write `device: {kind}`"
                f" and run with CUDA_VISIBLE_DEVICES={number}"
            )
        return super().incompatible_on(device)

    def incompatible_beside(self, num_processes: int) -> str | None:
        """Say what to set if an engine inside each process of a trainer cannot be so divided."""
        if self.data_parallel > 1 and self.cluster is None:
            return (
                "run.generator.data_parallel: if a policy is trained, each of its processes has one"
                " engine of its own; leave data_parallel out, and set run.engine.num_processes"
            )
        if num_processes > 1 and self.cluster is None and num_processes % self.tensor_parallel:
            return (
                f"run.generator.tensor_parallel: {self.tensor_parallel} of the {num_processes}"
                " processes that train would have an engine together, and that does not divide"
                " them; use a divisor, or leave it out"
            )
        return super().incompatible_beside(num_processes)

    def incompatible_ahead(self, num_processes: int) -> str | None:
        """Say what to set if it cannot sample while the policy trains; None if it can."""
        if self.cluster is None:
            return (
                "run.generator: vLLM in the trainer's process samples in turn with it; with"
                " params.staleness add `cluster: ray`, or sample with transformers"
            )
        return super().incompatible_ahead(num_processes)

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where sampling is done, for its cost."""
        return replace(
            super().place(device, precision),
            shards=self.tensor_parallel,
            max_seqs=self.max_num_seqs,
            cache_bytes=None if self.kv_cache_mb is None else self.kv_cache_mb * MIB,
            start_s=(2.0, 90.0),
            has_own_weights=True,
            sleeps=self.sleep and not device.startswith("cpu"),
            memory_frac=self.memory_fraction(is_beside=False),
            memory_frac_beside=self.memory_fraction(is_beside=True),
            cpu_bytes=(450 * MIB, 900 * MIB),  # its libraries and its default cache
        )

    def memory_fraction(self, *, is_beside: bool) -> float:
        """Return the share of a GPU's memory, without or with a model that is trained."""
        return self.gpu_memory_fraction or (BESIDE_FRACTION if is_beside else SEALED_FRACTION)

    def open_here(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return an engine for the folder's model, or as many as `data_parallel` says."""
        from r1pipe.generate.replicas import ReplicaGenerator
        from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator
        from r1pipe.models.policy import stored_end_ids
        from r1pipe.models.stored_adapters import whole_folder

        ends = tuple(stored_end_ids(folder, tokenizer))
        with whole_folder(folder) as whole:
            shape = EngineShape(whole, ends, precision, run.device)
            if self.data_parallel > 1:
                return ReplicaGenerator(shape, self)
            return VllmGenerator(shape, self)

    def open_beside_here(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Return an engine with weights of its own, which `load_weights` replaces."""
        from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator
        from r1pipe.models.policy import end_ids
        from r1pipe.models.stored_adapters import whole_folder

        ends = tuple(end_ids(model, tokenizer))
        with whole_folder(Path(model.name_or_path)) as whole:
            shape = EngineShape(whole, ends, precision, run.device, True, num_ranks > 1)
            return VllmGenerator(shape, self)
