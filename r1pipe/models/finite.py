"""Weights that are not finite: they are found before they are written anywhere."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from r1pipe.errors import StageError


def check_finite(tensors: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Raise StageError, which names `what` and the first tensor that holds a NaN or an infinity."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise StageError(
                f"{what} are not finite: {bad:,} of {tensor.numel():,} numbers of {name}; nothing"
                " is written. Usual causes: a learning rate that is too high"
                " (params.optimizer.lr), or a model that was broken before"
            )
