"""Sampling with vLLM in this process.

Each completion is handed on as it finishes. Requests of equal prompts follow one another, so their
samples share the prompt's cache. A request has its own seed; with one thread on a CPU its tokens
and log-probabilities do not depend, bit for bit, on who shares the batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights, in_prompt_order
from r1pipe.generate.room import check_room, room_of
from r1pipe.generate.uniforms import short_seed
from r1pipe.generate.vllm_setup import (
    check_head_size,
    exchange_by_process_group,
    import_vllm,
    is_spanning,
    kind_of_device,
    quiet,
    require_vllm,
)
from r1pipe.generate.vllm_worker import noted
from r1pipe.generate.weights import weight_files
from r1pipe.keys import JsonObject
from r1pipe.models.policy import OFFLINE
from r1pipe.models.refusals import refused_in_a_line
from r1pipe.models.stored_form import StoredForm
from r1pipe.records import FinishReason
from r1pipe.settings import Precision

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from r1pipe.generate.vllm_backend import VllmSettings
    from r1pipe.generate.weight_group import Meeting

CPU_KV_CACHE_MB = 256
CPU_BLOCK_TOKENS = 32  # vLLM's 128 would share no prompt below 128 tokens
MORE_ROOM = "; or raise run.generator.max_model_tokens"
FINISHED = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass(frozen=True)
class EngineShape:
    """What an engine is built for, besides the user's settings."""

    folder: Path
    """A sealed model directory: weights, configuration."""
    end_ids: tuple[int, ...]
    """Token ids that end a completion."""
    precision: Precision = "float32"
    """Of weights and cache."""
    device: str = "cpu"
    """What the engine must find; it takes the first one that it sees."""
    is_shared: bool = False
    """Whether a trainer is on the same device."""
    is_ranked: bool = False
    """Whether every process of a torch.distributed job builds one, all together."""


