"""The most memory that tensors took on this process's GPU, as PyTorch counts it."""

from __future__ import annotations

import torch


class GpuMemory:
    """Counts from when it is made; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> dict[str, int]:
        """Return the most bytes so far, by the name that logs and facts have for them."""
        if self._device.type != "cuda":
            return {}
        return {"peak_gpu_bytes": torch.cuda.max_memory_allocated(self._device)}
