"""Peak memory per device, and bytes on disk.

Training keeps per parameter (float32, AdamW) 4 bytes of weight, 4 of gradient and 8 of moments;
with bf16 2 + 2, and 12 of float32 master copy and moments (arXiv:1910.02054, section 3.1). ZeRO 1
shards the optimizer state among the processes, 2 the gradients too, 3 everything. Beside bf16
weights ZeRO has float32 sums of gradients, which its stage 1 shards as stage 2 does.
"""

from __future__ import annotations

from r1pipe.costs.work import (
    Info,
    ModelInfo,
    ProblemsInfo,
    Range,
    RowsInfo,
    SamplingWork,
    TokenizerInfo,
    Training,
)
from r1pipe.engine_settings import MAX_LOGITS
from r1pipe.settings import Placement

MIB = 1 << 20
PROCESS_BYTES = {
    "light": Range(100 * MIB, 900 * MIB),
    "cpu": Range(380 * MIB, 900 * MIB),
    "cuda": Range(500 * MIB, 2048 * MIB),
}
"""Libraries and caches of a process that has done nothing yet; a light stage may follow others in
theirs."""
NF4_BYTES = 0.52
"""Of a weight in four bits, with its share of its block's scale (arXiv:2305.14314, section 3)."""
FRAGMENTS = Range(1.0, 1.3)
"""Room between the blocks of an allocator."""
CPU_WORKERS = 4
"""At most so many micro-batches or batches are under way at once on a CPU."""
BYTES_PER_TOKEN = 4.0
"""Text of a token, about."""
ENGINE_BYTES = 2 << 30
"""Of each GPU of an engine: activations of a prefill, CUDA graphs. Ours; vLLM measures it."""
UNDER_WAY = Range(0.5, 1.0)
"""Of the mean completion that a completion under way has, on the mean: half if all are of one
length, more if the long ones are there most of the time."""
COMPRESSED_FRAC = Range(0.03, 0.5)
"""Of text, in a Parquet file."""
COLUMN_BYTES = Range(1, 40)
"""Other columns of a row, compressed."""
TOKENIZER_BYTES_PER_TOKEN = Range(30, 80)
FULL_VOCAB_FRAC = Range(0.9, 1.0)
"""A new tokenizer may find fewer tokens than it may have."""


def training_bytes(work: Training) -> Range:
    """Return the peak of one device that trains, without what a process has anyway."""
    where, model = work.where, work.model
    width = 2 if where.is_bf16 else 4
    tokens = max(work.micro_batch_tokens, min(work.longest, work.mean_tokens * 4))
    least = max(work.micro_batch_tokens, work.mean_tokens)
    kept = 2 * model.hidden_size if where.is_checkpointed else _layer_values(model)
    per_token = width * (model.num_layers * kept + _layer_values(model))
    at_once = CPU_WORKERS if where.device.startswith("cpu") else 1
    low = 0.5 * least * per_token + _logit_bytes(least, model)
    high = at_once * (1.3 * tokens * per_token + 3 * _logit_bytes(tokens, model))
    activations = Range(low, high) * (1 / where.sequence_parallel)
    return (Range(resident_bytes(work)) + activations) * FRAGMENTS


def _logit_bytes(tokens: float, model: ModelInfo) -> float:
    """Return what the logits of a micro-batch take, of which so many are there at a time."""
    return 4.0 * min(tokens * model.vocab_size, max(MAX_LOGITS, model.vocab_size))


def resident_bytes(work: Training) -> float:
    """Return what a device that trains keeps between its steps: state, reference, reward models."""
    where, model = work.where, work.model
    width = 2 if where.is_bf16 else 4
    state = _state_bytes(work, where) + work.frozen_copies * _copy_bytes(model, where)
    return state + work.whole_copies * float(width * model.num_parameters)


def sampling_bytes(work: SamplingWork, device_bytes: int | None, is_alone: bool = True) -> Range:
    """Return the peak of one device that samples, without what a process has anyway; `is_alone`:
    no model is trained beside it."""
    where, model = work.where, work.model
    if where.is_server:
        return Range(0)
    width = 2 if where.is_bf16 else 4
    weights = float(width * model.num_parameters) / where.shards
    if where.cpu_bytes and where.device.startswith("cpu"):
        return (Range(weights) + Range(*where.cpu_bytes)) * FRAGMENTS
    frac = where.memory_frac if is_alone else where.memory_frac_beside
    if frac and device_bytes and not where.device.startswith("cpu"):
        return Range(frac * device_bytes)
    batch = max(1.0, min(float(work.at_once), work.completions.high))
    cache = model.num_layers * model.kv_values * width
    mean = work.prompt_tokens + work.completion_tokens
    longest = work.prompt_tokens.high + work.longest
    step = batch * model.vocab_size
    at_once = min(CPU_WORKERS, max(1.0, work.completions.high / batch))
    low = weights + batch * mean.low * cache + 8 * step
    high = weights + at_once * (batch * min(longest, 2 * mean.high) * cache * 1.5 + 36 * step)
    return Range(low, max(low, high)) * FRAGMENTS