class VllmGenerator:
    """An engine in this process; its seeds, threads and random numbers are kept from the trainer's.

    `close` frees it; a second engine in the same process starts in a fraction of the time.
    """

    def __init__(self, shape: EngineShape, settings: VllmSettings) -> None:
        require_vllm(shape.device)
        self.shape = shape
        self.losses: list[str] = []
        is_cpu = kind_of_device(shape.device) == "cpu"
        self.can_sleep = settings.sleep and shape.is_shared and not is_cpu
        self.is_asleep = False
        self.num_workers = 1 if shape.is_ranked else settings.tensor_parallel
        self.on_tokens: Callable[[int, Sequence[int]], None] | None = None
        self._serial = count()
        with refused_in_a_line(shape.folder):
            config = AutoConfig.from_pretrained(shape.folder, **OFFLINE)
        check_head_size(config, shape.device)
        self._config = config
        self.max_tokens = settings.max_model_tokens or int(config.max_position_embeddings)
        with preserved_process(), quiet():
            vllm = import_vllm(shape.device)
            if shape.is_ranked and is_cpu:
                exchange_by_process_group()
            arguments = vllm.EngineArgs(
                **engine_arguments(shape, settings, self.max_tokens, self.can_sleep),
                **latent_attention(config, shape),
            )
            self._engine: Any = vllm.LLMEngine.from_engine_args(arguments, vllm.OFFLINE)
            self._params: Callable[..., Any] = vllm.SamplingParams
            self._kinds: Any = vllm.RequestOutputKind
        self.num_slots = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self.max_in_flight = 2 * self.num_slots

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes; those of equal prompts begin one
        after another."""
        check_room(requests, self.max_tokens, MORE_ROOM)
        ordered: list[Request] = sorted(requests, key=in_prompt_order)
        yield from self.stream(iter(ordered), sampling)

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes; take new ones at each step.

        A completion ends at the latest when prompt and completion have `max_model_tokens`; a
        prompt that leaves no room is a StageError. An abandoned iterator aborts its requests.
        """
        if self._engine is None:
            raise StageError("this engine is closed, perhaps since a push of weights broke off")
        if self.is_asleep or self._engine.has_unfinished_requests():
            raise RuntimeError("the engine sleeps, or another sampling is under way")
        under_way: dict[str, int] = {}
        try:
            while self._admit(requests, under_way, sampling):
                for output in self._step():
                    if self.on_tokens is not None:
                        self.on_tokens(under_way[output.request_id], output.outputs[0].token_ids)
                    if output.finished:
                        index = under_way.pop(output.request_id)
                        yield sampled_of(output, index, sampling)
        finally:
            if under_way:
                self._engine.abort_request(list(under_way))
                while self._engine.has_unfinished_requests():
                    self._step()

    def _admit(
        self, waiting: Iterator[Request | None], under_way: dict[str, int], sampling: SamplingParams
    ) -> bool:
        """Hand the engine requests until it has plenty; return whether any is under way."""
        while len(under_way) < self.max_in_flight:
            request = next(waiting, None)
            if request is None:
                break
            check_room([request], self.max_tokens, MORE_ROOM)
            name = str(next(self._serial))
            params = self._params(
                temperature=sampling.temperature,
                top_p=sampling.top_p if sampling.temperature else 1.0,
                seed=short_seed(request.seed),
                max_tokens=room_of(request, sampling.max_tokens, self.max_tokens),
                stop_token_ids=list(self.shape.end_ids),
                logprobs=0 if wants_logprobs(sampling) else None,
                flat_logprobs=True,
                detokenize=False,
                output_kind=self._kinds.CUMULATIVE if self.on_tokens else self._kinds.FINAL_ONLY,
            )
            self._engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
            under_way[name] = request.index
        return bool(under_way)

    def _step(self) -> list[Any]:
        """Decode one token of every running request; torch's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            outputs: list[Any] = self._engine.step()
        return outputs

    def load_weights(self, tensors: Weights) -> None:
        """Replace the engine's weights by those of the policy, in memory, one tensor at a time."""
        self._replace(lambda: self._given(tensors))

    @property
    def num_receivers(self) -> int:
        """Processes of the engine."""
        return self.num_workers

    def join(self, meeting: Meeting, first: int) -> None:
        """Have the engine's processes join a group, with the ranks from `first` on."""
        self._engine.collective_rpc("r1pipe_join", args=(meeting, first))

    def receive(self) -> None:
        """Replace the engine's weights by those that are broadcast now."""
        self._replace(self._received)

    def _replace(self, load: Callable[[], tuple[set[str], set[str]]]) -> None:
        """Have weights loaded: `load` returns names that were not given, and vLLM's own that are as
        they were. Raises RuntimeError if there are any.

        What the cache holds of prompts was computed with the old weights and is forgotten.
        """
        if self.is_asleep:
            self._engine.wake_up(["weights"])
        try:
            with preserved_process():
                missing, stale = map(sorted, load())
            if missing:
                raise RuntimeError(f"{len(missing)} weights were not given, such as {missing[0]}")
            if stale:
                raise RuntimeError(f"{len(stale)} weights of vLLM were left, such as {stale[0]}")
        except BaseException:
            self.close()  # some of its weights are gone: it cannot sample any more
            raise
        if self.is_asleep:
            self._engine.wake_up(["kv_cache"])
            self.is_asleep = False
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the engine kept the cache of its old weights")

    def _given(self, tensors: Weights) -> tuple[set[str], set[str]]:
        """Hand tensors to the workers as the model's files would have them: by reference, or
        through files in shared memory."""
        seen = set[str]()
        files = noted(self._form.stored(tensors), seen)
        if self.num_workers == 1:
            left = self._engine.collective_rpc("r1pipe_load", kwargs={"tensors": files})
        else:
            with weight_files(files, self._form.num_values) as paths:
                left = self._engine.collective_rpc("r1pipe_load", kwargs={"paths": list(paths)})
        return set(self._form.names - seen), set(chain.from_iterable(left))

    def _received(self) -> tuple[set[str], set[str]]:
        """Have each worker take what is broadcast."""
        found = self._engine.collective_rpc("r1pipe_receive", args=(str(self.shape.folder),))
        missing = chain.from_iterable(each for _, each in found)
        return set(missing), set(chain.from_iterable(left for left, _ in found))

    @cached_property
    def _form(self) -> StoredForm:
        """How files hold this model: vLLM reads that form and no other."""
        return StoredForm(self._config)

    def sleep(self) -> None:
        """Give weights and cache back to the GPU until `load_weights`; nothing on a CPU."""
        if self.can_sleep and not self.is_asleep:
            self._engine.sleep(level=2)
            self.is_asleep = True

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None


