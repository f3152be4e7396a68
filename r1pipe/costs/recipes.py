"""What the stages' own `cost` functions share: lengths, supervised training, sampling.

Lengths of synthetic problems were counted on the laptop profile's data (a 765-token vocabulary):
they hold for its tokenizer within a fifth. Nothing is published about lengths of real traces as a
share of the limit; `TRACE_FRAC` is ours and wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from r1pipe.costs import fields
from r1pipe.costs.lengths import Earlier
from r1pipe.costs.sources import REAL_COMPLETION, REAL_PROMPT, UNKNOWN_ROWS
from r1pipe.costs.work import (
    Cost,
    DatasetInfo,
    Info,
    InfoMap,
    ModelInfo,
    ProblemsInfo,
    Range,
    RowsInfo,
    SamplingWork,
    Training,
)
from r1pipe.generator_settings import Expected
from r1pipe.settings import Adapter, Placement, Tools, World
from r1pipe.workers import num_workers

TASK_TOKENS: Mapping[str, tuple[float, float]] = {
    # task: prompt and completion (thought, answer and summary) in the chat format
    "arithmetic": (15.5, 26.5),
    "parity": (19.5, 35.0),
    "choice": (25.5, 21.5),
    "countdown": (11.0, 29.0),
    "general": (8.0, 17.5),
    "safety": (8.0, 19.5),
}
SUMMARY_TOKENS = 7.0
"""Tokens that the chat format's summary adds to a completion."""
BARE_TOKENS = 6.0
"""Tokens of an answer in its tags, without a thought."""
ZERO_PROMPT_TOKENS = 4.0
"""Tokens that the r1-zero passage adds to a prompt (the tokenizer has it as few tokens)."""
SPREAD = Range(0.8, 1.15)
"""Factor of the lengths above under another tokenizer or mix of levels."""
ZERO_TO_CHAT = Range(0.5, 1.2)
"""Length of a completion, from a bare r1-zero answer to a long chat one, against `TASK_TOKENS`."""
TRACE_FRAC = Range(0.1, 0.6)
"""Mean length of a real model's completion, as a share of `max_tokens`."""
REAL_PROMPT_TOKENS = Range(50, 250)
"""Length of a question of a real data set."""
REAL_SOLUTION_TOKENS = Range(60, 500)
"""Length of a worked solution of a real data set."""
ADAPTIVE_FRAC = 0.2
"""Least share of the samples, if problems that have enough rows, or no hope, get no more."""
KEPT_FRAC = Range(0.15, 0.9)
"""Share of sampled completions that are kept as different rows."""

ASKED_FRAC = Range(0.1, 1.0)
"""Share of the candidates that an LLM judge is asked about."""
ANSWER_FRAC = Range(0.05, 1.0)
"""Share of a completion that is after its thought."""
TEMPLATE_TOKENS = Range(150, 800)
"""Tokens that a judge's template adds to its fields; a tiny tokenizer needs most of them."""
REPLY_FRAC = Range(0.05, 1.0)
"""Mean length of a judge's reply, as a share of `max_tokens`."""


def world_tokens(mix: Mapping[str, float]) -> tuple[float, float]:
    """Return the mean prompt and chat completion of a mix of tasks, in tokens."""
    weights = {task: share for task, share in mix.items() if share > 0}
    total = sum(weights.values()) or 1.0
    default = TASK_TOKENS["arithmetic"]
    means = [
        sum(share * TASK_TOKENS.get(task, default)[part] for task, share in weights.items()) / total
        for part in (0, 1)
    ]
    return means[0], means[1]


def world_rows(params: fields.Corpus, num_rows: Range) -> RowsInfo:
    """Return rows written by the synthetic author, from the fields of `stages/corpus.py`."""
    prompt, chat = world_tokens(params.world.mix if params.world else {})
    if params.format != "r1-zero":
        return RowsInfo(num_rows, SPREAD * prompt, SPREAD * chat)
    thought = params.thought_frac * (1 - params.unformatted_frac)
    zero = thought * max(BARE_TOKENS, chat - SUMMARY_TOKENS) + (1 - thought) * BARE_TOKENS
    return RowsInfo(num_rows, SPREAD * (prompt + ZERO_PROMPT_TOKENS), SPREAD * zero)


