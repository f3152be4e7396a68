"""The precision in which a model computes: `params.precision`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from r1pipe.models.interfaces import LanguageModel
from r1pipe.settings import Precision


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of weights that are only loaded to compute, never trained."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def computing(model: LanguageModel, precision: Precision) -> AbstractContextManager[object]:
    """Give a block in which a model computes in a precision, for the thread that enters it.

    Weights of that precision need nothing; float32 ones compute in bfloat16 under autocast.
    """
    if precision == "float32" or model.dtype == torch.bfloat16:
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


def cast_weights(model: LanguageModel, precision: Precision) -> LanguageModel:
    """Return the model with its weights in a precision; buffers, such as the frequencies of
    rotary positions, stay in float32, as they are in a model that is loaded in bfloat16."""
    for parameter in model.parameters():
        if parameter.is_floating_point():  # else it is quantized
            parameter.data = parameter.data.to(dtype_of(precision))
    return model