def cache_bytes_of_token(work: SamplingWork) -> float:
    """Return the bytes of one token's keys and values on all devices that share an engine; of
    fewer heads than devices some keep the same."""
    model, where = work.model, work.where
    copies = max(1.0, where.shards / (model.num_kv_heads or where.shards))
    return copies * model.num_layers * model.kv_values * (2 if where.is_bf16 else 4)


def slots(
    work: SamplingWork, device_bytes: int | None, default_seqs: int, *, is_alone: bool = True
) -> Range:
    """Return how many completions one engine decodes together, at most `at_once`.

    On a GPU it is those for whose keys and values there is room in what the engine's share of the
    memory leaves,

        (share x memory - ENGINE_BYTES) x shards - weights
        --------------------------------------------------------------
        bytes of a token x (prompt + UNDER_WAY x completion)

    and without `max_num_seqs` at most `default_seqs`, which vLLM takes for the device.
    """
    where, most = work.where, float(work.at_once)
    share = where.memory_frac if is_alone else where.memory_frac_beside
    if not share or not device_bytes or where.device.startswith("cpu"):
        return Range(most)
    if where.max_seqs is None:
        most = min(most, default_seqs)
    weights = (2.0 if where.is_bf16 else 4.0) * work.model.num_parameters
    left = (share * device_bytes - ENGINE_BYTES) * where.shards - weights
    held = work.prompt_tokens + work.completion_tokens * UNDER_WAY
    tokens = max(0.0, left if where.cache_bytes is None else where.cache_bytes * where.shards)
    tokens /= cache_bytes_of_token(work)
    low, high = (max(1.0, min(most, tokens / max(1.0, each))) for each in (held.high, held.low))
    return Range(low, high)


def checkpoint_bytes(work: Training) -> Range:
    """Return what an attempt's checkpoints take: weights, moments, reference; two for a moment."""
    size = 12.0 * work.trained_parameters + 4.0 * work.frozen_copies * work.model.num_parameters
    return Range(0, 2 * size)


def artifact_bytes(info: Info | None) -> Range:
    """Return the size of what is written: a model (float32), rows, problems; else a few KiB."""
    if isinstance(info, ModelInfo):
        tokenizer = TOKENIZER_BYTES_PER_TOKEN * info.vocab_size
        return FULL_VOCAB_FRAC * (4.0 * info.num_parameters) + tokenizer
    if isinstance(info, TokenizerInfo):
        return TOKENIZER_BYTES_PER_TOKEN * info.vocab_size
    if isinstance(info, RowsInfo):
        return info.num_rows * (COLUMN_BYTES + info.tokens * BYTES_PER_TOKEN * COMPRESSED_FRAC)
    if isinstance(info, ProblemsInfo):
        text = info.prompt_tokens * BYTES_PER_TOKEN * COMPRESSED_FRAC
        return info.num_problems * (COLUMN_BYTES + text) + Range(2048, 4096)
    return Range(1024, 32 * 1024)


def journal_bytes(work: SamplingWork) -> Range:
    """Return the plain lines in which sampled units wait until a stage is published."""
    return work.completions * (work.completion_tokens * BYTES_PER_TOKEN + Range(200, 800))


def _state_bytes(work: Training, where: Placement) -> float:
    count = float(work.model.num_parameters)
    weights, gradients, optimizer = (2, 2, 12) if where.is_bf16 else (4, 4, 8)
    stage, processes = where.zero_stage, where.processes  # plain torch is one process
    if where.is_bf16 and stage:
        gradients, stage = 4, max(stage, 2)
    if work.adapter_parameters is not None:  # the frozen weights, and the adapter in float32
        frozen = weights * count
        if work.is_quantized:
            frozen += (NF4_BYTES - weights) * min(count, _linear_parameters(work.model))
        return frozen + 16.0 * work.adapter_parameters
    kept_optimizer = 0.0 if where.is_offloaded else optimizer / (processes if stage >= 1 else 1)
    second_copy = weights / where.neighbours if where.neighbours > 1 else 0.0
    return count * (
        weights / (processes if stage >= 3 else 1)
        + second_copy
        + gradients / (processes if stage >= 2 else 1)
        + kept_optimizer
    )


def _linear_parameters(model: ModelInfo) -> int:
    """Return how many numbers the linear layers of attention and of one gated network have."""
    heads = 2 * model.attention_size + model.kv_values
    return model.num_layers * model.hidden_size * (heads + 3 * model.intermediate_size)


def _copy_bytes(model: ModelInfo, where: Placement) -> float:
    width = 2 if where.is_bf16 else 4
    share = where.processes if where.zero_stage >= 3 else 1
    return width * float(model.num_parameters) / share


def _layer_values(model: ModelInfo) -> float:
    """Return how many values one layer keeps per token for its backward pass."""
    attention = 2 * model.attention_size + model.kv_values
    return 6 * model.hidden_size + attention * 2 + 4 * model.intermediate_size
