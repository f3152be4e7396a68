"""On-policy distillation: the policy samples, and a teacher's log-probabilities say what to change.

Paper: arXiv:2306.13649 (GKD, on-policy data with the reverse KL). The advantage of a token is
log teacher - log policy, on the prefix that the policy has written; in expectation that is the
gradient of the reverse KL of the next token. Rewards are logged and play no part.

In: `model`, `problems`, `teacher`: a model with the same tokenizer, computed here or by the server
of `run.teacher`. Out: `model`, a Hugging Face directory.

Departures: the KL is estimated by the sampled tokens (k1), where GKD sums over the vocabulary.

Run it with `r1pipe run manifests/methods/on-policy-distil.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.method_params.policies import OnPolicyDistilParams
from r1pipe.method_params.runs import OnPolicyDistilRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {
    "model": Input("model"),
    "problems": Input("problems"),
    "teacher": Input("model", tokenizer_of="model"),
}
OUTPUTS = {"model": "model"}

Params = OnPolicyDistilParams
Run = OnPolicyDistilRun


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train the policy, rollout by rollout; `r1pipe.rl.grpo` is the loop."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.policies.setup import Guides, check_sampler, open_teacher, opened, with_room_for
    from r1pipe.policies.training import train_policy
    from r1pipe.rows import read_problems
    from r1pipe.train.backends import load_policy
    from r1pipe.verify.code import sandboxed

    problems, tokenizer = (
        read_problems(inputs.path("problems")),
        load_tokenizer(inputs.path("model")),
    )
    teacher = open_teacher(context, inputs.path("teacher"), tokenizer, problems, params, run)
    model = load_policy(inputs.path("model"), run, params, params.seed)
    chosen = params.as_grpo()
    run = with_room_for(problems, run, chosen, inputs.path("model"), tokenizer)
    with (
        sandboxed(context, run.sandbox, problems),
        opened(context, model, tokenizer, chosen, run, Guides(teacher=teacher)) as loop,
    ):
        check_sampler(loop, problems, run)
        train_policy(loop, problems, stop_when=run.stop_when)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: rollouts, the teacher's log-probabilities, updates."""
    from r1pipe.costs.rollouts import with_teacher

    return with_teacher(params, run, inputs)
