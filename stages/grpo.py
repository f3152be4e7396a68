"""GRPO with rule rewards, and with reward models in the last part of the steps.

Paper: arXiv:2402.03300, section 4.1 (the algorithm); arXiv:2501.12948, sections 2.2 (R1-Zero),
2.3.2 (reasoning RL, with the language reward) and 2.3.4 (alignment RL).

In: `model`, `problems`; optionally `general` problems and the reward models `helpful` and `safety`;
optionally the process reward model `process`, and the reward model `reward`, which reads whole
completions and takes the place of the accuracy reward for all problems (iterative GRPO).
Out: `model`, a Hugging Face directory. Problems whose gold answer does not verify against itself
are left out and counted.

Departures: the ratio is per token (DeepSeekMath, Eq. 3); problems, not single completions, are
drawn per rollout, and the minibatches split its completions at random; a preference reward is the
sigmoid of the reward model's score, since no scale was published.

Run it with `r1pipe stage zero`, `r1pipe stage reasoning-rl`, `r1pipe stage alignment-rl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.method_params.policies import GrpoParams
from r1pipe.method_params.runs import GrpoRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.rewards.model import RewardFn
    from r1pipe.supervision.steps import StepFn

VERSION = 4
INPUTS = {
    "model": Input("model"),
    "problems": Input("problems"),
    "general": Input("problems", optional=True),
    "helpful": Input("model", optional=True),
    "safety": Input("model", optional=True),
    "process": Input("model", optional=True),
    "reward": Input("model", optional=True),
}
OUTPUTS = {"model": "model"}
JUDGED = ("general", "safety")
"""Tasks whose reward models take the place of the accuracy reward."""


Params = GrpoParams
Run = GrpoRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train the policy, rollout by rollout; `r1pipe.rl.grpo` is the algorithm."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.policies.setup import Guides, check_sampler, opened, usable_problems, with_room_for
    from r1pipe.policies.training import train_policy
    from r1pipe.rows import read_problems
    from r1pipe.supervision.reward_model import reward_function
    from r1pipe.train.backends import load_policy
    from r1pipe.verify.code import sandboxed

    problems = read_problems(inputs.path("problems"))
    if params.rewards.get("accuracy"):
        judged = {problem.task for problem in problems} if "reward" in inputs else set[str]()
        judged |= set(JUDGED) if params.preference else set()
        problems = usable_problems(context, "problems", problems, judged)
    reward_models = _reward_models(params, run, inputs, context.name)
    if "reward" in inputs:
        score = reward_function(inputs.path("reward"), "completion", run, params.precision)
        reward_models = dict.fromkeys((p.task for p in problems), score) | reward_models
    model = load_policy(inputs.path("model"), run, params, params.seed)
    tokenizer = load_tokenizer(inputs.path("model"))
    general = read_problems(inputs.path("general")) if params.preference else []
    run = with_room_for([*problems, *general], run, params, inputs.path("model"), tokenizer)
    score_steps = _score_steps(params, run, inputs, context.name)
    guides = Guides(reward_models=reward_models, score_steps=score_steps)
    with (
        sandboxed(context, run.sandbox, problems),
        opened(context, model, tokenizer, params, run, guides) as grpo,
    ):
        check_sampler(grpo, problems, run)
        train_policy(grpo, problems, general, run.stop_when)


def _reward_models(params: Params, run: Run, inputs: Inputs, name: str) -> dict[str, RewardFn]:
    """Return the reward model of each general task; both are needed if there is a preference."""
    if params.preference is None:
        return {}
    missing = [i for i in ("general", "helpful", "safety") if i not in inputs]
    if missing:
        raise StageError(f"{name}: params.preference needs the inputs {', '.join(missing)}")
    from r1pipe.supervision.reward_model import reward_function

    return {
        "general": reward_function(inputs.path("helpful"), "summary", run, params.precision),
        "safety": reward_function(inputs.path("safety"), "completion", run, params.precision),
    }


def _score_steps(params: Params, run: Run, inputs: Inputs, name: str) -> StepFn:
    """Return what rewards steps under process supervision."""
    from r1pipe.supervision.steps import process_reward_function, rule_steps

    if params.process != "model":
        return rule_steps
    if "process" not in inputs:
        raise StageError(f"{name}: params.process: model needs the input process, a reward model")
    return process_reward_function(inputs.path("process"), run, params.precision)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: rollouts, the reference's log-probabilities, updates."""
    from r1pipe.costs.rollouts import rollouts

    return rollouts(params, run, inputs)