def wants_logprobs(sampling: SamplingParams) -> bool:
    """Return whether log-probabilities are asked for and mean what the protocol says: vLLM would
    give those after a top-p cut."""
    return sampling.logprobs and sampling.top_p == 1.0


def sampled_of(output: Any, index: int, sampling: SamplingParams) -> Sampled:
    """Return a finished request's only completion."""
    (completion,) = output.outputs
    tokens = list(completion.token_ids)
    logprobs: list[float] = []
    if wants_logprobs(sampling):
        logprobs = list(completion.logprobs.logprobs)
        assert len(logprobs) == len(tokens), "one log-probability for each sampled token"
    if completion.finish_reason not in FINISHED:
        raise StageError(f"vLLM ended a completion with '{completion.finish_reason}'")
    return Sampled(index, tokens, logprobs, FINISHED[completion.finish_reason])


def engine_arguments(
    shape: EngineShape, settings: VllmSettings, max_tokens: int, can_sleep: bool
) -> JsonObject:
    """Return vLLM's own settings for an engine; what is not set here vLLM takes for the GPU."""
    is_cpu = kind_of_device(shape.device) == "cpu"
    arguments: JsonObject = {
        "model": str(shape.folder),
        "trust_remote_code": False,
        "dtype": shape.precision,
        "seed": 0,
        "max_model_len": max_tokens,
        "max_num_seqs": settings.concurrency(0) if is_cpu else settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel,
        "logprobs_mode": "processed_logprobs",  # after the temperature
        "generation_config": "vllm",  # a model's own top-k or penalties must not change the draws
        "enable_prefix_caching": True,
        "enforce_eager": settings.eager or is_cpu,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "r1pipe.generate.vllm_worker.WeightReceiver",
    }
    if shape.is_ranked:
        arguments["distributed_executor_backend"] = "external_launcher"
    elif settings.tensor_parallel > 1:
        arguments["distributed_executor_backend"] = "ray" if is_spanning() else "mp"
    if settings.kv_cache_mb or is_cpu:
        arguments["kv_cache_memory_bytes"] = (settings.kv_cache_mb or CPU_KV_CACHE_MB) << 20
    if is_cpu:
        # a prompt in chunks with a seed of its own stops the CPU engine
        arguments |= {"block_size": CPU_BLOCK_TOKENS, "enable_chunked_prefill": False}
        arguments["max_num_batched_tokens"] = max(max_tokens, 8192)
    else:
        fraction = settings.memory_fraction(is_beside=shape.is_shared)
        arguments["gpu_memory_utilization"] = fraction
        arguments["enable_sleep_mode"] = can_sleep
    return arguments


def latent_attention(config: PretrainedConfig, shape: EngineShape) -> JsonObject:
    """Return vLLM's setting for latent attention in float32 on a CPU: where the processor has AMX
    vLLM would take that kernel, which refuses float32."""
    is_latent = getattr(config, "kv_lora_rank", None) is not None
    if is_latent and shape.precision == "float32" and kind_of_device(shape.device) == "cpu":
        return {"attention_backend": "CPU_MLA"}
    return {}


@contextmanager
def preserved_process() -> Iterator[None]:
    """Put back what vLLM changes in its process: random states, and torch's thread setting."""
    python, numpy, setter = random.getstate(), np.random.get_state(), torch.set_num_threads
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads = setter
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