def world_problems(world: World | None, num_problems: Range) -> ProblemsInfo:
    """Return synthetic problems; an answer without its summary or thought is shorter."""
    prompt, chat = world_tokens(world.mix if world else {})
    return ProblemsInfo(num_problems, SPREAD * prompt, ZERO_TO_CHAT * chat)


def real_rows(problems: ProblemsInfo, wanted: int) -> RowsInfo:
    """Return rows made of problems with worked solutions, at most as many as are wanted."""
    length = problems.completion_tokens or REAL_SOLUTION_TOKENS
    return RowsInfo(problems.num_problems.at_most(wanted), problems.prompt_tokens, length)


def mixed_rows(parts: Sequence[RowsInfo]) -> RowsInfo:
    """Return several sets of rows as one; lengths are means weighted by the sets' sizes."""
    count = sum((part.num_rows for part in parts), Range(0))
    total = count.high or 1.0
    weighted = [part.num_rows.high / total for part in parts]
    pairs = list(zip(parts, weighted, strict=True))
    prompt = sum((part.prompt_tokens * weight for part, weight in pairs), Range(0))
    completion = sum((part.completion_tokens * weight for part, weight in pairs), Range(0))
    return RowsInfo(count, prompt, completion)


def dataset_problems(data: DatasetInfo, wanted: int) -> ProblemsInfo:
    """Return the problems of a data set from outside, at most as many as are wanted."""
    count = wanted if data.num_rows is None else min(wanted, data.num_rows)
    return ProblemsInfo(Range(0.9 * count, count), REAL_PROMPT_TOKENS, None)


def imported_rows(data: DatasetInfo | RowsInfo, wanted: int | None) -> RowsInfo:
    """Return the rows of a data set from outside, at most as many as are wanted."""
    if isinstance(data, RowsInfo):
        return data if wanted is None else replace(data, num_rows=data.num_rows.at_most(wanted))
    count = UNKNOWN_ROWS if data.num_rows is None else Range(data.num_rows)
    if wanted is not None:
        count = count.at_most(wanted)
    return RowsInfo(count, REAL_PROMPT, REAL_COMPLETION)


def training_place(params: fields.Computes, run: fields.Trains) -> Placement:
    """Return where a stage trains."""
    place = run.engine.place(run.device, params.precision)
    return replace(place, threads=num_workers(run.workers, run.device))


def sampling_place(params: fields.Computes, run: fields.Samples) -> Placement:
    """Return where a stage samples."""
    place = run.generator.place(run.device, params.precision)
    is_shared = run.generator.samples_policy  # else it is not these threads that sample
    return replace(place, threads=num_workers(run.workers, run.device) if is_shared else 1)


def batch_limit(run: fields.Samples) -> int:
    """Return how many completions one engine of a stage samples at once, if it has room for
    them."""
    return run.generator.most_at_once(run.device, run.max_batch)


def supervised(
    params: fields.Passes,
    run: fields.TrainsRows,
    model: ModelInfo,
    rows: RowsInfo,
    *,
    max_tokens: int,
    max_rows: int | None = None,
) -> Cost:
    """Return the cost of `num_epochs` passes over rows in batches of `batch_size`."""
    count = rows.num_rows if max_rows is None else rows.num_rows.at_most(max_rows)
    mean = rows.tokens.at_most(max_tokens)
    examples, adapter = count * params.num_epochs, getattr(params, "adapter", None)
    work = Training(
        model=model,
        where=training_place(params, run),
        tokens=examples * mean,
        updates=Range(
            math.ceil(count.low / params.batch_size) * params.num_epochs,
            math.ceil(count.high / params.batch_size) * params.num_epochs,
        ),
        mean_tokens=mean.high,
        longest=max_tokens if rows.tokens.high * 4 > max_tokens else math.ceil(mean.high * 4),
        micro_batch_tokens=run.micro_batch_tokens,
        adapter_parameters=adapter_parameters(adapter, model),
        is_quantized=adapter is not None and adapter.quantize is not None,
    )
    return Cost({"model": model}, training=(work,))


