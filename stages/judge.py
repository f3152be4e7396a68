"""Have a language model judge candidates whose answers no rule can check.

Paper: arXiv:2501.12948, section 2.3.3 (some reasoning rows are judged by DeepSeek-V3, which is fed
the ground truth and the prediction); v2, Listing 4 (the prompt: analysis, then JSON with
`correctness`).

In: `candidates` (of rejection-sample, reverify or another judge), the `problems` that they were
sampled from, `model` (the judge) and `template`, a text source with {question}, {reference} and
{prediction}. Out: `rows` and `candidates` of the same shape with the judge's verdicts, and
`replies`: every question that was put to the judge, its raw reply, and the verdict read from it.

Departures: the judge is shown only the answer part, not the thought. Votes, temperature and the
wording of the template are ours. A reply without one clear verdict makes the candidate `crashed`,
never wrong.

Run it with `r1pipe stage judge --manifest manifests/judge.yaml`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from r1pipe.candidates.judge_form import FIELDS
from r1pipe.candidates.quotas import Quotas
from r1pipe.errors import StageError
from r1pipe.generator_settings import SampleRun
from r1pipe.records import Problem, Verdict
from r1pipe.settings import FormatParam, ModelParams, Prompt, format_of
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.candidates.llm_judge import Judge, Question, Reply
    from r1pipe.candidates.llm_judging import Tally
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.generate.units import FinishedUnit

VERSION = 2
INPUTS = {
    "candidates": Input("rows"),
    "problems": Input("problems"),
    "model": Input("model"),
    "template": Input("text", fields=FIELDS),
}
OUTPUTS = {"rows": "rows", "candidates": "rows", "replies": "rows"}
EXTENDS = "max_unreadable_frac"
SHOWN = ("candidate_id", "reply", "verdict", "fault")
NUM_SHOWN = 8


class About(StageModel):
    """Which candidates the judge is asked about; one without an answer never is."""

    verdicts: tuple[Verdict, ...] = (Verdict.UNJUDGED, Verdict.TIMEOUT, Verdict.CRASHED)
    """Those with one of these verdicts so far; by default all that no rule decided."""
    tasks: tuple[str, ...] | None = None
    """Of those, the candidates of these tasks; without it of all."""
    keepable_only: bool = False
    """Of those, the candidates that pass every other filter; a verdict cannot keep the rest."""


class Params(ModelParams):
    """Parameters that decide the verdicts and the rows."""

    seed: int
    about: About = About()
    max_tokens: int = Field(gt=0)
    """Longest reply in tokens, a thought of the judge included."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest reply."""
    format: FormatParam = "chat"
    """Of the judge's own prompts and replies."""
    prompt: Prompt | None = None
    """A system message, and what follows every question."""
    votes: int = Field(default=1, gt=0)
    """Replies to each question, an odd number; more than half of them make the verdict."""
    max_answer_chars: int = Field(default=20_000, gt=0)
    """Of a longer answer the judge is shown the end."""
    max_unreadable_frac: float = Field(default=0.05, ge=0, le=1)
    """Most replies, as a share, that may be without a clear verdict. Raised, it goes on with the
    replies that are there."""
    target_rows: int | None = Field(default=None, gt=0)
    """Most kept rows, in the candidates' order; without it all."""
    quotas: Quotas | None = None
    """Most kept rows by task, level and length; without it those that adaptive sampling had."""
    candidates_per_unit: int = Field(default=256, gt=0)
    """Candidates asked about together: what a kill costs at most."""

    @model_validator(mode="after")
    def _votes_can_decide(self) -> Params:
        if self.votes % 2 == 0:
            raise ValueError(
                f"{self.votes} votes may tie; use {self.votes - 1} or {self.votes + 1}"
            )
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes at temperature 0 are all the same; set a temperature")
        return self


