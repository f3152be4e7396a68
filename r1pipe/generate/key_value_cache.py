"""Cache of keys and values that grows in place.

# B sequences of a batch, H heads of keys, T tokens so far, D values of a head
transformers' own layer joins old and new by `torch.cat`: every token copies the whole cache, which
is more memory traffic than the attention's own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 32
"""Tokens that a new buffer has room for beyond those that it is given."""


def key_value_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model; layers that attend to everything grow in place."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types of it
    """Writes new keys and values into a buffer a quarter longer than needed.

    `keys` and `values`, [B, H, T, D], are views of what is filled: the same numbers as those of
    `DynamicLayer`.
    """

    keys: Tensor | None
    values: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self._keys, self._values = _Buffer(), _Buffer()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [B, H, new, D] to both; return all of both."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._keys.appended(self.keys, key_states)
        self.values = self._values.appended(self.values, value_states)
        return self.keys, self.values


class _Buffer:
    """Memory behind one layer's keys, or values."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.filled: Tensor | None = None
        """What `appended` returned last: a view of `memory`."""

    def appended(self, old: Tensor | None, new: Tensor) -> Tensor:
        """Return `old` followed by `new`. Only what this returned last is not copied."""
        length = 0 if old is None or old.numel() == 0 else old.shape[-2]
        if not length:
            self.memory, self.filled = None, new
            return new
        assert old is not None
        end = length + new.shape[-2]
        if self.memory is None or old is not self.filled or end > self.memory.shape[-2]:
            room = end + max(LEAST_ROOM, end // 4)
            self.memory = new.new_empty(*new.shape[:-2], room, new.shape[-1])
            self.memory[..., :length, :] = old
        self.memory[..., length:end, :] = new
        self.filled = self.memory[..., :end, :]
        return self.filled
