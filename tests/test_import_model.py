"""Models from outside: what is kept, what is made of them on request, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import FakeContext, stage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from r1pipe import chat
from r1pipe.errors import StageError
from r1pipe.models.foreign import _check_shapes, load_foreign
from r1pipe.models.policy import end_ids, load_model, load_tokenizer, new_model
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.models.tokenizer import TAGS
from r1pipe.stage import Inputs

CHATML = (
    "{% for m in messages %}{{ '<im>' + m.role + ':' + m.content + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im>assistant:' }}{% endif %}"
)
NEW = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", *TAGS)


def foreign_tokenizer(has_bos: bool = False) -> Any:
    """Return a byte-level tokenizer that knows nothing of the recipe's tags."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<eos>", "<bos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if has_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<eos>",
        pad_token="<eos>",
        bos_token="<bos>",
        chat_template=CHATML,
    )


def write_foreign(
    folder: Path, *, dtype: torch.dtype = torch.bfloat16, is_tied: bool = True, **options: Any
) -> Path:
    tok = foreign_tokenizer(**options)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    policy: Any = new_model(
        tok, **sizes, intermediate_size=32, max_positions=64, init_std=0.1, seed=1
    )
    if not is_tied:
        policy.config.tie_word_embeddings = False
        own = policy.lm_head.weight.detach().clone()
        policy.lm_head.weight = torch.nn.Parameter(own * 2)
    policy.generation_config.eos_token_id = [tok.eos_token_id, 5000]
    policy.to(dtype).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return write_foreign(tmp_path / "foreign")


def imported(work: Path, source: Path, **params: Any) -> FakeContext:
    kind = stage("import-model")
    context = FakeContext(work)
    kind.run(context, kind.params(**params), kind.run_model(), Inputs({"source": source}))
    return context


# ---- kept as it is -------------------------------------------------------------------------------


def test_weights_dtype_tokens_and_template_stay_by_default(tmp_path: Path, foreign: Path) -> None:
    context = imported(tmp_path / "work", foreign)
    folder = context.output("model")
    before, after = (load_file(f / "model.safetensors") for f in (foreign, folder))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert (after[name].dtype, weight.dtype) == (torch.bfloat16, torch.bfloat16)
        assert torch.equal(after[name], weight)
    old, new = load_tokenizer(foreign), load_tokenizer(folder)
    assert (len(new), new.eos_token_id, new.pad_token_id) == (len(old), 0, 0)
    assert new.chat_template == CHATML
    assert new.decode(encode_prompt(new, "2+3", "chat")) == "<im>user:2+3<eos><im>assistant:"
    assert context.notes["new_tokens"] == []
    assert context.notes["chat_template"] == "the model's own"
    assert context.notes["dtype"] == "bfloat16"


def test_weights_become_another_dtype_on_request(tmp_path: Path, foreign: Path) -> None:
    folder = imported(tmp_path / "work", foreign, dtype="float32").output("model")
    before, after = (load_file(f / "model.safetensors") for f in (foreign, folder))
    for name, weight in before.items():
        assert torch.equal(after[name], weight.float())
        assert after[name].dtype is torch.float32


def test_an_end_outside_the_vocabulary_is_dropped_and_told(tmp_path: Path, foreign: Path) -> None:
    context = imported(tmp_path / "work", foreign)
    folder = context.output("model")
    assert context.notes["end_ids_outside_the_vocabulary"] == [5000]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0]
    assert end_ids(load_model(folder), load_tokenizer(folder)) == [0]


def test_a_template_that_opens_the_thought_is_told(tmp_path: Path, foreign: Path) -> None:
    tok: Any = load_tokenizer(foreign)
    tok.chat_template = CHATML.replace("assistant:", "assistant:<think>\\n")
    tok.save_pretrained(foreign)
    assert imported(tmp_path / "work", foreign).notes["opened_thought"] == "<think>\n"


def test_the_same_model_from_outside_becomes_the_same_bytes(tmp_path: Path, foreign: Path) -> None:
    weights = []
    for name in ("a", "b"):
        torch.rand(3)  # what ran before in the same process must not matter
        folder = imported(tmp_path / name, foreign, tags="own").output("model")
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


# ---- tags as whole tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("is_tied", [True, False])
def test_new_tokens_start_from_their_own_text_and_the_end_from_the_models_end(
    tmp_path: Path, is_tied: bool
) -> None:
    source = write_foreign(tmp_path / "foreign", dtype=torch.float32, is_tied=is_tied)
    context = imported(tmp_path / "work", source, tags="own")
    folder = context.output("model")
    tok: Any = load_tokenizer(folder)
    before, after = load_model(source), load_model(folder)
    assert sorted(context.notes["new_tokens"]) == sorted(NEW)
    assert [len(tok(tag)["input_ids"]) for tag in NEW] == [1] * len(NEW)
    for table in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(each, table)().weight.detach() for each in (before, after))
        torch.testing.assert_close(new[: len(old)], old, rtol=0, atol=0)
        letters = [foreign_tokenizer().convert_tokens_to_ids(letter) for letter in "<think>"]
        row = new[tok.convert_tokens_to_ids("<think>")]
        torch.testing.assert_close(row, old[letters].mean(dim=0))
        assert torch.equal(new[tok.convert_tokens_to_ids("<|end|>")], old[0])
    assert (tok.eos_token, tok.pad_token) == ("<|end|>", "<|pad|>")
    assert end_ids(after, tok) == [0, tok.eos_token_id], "its old end still ends a completion"
    assert encode_completion(tok, "a")[-1] == tok.eos_token_id


