"""What runs inside vLLM's workers: taking new weights. vLLM imports it by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from r1pipe.generate.protocol import Weights
from r1pipe.generate.weight_group import Meeting, WeightGroup
from r1pipe.generate.weights import read_weights
from r1pipe.models.policy import OFFLINE
from r1pipe.models.stored_form import StoredForm


class WeightReceiver:
    """Mixed into vLLM's worker class."""

    model_runner: Any
    device: Any
    rank: int
    r1pipe_group: WeightGroup | None = None

    def r1pipe_load(self, tensors: Weights = (), paths: Sequence[str] = ()) -> list[str]:
        """Replace all weights by tensors as files of the model have them, given or in files; return
        vLLM's names of what it did not get.

        Each tensor is copied: vLLM keeps them until a layer is whole, and the giver may free or
        change its own as soon as the next one is asked for.
        """
        given = read_weights(Path(path) for path in paths) if paths else tensors
        model = self.model_runner.get_model()
        forget_packed_experts(model)
        with left_names(model) as left:
            self.model_runner.reload_weights(
                weights_iterator=((name, tensor.detach().clone()) for name, tensor in given)
            )
        head = getattr(model, "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            # on a CPU the head has a packed copy, which a tied embedding leaves as it was
            head.quant_method.process_weights_after_loading(head)
        return sorted(left)

    def r1pipe_join(self, meeting: Meeting, first: int) -> None:
        """Join the group in which weights are broadcast, as one of the ranks from `first` on."""
        self.r1pipe_leave()
        self.r1pipe_group = WeightGroup(meeting, first + self.rank, self.device)

    def r1pipe_leave(self) -> None:
        """Leave the group, if there is one."""
        if self.r1pipe_group is not None:
            self.r1pipe_group.close()
        self.r1pipe_group = None

    def r1pipe_receive(self, folder: str) -> tuple[list[str], list[str]]:
        """Replace all weights by those that are broadcast now; return what vLLM did not get of its
        own, and what a file of the model, which is in a folder, has and was not sent."""
        assert self.r1pipe_group is not None, "the group is joined first"
        form, seen = stored_form(folder), set[str]()
        left = self.r1pipe_load(noted(form.stored(self.r1pipe_group.receive()), seen))
        return left, sorted(form.names - seen)


@cache
def stored_form(folder: str) -> StoredForm:
    """Return how files hold the model of a folder; the same for every push."""
    return StoredForm(AutoConfig.from_pretrained(folder, **OFFLINE))


def noted(tensors: Weights, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Hand tensors on, and add their names to a set."""
    for name, tensor in tensors:
        seen.add(name)
        yield name, tensor


def forget_packed_experts(model: Any) -> None:
    """Have a CPU pack the experts of a mixture again: vLLM does so for the first weights only, and
    would compute with new ones that are not packed. GPUs have graphs that keep what is there."""
    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        is_on_cpu = all(tensor.device.type == "cpu" for tensor in layer.parameters(recurse=False))
        if is_on_cpu and getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


@contextmanager
def left_names(model: Any) -> Iterator[set[str]]:
    """Give a set to which loading adds, inside the block, the parameters that it has left out.

    vLLM itself only logs them. Loaders of some models do not say what they loaded.
    """
    left: set[str] = set()
    known = {name for name, _ in model.named_parameters()}  # of tied ones the first

    def load_weights(weights: Weights) -> set[str] | None:
        loadable = {name for name, _ in model.named_parameters()}  # nothing that is made of others
        found: set[str] | None = type(model).load_weights(model, weights)
        left.update(known & loadable - found if found is not None else ())
        return found

    model.load_weights = load_weights
    try:
        yield left
    finally:
        del model.load_weights
