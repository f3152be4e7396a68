"""Set-up of a GRPO run: opened before its first rollout, closed and written after its last one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.audit.golds import check_golds
from r1pipe.curricula.curricula import CurriculumState
from r1pipe.errors import StageError
from r1pipe.generate.backends import Prompts, SomeRun, fitted, generator_of
from r1pipe.generate.driven import Driven, Joined
from r1pipe.generate.protocol import Generator
from r1pipe.method_params.policies import GrpoParams
from r1pipe.method_params.runs import GrpoRun, OnPolicyDistilRun
from r1pipe.models.adapters import is_adapted
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import freeze, load_model, load_tokenizer
from r1pipe.models.precision import cast_weights, dtype_of
from r1pipe.models.prompts import max_positions
from r1pipe.policies.ahead import AheadOfTraining, SamplerWeights
from r1pipe.policies.parity import TOLERANCES, check_parity
from r1pipe.records import Problem
from r1pipe.rewards.model import RewardFn
from r1pipe.rl.credits import credit_of
from r1pipe.rl.grpo import BatchSource, Grpo, InTurn
from r1pipe.rl.ppo import Critic
from r1pipe.settings import ModelParams, Precision, format_of
from r1pipe.stage import Context
from r1pipe.supervision.steps import StepFn, rule_steps
from r1pipe.text import visible
from r1pipe.train.backends import make_engine, shards_weights
from r1pipe.train.batching import batching_of
from r1pipe.train.loop import Trainer
from r1pipe.train.own_forward import check_forward
from r1pipe.train.reference import Anchor, Reference, make_reference
from r1pipe.train.supervised import finish

NUM_COMPARED = 32
"""Prompts on which two tokenizers are compared."""


def usable_problems(
    context: Context, name: str, problems: Sequence[Problem], judged: Collection[str]
) -> list[Problem]:
    """Return the problems whose gold answer verifies against itself.

    The others, on which every completion would be wrong, are noted under `unusable_golds`: how
    many and which share, also where there are none.

    Tasks of `judged` are rewarded by a model, which reads no gold answer. All ranks return the
    same. Raises StageError if none is left.
    """
    found, said = dict[str, object](), ""
    bad: list[list[str]] = []
    if context.ranks.is_main:
        read = [problem for problem in problems if problem.task not in judged]
        report = check_golds(read, max_unusable_frac=1.0)
        bad = [[p.id, p.prompt, p.gold] for p, _ in report.quarantined]
        found, said = report.to_json(), report.warning() if bad else ""
    bad = context.ranks.gather(bad)[0]  # of a large set it may be more than `agree` can tell
    context.note(unusable_golds={name: found})
    if not bad:
        return list(problems)
    context.warn(f"{name}: {said}")
    left_out = set(map(tuple, bad))
    usable = [p for p in problems if p.task in judged or (p.id, p.prompt, p.gold) not in left_out]
    if not usable:
        raise StageError(
            f"{context.name}: {name}: no problem has a usable gold answer (first: problem"
            f" {visible(bad[0][0])}, gold {visible(repr(bad[0][2][:80]))}); correct them, or choose"
            " another checker"
        )
    return usable


def with_room_for(
    problems: Sequence[Problem],
    run: SomeRun,
    params: GrpoParams,
    folder: Path,
    tokenizer: Tokenizer,
) -> SomeRun:
    """Return `run` with a sampler that has no more room than the problems need.

    Where prompts show parts of solutions, it has what the model allows. Raises StageError if a
    prompt leaves no room for a completion.
    """
    prompts = Prompts(problems, format_of(params.format, params.prompt), params.max_tokens)
    prompts.check_room(tokenizer, max_positions(folder))
    if params.adaback is not None or params.r3 is not None:
        return run
    return fitted(run, folder, tokenizer, prompts)


@dataclass(frozen=True, kw_only=True)
class Guides:
    """What guides a policy besides rewards by rules; a method gives some of them."""

    reward_models: Mapping[str, RewardFn] = field(default_factory=dict)
    """Task -> reward model that takes the place of the accuracy reward."""
    score_steps: StepFn = rule_steps
    """What rewards the steps of a completion."""
    teacher: Anchor | None = None
    """Takes the reference's place; it never moves, so checkpoints do not have it."""
    critic: Critic | None = None
    """Gives the tokens their advantages; in checkpoints, and the caller's to write."""


NO_GUIDES = Guides()


