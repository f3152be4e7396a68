"""What runs inside vLLM's workers: taking new weights. vLLM imports it by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1pipe.generate.protocol import Weights
from r1pipe.generate.weights import read_weights


class WeightReceiver:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def r1pipe_load(self, tensors: Weights = (), paths: Sequence[str] = ()) -> None:
        """Replace all weights by tensors under their names in transformers, given or in files.

        Each tensor is copied: vLLM keeps them until a layer is whole, and the giver may free or
        change its own as soon as the next one is asked for.
        """
        given = read_weights(Path(path) for path in paths) if paths else tensors
        self.model_runner.reload_weights(
            weights_iterator=((name, tensor.detach().clone()) for name, tensor in given)
        )
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            # on a CPU the head has a packed copy, which a tied embedding leaves as it was
            head.quant_method.process_weights_after_loading(head)
