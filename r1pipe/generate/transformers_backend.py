"""The backend `transformers`: in this process, on any device (`r1pipe.generate.in_process`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from r1pipe.generate.clusters import ClusterBackend
from r1pipe.generate.protocol import Generator
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.settings import Precision


class TransformersSettings(ClusterBackend):
    """transformers in this process, or as actors on a cluster; batches are bounded by `max_batch`
    of the stage."""

    package = "transformers"

    backend: Literal["transformers"] = "transformers"

    @model_validator(mode="after")
    def _engines_have_a_cluster(self) -> TransformersSettings:
        if self.data_parallel > 1 and self.cluster is None:
            raise ValueError(
                "data_parallel needs a cluster; on one machine raise run.workers, or add"
                " `cluster: ray`"
            )
        return self

    @property
    def samples_policy(self) -> bool:
        """Whether it samples from the very model that is trained, not from weights of its own."""
        return self.cluster is None

    def open_here(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return a generator with the folder's model, frozen."""
        from r1pipe.models.policy import freeze, load_model
        from r1pipe.models.precision import dtype_of

        model = freeze(load_model(folder, dtype=dtype_of(precision), device=run.device))
        return self.open_beside_here(model, tokenizer, run, 1, precision)

    def open_beside_here(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Return a generator that samples from the very model, whatever its weights become."""
        from r1pipe.generate.in_process import TransformersGenerator
        from r1pipe.models.policy import end_ids
        from r1pipe.workers import num_workers

        return TransformersGenerator(
            model,
            end_ids=end_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
            max_batch=run.max_batch,
            workers=num_workers(run.workers, run.device),
            precision=precision,
        )
