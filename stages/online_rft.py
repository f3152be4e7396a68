"""Online rejection-sampling fine-tuning: the policy is trained on its own accepted completions.

Paper: arXiv:2402.03300 (DeepSeekMath), section 5.2.1 and Eq. 10-11: what is right is sampled from
the policy as it is now, where RFT samples once from the first one. What is wrong has no gradient.

In: `model`, `problems`. Out: `model`, a Hugging Face directory. Problems whose gold answer does not
verify against itself are left out and counted.

Departures: none known. The loss is the mean over all completions, accepted or not, as Eq. 10 has
it; so its gradient is that of RFT times the share that is accepted.

Run it with `r1pipe run manifests/methods/online-rft.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.method_params.policies import OnlineRftParams
from r1pipe.method_params.runs import GrpoRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"model": Input("model"), "problems": Input("problems")}
OUTPUTS = {"model": "model"}

Params = OnlineRftParams
Run = GrpoRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train the policy, rollout by rollout; `r1pipe.rl.grpo` is the loop."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.policies.setup import check_sampler, opened, usable_problems, with_room_for
    from r1pipe.policies.training import train_policy
    from r1pipe.rows import read_problems
    from r1pipe.train.backends import load_policy
    from r1pipe.verify.code import sandboxed

    problems = read_problems(inputs.path("problems"))
    if params.rewards.get("accuracy"):
        problems = usable_problems(context, "problems", problems, ())
    model = load_policy(inputs.path("model"), run, params, params.seed)
    tokenizer = load_tokenizer(inputs.path("model"))
    chosen = params.as_grpo()
    run = with_room_for(problems, run, chosen, inputs.path("model"), tokenizer)
    with (
        sandboxed(context, run.sandbox, problems),
        opened(context, model, tokenizer, chosen, run) as loop,
    ):
        check_sampler(loop, problems, run)
        train_policy(loop, problems, stop_when=run.stop_when)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: rollouts and updates."""
    from r1pipe.costs.rollouts import rollouts

    return rollouts(params.as_grpo(), run, inputs)
