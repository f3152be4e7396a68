"""The yield during sampling: rows kept, and the samples still needed for the target."""

from __future__ import annotations

import time

from r1pipe.rejection.writer import UnitResult

RECENT = 0.9
"""Weight of what came before in the moving yield; duplicates make it fall as sampling goes on."""


class Forecast:
    """Rows kept so far, and the samples that the target still needs at the present yield."""

    def __init__(self, target_rows: int) -> None:
        self.target_rows = target_rows
        self.num_kept = self.num_samples = self.num_tokens = 0
        self._recent_rows = self._recent_samples = 0.0
        self._sampled_tokens = 0
        self._began: float | None = None

    def add(self, result: UnitResult, is_sampled: bool) -> None:
        """Count a unit; `is_sampled` is False for one that was replayed."""
        self.num_kept += result.num_new
        self.num_samples += result.num_rows
        self.num_tokens += result.num_tokens
        self._recent_rows = RECENT * self._recent_rows + result.num_new
        self._recent_samples = RECENT * self._recent_samples + result.num_rows
        self._sampled_tokens += result.num_tokens if is_sampled else 0

    def start(self) -> None:
        """Count time from here, the first time: replayed units are not sampling."""
        self._began = self._began or time.perf_counter()

    def values(self, samples_left: int) -> tuple[dict[str, float], float]:
        """Return what is logged (rows kept, tokens/s, the way to the target), and the samples that
        this way takes.

        `forecast_rows` are the rows in the end, fewer than the target if it is out of reach; the
        way is left out as long as nothing is kept.
        """
        seconds = time.perf_counter() - self._began if self._began else 0.0
        tokens_per_s = self._sampled_tokens / seconds if seconds else 0.0
        values = {"kept": float(self.num_kept), "tokens_per_s": tokens_per_s}
        if not self._recent_rows:
            return values, float(samples_left)
        rows_per_sample = self._recent_rows / self._recent_samples
        missing = max(0, self.target_rows - self.num_kept)
        samples = min(missing / rows_per_sample, samples_left)
        tokens = samples * self.num_tokens / self.num_samples
        values["forecast_rows"] = round(self.num_kept + samples * rows_per_sample)
        values["target_tokens"] = float(round(tokens))
        if tokens_per_s:
            values["target_s"] = tokens / tokens_per_s
        return values, samples
