"""Candidates: completions sampled, verified and filtered, unit by unit, so that a kill costs one.

A unit is a fixed list of problems with all their samples; its requests are batched alike whenever
it runs, so a resumed stage gives the uninterrupted rows. Every candidate is kept with its verdict
and each filter's decision; what is trained on is a view of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from r1pipe.chat import Format
from r1pipe.errors import StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import Generator, Sampling
from r1pipe.keys import digest_json
from r1pipe.records import Problem, Rollout
from r1pipe.rl.filters import decide, is_kept
from r1pipe.rl.rollouts import sample_completions
from r1pipe.rows import read_problems, write_rows
from r1pipe.settings import Keep, SampleRun
from r1pipe.stage import Context, Inputs
from r1pipe.verify import VERIFIER_VERSION, verify_many


@dataclass(frozen=True)
class CandidatePlan:
    """What decides the candidates, besides the model and the problems."""

    samples_per_problem: int
    sampling: Sampling
    format: Format
    seed: int
    keep: Keep
    target_rows: int
    """Sampling ends with the unit in which so many different rows are kept."""
    problems_per_unit: int
    """Problems sampled together; the unit of resume."""
    model_id: str
    """Artifact id of the sampling model, for provenance."""


def collect(
    context: Context, params: Any, run: SampleRun, inputs: Inputs, fmt: Format
) -> list[dict[str, Any]]:
    """Sample and judge with the fields that both sampling stages have; write all candidates.

    Returns the kept rows without duplicates, at most `params.target_rows`. Raises StageError when
    nothing is kept.
    """
    plan = CandidatePlan(
        samples_per_problem=params.samples_per_problem,
        sampling=Sampling(params.temperature, 1.0, params.max_tokens),
        format=fmt,
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
    context.note(rows=len(rows), **facts)
    return rows


def write_training_rows(context: Context, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows for training and show a few."""
    write_rows(context.output("rows"), rows)
    for row in rows[:8]:
        context.sample(prompt=row["prompt"], completion=row["completion"], gold=row["gold"])


def sample_candidates(
    context: Context,
    generator: Generator,
    tokenizer: Any,
    problems: Sequence[Problem],
    plan: CandidatePlan,
) -> Iterator[dict[str, Any]]:
    """Fill the attempt's journal until enough rows are kept, then yield every candidate row."""
    journal = context.journal("candidates")
    distinct = {identity(row) for row in journal.rows() if row["kept"]}
    done = journal.done()
    units = [
        problems[i : i + plan.problems_per_unit]
        for i in range(0, len(problems), plan.problems_per_unit)
    ]
    for number, unit in enumerate(units):
        if str(number) in done:
            continue
        if len(distinct) >= plan.target_rows:
            break
        started = time.perf_counter()
        rows = candidate_rows(generator, tokenizer, unit, plan)
        journal.append(str(number), rows)
        distinct.update(identity(row) for row in rows if row["kept"])
        context.log(
            number + 1,
            len(units),
            kept=float(len(distinct)),
            pass_rate=sum(row["verdict"] == "correct" for row in rows) / len(rows),
            tokens_per_s=sum(row["num_tokens"] for row in rows) / (time.perf_counter() - started),
        )
        context.stop_if_asked()
    yield from journal.rows()


def candidate_rows(
    generator: Generator, tokenizer: Any, problems: Sequence[Problem], plan: CandidatePlan
) -> list[dict[str, Any]]:
    """Sample and judge one unit."""
    groups = sample_completions(
        generator,
        tokenizer,
        problems,
        plan.samples_per_problem,
        plan.sampling,
        plan.format,
        [plan.seed],
    )
    pairs = [(g.problem, r) for g in groups for r in g.rollouts]
    verdicts = verify_many((problem, rollout.completion.text) for problem, rollout in pairs)
    return [
        candidate_row(problem, rollout, verdict, plan)
        for (problem, rollout), verdict in zip(pairs, verdicts, strict=True)
    ]


def candidate_row(
    problem: Problem, rollout: Rollout, verdict: Any, plan: CandidatePlan
) -> dict[str, Any]:
    """Return one candidate with where it came from and what every filter said."""
    completion = rollout.completion
    decisions = decide(problem, completion, verdict, plan.keep, plan.format)
    return {
        "id": f"{problem.id}#{completion.sample_index}",
        "problem_id": problem.id,
        "task": problem.task,
        "language": problem.language,
        "format": plan.format,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": completion.text,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason.value,
        "model_id": plan.model_id,
        "temperature": float(plan.sampling.temperature),
        "seed": completion.seed,
        "verifier_version": VERIFIER_VERSION,
        "verdict": str(verdict),
        "filters": json.dumps(decisions, sort_keys=True),
        "kept": is_kept(decisions),
    }


def identity(row: dict[str, Any]) -> str:
    """Return what two exact duplicates share: a digest of prompt and completion."""
    return digest_json([row["prompt"], row["completion"]])


def unique_kept(candidates: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return the kept candidates without exact duplicates, in order, at most `limit`."""
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    for row in candidates:
        mark = identity(row)
        if row["kept"] and mark not in seen and len(rows) < limit:
            seen.add(mark)
            rows.append(row)
    return rows


def account(candidates: Sequence[dict[str, Any]], name: str) -> dict[str, int]:
    """Return how many candidates each verdict and filter took; the sums must meet.

    Raises StageError when kept and dropped do not add up to what was sampled, or nothing is kept.
    """
    kept = sum(row["kept"] for row in candidates)
    dropped = [row for row in candidates if not row["kept"]]
    if kept + len(dropped) != len(candidates) or len({r["id"] for r in candidates}) != len(
        candidates
    ):
        raise StageError(f"{name}: kept and dropped rows do not add up to those sampled")
    if not kept:
        raise StageError(
            f"{name}: none of {len(candidates)} completions was kept; see the filters of its"
            " candidates, or train the sampling model longer"
        )
    facts = {"sampled": len(candidates), "kept": kept, "dropped": len(dropped)}
    for row in dropped:
        first = next(n for n, passed in json.loads(row["filters"]).items() if not passed)
        facts[f"dropped_{first}"] = facts.get(f"dropped_{first}", 0) + 1
    return facts
