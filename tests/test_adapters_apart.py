"""Low-rank adapters that are kept apart: what is written, who reads them, and refusals."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import ADAPTER, LAYER, sft
from test_generator_conformance import model as model_for_vllm
from tiny import (
    FakeContext,
    corpus_rows,
    grpo_params,
    problems,
    stage,
    tokenizer,
)
from transformers import AutoModelForCausalLM

from r1pipe.engine_settings import TrainRun
from r1pipe.errors import StageError
from r1pipe.evaluation.harness_process import prepared
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.models.adapters import add_adapter
from r1pipe.models.policy import load_model, load_tokenizer, save_model
from r1pipe.models.stored_adapters import is_apart, stored_adapter, whole_folder
from r1pipe.rows import write_problems, write_rows
from r1pipe.settings import ModelParams
from r1pipe.stage import Inputs
from r1pipe.train.deepspeed_backend import DeepSpeedSettings

APART = ADAPTER.model_copy(update={"merge": False})


def test_an_adapter_apart_stands_beside_the_bases_own_bytes(tmp_path: Path) -> None:
    out = sft(tmp_path, "apart", adapter=APART).output("model")
    base = tmp_path / "model"
    for path in base.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
        assert (out / path.name).stat().st_ino == path.stat().st_ino, "it takes no room"
    added = {path.name for path in out.iterdir()} - {path.name for path in base.iterdir()}
    assert added == {"adapter_config.json", "adapter_model.safetensors"}
    tensors = load_file(out / "adapter_model.safetensors")
    assert tensors[f"base_model.model.{LAYER}.lora_A.weight"].shape == (4, 24)
    again = sft(tmp_path, "again", adapter=APART).output("model")
    files = ["adapter_config.json", "adapter_model.safetensors"]
    assert [(out / f).read_bytes() for f in files] == [(again / f).read_bytes() for f in files]


def test_whoever_loads_an_adapter_apart_gets_the_merged_model(tmp_path: Path) -> None:
    merged = sft(tmp_path, "merged").output("model")
    out = sft(tmp_path, "apart", adapter=APART).output("model")
    expected = load_file(merged / "model.safetensors")
    loaded = load_model(out)
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    found = dict(loaded.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with whole_folder(out) as whole:
        assert load_file(whole / "model.safetensors").keys() == expected.keys()
        assert {p.name for p in whole.iterdir()} == {p.name for p in (tmp_path / "model").iterdir()}
        written = load_file(whole / "model.safetensors")
        assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert not whole.exists()
    with whole_folder(merged) as whole:
        assert whole == merged
    loaded.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == expected.keys()


def test_transformers_itself_loads_an_adapter_apart(tmp_path: Path) -> None:
    out = sft(tmp_path, "apart", adapter=APART).output("model")
    theirs: Any = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(theirs(ids).logits, load_model(out)(ids).logits)
    assert not torch.allclose(theirs(ids).logits, load_model(tmp_path / "model")(ids).logits)


def test_without_peft_nothing_of_the_adapter_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = sft(tmp_path, "apart", adapter=APART).output("model")
    expected = load_model(out).state_dict()
    for module in ("transformers.models.auto.auto_factory", "transformers.integrations.peft"):
        monkeypatch.setattr(f"{module}.is_peft_available", lambda: False)
    found = load_model(out).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_stages_read_an_adapter_apart_as_any_model(tmp_path: Path) -> None:
    merged = sft(tmp_path, "merged").output("model")
    apart = sft(tmp_path, "apart", adapter=APART).output("model")
    write_problems(tmp_path / "problems", problems(8, max_chars=18))
    kind, ends = stage("grpo"), []
    for folder in (merged, apart):
        context = FakeContext(tmp_path / f"grpo-{folder.parent.parent.name}")
        inputs = Inputs({"model": folder, "problems": tmp_path / "problems"})
        kind.run(context, grpo_params(adapter=ADAPTER), kind.run_model(workers=1), inputs)
        ends.append(load_file(context.output("model") / "model.safetensors"))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert load_tokenizer(apart).eos_token_id == load_tokenizer(merged).eos_token_id


def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folder of a merged model, and one of the same with its adapter apart."""
    merged, apart = (
        sft(tmp_path, name, adapter=each).output("model")
        for name, each in (("merged", ADAPTER), ("apart", APART))
    )
    return merged, apart


def greedy(folder: Path, run: SampleRun) -> list[list[int]]:
    """Return the most likely completions of two prompts, as a stage that samples opens a model."""
    asked = [Request((9, 30, 41), 0, 0), Request((7, 8), 1, 1)]
    with open_generator(folder, run) as (generator, _):
        made = list(generator.generate(asked, SamplingParams(0.0, 1.0, 12)))
    return [s.token_ids for s in sorted(made, key=lambda sampled: sampled.index)]


def test_evaluation_and_rejection_sampling_draw_from_the_base_with_its_adapter(
    tmp_path: Path,
) -> None:
    merged, apart = pair(tmp_path)
    found = greedy(apart, SampleRun(workers=1))
    assert found == greedy(merged, SampleRun(workers=1))
    assert found != greedy(tmp_path / "model", SampleRun(workers=1))


@pytest.mark.engines
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm")
def test_vllm_draws_from_the_base_with_its_adapter(tmp_path: Path) -> None:
    save_model(model_for_vllm(), tokenizer(), tmp_path / "model")
    write_rows(tmp_path / "rows", corpus_rows(8, "chat"))
    merged, apart = pair(tmp_path)
    run = SampleRun(generator=VllmSettings(backend="vllm", kv_cache_mb=16))
    found = greedy(apart, run)
    assert found == greedy(merged, SampleRun(workers=1))
    assert found != greedy(tmp_path / "model", SampleRun(workers=1))


def test_the_harness_is_given_a_model_with_its_adapter_in_the_weights(tmp_path: Path) -> None:
    merged, apart = pair(tmp_path)
    (tmp_path / "work").mkdir()
    prepared(tmp_path / "work", apart, None)
    found = tmp_path / "work" / "model"
    assert not is_apart(found)
    wanted = load_file(merged / "model.safetensors")
    assert all(
        torch.equal(load_file(found / "model.safetensors")[name], wanted[name]) for name in wanted
    )


def test_an_adapter_apart_on_an_adapter_apart_is_refused_before_it_is_trained(
    tmp_path: Path,
) -> None:
    apart = sft(tmp_path, "apart", adapter=APART).output("model")
    assert is_apart(apart)
    with pytest.raises(StageError, match="the input is itself a base with an adapter apart"):
        add_adapter(load_model(apart), APART, 1)
    add_adapter(load_model(apart), ADAPTER, 1)


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    apart = sft(tmp_path, "apart", adapter=APART).output("model")
    config = json.loads((apart / "adapter_config.json").read_text())
    (apart / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(StageError, match="only plain LoRA is read"):
        stored_adapter(apart)


def test_an_adapter_apart_from_sharded_weights_is_refused_by_the_plan() -> None:
    params: Any = grpo_params(adapter=APART)
    settings = {n: DeepSpeedSettings(backend="deepspeed", zero_stage=n) for n in (2, 3)}
    runs = {number: TrainRun(engine=each) for number, each in settings.items()}
    assert "set zero_stage: 2" in str(runs[3].incompatible_with(params))
    assert runs[2].incompatible_with(params) is None
    assert runs[3].incompatible_with(ModelParams()) is None
    merged: Any = grpo_params(adapter=ADAPTER)
    assert runs[3].incompatible_with(merged) is None