@contextmanager
def opened(
    context: Context,
    model: LanguageModel,
    tokenizer: Tokenizer,
    params: GrpoParams,
    run: GrpoRun,
    guides: Guides = NO_GUIDES,
) -> Iterator[Grpo]:
    """Give a run that goes on from its newest checkpoint; write the policy after the block."""
    precision, ranks, critic = params.precision, context.ranks, guides.critic
    needs_own = params.kl_coef and not guides.teacher
    made = make_reference(model, run, ranks, precision) if needs_own else None
    reference: Anchor | None = guides.teacher or made
    sampled = sampled_model(model, run, precision, is_ahead=params.staleness > 0)
    engine = make_engine(model, params.optimizer, run, ranks, precision, context.warn)
    batching = batching_of(run, tokenizer.pad_token_id)
    check_forward(engine, model, batching, precision)
    with closing(open_sampler(context, sampled, tokenizer, run, precision)) as generator:
        memory, weights = CurriculumState(lambda: ranks.is_main), SamplerWeights(ranks.is_main)
        others = [each for each in (made, critic, memory, weights) if each is not None]
        trainer = Trainer(context, engine, params.optimizer, params.num_steps, others)
        credit = credit_of(params, tokenizer, guides.score_steps, reference, batching, critic)
        parts = tokenizer, batching, trainer, generator, reference, credit
        source: BatchSource = InTurn()
        if params.staleness:
            source = AheadOfTraining(params.staleness, weights)
        yield Grpo(context, params, *parts, guides.reward_models, memory, source)
    context.note(trained_tokens=trainer.trained_tokens)
    if reference is not None:
        reference.close()
    finish(context, engine, tokenizer, precision, params.adapter)


def open_teacher(
    context: Context,
    folder: Path,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    params: ModelParams,
    run: GrpoRun,
) -> Anchor:
    """Return the frozen teacher of a policy: a model, whole on every rank, or the same behind the
    server of `run.teacher`.

    Raises StageError if it does not read tokens as the policy's tokenizer writes them.
    """
    own = load_tokenizer(folder)
    for text in (problem.prompt for problem in problems[:NUM_COMPARED]):
        if len(own) != len(tokenizer) or own(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise StageError(
                f"{context.name}: inputs.teacher: its tokenizer is another than the policy's, so it"
                " cannot score the policy's tokens; give a teacher with the same one, or distil by"
                " sft on its completions"
            )
    if isinstance(run, OnPolicyDistilRun) and run.teacher is not None:
        from r1pipe.generate.openai_scores import ServerTeacher

        teacher = ServerTeacher(run.teacher, tokenizer, context.ranks)
        teacher.check([problem.prompt for problem in problems[:NUM_COMPARED]])
        return teacher
    model = freeze(load_model(folder, dtype=dtype_of(params.precision), device=run.device))
    return Reference(model, context.ranks, params.precision)


def sampled_model(
    model: LanguageModel, run: GrpoRun, precision: Precision, *, is_ahead: bool = False
) -> LanguageModel:
    """Return what the sampler runs: the trained model itself, or one of its own if that is sharded
    (ZeRO-3) or the sampler is ahead of it. vLLM looks at its configuration only."""
    if not run.generator.samples_policy:
        return model
    if shards_weights(run) or (is_ahead and is_adapted(model)):
        folder = Path(model.name_or_path)
        return freeze(load_model(folder, dtype=dtype_of(precision), device=run.device))
    if not is_ahead:
        return model
    own = freeze(copy.deepcopy(model))
    return cast_weights(own, precision) if run.engine.casts_weights else own


def open_sampler(
    context: Context,
    model: LanguageModel,
    tokenizer: Tokenizer,
    run: GrpoRun,
    precision: Precision,
) -> Generator:
    """Return what samples the policy: in each process of the trainer, in several of them together,
    or apart from all of them and driven by rank 0."""
    ranks, width = context.ranks, run.generator.ranks_together
    if ranks.size > 1 and run.generator.is_driven:
        engines = generator_of(model, tokenizer, run, 1, precision) if ranks.is_main else None
        return Driven(engines, context)
    made = generator_of(model, tokenizer, run, ranks.size, precision)
    return Joined(made, context, width) if ranks.size > 1 and width > 1 else made


def check_sampler(grpo: Grpo, problems: Sequence[Problem], run: GrpoRun) -> None:
    """Check a sampler with weights of its own against the trainer (`r1pipe.policies.parity`)."""
    if run.generator.samples_policy and not grpo.params.staleness:
        return
    grpo.generator.load_weights(grpo.trainer.engine.weights())
    tolerance = run.parity_tolerance or TOLERANCES[grpo.params.precision]
    grpo.context.note(**check_parity(grpo, problems, tolerance))
