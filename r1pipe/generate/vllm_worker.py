"""What runs inside vLLM's workers: taking new weights. vLLM imports it by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.generate.protocol import Weights
from r1pipe.generate.weights import read_weights


class WeightReceiver:
    """Mixed into vLLM's worker class."""

    model_runner: Any

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
