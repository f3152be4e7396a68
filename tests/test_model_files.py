"""The files of a model: the same weights are the same bytes, whichever transformers wrote them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import FakeContext, model, save_policy, tokenizer

from r1pipe.supervision.reward_model import new_reward_model, write_reward_model

NEWER = b"9.9.9"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def use_newer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have transformers say of itself that it is newer; what it writes by itself has that."""
    for module in ("configuration_utils", "generation.configuration_utils"):
        monkeypatch.setattr(f"transformers.{module}.__version__", NEWER.decode())
    model().save_pretrained(folder)
    assert all(NEWER in files(folder)[name] for name in ("config.json", "generation_config.json"))


def test_a_policys_files_are_those_of_an_older_transformers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = files(save_policy(tmp_path / "before"))
    use_newer(monkeypatch, tmp_path / "newer")
    assert files(save_policy(tmp_path / "after")) == before


def test_a_reward_models_files_are_those_of_an_older_transformers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = save_policy(tmp_path / "policy")

    def written(name: str) -> dict[str, bytes]:
        context = FakeContext(tmp_path / name)
        made: Any = new_reward_model(policy, seed=1)
        engine = SimpleNamespace(model=made, consolidated=made.state_dict, close=lambda: None)
        write_reward_model(context, engine, tokenizer(), "float32")
        return files(context.output("model"))

    before = written("before")
    use_newer(monkeypatch, tmp_path / "newer")
    assert written("after") == before
