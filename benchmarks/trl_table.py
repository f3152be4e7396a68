"""The table of a loss and its gradient beside TRL's, one row for each loss, and TRL's values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import trl
from fixed_batch import policy, summary
from tiny import tokenizer
from torch import Tensor

from r1pipe.models.policy import save_model

LossAndGradients: TypeAlias = tuple[float, dict[str, Tensor]]


def compare(
    names: Iterable[str],
    trl_loss: Callable[[str, Path], LossAndGradients],
    our_loss: Callable[[str], LossAndGradients],
    head: str,
    golden_path: Path | None,
) -> None:
    """Print the table; write TRL's values into `golden_path` if there is one.

    `trl_loss` is given a loss's name and a folder with the policy in `policy`.
    """
    versions = {"trl": trl.__version__, "torch": torch.__version__}
    golden: dict[str, Any] = {"versions": versions, "losses": {}}
    print(f"TRL {versions['trl']}, torch {versions['torch']}, {head}\n")
    print("| loss | TRL | r1pipe | difference | norm of the gradient | largest difference |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        save_model(policy(), tokenizer(), Path(folder) / "policy")
        for name in names:
            theirs, their_gradients = trl_loss(name, Path(folder))
            ours, our_gradients = our_loss(name)
            assert our_gradients.keys() == their_gradients.keys()
            apart = max(
                float((our_gradients[n] - g).abs().max()) for n, g in their_gradients.items()
            )
            found = summary(theirs, their_gradients)
            golden["losses"][name] = found
            print(
                f"| `{name}` | {theirs:.7f} | {ours:.7f} | {abs(ours - theirs):.1e}"
                f" | {found['norm']:.5f} | {apart:.1e} |"
            )
    if golden_path is not None:
        golden_path.write_text(json.dumps(golden, indent=1) + "\n")
