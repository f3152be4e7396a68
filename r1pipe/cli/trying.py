"""A few completions of a stage, looked at before it runs: prompt, completion, answer, rewards.

Nothing is written. The library is imported inside the functions: they load a model anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from r1pipe.chat import Format
from r1pipe.errors import StageError
from r1pipe.generator_settings import SampleRun
from r1pipe.keys import JsonObject
from r1pipe.manifest import StageNode
from r1pipe.settings import FormatParam, format_of
from r1pipe.stage import Inputs
from r1pipe.text import format_number, visible

if TYPE_CHECKING:
    from r1pipe.models.interfaces import Tokenizer
    from r1pipe.records import Group, Problem, Rollout, TokenSequence

KINDS = (
    *("grpo", "ppo", "online-rft", "on-policy-distil"),
    *("evaluate", "rejection-sample", "cold-start-data", "sft"),
)
ZERO_KINDS = ("cold-start-data",)
"""Kinds that sample in R1-Zero's format, without a parameter for it."""
NUM_ROWS = 2
REWARDS = {"accuracy": 1.0, "format": 1.0, "language": 1.0}
"""What is shown of a kind that names no rewards."""


@dataclass(frozen=True)
class Trial:
    """One completion, or one row to train on (then without a verdict)."""

    name: str
    prompt: str
    """As the model is given it, special tokens included."""
    completion: str
    """As the model wrote it, or is trained on it; likewise."""
    num_tokens: int
    finish_reason: str = ""
    gold: str = ""
    verdict: str = ""
    reason: str = ""
    """What was read, or why nothing was."""
    rewards: dict[str, float] = field(default_factory=dict)
    filters: dict[str, bool] = field(default_factory=dict)
    """Filter -> whether it passes, in stages that keep rows."""


def check_can_try(node: StageNode) -> None:
    """Raise StageError for a stage of a kind that neither samples nor trains on rows."""
    kind = node.kind.kind
    if kind not in KINDS:
        raise StageError(
            f"{node.name}: nothing can be tried of a stage of kind {kind}; kinds that can:"
            f" {', '.join(KINDS)}"
        )


def trials_of(node: StageNode, inputs: Inputs, num_problems: int) -> list[Trial]:
    """Return some completions of a stage, as it would sample and judge them.

    Of a stage that trains on rows: two of its rows. Raises StageError for any other kind.
    """
    check_can_try(node)
    if node.kind.kind == "sft":
        return _rows(node, inputs)
    return _completions(node, inputs, num_problems)


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """Return trials as text, safe for a terminal, with a summary if they are completions."""
    lines = []
    for number, trial in enumerate(trials, start=1):
        what = f"completion ({trial.num_tokens} tokens, {trial.finish_reason})"
        lines.append(f"[{number}] {visible(trial.name)}")
        lines += _block("prompt, as the model is given it", trial.prompt)
        lines += _block(what if trial.verdict else "trained tokens", trial.completion)
        if trial.verdict:
            rewards = [f"{name} {format_number(value)}" for name, value in trial.rewards.items()]
            lines.append(f"  {trial.reason} (gold '{visible(trial.gold)}')")
            lines.append(f"  rewards: {', '.join(rewards) or 'none'}")
        if trial.filters:
            dropped = [name for name, passed in trial.filters.items() if not passed]
            lines.append(f"  dropped by {', '.join(dropped)}" if dropped else "  kept")
        lines.append("")
    return [*lines, *_summary(trials)] if any(trial.verdict for trial in trials) else lines[:-1]


def _summary(trials: Sequence[Trial]) -> list[str]:
    verdicts = dict.fromkeys(trial.verdict for trial in trials)
    counts = [f"{sum(t.verdict == name for t in trials)} {name}" for name in verdicts]
    cut = sum(trial.finish_reason == "length" for trial in trials)
    mean = sum(trial.num_tokens for trial in trials) / len(trials)
    return [
        f"{len(trials)} completions: {', '.join(counts)}; {cut} cut off at max_tokens;"
        f" {format_number(mean)} tokens on average"
    ]


def _block(title: str, text: str) -> list[str]:
    return [f"  {title}", *(f"  | {line}" for line in visible(text, keep_lines=True).split("\n"))]


# ---- completions ---------------------------------------------------------------------------------


