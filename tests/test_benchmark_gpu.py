"""benchmarks/gpu.py: counts by hand, the table of peaks, the words, and the list of checks."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import generation
from gpu import SHAPES, sizes_of
from gpu_hour import CHECKS, UNSCRIPTED, Check, outcomes
from gpu_measures import grpo_verdict, missing, sft_verdict
from gpu_peaks import peak_of, row_flops, step_flops, utilisation
from trainers_data import widened

from r1pipe.costs.models import model_from_config, new_model_info
from r1pipe.records import TokenSequence

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "model_type": "llama",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 10,
    "tie_word_embeddings": True,
}


def test_operations_of_a_row_are_those_counted_by_hand() -> None:
    # weights of a token: queries and outputs 2 * 4 * 4, keys and values 2 * 4 * 2, gates 3 * 4 * 8,
    # norms 3 * 4, head 4 * 10: 32 + 16 + 96 + 12 + 40 = 196, two operations each.
    # attention: scores and sums of 4 values, two operations each, for 3 tokens before on average.
    # 6 * (392 + 48) = 2640 forward; 2 prompt tokens need no head: 2 * 80 less; backward twice that.
    model, row = model_from_config(TINY), TokenSequence([1, 2], [3, 4, 5, 6])
    assert row_flops(model, row) == 3 * (2640 - 160)
    assert step_flops(model, [row, row]) == 2 * 7440
    assert utilisation(7440, 1e-9, 14.88) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GB200", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_a_peak_is_that_of_the_very_device(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_verdicts_say_reached_missed_or_not_run() -> None:
    assert sft_verdict([0.41, 0.39, 0.43], 989, []) == (
        "SFT, model FLOP utilisation >= 40%: reached, 41.0% (39.0% to 43.0% over 3 steps)"
        " of 989 TFLOP/s"
    )
    assert "40%: missed, 39.9%" in sft_verdict([0.399], 989, [])
    assert "reached, 40.0%" in sft_verdict([0.4], 989, [])
    alone = sft_verdict([0.9], None, ["no GPU"])
    assert "40%: not run (no GPU); here 90.0%" in alone
    assert alone.endswith("of the measured rate of matrix products")
    assert grpo_verdict(1.5, []) == "GRPO, steps >= 1.5 x TRL with vLLM: reached, 1.50 by the clock"
    assert "vLLM: missed, 1.49" in grpo_verdict(1.49, [])
    assert "vLLM: not run (no GPU; toy); here 3.00" in grpo_verdict(3.0, ["no GPU", "toy"])
    assert grpo_verdict(None, ["no TRL"]).endswith("vLLM: not run (no TRL)")
    assert missing("cuda", 494_000_000) == missing("cuda", 1_540_000_000) == []
    assert missing("cpu", 494_000_000) == ["no GPU"]
    assert missing("cuda", 2_400_000) == ["a model of 2.4M parameters"]


def test_checks_that_cannot_be_run_say_why() -> None:
    tried: list[str] = []

    def attempt(check: Check, device: str) -> tuple[str, str]:
        tried.append(check.name)
        return "pass", device

    with_one = {name: outcome for name, _, outcome, _ in outcomes("cuda", 1, attempt)}
    for name in ("all-reduce", "weights"):
        assert with_one[name] == "not run: needs 2 GPUs, 1 GPU here"
    assert with_one["machine"] == "pass"
    assert set(with_one) == {check.name for check in CHECKS} | {name for name, _ in UNSCRIPTED}
    assert all(with_one[name] == "not run: no script" for name, _ in UNSCRIPTED)
    tried.clear()
    on_cpu = {name: (command, outcome) for name, command, outcome, _ in outcomes("cpu", 0, attempt)}
    assert on_cpu["machine"][1] == "not run: no GPU"
    assert on_cpu["machine"][0] == "python -m r1pipe doctor"
    assert set(tried) <= {check.name for check in CHECKS if check.on_cpu}


def test_shapes_are_those_of_the_sizes_that_they_are_called_by() -> None:
    assert list(SHAPES) == ["0.5B", "1.5B", "3B"]
    sizes = sizes_of("0.5B")
    shape: Any = SimpleNamespace(**sizes["shape"])
    model = new_model_info(shape, sizes["vocabulary"])
    assert model.num_parameters == pytest.approx(494e6, rel=0.001)


def test_a_widened_tokenizer_has_a_word_for_every_id(tmp_path: Path) -> None:
    before = tokenizer()
    wide = widened(before, 3000, tmp_path)
    assert len(wide) == 3000
    known = list(range(len(before)))
    assert wide.convert_ids_to_tokens(known) == before.convert_ids_to_tokens(known)
    words = wide.convert_ids_to_tokens(list(range(2000, 3000)))
    assert len(set(words)) == 1000
    assert sum(map(len, words)) / 1000 == 7.0
    assert wide.decode([2000, 2001]) == "".join(words[:2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_refuses_one_in_a_line() -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "--device cuda: torch finds no GPU here; leave it out for toy size"
    )


def test_sampling_is_measured_with_one_engine_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alive: list[Any] = []

    class Engine:
        """An engine that takes most of a GPU, as vLLM's does by default."""

        def __init__(self, *_: Any) -> None:
            assert not alive, "no room for a second engine"
            alive.append(self)

        def close(self) -> None:
            alive.remove(self)

        def load_weights(self, _: Any) -> None:
            assert alive == [self]
            raise FarEnoughError

    class FarEnoughError(Exception):
        pass

    monkeypatch.setattr("r1pipe.generate.vllm_engine.VllmGenerator", Engine)
    monkeypatch.setattr("r1pipe.generate.vllm_setup.import_vllm", lambda device: None)
    monkeypatch.setattr(generation, "count_tokens", lambda *_: 0)
    with pytest.raises(FarEnoughError):
        generation.measure(tmp_path, Namespace(device="cpu", repeats=1))
