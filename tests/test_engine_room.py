"""An engine has the room that prompts need, and what is not set is left to vLLM."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import grpo_params, problems, save_policy, tokenizer
from transformers import DeepseekV3Config, Qwen3Config

from r1pipe.errors import StageError
from r1pipe.generate.backends import Prompts, fitted, open_generator
from r1pipe.generate.protocol import GeneratorBackend
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generate.vllm_engine import EngineShape, engine_arguments, latent_attention
from r1pipe.generator_settings import SampleRun
from r1pipe.method_params.policies import AdaBack
from r1pipe.method_params.runs import GrpoRun
from r1pipe.models.prompts import encode_prompt
from r1pipe.policies.setup import with_room_for
from r1pipe.records import Problem

VLLM = VllmSettings(backend="vllm")
LETTERS = "ab 1+\n\u4e2d\u6587\u00e9\u0928\ufdfa\U0001f600"


def asked(texts: list[str]) -> list[Problem]:
    return [Problem(str(n), "t", text, "1", "en", "number") for n, text in enumerate(texts)]


def room_of(run: SampleRun) -> int | None:
    found: int | None = run.generator.max_model_tokens  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("fmt", ["r1-zero", "chat"])
def test_no_prompt_with_its_completion_is_longer_than_what_is_made_room_for(fmt: Any) -> None:
    rng = random.Random(1)
    for _ in range(50):
        texts = ["".join(rng.choices(LETTERS, k=rng.randrange(90))) for _ in range(3)]
        most = Prompts(asked(texts), fmt, 7).most_tokens(tokenizer())
        longest = max(len(encode_prompt(tokenizer(), text, fmt)) for text in texts)
        assert longest + 7 <= most


def test_an_engine_has_room_for_its_prompts_and_no_more(tmp_path: Path) -> None:
    folder, run = save_policy(tmp_path), SampleRun(generator=VLLM)
    prompts = Prompts(asked(["x" * 20, "x" * 40]), "r1-zero", 8)
    around = len(encode_prompt(tokenizer(), "?", "r1-zero"))
    assert room_of(fitted(run, folder, tokenizer(), prompts)) == around + 16 + 40 + 8
    long = Prompts(asked(["x" * 9000]), "r1-zero", 8)
    assert room_of(fitted(run, folder, tokenizer(), long)) == 128, "the model's own limit"
    told = SampleRun(generator=VLLM.model_copy(update={"max_model_tokens": 99}))
    assert room_of(fitted(told, folder, tokenizer(), prompts)) == 99
    assert room_of(run) is None, "what the manifest says stays"


NO_ROOM = (
    r"2 of 4 prompts leave no room in the 128 tokens of the model's context \(the longest has"
    r" \d+\); leave them out with params.max_chars: 198 of the stage of kind `problems`"
)


def test_all_prompts_are_looked_at_before_the_first_is_sampled(tmp_path: Path) -> None:
    folder, words = save_policy(tmp_path), tokenizer()
    short = asked(["a b", "1 + 1"])
    long = asked(["a b", "1 + 1", "1+" * 100, "ab" * 99 + "a"])
    with pytest.raises(StageError, match=NO_ROOM):
        with_room_for(long, GrpoRun(), grpo_params(), folder, words)
    shown = grpo_params(adaback=AdaBack(threshold=0.5))
    with pytest.raises(StageError, match=NO_ROOM):
        with_room_for(long, GrpoRun(), shown, folder, words)
    prompts = Prompts(long, "r1-zero", 8)
    with (
        pytest.raises(StageError, match=NO_ROOM),
        open_generator(folder, SampleRun(), prompts=prompts),
    ):
        pass
    with_room_for(short, GrpoRun(), grpo_params(), folder, words)
    around = len(encode_prompt(words, "?", "r1-zero"))
    fits = replace(prompts, problems=asked(["x" * (127 - around)]))
    fits.check_room(words, 128)
    fits.check_room(words, None)


def test_other_generators_do_not_ask(tmp_path: Path) -> None:
    class Unread(Prompts):
        def most_tokens(self, tokenizer: Any) -> int:
            raise AssertionError

    run = SampleRun(generator=TransformersSettings())
    same = fitted(run, tmp_path, tokenizer(), Unread([], "chat", 1))
    assert same == run
    assert isinstance(same.generator, GeneratorBackend)


def test_a_policy_that_is_shown_solutions_has_the_models_room(tmp_path: Path) -> None:
    folder, run = save_policy(tmp_path), GrpoRun(generator=VLLM)
    made = with_room_for(problems(4), run, grpo_params(), folder, tokenizer())
    assert isinstance(room_of(made), int)
    shown = grpo_params(adaback=AdaBack(threshold=0.5))
    assert with_room_for(problems(4), run, shown, folder, tokenizer()) == run


def test_what_is_not_set_on_a_gpu_is_vllms_choice() -> None:
    on_gpu = EngineShape(Path("m"), (1,), "bfloat16", "cuda")
    told = engine_arguments(on_gpu, VLLM, 4096, can_sleep=False)
    assert told["max_num_seqs"] is None
    assert not {"max_num_batched_tokens", "enable_chunked_prefill", "block_size"} & told.keys()
    own = VllmSettings(backend="vllm", max_num_seqs=32)
    assert engine_arguments(on_gpu, own, 4096, can_sleep=False)["max_num_seqs"] == 32
    on_cpu = EngineShape(Path("m"), (1,))
    assert engine_arguments(on_cpu, VLLM, 4096, can_sleep=False)["max_num_seqs"] == 256


def test_latent_attention_in_float32_on_a_cpu_has_a_kernel_that_takes_it() -> None:
    latent, plain = DeepseekV3Config(kv_lora_rank=32), Qwen3Config()
    on_cpu = EngineShape(Path("m"), (1,))
    assert latent_attention(latent, on_cpu) == {"attention_backend": "CPU_MLA"}
    assert latent_attention(plain, on_cpu) == {}
    assert latent_attention(latent, replace(on_cpu, precision="bfloat16")) == {}
    assert latent_attention(latent, replace(on_cpu, device="cuda")) == {}
