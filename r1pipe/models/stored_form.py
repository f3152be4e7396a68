"""Weights as the files of a family hold them, while they come one after another.

transformers keeps the weights of some families in another form than their files: the experts of a
layer are two tensors in memory, and three for each expert in the files. `save_pretrained` turns a
whole model back. Here it is done as soon as the weights are there that belong together, so that no
more of them are in memory than those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from r1pipe.models.policy import persistent_buffers

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class StoredForm:
    """How a family's files name and shape the weights of a model that has a configuration."""

    def __init__(self, config: PretrainedConfig) -> None:
        with init_empty_weights(include_buffers=True):
            self._model = AutoModelForCausalLM.from_config(config)
        self._model.tie_weights()
        own = dict(self._model.named_parameters()) | persistent_buffers(self._model)
        stored = revert_weight_conversion(self._model, own)
        self.names = frozenset(stored)
        """Of everything that a file has; of tied weights the first."""
        self.num_values = sum(tensor.numel() for tensor in stored.values())
        """Numbers that they hold together."""
        self._groups = self._belonging({n: t for n, t in own.items() if stored.get(n) is not t})

    def _belonging(self, other: dict[str, Tensor]) -> dict[str, frozenset[str]]:
        """Return name -> the names that become stored weights together, of those that change."""
        groups: dict[frozenset[str], set[str]] = {}
        for name, tensor in other.items():
            made = frozenset(revert_weight_conversion(self._model, {name: tensor}))
            groups.setdefault(made, set()).add(name)
        made = frozenset().union(*groups)
        is_partition = len(made) == sum(map(len, groups)) and made <= self.names
        parts = groups.values() if is_partition else [set(other)]
        return {name: frozenset(part) for part in parts for name in part}

    def stored(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield weights by their names in transformers as a file has them.

        What belongs together comes when its last part is there. What the model does not have is
        handed on as it is: a head that is tied, and given all the same.
        """
        waiting: dict[str, Tensor] = {}
        for name, tensor in tensors:
            group = self._groups.get(name)
            if group is None:
                yield name, tensor
                continue
            # the giver's may be another one as soon as the next is asked for
            waiting[name] = tensor if len(group) == 1 else tensor.detach().clone()
            if group <= waiting.keys():
                parts = {each: waiting.pop(each) for each in group}
                yield from revert_weight_conversion(self._model, parts).items()
