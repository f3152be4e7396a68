"""Settings by the names that TRL, transformers, verl and vLLM give them, and those of groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import BaseModel

from r1pipe.stage import StageKind

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("params.optimizer.lr",),
    "lr_scheduler_type": ("params.optimizer.schedule",),
    "adam_beta1": ("params.optimizer.beta1",),
    "adam_beta2": ("params.optimizer.beta2",),
    "grad_clip": ("params.optimizer.max_grad_norm",),
    "max_steps": ("params.num_steps",),
    "num_train_epochs": ("params.num_epochs",),
    "train_batch_size": ("params.problems_per_step", "params.batch_size"),
    "per_device_train_batch_size": ("run.micro_batch_tokens",),
    "gradient_accumulation_steps": ("run.micro_batch_tokens",),
    "ppo_micro_batch_size_per_gpu": ("run.micro_batch_tokens",),
    "packing": ("run.layout: packed",),
    "padding_free": ("run.layout: packed",),
    "bf16": ("params.precision: bfloat16",),
    "dtype": ("params.precision",),
    "torch_dtype": ("params.precision",),
    "attn_implementation": ("run.engine.attention",),
    "lora_r": ("params.adapter.rank",),
    "lora_alpha": ("params.adapter.alpha",),
    "lora_target_modules": ("params.adapter.targets",),
    "load_in_4bit": ("params.adapter.quantize: nf4",),
    "report_to": ("run.track",),
    "num_generations": ("params.group_size", "params.samples_per_problem"),
    "n": ("params.group_size", "params.samples_per_problem"),
    "max_completion_length": ("params.max_tokens",),
    "max_response_length": ("params.max_tokens",),
    "max_new_tokens": ("params.max_tokens",),
    "max_length": ("params.max_tokens",),
    "beta": ("params.kl_coef",),
    "kl_loss_coef": ("params.kl_coef",),
    "epsilon": ("params.clip_low",),
    "epsilon_low": ("params.clip_low",),
    "epsilon_high": ("params.clip_high",),
    "clip_ratio_low": ("params.clip_low",),
    "clip_ratio_high": ("params.clip_high",),
    "entropy_coeff": ("params.entropy_coef",),
    "loss_type": ("params.aggregation",),
    "loss_agg_mode": ("params.aggregation",),
    "scale_rewards": ("params.advantage_std",),
    "adv_estimator": ("params.advantage",),
    "importance_sampling_level": ("params.ratio",),
    "mask_truncated_completions": ("params.truncated: mask",),
    "reward_funcs": ("params.rewards",),
    "reward_weights": ("params.rewards",),
    "use_vllm": ("run.generator: {backend: vllm}",),
    "gpu_memory_utilization": ("run.generator.gpu_memory_fraction",),
    "vllm_gpu_memory_utilization": ("run.generator.gpu_memory_fraction",),
    "tensor_parallel_size": ("run.generator.tensor_parallel",),
    "tensor_model_parallel_size": ("run.generator.tensor_parallel",),
    "max_model_len": ("run.generator.max_model_tokens",),
    "enforce_eager": ("run.generator.eager",),
    "model_name_or_path": ("inputs.model",),
    "dataset_name": ("inputs.rows", "inputs.problems"),
    "train_files": ("inputs.rows", "inputs.problems"),
}
"""Name there -> where a stage may have it here, the first place that its kind has counts."""


def here(kind: StageKind, name: str) -> str | None:
    """Say where a stage has what others call `name`, as the end of a message; None if nowhere."""
    names = {
        "params": kind.params.model_fields,
        "run": kind.run_model.model_fields,
        "inputs": kind.inputs,
    }
    for place in OTHER_NAMES.get(name, ()):
        section, field = place.partition(":")[0].split(".")[:2]
        if field in names[section]:
            return f"; here it is `{place}`"
    places = [*_inside(kind.params, "params", name), *_inside(kind.run_model, "run", name)]
    return f"; here it is {' or '.join(f'`{each}`' for each in places)}" if places else None


def _inside(model: type[BaseModel], section: str, name: str) -> Iterator[str]:
    """Yield where a name stands in the groups of a section, such as `params.optimizer.lr`."""
    for field, info in model.model_fields.items():
        groups = [info.annotation, *get_args(info.annotation)]
        models = [each for each in groups if isinstance(each, type) and issubclass(each, BaseModel)]
        if any(name in each.model_fields for each in models):
            yield f"{section}.{field}.{name}"
