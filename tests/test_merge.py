"""The stage `merge`: means worked by hand, and models that do not go together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FakeContext, model, save_policy, stage
from torch import Tensor

from r1pipe.errors import ManifestError, StageError
from r1pipe.manifest import load_manifest
from r1pipe.models.policy import load_model, load_tokenizer
from r1pipe.stage import Inputs

WEIGHTS = "model.safetensors"


def merged(root: Path, folders: dict[str, Path], **weights: float) -> FakeContext:
    kind = stage("merge")
    context = FakeContext(root / "work")
    kind.run(context, kind.params(weights=weights), kind.run_model(), Inputs({"models": folders}))
    return context


def two(root: Path, change: Callable[[Path], None] = lambda folder: None) -> dict[str, Path]:
    found = {name: save_policy(root / name, seed) for seed, name in enumerate("ab", start=1)}
    change(found["b"])
    return found


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_the_mean_of_numbers_is_the_one_worked_by_hand(tmp_path: Path) -> None:
    folders = two(tmp_path)
    write(folders["a"], {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])})
    write(folders["b"], {"w": torch.tensor([5.0, -2.0]), "n": torch.tensor([3])})
    even = load_file(merged(tmp_path / "1", folders).output("model") / WEIGHTS)
    assert (even["w"].tolist(), even["n"].tolist()) == ([3.0, 0.0], [3])
    context = merged(tmp_path / "2", folders, a=6.0, b=2.0)  # shares 0.75 and 0.25
    assert load_file(context.output("model") / WEIGHTS)["w"].tolist() == [2.0, 1.0]
    assert context.notes["shares"] == {"a": 0.75, "b": 0.25}


def test_a_merged_model_loads_and_is_the_mean_of_all_its_weights(tmp_path: Path) -> None:
    folder = merged(tmp_path, two(tmp_path)).output("model")
    found, one, other = load_model(folder), model(1), model(2)
    for name, value in found.named_parameters():
        mean = (one.state_dict()[name] + other.state_dict()[name]) / 2
        assert torch.allclose(value, mean, atol=1e-7), name
    kept = load_tokenizer(tmp_path / "a")
    assert load_tokenizer(folder).chat_template == kept.chat_template
    assert found.generation_config.eos_token_id == [kept.eos_token_id]


def test_the_dtype_is_kept_and_the_sum_is_wider(tmp_path: Path) -> None:
    folders = {name: save_policy(tmp_path / name) for name in "abc"}
    for name, number in zip("abc", (256.0, 1.0, 1.0), strict=True):  # in bfloat16 256 + 1 is 256
        write(folders[name], {"w": torch.tensor([number], dtype=torch.bfloat16)})
    value = load_file(merged(tmp_path, folders).output("model") / WEIGHTS)["w"]
    assert value.dtype == torch.bfloat16
    assert value.item() == 86.0


def test_models_of_several_files_are_read_wherever_a_tensor_is(tmp_path: Path) -> None:
    folders = two(tmp_path)
    write(folders["a"], {"v": torch.tensor([2.0]), "w": torch.tensor([4.0])})
    (folders["b"] / WEIGHTS).unlink()
    for number, name in enumerate("vw"):
        path = folders["b"] / f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: torch.tensor([0.0])}, path, metadata={"format": "pt"})
    found = load_file(merged(tmp_path, folders).output("model") / WEIGHTS)
    assert {name: value.item() for name, value in found.items()} == {"v": 1.0, "w": 2.0}


def a_longer_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = torch.ones(25)
    write(folder, tensors)


def a_missing_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    write(folder, tensors)


def another_dtype(folder: Path) -> None:
    write(folder, {name: value.bfloat16() for name, value in load_file(folder / WEIGHTS).items()})


def another_theta(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_parameters": {"theta": 5}}))


def another_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    found["added_tokens"][0]["content"] = "<|other|>"
    path.write_text(json.dumps(found))


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def a_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][0] = float("nan")
    write(folder, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_longer_tensor, r"a and models.b differ in tensor model.norm.weight: F32 \[24\] and F32"),
        (a_missing_tensor, "differ in tensor model.norm.weight, which only a has"),
        (another_dtype, r"differ in tensor model.embed_tokens.weight: F32 .* and BF16"),
        (another_theta, "differ in config.json: rope_parameters"),
        (another_token, "differ in tokenizer.json: added_tokens"),
        (another_template, "differ in chat template"),
        (an_adapter, "models.b: has an adapter beside its weights; .*merge: true"),
        (a_nan, "merged weights are not finite: 1 of 24 numbers of model.norm.weight"),
    ],
)
def test_models_that_do_not_go_together_are_refused_by_the_first_difference(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        merged(tmp_path, two(tmp_path, change))


def test_one_model_or_a_model_without_a_weight_is_refused(tmp_path: Path) -> None:
    folders = two(tmp_path)
    with pytest.raises(StageError, match=r"inputs.models has only a; name two"):
        merged(tmp_path, {"a": folders["a"]})
    with pytest.raises(StageError, match=r"params.weights has none for b; give every model one"):
        merged(tmp_path, folders, a=1.0)


def test_a_weight_for_a_model_that_is_not_there_is_refused_in_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "soup.yaml"
    path.write_text(
        "r1pipe: 1\nname: soup\n"
        "sources: {one: {path: one, as: model}, two: {path: two, as: model}}\n"
        "stages:\n"
        "  soup: {kind: merge, inputs: {models: {one: one, two: two}},"
        " params: {weights: {one: 1.0, tow: 1.0}}}\n"
    )
    with pytest.raises(ManifestError, match=r"soup.yaml:5:\d+: .*soup.params names tow, but"):
        load_manifest(path)