def _completions(node: StageNode, inputs: Inputs, num_problems: int) -> list[Trial]:
    from r1pipe.generate.backends import open_generator
    from r1pipe.generate.protocol import SamplingParams
    from r1pipe.generate.tools import with_tools
    from r1pipe.models.prompts import max_positions
    from r1pipe.rl.rollouts import sample_groups
    from r1pipe.sandbox.strength import using

    values: JsonObject = node.params.model_dump()
    fmt = _format(node)
    assert isinstance(node.run, SampleRun), f"{node.kind.kind} samples"
    sampling = SamplingParams(
        values["temperature"], values.get("top_p", 1.0), values["max_tokens"], logprobs=False
    )
    problems = _problems(inputs, num_problems)
    model, precision = inputs.path("model"), values["precision"]
    with (
        using(getattr(node.run, "sandbox", "full")),
        open_generator(model, node.run, precision) as (generator, tokenizer),
    ):
        tools = getattr(node.params, "tools", None)
        sampler = with_tools(generator, tokenizer, tools, max_positions(model))
        groups = sample_groups(
            sampler, tokenizer, problems, 1, sampling, fmt, [values["seed"], "try"]
        )
        return [_trial(group, tokenizer, values, fmt) for group in groups]


def _format(node: StageNode) -> Format:
    """Return the format that a stage samples in."""
    chosen: FormatParam = getattr(node.params, "format", "chat")
    chosen = "r1-zero" if node.kind.kind in ZERO_KINDS else chosen
    return format_of(chosen, getattr(node.params, "prompt", None))


def _problems(inputs: Inputs, count: int) -> list[Problem]:
    """Return so many problems from all over the stage's own."""
    from r1pipe.rows import read_problems

    given = dict(inputs.items())["problems"]
    paths = list(given.values()) if isinstance(given, dict) else [inputs.path("problems")]
    found = list(chain.from_iterable(read_problems(path) for path in paths))
    return [found[i * len(found) // count] for i in range(min(count, len(found)))]


def _trial(group: Group, tokenizer: Tokenizer, values: JsonObject, fmt: Format) -> Trial:
    from r1pipe.audit.reasons import reason_of
    from r1pipe.rewards.completion import Completion
    from r1pipe.rewards.rules import rule_rewards
    from r1pipe.verify import verify_many
    from r1pipe.verify.reading.recast import recast

    problem, (rollout,) = group.problem, group.rollouts
    plain = recast(rollout.text, fmt)
    (verdict,) = verify_many([(problem, plain)])
    reason = rollout.finish_reason.value
    weights = values.get("rewards") or REWARDS
    completion = Completion(
        rollout.text, len(rollout.completion_ids), rollout.finish_reason, values["max_tokens"]
    )
    return Trial(
        name=f"problem {problem.id} ({problem.task})",
        prompt=tokenizer.decode(list(rollout.prompt_ids)),
        completion=tokenizer.decode(list(rollout.completion_ids)),
        num_tokens=len(rollout.completion_ids),
        finish_reason=reason,
        gold=problem.gold,
        verdict=str(verdict),
        reason=reason_of(plain, problem.gold, str(verdict), reason),
        rewards=rule_rewards(problem, completion, verdict == "correct", weights, fmt),
        filters=_filters(problem, rollout, str(verdict), values, fmt) if "keep" in values else {},
    )


def _filters(
    problem: Problem, rollout: Rollout, verdict: str, values: JsonObject, fmt: Format
) -> dict[str, bool]:
    from r1pipe.candidates.filters import decide
    from r1pipe.records import Verdict
    from r1pipe.settings import Keep

    keep = Keep.model_validate(values["keep"])
    return decide(problem, rollout.text, rollout.finish_reason, Verdict(verdict), keep, fmt)


# ---- rows ----------------------------------------------------------------------------------------


def _rows(node: StageNode, inputs: Inputs) -> list[Trial]:
    """Return the first rows that a stage would train on."""
    from r1pipe.data.training_sequences import training_sequences
    from r1pipe.models.policy import load_tokenizer, stored_end_ids
    from r1pipe.models.programs import outputs_with
    from r1pipe.train.conversations import TurnEncoder

    folder = inputs.path("model")
    tokenizer = load_tokenizer(folder)
    values: JsonObject = node.params.model_dump()
    tools = getattr(node.params, "tools", None)
    sequences, _ = training_sequences(
        inputs.path("rows"),
        TurnEncoder(tokenizer, stored_end_ids(folder, tokenizer), outputs_with(tools)),
        values["max_tokens"],
        max_rows=NUM_ROWS,
        train_on=values["train_on"],
        max_bad_frac=1.0,
    )
    return [
        Trial(
            name=f"row {sequence.index + 1}",
            prompt=tokenizer.decode(list(sequence.prompt_ids)),
            completion="".join(_spans(tokenizer, sequence)),
            num_tokens=sequence.num_trained,
        )
        for sequence in sequences
    ]


def _spans(tokenizer: Tokenizer, sequence: TokenSequence) -> Iterator[str]:
    """Yield the completion's text; what is not trained in between is in double brackets."""
    trained = sequence.trained or [True] * len(sequence.completion_ids)
    for is_trained, pairs in groupby(
        zip(trained, sequence.completion_ids, strict=True), itemgetter(0)
    ):
        text = tokenizer.decode([token for _, token in pairs])
        yield text if is_trained else f"[[not trained: {text}]]"