@pytest.mark.parametrize("has_bos", [True, False])
def test_the_recipes_template_begins_as_plain_text_does(tmp_path: Path, has_bos: bool) -> None:
    source = write_foreign(tmp_path / "foreign", has_bos=has_bos)
    tok = load_tokenizer(imported(tmp_path / "work", source, tags="own").output("model"))
    begin = "<bos>" * has_bos
    assert tok.decode(encode_prompt(tok, "2+3", "chat")) == f"{begin}<|user|>2+3<|assistant|>"
    asked = tok.decode(encode_prompt(tok, "2+3", chat.Format(system="Be brief.")))
    assert asked == f"{begin}<|system|>Be brief.<|user|>2+3<|assistant|>"
    zero = tok.decode(encode_prompt(tok, "2+3", "r1-zero"))
    assert zero.startswith(f"{begin}A conversation between User and Assistant.")


def test_tags_that_a_model_has_already_keep_their_rows(tmp_path: Path, foreign: Path) -> None:
    tok: Any = load_tokenizer(foreign)
    tok.add_tokens(["<think>", "</think>"])
    tok.save_pretrained(foreign)
    policy = load_model(foreign)
    policy.resize_token_embeddings(len(tok), mean_resizing=False)
    policy.get_input_embeddings().weight.data[-2:] = 0.5
    policy.save_pretrained(foreign)
    context = imported(tmp_path / "work", foreign, tags="own")
    assert not {"<think>", "</think>"} & set(context.notes["new_tokens"])
    after = load_model(context.output("model"))
    made: Any = load_tokenizer(context.output("model"))
    row = after.get_input_embeddings().weight[made.convert_tokens_to_ids("<think>")]
    assert row.tolist() == [0.5] * 16


def test_the_former_name_of_tags_still_counts(tmp_path: Path, foreign: Path) -> None:
    params = stage("import-model").params
    assert params(add_tags=True).are_tags_whole
    assert not params(add_tags=False).are_tags_whole
    with pytest.raises(ValueError, match="tags text and add_tags True disagree; keep tags"):
        params(add_tags=True, tags="text")


# ---- refused in one line -------------------------------------------------------------------------


def test_what_is_no_model_is_named(tmp_path: Path, foreign: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="empty is not a model that transformers reads"):
        load_foreign(tmp_path / "empty")
    cut = tmp_path / "cut"
    shutil.copytree(foreign, cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="cut is not a model") as caught:
        load_foreign(cut)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(tmp_path: Path, foreign: Path) -> None:
    torch.save(load_file(foreign / "model.safetensors"), foreign / "pytorch_model.bin")
    (foreign / "model.safetensors").unlink()
    with pytest.raises(StageError, match=r"weights as \*\.safetensors or one \*\.gguf"):
        load_foreign(foreign)


def test_a_folder_without_some_weights_is_refused(foreign: Path) -> None:
    path = foreign / "model.safetensors"
    weights = load_file(path)
    weights.pop("model.norm.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"1 weights of Qwen3.* such as model\.norm\.weight"):
        load_foreign(foreign)


def test_weights_of_another_shape_than_the_configuration_says_are_named(
    foreign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((foreign / "config.json").read_text())
    rows = config["vocab_size"]
    config["vocab_size"] = rows + 7
    (foreign / "config.json").write_text(json.dumps(config))
    name = (
        r"1 weights have another shape than config\.json says, such as model\.embed_tokens\.weight"
    )
    with pytest.raises(
        StageError, match=rf"{name}: \({rows}, 16\) in its files, \({rows + 7}, 16\)"
    ):
        load_foreign(foreign)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_how_a_model_asks_to_be_sampled_is_told_as_it_is_left_out(
    tmp_path: Path, foreign: Path
) -> None:
    told = json.loads((foreign / "generation_config.json").read_text())
    told |= {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    (foreign / "generation_config.json").write_text(json.dumps(told))
    context = imported(tmp_path / "work", foreign)
    left = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    assert context.notes["sampling_settings_left_out"] == left
    written = json.loads((context.output("model") / "generation_config.json").read_text())
    assert not {"top_p", "repetition_penalty"} & written.keys()
    plain = imported(tmp_path / "plain", write_foreign(tmp_path / "other"))
    assert "sampling_settings_left_out" not in plain.notes


def test_a_gguf_file_whose_weights_do_not_fit_what_is_read_of_its_configuration_is_refused() -> (
    None
):
    model = tiny.model()
    _check_shapes(model, Path("a.gguf"))
    model.config.head_dim = (
        128  # what transformers takes for Qwen 3; the weights have 2 heads of 12
    )
    wrong = (
        r"q_proj\.weight is \(24, 24\), and \(256, 24\) by the configuration .*give .*safetensors"
    )
    with pytest.raises(StageError, match=wrong):
        _check_shapes(model, Path("a.gguf"))


def test_quantized_weights_are_refused(foreign: Path) -> None:
    path = foreign / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps(config))
    with pytest.raises(StageError, match=r"quantized|is not a model"):
        load_foreign(foreign)


def test_code_of_a_folder_is_not_run(foreign: Path) -> None:
    path = foreign / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "odd", "auto_map": {
        "AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}  # fmt: skip
    path.write_text(json.dumps(config))
    (foreign / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(StageError, match=r"brings code of its own \(auto_map in config\.json"):
        load_foreign(foreign)