def adapter_parameters(adapter: Adapter | None, model: ModelInfo) -> int | None:
    """Return how many numbers an adapter has; layers are known by the names most families use."""
    if adapter is None:
        return None
    hidden, attention, inner = model.hidden_size, model.attention_size, model.intermediate_size
    sizes = {
        "q_proj": hidden + attention,
        "k_proj": hidden + model.kv_values // 2,
        "v_proj": hidden + model.kv_values // 2,
        "o_proj": attention + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    chosen = sizes.keys() & set(adapter.targets) or sizes.keys()
    return adapter.rank * model.num_layers * sum(sizes[name] for name in chosen)


def as_before(problems: ProblemsInfo, expect: Expected) -> ProblemsInfo:
    """Return problems with prompts as an earlier run had them, where those are possible."""
    found = expect.prompt_tokens if isinstance(expect, Earlier) else None
    assumed = problems.prompt_tokens
    if found is None or found[0] < assumed.low or found[1] > assumed.high:
        return problems
    return replace(problems, prompt_tokens=Range(*found))


def completion_length(problems: ProblemsInfo, max_tokens: int, expect: Expected) -> Range:
    """Return how long completions will be on average, in tokens: as is expected, else as the
    problems say, else a share of `max_tokens`."""
    known = problems.completion_tokens or TRACE_FRAC * max_tokens
    return expected_length(known, max_tokens, expect)


def expected_length(otherwise: Range, max_tokens: int, expect: Expected) -> Range:
    """Return how long completions will be on average, in tokens: as is expected, by the manifest or
    after an earlier run, else as is said; at most `max_tokens`."""
    expected = expect.completion_tokens
    return (otherwise if expected is None else Range(*expected)).at_most(max_tokens)


def length_assumption(problems: ProblemsInfo, max_tokens: int, expect: Expected) -> tuple[str, ...]:
    """Say on what lengths rest, if they are not the problems' own."""
    if problems.completion_tokens is not None:
        return expectation(expect)
    return expectation(expect) or (share_text("completions", TRACE_FRAC, max_tokens),)


def expectation(expect: Expected, what: str = "completions") -> tuple[str, ...]:
    """Say which lengths are expected, if any are."""
    if expect.completion_tokens is None:
        return ()
    low, high = expect.completion_tokens
    head = f"{what} of {low:,.0f} to {high:,.0f} tokens on average"
    if isinstance(expect, Earlier):
        found = f"{expect.mean_tokens:,.0f} in {expect.found_in}"
        return (f"{head}, lengths of an earlier run: {found}",)
    return (f"{head}, as run.expect says",)


def share_text(what: str, frac: Range, max_tokens: int) -> str:
    """Say that lengths are assumed as a share of the most tokens."""
    low, high = frac.low * 100, frac.high * 100
    return f"{what} of {low:.0f} to {high:.0f} % of {max_tokens:,} tokens on average"


def going_on(work: SamplingWork, tools: Tools | None) -> SamplingWork:
    """Return the same sampling with programs in its completions: none, or as many as may be run.

    What is sampled past a program is dropped. After it a completion is a request anew: the prompt
    and what is written so far go through the model again, in a further round; where the output ends
    the completion there is none. The time of the programs themselves is not counted.
    """
    if tools is None:
        return work
    dropped = work.completion_tokens
    if tools.ends:
        return replace(work, extra_tokens=work.completions * Range(0, 1) * dropped)
    again = work.completions * Range(0, tools.max_rounds)
    return replace(
        work,
        rounds=work.rounds * Range(1, 1 + tools.max_rounds),
        extra_tokens=again * (work.prompt_tokens + work.completion_tokens + dropped),
    )


def candidates(params: fields.Candidates, run: fields.Samples, inputs: InfoMap) -> Cost:
    """Return the cost of sampling until `target_rows` are kept, from problems used once."""
    model, problems = inputs["model"], inputs["problems"]
    most = problems.num_problems * params.samples_per_problem
    needed = Range(params.target_rows / KEPT_FRAC.high, params.target_rows / KEPT_FRAC.low)
    unit = params.problems_per_unit * params.samples_per_problem
    fewest = ADAPTIVE_FRAC if params.adaptive is not None else 1.0
    completions = Range(
        fewest * min(most.low, math.ceil(needed.low / unit) * unit),
        min(most.high, math.ceil(needed.high / unit) * unit),
    )
    length = completion_length(problems, params.max_tokens, run.expect)
    work = SamplingWork(
        model=model,
        where=sampling_place(params, run),
        completions=completions,
        prompts=completions * (1 / params.samples_per_problem),
        prompt_tokens=problems.prompt_tokens,
        completion_tokens=length,
        longest=params.max_tokens,
        at_once=min(unit, batch_limit(run)),
        rounds=completions * (1 / unit),
    )
    work = going_on(work, params.tools)
    kept = Range(
        min(params.target_rows, KEPT_FRAC.low * completions.low),
        min(params.target_rows, KEPT_FRAC.high * completions.high),
    )
    outputs: dict[str, Info] = {
        "rows": RowsInfo(kept, problems.prompt_tokens, length),
        "candidates": RowsInfo(completions, problems.prompt_tokens, length),
    }
    assumes = length_assumption(problems, params.max_tokens, run.expect)
    low, high = KEPT_FRAC.low * 100, KEPT_FRAC.high * 100
    kept_text = f"{low:.0f} to {high:.0f} % of the completions kept as different rows"
    return Cost(outputs, sampling=(work,), assumes=(kept_text, *assumes))


def benchmarks(
    params: fields.Benchmarks,
    run: fields.Samples,
    model: ModelInfo,
    problems: Mapping[str, ProblemsInfo],
) -> Cost:
    """Return the cost of an evaluation: `num_samples` completions of every problem."""
    works, rows, assumes = [], [], dict[str, None]()
    for benchmark in problems.values():
        completions = benchmark.num_problems * params.num_samples
        length = completion_length(benchmark, params.max_tokens, run.expect)
        rows.append(RowsInfo(completions, benchmark.prompt_tokens, length))
        assumes.update(dict.fromkeys(length_assumption(benchmark, params.max_tokens, run.expect)))
        unit = params.problems_per_unit * params.num_samples
        work = SamplingWork(
            model=model,
            where=sampling_place(params, run),
            completions=completions,
            prompts=benchmark.num_problems,
            prompt_tokens=benchmark.prompt_tokens,
            completion_tokens=length,
            longest=params.max_tokens,
            at_once=min(unit, batch_limit(run)),
            rounds=Range(math.ceil(completions.low / unit), math.ceil(completions.high / unit)),
        )
        works.append(going_on(work, params.tools))
    outputs: dict[str, Info] = {"report": Info(), "samples": mixed_rows(rows)}
    return Cost(outputs, sampling=tuple(works), other_s=Range(0.1, 3), assumes=tuple(assumes))


def judgements(params: fields.Replies, run: fields.Samples, inputs: InfoMap) -> Cost:
    """Return the cost of an LLM judge's replies, from the fields of `stages/judge.py`."""
    model, candidates = inputs["model"], inputs["candidates"]
    num_asked = candidates.num_rows * ASKED_FRAC
    replies = num_asked * params.votes
    shown = TEMPLATE_TOKENS + candidates.prompt_tokens + candidates.completion_tokens * ANSWER_FRAC
    length = expected_length(REPLY_FRAC * params.max_tokens, params.max_tokens, run.expect)
    unit = params.candidates_per_unit * params.votes
    work = SamplingWork(
        model=model,
        where=sampling_place(params, run),
        completions=replies,
        prompts=num_asked,
        prompt_tokens=shown,
        completion_tokens=length,
        longest=params.max_tokens,
        at_once=min(unit, batch_limit(run)),
        rounds=Range(math.ceil(replies.low / unit), math.ceil(replies.high / unit)),
    )
    most = candidates.num_rows.at_most(params.target_rows or math.inf)
    outputs: dict[str, Info] = {
        "rows": replace(candidates, num_rows=KEPT_FRAC * most),
        "candidates": candidates,
        "replies": RowsInfo(replies, shown, length),
    }
    low, high = ASKED_FRAC.low * 100, ASKED_FRAC.high * 100
    asked = f"{low:.0f} to {high:.0f} % of the candidates are asked about"
    rests_on = expectation(run.expect, "replies")
    rests_on = rests_on or (share_text("replies", REPLY_FRAC, params.max_tokens),)
    return Cost(
        outputs,
        sampling=(work,),
        other_s=candidates.num_rows * Range(5e-5, 3e-4),
        assumes=(asked, *rests_on),
    )
