"""PPO: the policy's completions, rewarded, and a critic that says what was to be expected of them.

Paper: arXiv:1707.06347; for language models arXiv:2203.02155, and arXiv:2402.03300, section 4.1.1,
which GRPO is compared with. arXiv:2501.12948v2, A.3: gae_lambda 1 comes near GRPO, 0.95 does not.

In: `model`, `problems`; optionally `critic`, a reward model or an earlier critic, from which the
critic starts: else it is the policy's backbone with a fresh head. Optionally `reward`, a reward
model that takes the place of the accuracy reward. Out: `model`, a Hugging Face directory, and
`critic`, a model with a scalar head as reward models are.

Departures: the critic makes one update for each of the policy's, on the same minibatch, with an
optimizer of its own; there is no common loss, so no weight of its part.

Run it with `r1pipe stage ppo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.method_params.policies import PpoParams
from r1pipe.method_params.runs import GrpoRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.rewards.model import RewardFn
    from r1pipe.rl.ppo import Critic

VERSION = 2
INPUTS = {
    "model": Input("model"),
    "problems": Input("problems"),
    "critic": Input("model", optional=True),
    "reward": Input("model", optional=True),
}
OUTPUTS = {"model": "model", "critic": "model"}


Params = PpoParams
Run = GrpoRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train policy and critic, rollout by rollout; `r1pipe.rl.ppo` has what GRPO has not."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.policies.setup import Guides, check_sampler, opened, usable_problems, with_room_for
    from r1pipe.policies.training import train_policy
    from r1pipe.rows import read_problems
    from r1pipe.supervision.reward_model import reward_function, write_reward_model
    from r1pipe.train.backends import load_policy
    from r1pipe.verify.code import sandboxed

    problems, chosen = read_problems(inputs.path("problems")), params.as_grpo()
    if params.rewards.get("accuracy"):
        judged = {problem.task for problem in problems} if "reward" in inputs else set[str]()
        problems = usable_problems(context, "problems", problems, judged)
    reward_models: dict[str, RewardFn] = {}
    if "reward" in inputs:
        score = reward_function(inputs.path("reward"), "completion", run, params.precision)
        reward_models = dict.fromkeys((p.task for p in problems), score)
    model = load_policy(inputs.path("model"), run, params, params.seed)
    tokenizer = load_tokenizer(inputs.path("model"))
    run = with_room_for(problems, run, chosen, inputs.path("model"), tokenizer)
    critic = _critic(context, params, run, inputs, tokenizer.pad_token_id)
    guides = Guides(reward_models=reward_models, critic=critic)
    with (
        sandboxed(context, run.sandbox, problems),
        opened(context, model, tokenizer, chosen, run, guides) as loop,
    ):
        check_sampler(loop, problems, run)
        train_policy(loop, problems, stop_when=run.stop_when)
    write_reward_model(context, critic.engine, tokenizer, params.precision, "critic")


def _critic(context: Context, params: Params, run: Run, inputs: Inputs, pad_id: int) -> Critic:
    """Return the critic: that of the input, or the policy's backbone with a fresh head."""
    from r1pipe.rl.ppo import Critic
    from r1pipe.supervision.reward_model import new_reward_model
    from r1pipe.train.backends import make_engine
    from r1pipe.train.batching import batching_of

    start = inputs.path("critic" if "critic" in inputs else "model")
    model = new_reward_model(start, params.seed, run, params.precision)
    optimizer = params.critic_optimizer or params.optimizer
    engine = make_engine(model, optimizer, run, context.ranks, params.precision, context.warn)
    return Critic(engine, params, batching_of(run, pad_id))


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: rollouts, and updates of the policy and of the critic."""
    from r1pipe.costs.rollouts import with_critic

    return with_critic(params, run, inputs)
