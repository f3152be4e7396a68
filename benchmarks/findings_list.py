"""What `findings.py` runs and compares: manifests, claims as published, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["scores", "samples", "steps", "variants"]


@dataclass(frozen=True)
class Claim:
    """`new` is above (or below, or level with) `old` by a measure of single problems."""

    text: str
    measure: str
    new: str
    old: str
    sign: Literal["+", "-", "0"] = "+"
    published: str = "figure only"


@dataclass(frozen=True)
class Picture:
    """Bars by model; values over k; a metric over steps; or a measure over the variants."""

    kind: Kind
    models: tuple[str, ...]
    measures: tuple[str, ...] = ("pass@1",)


@dataclass(frozen=True)
class Finding:
    """One manifest of `manifests/findings/`, its claims and its picture."""

    title: str
    claims: tuple[Claim, ...]
    picture: Picture
    measures: tuple[str, ...] = ("pass@1",)
    variants: Mapping[str, tuple[str, ...]] | None = None
    """Name -> what is set; models are called MODEL@NAME then."""
    is_ablation: bool = False
    minutes: float = 3.0
    """Of one seed on one idle core, estimated; runs that share a base take less."""


def _grown(new: str, old: str) -> tuple[Claim, ...]:
    return (
        Claim(f"{new} above {old}, early", "pass@1", f"{new}-early", f"{old}-early"),
        Claim(f"{new} above {old}, late", "pass@1", f"{new}-late", f"{old}-late"),
    )


def _chain(bits: int) -> tuple[Claim, ...]:
    paper = "n = 16:"
    return (
        Claim(f"n = {bits}: AdaBack above RL", "pass@1", f"adaback@{bits}", f"rl@{bits}", "+",
              f"{paper} about 1.0 in < 700 iterations, RL at the format's reward only"),
        Claim(f"n = {bits}: AdaBack above RL after SFT", "pass@1", f"adaback@{bits}",
              f"sft-rl@{bits}", "+", "the same"),
        Claim(f"n = {bits}: AdaBack above R3", "pass@1", f"adaback@{bits}", f"r3@{bits}", "+",
              "about 0.8 after 16,000 iterations"),
        Claim(f"n = {bits}: RL stays where it begins", "pass@1", f"rl@{bits}", f"erring@{bits}",
              "0"),
        Claim(f"n = {bits}: so does SFT", "pass@1", f"sft@{bits}", f"erring@{bits}", "0"),
    )  # fmt: skip


def _trend(n: int) -> tuple[Claim, ...]:
    """RL is to find rewards where its samples hold some to begin with, and AdaBack always."""
    is_found = 0.6**-n < RL_SAMPLES
    return (
        Claim(f"n = {n}: RL above its start" if is_found else f"n = {n}: RL stays where it begins",
              "pass@1", f"rl@{n}", f"erring@{n}", "+" if is_found else "0", "n = 16 only"),
        Claim(f"n = {n}: AdaBack above its start", "pass@1", f"adaback@{n}", f"erring@{n}", "+",
              "n = 16 only"),
        Claim(f"n = {n}: AdaBack above RL", "pass@1", f"adaback@{n}", f"rl@{n}",
              "0" if is_found else "+", "n = 16 only"),
    )  # fmt: skip


RL_SAMPLES = 25600
"""Completions that 100 updates of RL sample."""
BITS = (16,)
TREND = (8, 16, 24)
"""Values of n; of what all begin with one completion in 0.6^-n is right: 60, 3,500 and 210,000."""
FEW = ("stages.held-out.params.num_problems=24", "stages.problems.params.num_problems=200")
"""There are 256 chains of 8, of which 24 are held out."""
PARTS = ("naive", "filter", "clip-higher", "penalty", "token-level", "dynamic")
DAPO = (30, 36, 38, 41, 42, 50)
"""AIME 2024, avg@32, of Qwen2.5-32B (arXiv:2503.14476, table 1)."""
LEFT_OUT = ("cold-start", "language-reward", "second-sft", "alignment")
CHAIN_MEASURES = ("pass@1", "general: pass@1", "safety: pass@1")
FIVE = ("rft", "online-rft", "outcome", "process")

FINDINGS: Mapping[str, Finding] = {
    "figure-5": Finding(
        "DeepSeekMath, figure 5: online RFT, GRPO, process supervision",
        (
            *_grown("online-rft", "rft"),
            *_grown("outcome", "online-rft"),
            *_grown("process", "outcome"),
        ),
        Picture("scores", tuple(f"{name}-{when}" for name in FIVE for when in ("early", "late"))),
        minutes=5,
    ),
    "figure-5-models": Finding(
        "DeepSeekMath, figure 5, with reward models",
        (
            Claim("outcome-model above online-rft", "pass@1", "outcome-model", "online-rft"),
            Claim("process-model above outcome-model", "pass@1", "process-model", "outcome-model"),
        ),
        Picture("scores", ("cold-start", "online-rft", "outcome-model", "process-model")),
        minutes=5,
    ),
    "figure-6": Finding(
        "DeepSeekMath, figure 6: two rounds of iterative GRPO",
        (
            Claim("round 1 above the cold start", "pass@1", "round-1", "cold-start"),
            Claim("round 2 above round 1", "pass@1", "round-2", "round-1", "+", "less"),
        ),
        Picture("scores", ("cold-start", "round-1", "round-2")),
        minutes=4,
    ),
    "figure-7": Finding(
        "DeepSeekMath, figure 7: maj@k and pass@k",
        (
            Claim("maj@64 rises", "maj@64", "grpo", "cold-start"),
            Claim("pass@1 rises", "pass@1", "grpo", "cold-start", "+",
                  "GSM8K 82.9 to 88.2, MATH 46.8 to 51.7"),
            Claim("pass@64 does not rise", "pass@64", "grpo", "cold-start", "0"),
        ),
        Picture("samples", ("cold-start", "grpo"), ("pass@", "maj@")),
        ("pass@1", "pass@8", "pass@64", "maj@8", "maj@64"),
        minutes=2,
    ),
    "chain-of-parities": Finding(
        "AdaBack: chains of parities",
        tuple(claim for bits in BITS for claim in _chain(bits)),
        Picture("variants", ("erring", "sft", "rl", "sft-rl", "r3", "adaback")),
        variants={str(bits): (f"params.bits=[{bits}]",) for bits in BITS},
        minutes=9,
    ),
    "chain-trend": Finding(
        "AdaBack: chains of parities over n",
        tuple(claim for n in TREND for claim in _trend(n)),
        Picture("variants", ("erring", "rl", "adaback")),
        variants={str(n): (f"params.bits=[{n}]", *(FEW if n == TREND[0] else ())) for n in TREND},
        minutes=8,
    ),
    "distillation": Finding(
        "DeepSeek-R1, section 4.1: distillation, RL and on-policy distillation of a small model",
        (
            Claim("distilled above RL", "pass@1", "distilled", "rl", "+",
                  "AIME 72.6 against 47.0, MATH 94.3 against 91.6"),
            Claim("on-policy above RL", "pass@1", "on-policy", "rl", "+", "not in the paper"),
            Claim("on-policy above distilled", "pass@1", "on-policy", "distilled", "+",
                  "not in the paper"),
        ),
        Picture("scores", ("grpo", "small", "rl", "distilled", "on-policy")),
        minutes=4,
    ),
    "language": Finding(
        "DeepSeek-R1, section 2.3.2: the price of the language reward",
        (
            Claim("thoughts keep to one language", "language", "with", "without"),
            Claim("at a price in accuracy", "pass@1", "with", "without", "-", "slight"),
        ),
        Picture("scores", ("cold-start", "with", "without"), ("pass@1", "language")),
        ("pass@1", "language"),
        minutes=2.5,
    ),
    "length": Finding(
        "DeepSeek-R1, figure 3: length over R1-Zero's training",
        (
            Claim("completions grow longer", "tokens", "r1-zero", "base", "+",
                  "about 500 to over 8,000 tokens"),
            Claim("pass@1 rises", "pass@1", "r1-zero", "base", "+", "AIME 15.6 to 77.9"),
        ),
        Picture("steps", ("r1-zero",), ("completion_tokens", "pass_rate")),
        ("pass@1", "tokens"),
        minutes=2.5,
    ),
    "thinking": Finding(
        "The same where longer thoughts are better ones",
        (
            Claim("more steps are written", "steps", "grpo", "cold-start", "+",
                  "thoughts grow longer"),
            Claim("completions grow longer", "tokens", "grpo", "cold-start", "+",
                  "about 500 to over 8,000 tokens"),
            Claim("pass@1 rises", "pass@1", "grpo", "cold-start", "+", "AIME 15.6 to 77.9"),
        ),
        Picture("steps", ("grpo",), ("completion_tokens", "pass_rate")),
        ("pass@1", "steps", "tokens"),
        minutes=1.5,
    ),
    "dapo": Finding(
        "DAPO, table 1: its parts, cumulative",
        tuple(
            Claim(f"{new} above {old}", "pass@1", new, old, "+", f"AIME {after} against {before}")
            for (old, before), (new, after) in zip(
                zip(PARTS, DAPO, strict=True), list(zip(PARTS, DAPO, strict=True))[1:], strict=False
            )
        ),
        Picture("scores", PARTS),
        ("pass@1", "truncated"),
        minutes=6,
    ),
    "dr-grpo": Finding(
        "Dr. GRPO: the biases of length and difficulty",
        (
            Claim("GRPO's wrong completions are longer", "tokens of wrong ones", "grpo", "dr-grpo"),
            Claim("its right ones are not", "tokens of right ones", "grpo", "dr-grpo", "0"),
            Claim("pass@1 is the same", "pass@1", "grpo", "dr-grpo", "0",
                  "Oat-Zero-7B: AIME 43.3"),
        ),
        Picture("scores", ("cold-start", "grpo", "dr-grpo"),
                ("tokens of wrong ones", "tokens of right ones")),
        ("pass@1", "tokens of wrong ones", "tokens of right ones"),
        minutes=2,
    ),
    "left-out": Finding(
        "DeepSeek-R1, table 3: each stage left out in turn",
        (
            *(
                Claim(f"without {name}", measure, name, "nothing", "-", "not in the paper")
                for name in LEFT_OUT
                for measure in CHAIN_MEASURES
            ),
            Claim("without language-reward", "language", "language-reward", "nothing", "-",
                  "not in the paper"),
        ),
        Picture("scores", ("nothing", *LEFT_OUT), CHAIN_MEASURES),
        (*CHAIN_MEASURES, "language"),
        is_ablation=True,
        minutes=15,
    ),
}  # fmt: skip