class Run(SampleRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Ask about every chosen candidate, keep all replies, and select the rows again."""
    from r1pipe.candidates.llm_judging import REPLIES, in_order, judged_rows
    from r1pipe.candidates.rejudge import quotas_in_force
    from r1pipe.candidates.selection import Selection, kept_rows
    from r1pipe.rows import read_problems, read_rows, schema_of, write_rows

    problems = {problem.id: problem for problem in read_problems(inputs.path("problems"))}
    tally = _ask_all(context, params, run, inputs, problems)
    tally.num_expected = tally.num_replies  # candidates without an answer were not asked about
    tally.check()
    replies = context.output("replies")
    write_rows(replies, in_order(context.journal("replies")), REPLIES)

    before, after, changes = inputs.path("candidates"), context.output("candidates"), Counter[str]()
    quotas = quotas_in_force(before, after, params.quotas)
    selection = Selection(quotas or Quotas(), params.target_rows or sys.maxsize)
    both = read_rows(before), read_rows(replies)
    judged = judged_rows(context.name, *both, problems, quotas, selection, changes)
    write_rows(after, judged, schema_of(before))
    _tell(context, tally, changes, selection.counts)
    rows = kept_rows(context.name, after, selection.counts["kept"])
    if not write_rows(context.output("rows"), rows, schema_of(before)):
        raise StageError(
            f"{context.name}: none of {selection.counts.total()} candidates is kept (the judge:"
            f" {dict(changes) or 'nothing'}); see its replies, or the candidates' filters"
        )


def _ask_all(
    context: Context, params: Params, run: Run, inputs: Inputs, problems: dict[str, Problem]
) -> Tally:
    """Put every question without a reply in the journal to the judge; count all replies."""
    from r1pipe.candidates.llm_judging import Tally, chosen_count, reuse_replies
    from r1pipe.rows import read_rows

    journal = context.journal("replies")
    few = read_rows(inputs.path("candidates"), columns=["task", "verdict", "filters"])
    num_expected = chosen_count(few, params.about, context.name) * params.votes
    reuse_replies(context, journal, params.candidates_per_unit * params.votes)
    done = journal.done()
    tally = Tally(context.name, num_expected, params.max_unreadable_frac).add(journal.rows())
    tally.check()
    units = _units(context, params, inputs, problems)
    left = ((unit, batch) for unit, batch in units if unit not in done)
    if (first := next(left, None)) is not None:
        _ask(context, params, run, inputs, chain([first], left), tally)
    return tally


def _ask(
    context: Context,
    params: Params,
    run: Run,
    inputs: Inputs,
    units: Iterator[tuple[str, list[Question]]],
    tally: Tally,
) -> None:
    """Put units of questions to the judge; keep its replies, and count them in `tally`."""
    from r1pipe.candidates.llm_judge import Judge
    from r1pipe.generate.backends import open_generator
    from r1pipe.generate.failures import FailedUnits
    from r1pipe.generate.protocol import SamplingParams
    from r1pipe.generate.streaming import streaming
    from r1pipe.generate.units import PendingUnit, finished_units
    from r1pipe.models.prompts import max_positions

    failed = FailedUnits()
    sampling = SamplingParams(params.temperature, 1.0, params.max_tokens, logprobs=False)
    asks = max_positions(inputs.path("model")), format_of(params.format, params.prompt)
    with (
        open_generator(inputs.path("model"), run, params.precision) as (generator, tokenizer),
        streaming(generator, context, sampling, run.max_batch) as stream,
    ):
        judge = Judge(tokenizer, params.votes, params.seed, *asks)
        pending = (PendingUnit(n, batch, judge.requests(batch)) for n, batch in units)
        # the first unit alone, since it may show that the judge cannot be read; where that shows
        # later, what was asked by then is kept too
        wanted = takewhile(lambda _: tally.failure is None, pending)
        finished = finished_units(
            stream, wanted, lambda _, *reply: judge.reply(*reply), failed, first_alone=True
        )
        _keep(context, params, judge, finished, tally)
    failed.check()


def _keep(
    context: Context,
    params: Params,
    judge: Judge,
    finished: Iterator[FinishedUnit[list[Question], Reply]],
    tally: Tally,
) -> None:
    """Keep the replies to units of questions; raise StageError if too many cannot be read."""
    from r1pipe.candidates.llm_judging import reply_rows

    journal = context.journal("replies")
    num_units = -(-tally.num_expected // (params.votes * params.candidates_per_unit))
    for count, unit in enumerate(finished, len(journal.done()) + 1):
        replies = judge.replies(unit.item, unit.found)
        rows = reply_rows(unit.item, replies, params.temperature, context.input_ids)
        journal.append(unit.name, rows)
        context.log(
            count,
            num_units,
            pass_rate=sum(row["verdict"] == Verdict.CORRECT for row in rows) / len(rows),
            unreadable=sum(bool(row["fault"]) for row in rows) / len(rows),
            tokens_per_s=unit.tokens_per_s,
        )
        tally.add(rows).look()
        context.stop_if_asked()
    if tally.failure is not None:
        raise tally.failure


def _units(
    context: Context, params: Params, inputs: Inputs, problems: dict[str, Problem]
) -> Iterator[tuple[str, list[Question]]]:
    """Yield the units of questions, by number."""
    from r1pipe.candidates.judge_form import Form, control_tokens
    from r1pipe.candidates.llm_judging import questions, units_of
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.rows import read_rows

    template = inputs.path("template").read_text("utf-8")
    control = control_tokens(load_tokenizer(inputs.path("model")))
    form = Form(template, params.max_answer_chars, control)
    rows = read_rows(inputs.path("candidates"))
    return units_of(
        questions(rows, problems, params.about, form, context.name), params.candidates_per_unit
    )


def _tell(context: Context, tally: Tally, changes: Counter[str], counts: Counter[str]) -> None:
    """Note what became of candidates and replies, and show a few replies."""
    from r1pipe.rows import read_rows

    sums = {
        name: sum(count for each, count in counts.items() if each.startswith(name))
        for name in ("kept", "dropped", "failed")
    }
    parts = {name: count for name, count in sorted(counts.items()) if name != "kept"}
    context.note(
        rows=sums["kept"],
        candidates=counts.total(),
        **sums,
        **parts,
        asked=changes.total(),
        verdicts_changed=dict(sorted(changes.items())),
        replies=tally.num_replies,
        sampled_tokens=tally.num_tokens,
        replies_read=dict(sorted(tally.verdicts.items())),
        unreadable=dict(sorted(tally.faults.items())),
    )
    for row in islice(read_rows(context.output("replies")), NUM_SHOWN):
        context.sample(**{name: row[name] for name in SHOWN})


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: replies about some or all candidates."""
    from r1pipe.costs.recipes import judgements

    return judgements(params, run, inputs)
