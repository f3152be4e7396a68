"""Rejection sampling: several completions per problem, only verified and readable ones kept.

Paper: arXiv:2501.12948, section 2.3.3 (600k reasoning rows from the reasoning-RL checkpoint; mixed
languages, long paragraphs and code blocks dropped).

In: `model`, `problems`. Out: `rows` (kept, for training) and `candidates` (all, with each filter's
decision).

Departures: samples per problem, temperature and thresholds were never published; here they are
parameters.

Run alone: `r1pipe stage rejection-sample`; a killed run goes on with `--resume`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from r1pipe.settings import Keep, SampleRun
from r1pipe.stage import Context, Input, Inputs, StageModel

VERSION = 1
INPUTS = {"model": Input("model"), "problems": Input("problems")}
OUTPUTS = {"rows": "rows", "candidates": "rows"}


class Params(StageModel):
    """What decides the rows."""

    seed: int
    target_rows: int = Field(gt=0)
    """Kept rows wanted; sampling ends when there are so many. R1: 600,000."""
    samples_per_problem: int = Field(gt=0)
    """Completions per problem."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens; R1: 32,768."""
    format: Literal["r1-zero", "chat"] = "chat"
    keep: Keep = Keep()
    problems_per_unit: int = Field(default=64, gt=0)
    """Problems sampled together: what a kill costs at most."""


class Run(SampleRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sample, verify, filter; write every candidate, and the kept ones as training rows."""
    from r1pipe.generate.backends import open_generator
    from r1pipe.generate.protocol import Sampling
    from r1pipe.rl.candidates import CandidatePlan, account, sample_candidates, unique_kept
    from r1pipe.rows import read_problems, write_rows

    plan = CandidatePlan(
        samples_per_problem=params.samples_per_problem,
        sampling=Sampling(params.temperature, 1.0, params.max_tokens),
        format=params.format,
        seed=params.seed,
        keep=params.keep,
        target_rows=params.target_rows,
        problems_per_unit=params.problems_per_unit,
        model_id=context.input_ids["model"],
    )
    with open_generator(inputs["model"], run) as (generator, tokenizer):
        problems = read_problems(inputs["problems"])
        candidates = list(sample_candidates(context, generator, tokenizer, problems, plan))
    facts = account(candidates, context.name)
    rows = unique_kept(candidates, params.target_rows)
    write_rows(context.output("candidates"), candidates)
    write_rows(context.output("rows"), rows)
    context.note(rows=len(rows), **facts)
    for row in rows[:8]:
        context.sample(prompt=row["prompt"], completion=row["completion"], gold=row["gold"])
