"""Settings of this process that must be made before torch is imported."""

from __future__ import annotations

import ctypes
import logging
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEEP_BYTES = 1 << 30


def prepare_process() -> None:
    """Set one thread for each operation, and keep freed memory for the next micro-batch.

    Whole micro-batches are shared by threads instead (`r1pipe.workers`): that is faster, and
    results do not depend on the number of cores. OpenMP threads that spin on busy cores make
    everything ten times slower; giving large blocks back to the system after each operation costs a
    quarter of the training speed. What the user has set in the environment stands.
    """
    for name, value in (
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("OMP_NUM_THREADS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("TORCH_CPP_LOG_LEVEL", "ERROR"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("DeepSpeed").addFilter(_is_worth_saying)
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * KEEP_BYTES - 1)
    except (OSError, AttributeError):
        return  # another C library: only slower


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Return whether a line of DeepSpeed, which transformers imports where it is installed, tells
    more than that there is no GPU."""
    return "Setting accelerator to CPU" not in record.getMessage()
