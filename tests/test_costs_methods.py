"""Costs of pairs, DPO and process labels, worked by hand from the stages' own functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_costs import MODEL
from tiny import stage

from r1pipe.costs.preferences import STEPS
from r1pipe.costs.rates import Calibration, Speed, sampling_seconds
from r1pipe.costs.work import Cost, DatasetInfo, ProblemsInfo, Range, RowsInfo

CANDIDATES = RowsInfo(Range(80), Range(10), Range(20))


def cost(kind: str, inputs: dict[str, Any], **params: Any) -> Cost:
    found = stage(kind)
    made: Cost = found.cost(found.params(seed=1, **params), found.run_model(), inputs)
    return made


def test_pairs_need_two_candidates_each_and_have_both_texts() -> None:
    rows = cost("pairs", {"candidates": CANDIDATES}, max_per_problem=1).outputs["rows"]
    assert rows == RowsInfo(Range(0.8, 40), Range(10), Range(40))
    labels = {"max_per_problem": 4, "objective": "pointwise"}
    rows = cost("pairs", {"candidates": CANDIDATES}, **labels).outputs["rows"]
    assert rows == RowsInfo(Range(1.6, 80), Range(10), Range(20))


def test_dpo_trains_both_texts_and_scores_them_once() -> None:
    pairs = RowsInfo(Range(30, 40), Range(10), Range(40))
    params = {"batch_size": 8, "max_tokens": 100, "num_epochs": 3, "optimizer": {"lr": 1e-5}}
    (work,) = cost("dpo", {"model": MODEL, "rows": pairs}, **params).training
    assert work.tokens == Range(3 * 30 * 2 * 30, 3 * 40 * 2 * 30)
    assert work.scored_tokens == Range(30 * 60, 40 * 60)
    assert work.updates == Range(3 * 4, 3 * 5)
    assert work.frozen_copies == 0, "the reference is the policy before its first step"


def test_process_labels_sample_every_step_so_many_times() -> None:
    inputs = {"candidates": CANDIDATES, "problems": None, "model": MODEL}
    made = cost("process-labels", inputs, num_continuations=8, max_tokens=12)
    (work,) = made.sampling
    assert work.completions == Range(80 * STEPS.low * 8, 80 * STEPS.high * 8)
    assert work.completion_tokens == Range(4, 12)
    assert work.rounds == Range(3)  # 80 candidates in units of 32
    assert made.outputs["rows"] == RowsInfo(Range(24, 80), Range(10), Range(20))


def test_a_selection_takes_its_share_of_the_documents() -> None:
    inputs = {"seed": DatasetInfo(None), "documents": DatasetInfo(1000)}
    made = cost("select-corpus", inputs, collected_frac=0.2)
    assert made.outputs["rows"].num_rows == Range(100, 200)  # type: ignore[attr-defined]
    assert made.other_s.high > made.other_s.low > 1.0


ROLLOUTS = {
    "format": "chat",
    "num_steps": 4,
    "problems_per_step": 2,
    "group_size": 4,
    "optimizer": {"lr": 1e-5},
    "max_tokens": 12,
}


def test_a_critic_trains_on_every_completion_and_stays_in_memory() -> None:
    inputs = {"model": MODEL, "problems": ProblemsInfo(Range(40), Range(10), Range(4, 12))}
    made = cost("ppo", inputs, rewards={"accuracy": 1.0}, kl_coef=0.0, **ROLLOUTS)
    policy, critic = made.training
    least, most = 32 * (10 + 4), 32 * (10 + 12)  # prompts of 10 tokens, completions of 4 to 12
    assert (policy.tokens.low, policy.tokens.high) == pytest.approx((least, most))
    assert critic.tokens == policy.tokens, "no group is left out"
    assert critic.scored_tokens == policy.tokens, "values, once before the updates"
    assert (policy.is_counted, critic.is_counted) == (True, False), "as the record says it"
    assert (policy.frozen_copies, policy.whole_copies) == (0, 4)
    assert made.outputs == {"model": MODEL, "critic": MODEL}
    beside = {"rewards": {"accuracy": 1.0}, "adapter": {"rank": 2, "alpha": 4}}
    policy, critic = cost("ppo", inputs, **beside, **ROLLOUTS).training
    assert policy.adapter_parameters is not None
    assert critic.adapter_parameters is None, "a critic is trained whole beside an adapter too"


def test_a_teacher_counts_with_its_own_size_beside_an_adapter_too_and_not_behind_a_server() -> None:
    kind = stage("on-policy-distil")
    large = replace(
        MODEL,
        num_parameters=3 * MODEL.num_parameters,
        active_parameters=2 * MODEL.active_parameters,
    )
    problems = ProblemsInfo(Range(40), Range(10), Range(4, 12))
    inputs = {"model": MODEL, "problems": problems, "teacher": large}
    tokens = (Range(10) + Range(4, 12)) * 32
    for adapter in (None, {"rank": 2, "alpha": 4}):
        params = kind.params(seed=1, adapter=adapter, **ROLLOUTS)
        (work,) = kind.cost(params, kind.run_model(), inputs).training
        assert (work.frozen_copies, work.whole_copies) == (0, 3)
        assert work.scored_tokens == tokens * 2.0
        assert (work.adapter_parameters is None) is (adapter is None)
        server = kind.run_model(teacher={"backend": "openai", "url": "http://here/v1"})
        (work,) = kind.cost(params, server, inputs).training
        assert (work.whole_copies, work.scored_tokens) == (0, Range(0))


def test_sampling_ahead_keeps_copies_of_the_weights() -> None:
    kind = stage("grpo")
    inputs = {"model": MODEL, "problems": ProblemsInfo(Range(40), Range(10), Range(4, 12))}
    own = {"rewards": {"accuracy": 1.0}, "kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}
    own |= {"seed": 1, "format": "chat"}
    here = dict[str, object]()
    there: dict[str, object] = {"generator": {"cluster": "ray"}}
    for staleness, device, more, copies in (
        (0, "cpu", here, 0),
        (2, "cpu", here, 1 + 2),
        (2, "cuda", here, 1),
        (2, "cpu", there, 2),
        (2, "cuda", there, 0),
    ):
        ahead = {"staleness": staleness, "sampler_truncation": 2.0, **own, **ROLLOUTS}
        run = kind.run_model.model_validate({"device": device, **more})
        (work,) = kind.cost(kind.params(**ahead), run, inputs).training
        assert work.whole_copies == copies


def test_programs_have_text_dropped_and_read_again_after_each_of_them() -> None:
    problems = ProblemsInfo(Range(40), Range(10), Range(4, 12))
    own = {"rewards": {"accuracy": 1.0}, "kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}
    whole = {"model": MODEL, "problems": problems}
    every = {"format": "chat", "max_tokens": 12}
    rejection = {**every, "target_rows": 8, "samples_per_problem": 4, "problems_per_unit": 4}
    evaluation = {**every, "num_samples": 2, "problems_per_unit": 8}
    for kind, inputs, params in (
        ("grpo", whole, {**own, **ROLLOUTS}),
        ("rejection-sample", whole, rejection),
        ("evaluate", {"model": MODEL, "problems": {"mine": problems}}, evaluation),
    ):
        (plain,) = cost(kind, inputs, **params).sampling
        (work,) = cost(kind, inputs, tools={"max_rounds": 3}, **params).sampling
        most = plain.completions.high
        assert work.extra_tokens == Range(0, 3 * most * (10 + 12 + 12)), kind
        assert work.rounds == Range(plain.rounds.low, 4 * plain.rounds.high)
        assert (work.completions, work.prompts) == (plain.completions, plain.prompts)
        (ends,) = cost(kind, inputs, tools={"ends": True}, **params).sampling
        assert ends == replace(plain, extra_tokens=Range(0, most * 12))


def test_extra_tokens_take_their_time() -> None:
    inputs = {"model": MODEL, "problems": ProblemsInfo(Range(40), Range(10), Range(4, 12))}
    own = {"rewards": {"accuracy": 1.0}, "kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}
    (plain,) = cost("grpo", inputs, **own, **ROLLOUTS).sampling
    tokens = plain.tokens.high + (plain.prompts * plain.prompt_tokens).high
    twice = replace(plain, extra_tokens=Range(tokens))
    speeds = {"sample:transformers:cpu": Speed(((1e12, 0.001),))}
    measured = Calibration(machine={}, versions={}, made="", speeds=speeds)
    (first, is_measured), (second, _) = (sampling_seconds(w, measured) for w in (plain, twice))
    assert is_measured
    assert second.high == pytest.approx(2 * first.high)


OWN = {"rewards": {"accuracy": 1.0}, "clip_low": 0.2, "clip_high": 0.2}


def test_a_part_of_the_solution_is_read_and_not_sampled() -> None:
    # AdaBack: half of a solution, in four draws of five: 0.4 of 4 to 12 tokens; R3: 0 to 3 of 4
    # slices, on average 1.5 of 4
    known = ProblemsInfo(Range(40), Range(10), Range(4, 12))
    for shown, share in (
        ({"adaback": {"threshold": 0.5, "zero_frac": 0.2}}, 0.4),
        ({"r3": {"num_slices": 4}}, 0.375),
        ({"r3": {"num_slices": 4, "is_staged": True}}, 0.375),
    ):
        params: dict[str, Any] = {**OWN, **ROLLOUTS, **shown, "kl_coef": 0.1}
        found = cost("grpo", {"model": MODEL, "problems": known}, **params)
        (work,), (training,) = found.sampling, found.training
        prompts, lengths = work.prompt_tokens.to_json(), work.completion_tokens.to_json()
        assert prompts == pytest.approx([10 + share * 4, 10 + share * 12])
        assert lengths == pytest.approx([(1 - share) * 4, (1 - share) * 12])
        # what is shown and what is sampled are one solution: 32 sequences of 14 to 22 tokens
        assert training.tokens.to_json() == pytest.approx([32 * 14, 32 * 22])
        assert any(each.startswith(f"{share:.0%} of a worked solution") for each in found.assumes)
        # 60 to 500 tokens of a data set's solution; a real model's completions are not known
        real = {"model": MODEL, "problems": replace(known, completion_tokens=None)}
        (work,) = cost("grpo", real, **{**params, "max_tokens": 1000}).sampling
        assert work.prompt_tokens.to_json() == pytest.approx([10 + share * 60, 10 + share * 500])
        lengths = work.completion_tokens.to_json()
        assert lengths == pytest.approx([(1 - share) * 100, (1 - share) * 600])


def test_what_is_expected_of_completions_begun_is_what_they_sample() -> None:
    kind = stage("grpo")
    inputs = {"model": MODEL, "problems": ProblemsInfo(Range(40), Range(10), Range(4, 12))}
    params = kind.params(
        **{"seed": 1, "kl_coef": 0.0, **OWN, **ROLLOUTS}, adaback={"threshold": 0.5, "zero_frac": 0}
    )
    run = kind.run_model(expect={"completion_tokens": (3, 5)})
    (work,) = kind.cost(params, run, inputs).sampling
    assert work.completion_tokens == Range(3, 5)
    assert work.prompt_tokens == Range(12, 16)


def test_a_corrected_sampler_costs_a_pass_over_every_completion_of_several_updates() -> None:
    inputs = {"model": MODEL, "problems": ProblemsInfo(Range(40), Range(10), Range(4, 12))}
    every = (32 * 14, 32 * 22)  # 4 updates x 2 problems x 4 completions
    for truncation, updates, kl_coef, passes in (
        (None, 2, 0.0, 0),
        (2.0, 1, 0.0, 0),  # the only update has those log-probabilities itself
        (2.0, 2, 0.0, 1),
        (2.0, 2, 0.1, 2),  # and one by the reference
    ):
        params: dict[str, Any] = {**OWN, **ROLLOUTS, "kl_coef": kl_coef}
        params |= {"sampler_truncation": truncation, "minibatches_per_rollout": updates}
        (work,) = cost("grpo", inputs, **params).training
        assert work.scored_tokens == Range(*(passes * tokens for tokens in every))


def test_judges_and_continuations_are_as_long_as_is_expected() -> None:
    inputs = {"candidates": CANDIDATES, "problems": None, "model": MODEL, "template": None}
    for name, params, rough, what in (
        ("judge", {}, Range(0.05 * 60, 60), "replies"),
        ("process-labels", {"num_continuations": 8}, Range(4, 20), "continuations"),
    ):
        kind = stage(name)
        made = kind.params(seed=1, max_tokens=60, **params)
        (work,) = kind.cost(made, kind.run_model(), inputs).sampling
        assert work.completion_tokens == rough
        run = kind.run_model(expect={"completion_tokens": (6, 90)})
        found = kind.cost(made, run, inputs)
        assert found.sampling[0].completion_tokens == Range(6, 60), "at most max_tokens"
        assert f"{what} of 6 to 90 tokens on average, as run.expect says" in found.assumes
