"""Frozen weights in four bits under an adapter (QLoRA, arXiv:2305.14314): `adapter.quantize`.

Each weight of a linear layer is one of 16 levels of a normal distribution (NF4), times the largest
of its block of 64, which is itself in eight bits. The head, the embedding and the norms stay as
they are. bitsandbytes has the arithmetic.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.precision import dtype_of
from r1pipe.settings import Precision


def quantize(model: LanguageModel, precision: Precision, device: str) -> LanguageModel:
    """Move a model to a device, its linear layers in four bits, one layer at a time.

    Raises StageError if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise StageError(
            "params.adapter.quantize: nf4 needs bitsandbytes, which is not installed; install it"
            " with: pip install bitsandbytes, or leave quantize out"
        )
    head = model.get_output_embeddings()
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module is not head
    ]
    for name, layer in layers:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, _in_four_bits(layer, precision).to(device))
    return model.to(device)


def _in_four_bits(layer: torch.nn.Linear, precision: Precision) -> torch.nn.Module:
    """Return a layer whose weight becomes four bits when it is moved to its device."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        made: Any = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=dtype_of(precision),
            quant_type="nf4",
        )
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    made.bias = layer.bias
    module: torch.nn.Module = made
    return module


def is_quantized(parameter: Tensor) -> bool:
    """Return whether a parameter is in four bits."""
    return getattr(parameter, "quant_state", None) is not None


def dequantized(parameter: Tensor) -> Tensor:
    """Return the weight that a parameter stands for: itself, unless it is in four bits."""
    if not is_quantized(parameter):
        return parameter
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(parameter.data, parameter.quant_state)  # type: ignore[attr-defined]
    return found
