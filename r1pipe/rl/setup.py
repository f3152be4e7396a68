"""Set-up of a GRPO run: opened before its first rollout, closed and written after its last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from r1pipe.generate.backends import generator_of
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import freeze, load_model
from r1pipe.models.precision import dtype_of
from r1pipe.records import Problem
from r1pipe.rl.grpo import Grpo
from r1pipe.rl.params import GrpoParams, GrpoRun
from r1pipe.rl.parity import TOLERANCES, check_parity
from r1pipe.rl.reference import make_reference
from r1pipe.rl.rollouts import RewardFn
from r1pipe.settings import Precision
from r1pipe.stage import Context
from r1pipe.train.backends import make_engine, shards_weights
from r1pipe.train.batching import batching_of
from r1pipe.train.loop import Trainer
from r1pipe.train.own_forward import check_forward
from r1pipe.train.supervised import finish


@contextmanager
def opened(
    context: Context,
    model: LanguageModel,
    tokenizer: Tokenizer,
    params: GrpoParams,
    run: GrpoRun,
    reward_models: Mapping[str, RewardFn] | None = None,
) -> Iterator[Grpo]:
    """Give a run that goes on from its newest checkpoint; write the policy after the block."""
    precision, ranks = params.precision, context.ranks
    reference = make_reference(model, run, ranks, precision) if params.kl_coef else None
    sampled = sampled_model(model, run, precision)
    engine = make_engine(model, params.optimizer, run, ranks, precision)
    batching = batching_of(run, tokenizer.pad_token_id)
    check_forward(engine, model, batching, precision)
    others = [] if reference is None else [reference]
    with closing(generator_of(sampled, tokenizer, run, ranks.size, precision)) as generator:
        trainer = Trainer(context, engine, params.optimizer, params.num_steps, others)
        models = reward_models or {}
        yield Grpo(context, params, tokenizer, batching, trainer, generator, reference, models)
    context.note(trained_tokens=trainer.trained_tokens)
    if reference is not None:
        reference.close()
    finish(context, engine, tokenizer, precision)


def sampled_model(model: LanguageModel, run: GrpoRun, precision: Precision) -> LanguageModel:
    """Return what the sampler runs: the trained model itself, or one of its own if that is sharded
    (ZeRO-3). vLLM looks at its configuration only."""
    if not run.generator.samples_policy or not shards_weights(run):
        return model
    folder = Path(model.name_or_path)
    return freeze(load_model(folder, dtype=dtype_of(precision), device=run.device))


def check_sampler(grpo: Grpo, problems: Sequence[Problem], run: GrpoRun) -> None:
    """Check a sampler with weights of its own against the trainer (`r1pipe.rl.parity`)."""
    if run.generator.samples_policy:
        return
    grpo.generator.load_weights(grpo.trainer.engine.weights())
    tolerance = run.parity_tolerance or TOLERANCES[grpo.params.precision]
    grpo.context.note(**check_parity(grpo, problems, tolerance))
