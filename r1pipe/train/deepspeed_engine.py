"""Training with DeepSpeed: ZeRO stages 0 to 3, in the processes of a stage (`r1pipe.ranks`).

Every rank is handed all micro-batches of a step and computes its share: some of them, or shards of
some (`r1pipe.train.sequence_parallel`). The denominator of the loss counts the whole step, so
neither the micro-batches nor the ranks change the gradient. DeepSpeed averages gradients over the
ranks; the loss is multiplied by their number, which makes it the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1pipe.models.adapters import is_adapted, merged_weights
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import persistent_buffers
from r1pipe.models.precision import dtype_of
from r1pipe.models.stored_adapters import PART
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
)
from r1pipe.train.engine import LossFunction, Measures, TokenFunction, add_up
from r1pipe.train.logprobs import measure_in_one_call
from r1pipe.train.state import MOMENTS, StateWriter, read_state, write_facts

if TYPE_CHECKING:
    from r1pipe.train.deepspeed_backend import DeepSpeedSettings

from deepspeed.utils import (  # isort: skip - its own set-up comes first
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)


class DeepSpeedEngine:
    """A model whose optimizer state, gradients and weights are sharded among all ranks."""

    def __init__(
        self,
        model: LanguageModel,
        settings: DeepSpeedSettings,
        ranks: Ranks,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        precision: Precision = "float32",
    ) -> None:
        join_process_group()
        if settings.zero_stage == 3 and is_adapted(model):
            _cast_adapters(model, precision)
        self.model = model
        self.ranks = ranks
        self.stage = settings.zero_stage
        self.max_grad_norm = max_grad_norm
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = model.device
        self.num_steps = 0
        self.sharder = BatchSharder(model, ranks, settings.sequence_parallel)
        if settings.zero_stage == 3:
            measure_in_one_call(model)
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=betas, weight_decay=weight_decay, fused=True
        )
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=RootModule(model),
            optimizer=optimizer,
            config=config_of(settings, precision, max_grad_norm),
        )
        self.engine.train()

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """Add the gradients of this rank's micro-batches; return `loss`, sums and peaks of all.

        Call it once for a step: DeepSpeed reduces gradients at the last micro-batch. Every rank
        runs as many forward passes; if they do not divide evenly, the last ones count nothing.
        """
        measures: list[Measures] = []
        everyone = list(batches)
        with self.sharder.attending(everyone):
            for batch, is_last, counts in self.sharder.mine(everyone):
                self.engine.set_gradient_accumulation_boundary(is_last)
                value, part = self.engine(batch, loss)
                self.engine.backward(value * float(self.ranks.size * counts))
                if counts:
                    measures.append(part.measures())
        totals = {"loss": 0.0}
        for of_round in zip_longest(*self.ranks.gather(measures)):
            for each in of_round:
                if each is not None:
                    add_up(totals, each)
        return totals

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping.

        If it is not finite, no weight changes: from ZeRO 1 on DeepSpeed itself discards the step
        and says `inf`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm: Any = None
        if self.stage == 0:  # here DeepSpeed does not tell the norm
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
            if not norm.isfinite():
                self.optimizer.zero_grad(set_to_none=True)
                return float(norm)
        self.engine.step()
        self.num_steps += 1
        return float(self.engine.get_global_grad_norm() if norm is None else norm)

    def per_token(
        self, batches: Iterable[MicroBatch], function: TokenFunction
    ) -> list[list[float]]:
        """Return the function's numbers for every micro-batch, in their order, on every rank.

        Each rank computes its share; all run as many forward passes.
        """
        return self.sharder.per_token(self.engine, batches, function)

    def writing(self, parameter: Tensor) -> AbstractContextManager[object]:
        """Gather a parameter that is sharded, and shard it again after the block."""
        return gathered(parameter, is_written=True) if self.stage == 3 else nullcontext()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter, whole, by name; adapters merged. All ranks must go through all of
        them."""
        if is_adapted(self.model):
            yield from merged_weights(self.model, gathered if self.stage == 3 else None)
            return
        for name, parameter in self.parameters.items():
            with self._whole(parameter):
                yield name, parameter.data.clone() if self.stage == 3 else parameter
        yield from persistent_buffers(self.model).items()

    def consolidated(self) -> dict[str, Tensor] | None:
        """Return the float32 weights in this process's memory on rank 0, None elsewhere; those of
        adapters are merged as they compute, so in the precision of the training."""
        if is_adapted(self.model):
            merged = dict[str, Tensor]()
            for name, tensor in self.weights():  # on every rank, which may hold a shard
                if self.ranks.is_main:
                    merged[name] = tensor.detach().to("cpu", copy=True)
            return merged if self.ranks.is_main else None
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            weight = self._master(parameter)
            if self.ranks.is_main:
                found[name] = weight.detach().to("cpu", copy=True)
        if not self.ranks.is_main:
            return None
        buffers = persistent_buffers(self.model)
        return found | {name: b.detach().to("cpu", copy=True) for name, b in buffers.items()}

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state, exactly, into an existing folder, by ranks."""
        is_alone = self.ranks.size == 1
        writer = StateWriter(folder, "engine" if is_alone else f"engine-{self.ranks.rank:05d}")
        for number, (name, parameter) in enumerate(self.parameters.items()):
            is_mine = number % self.ranks.size == self.ranks.rank
            for key, tensor in self._state(parameter):
                if is_mine:
                    writer.add(f"{key}:{name}", tensor)
        writer.flush()
        if self.ranks.is_main:
            write_facts(folder, backend="deepspeed", zero_stage=self.stage, ranks=self.ranks.size)

    def load(self, folder: Path) -> None:
        """Read what the `save` of any engine wrote, on any number of ranks."""
        self._make_optimizer_state()
        steps: set[float] = set()
        for name, weight, state in read_state(folder, list(self.parameters)):
            parameter = self.parameters[name]
            self._set(parameter, weight.to(self.device), state)
            steps.add(float(state.get("step", 0.0)))
        assert len(steps) == 1, "all parameters were updated as often"
        self._set_num_steps(int(steps.pop()))

    def close(self) -> None:
        """Free DeepSpeed's memory; the model is not usable afterwards."""
        self.sharder.close()
        self.engine.destroy()

    # ---- one parameter ---------------------------------------------------------------------------

    def _whole(self, parameter: Tensor) -> AbstractContextManager[object]:
        """Gather a parameter that is sharded (ZeRO-3) inside the block."""
        return gathered(parameter) if self.stage == 3 else nullcontext()

    def _master(self, parameter: Tensor) -> Tensor:
        """Return the float32 weight that the optimizer updates, whole."""
        if self.stage == 0:
            return parameter.data
        master: Tensor = safe_get_full_fp32_param(parameter)
        return master

    def _state(self, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield weight, moments and step count of a parameter, whole, under their names."""
        yield "weight", self._master(parameter)
        if not self.num_steps:
            return
        for key in MOMENTS:
            if self.stage == 0:
                yield f"optimizer:{key}", self.optimizer.state[parameter][key]
            else:
                yield f"optimizer:{key}", safe_get_full_optimizer_state(parameter, key)
        yield "optimizer:step", torch.tensor(float(self.num_steps))

    def _set(self, parameter: Tensor, weight: Tensor, state: dict[str, Tensor]) -> None:
        """Replace the weight (with its float32 master) and the moments of a parameter."""
        if self.stage:
            safe_set_full_fp32_param(parameter, weight)
        with self.writing(parameter):
            parameter.data.copy_(weight)
        for key in MOMENTS:
            moment = state[key].to(self.device) if state else torch.zeros_like(weight)
            if self.stage == 0:
                self.optimizer.state[parameter][key].copy_(moment)
            else:
                safe_set_full_optimizer_state(parameter, moment, key)

    # ---- the optimizer's own state ---------------------------------------------------------------

    def _make_optimizer_state(self) -> None:
        """Give every flat shard its moments, which AdamW itself makes at its first step."""
        if self.num_steps:
            return
        for part in self._flat_shards():
            self._base().state[part] = {
                "step": torch.tensor(0.0, device=part.device),
                **{key: torch.zeros_like(part) for key in MOMENTS},
            }
        if self.stage in (1, 2):  # where DeepSpeed looks a parameter's moments up
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_num_steps(self, count: int) -> None:
        self.num_steps = count
        for part in self._flat_shards():
            self._base().state[part]["step"].fill_(float(count))

    def _base(self) -> torch.optim.Optimizer:
        """Return the AdamW inside DeepSpeed's optimizer."""
        base: torch.optim.Optimizer = (
            self.optimizer if self.stage == 0 else self.optimizer.optimizer
        )
        return base

    def _flat_shards(self) -> list[Tensor]:
        """Return the tensors that AdamW updates on this rank."""
        if self.stage == 0:
            return list(self.parameters.values())
        name = (
            "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        )
        return list(getattr(self.optimizer, name))


def _cast_adapters(model: LanguageModel, precision: Precision) -> None:
    """Give adapters the dtype of the weights beside them: DeepSpeed casts whole models only, and
    this one may be sharded already. What the optimizer updates stays float32."""
    for name, parameter in model.named_parameters():
        if PART in name:
            parameter.data = parameter.data.to(dtype_of(precision))
