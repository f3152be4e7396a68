"""What reproductions commonly get wrong: one test for each mistake, here or elsewhere.

`ELSEWHERE` names the tests that other files hold, and is itself tested, so that no pointer can go
stale; `NOT_HERE` says why a mistake cannot be made in this project.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from test_policy_stages import SMALLEST
from tiny import rollout, stage

from r1pipe.chat import boxed, render_completion, split_completion
from r1pipe.records import Group, Problem
from r1pipe.rewards.table import REWARDS
from r1pipe.rl.rollouts import score_groups
from r1pipe.train.aggregation import token_weights
from r1pipe.verify.reading.extract import extract_answer

MISTAKES = {
    1: "dividing by the group's standard deviation without having chosen to",
    2: "1/|o|, which makes long wrong answers cheap, without having chosen it",
    3: "the sample's standard deviation for the population's",
    4: "groups of equal rewards that fill the batch unseen, or do not centre to zero",
    5: "a wrong KL estimate, or a KL coefficient that defaults to nothing",
    6: "PPO's clip of 0.2 where R1 prints 10",
    7: "sampler log-probs taken again at each minibatch: the ratio is always 1",
    8: "a reference that is never refreshed, or every 400 rollouts in place of updates",
    9: "left-padded prompts without attention mask or position ids",
    10: "a loss mask from token == pad where pad is the end; only one end token honoured",
    11: "logits and labels that are off by one",
    12: "trainer log-probs without the sampler's temperature",
    13: "rollouts cut by top-p: another support than the trainer's",
    14: "a sampler that differs from the trainer, unseen: the ratio at update 0 is not 1",
    15: "two BOS tokens: one of the template, one of the tokenizer",
    16: "an end token that is not the template's",
    17: "a template that opens the thought, or drops it from assistant messages",
    18: "thoughts of many lines that no pattern matches; the two formats mixed",
    19: "gold answers that cannot be used, graded all the same",
    20: "masked truncated completions that stay in the denominator",
    21: "weak public contest tests as a reward",
    22: "preference rewards for too long, or on the whole thought",
    23: "a language reward on the summary, or one that outweighs being right",
    24: "packing that lets sequences see one another",
    25: "a second SFT that goes on from the RL checkpoint",
    26: "an evaluation in another format than that of the training",
    27: "models compared under different sampling",
    28: "expecting emergence from a very small model",
}

ELSEWHERE = {
    1: ["test_advantages.py::test_without_a_scale_the_advantage_is_the_centred_reward"],
    3: ["test_advantages.py::test_four_of_sixteen_correct_give_plus_1_732_and_minus_0_577"],
    4: [
        "test_advantages.py::test_a_group_of_equal_rewards_has_advantages_of_exactly_zero",
        "test_grpo_loop.py::test_groups_of_equal_rewards_are_counted_and_move_nothing",
    ],
    5: [
        "test_grpo_objective.py::test_k3_is_worked_by_hand",
        "test_grpo_objective.py::test_one_update_has_the_gradient_coefficient_of_equation_21",
    ],
    6: [
        "test_grpo_objective.py::test_the_clip_of_ten_that_r1_prints_binds_only_above_eleven",
        "test_recipe_manifest.py::test_reinforcement_learning_has_the_published_numbers",
    ],
    7: ["test_grpo_loop.py::test_the_ratio_is_one_at_the_first_minibatch_and_not_at_the_second"],
    8: ["test_grpo_loop.py::test_the_reference_is_refreshed_by_updates_and_not_by_rollouts"],
    9: ["test_generator.py::test_log_probs_of_a_ragged_left_padded_batch_equal_the_trainers"],
    10: [
        "test_batching.py::test_a_pad_token_that_is_the_end_token_leaves_the_end_trained",
        "test_generator_conformance.py::test_every_end_token_ends_a_completion_and_stays_in_it",
        "test_prompts.py::test_every_end_of_the_generation_config_counts_as_an_end",
    ],
    11: ["test_logprobs.py::test_an_off_by_one_between_logits_and_labels_would_be_seen"],
    12: [
        "test_generator.py::test_the_returned_log_prob_is_that_after_the_temperature",
        "test_logprobs.py::test_the_temperature_divides_the_logits",
        "test_grpo_loop.py::test_the_ratio_is_one_at_a_temperature_other_than_one_too",
    ],
    13: ["test_rollouts.py::test_rollouts_are_not_cut_by_top_p"],
    14: ["test_grpo_loop.py::test_the_ratio_is_one_at_the_first_minibatch_and_not_at_the_second"],
    15: ["test_prompts.py::test_a_prompt_has_one_bos_where_template_and_tokenizer_both_add_it"],
    16: ["test_prompts.py::test_the_end_of_the_template_is_that_of_tokenizer_and_model"],
    17: [
        "test_prompts.py::test_the_prompt_leaves_it_to_the_completion_to_open_the_thought",
        "test_prompts.py::test_the_chat_template_keeps_the_thought_of_assistant_messages",
    ],
    19: ["test_problem_sets.py::test_unusable_golds_are_counted_or_stop_the_stage"],
    20: [
        "test_grpo_loop.py::test_masked_truncated_completions_leave_numerator_and_denominator",
    ],
    22: [
        "test_grpo_loop.py::test_reward_models_are_asked_from_their_step_on_for_their_own_task",
        "test_recipe_manifest.py::test_preferences_rule_the_last_part_of_alignment_only",
        "test_reward_model.py::test_completions_that_differ_in_thought_only_are_equally_helpful",
    ],
    24: ["test_logprobs.py::test_a_neighbour_in_a_packed_row_changes_nothing"],
    25: ["test_recipe_manifest.py::test_the_second_sft_restarts_from_the_base"],
    26: ["test_recipe_manifest.py::test_every_model_is_evaluated_in_its_own_format"],
    27: ["test_recipe_manifest.py::test_all_evaluations_share_all_but_the_model_and_its_format"],
}  # fmt: skip
HERE = {2, 5, 6, 18, 22, 23}
NOT_HERE = {
    21: "no code is run: there is no reward from public contest tests",
    28: "a claim about what small models show, which no code makes",
}


def test_every_mistake_of_the_list_is_dealt_with() -> None:
    assert ELSEWHERE.keys() | HERE | NOT_HERE.keys() == MISTAKES.keys()


@pytest.mark.parametrize("number", ELSEWHERE)
def test_a_pointer_leads_to_a_test(number: int) -> None:
    for pointer in ELSEWHERE[number]:
        file, name = pointer.split("::")
        tree = ast.parse((Path(__file__).parent / file).read_text())
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, pointer


def test_mistake_2_the_weight_of_a_token_falls_with_length_only_where_that_is_chosen() -> None:
    lengths = torch.tensor([10.0, 100.0])
    counts = {"num_sequences": 2, "num_tokens": 110, "constant": 100}

    def ratio(aggregation: Any) -> Any:
        short, long = token_weights(lengths, aggregation, **counts).tolist()
        return short / long

    assert ratio("sequence-mean") == pytest.approx(10.0)  # DeepSeekMath, and R1 as printed
    assert ratio("token-mean") == pytest.approx(1.0)
    assert ratio("constant") == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["kl_coef", "clip_low", "clip_high"])
def test_mistakes_5_and_6_neither_kl_nor_clip_has_a_default_to_fall_back_on(name: str) -> None:
    stage("grpo").params(**SMALLEST["grpo"])
    values = {each: value for each, value in SMALLEST["grpo"].items() if each != name}
    with pytest.raises(pydantic.ValidationError, match=f"{name}\n  Field required"):
        stage("grpo").params(**values)


def test_mistake_18_thoughts_of_many_lines_are_read() -> None:
    problem = Problem("p", "t", "1+1", "2", checker="number")
    thought = "first\n\nsecond <b>\nthird"
    zero = render_completion(thought, "2", "r1-zero")
    chat = render_completion(thought, "", "chat", f"It is\n{boxed('2')}")
    assert REWARDS["format_zero"](problem, zero) == REWARDS["format_chat"](problem, chat) == 1.0
    for text in (zero, chat):
        assert split_completion(text).thought == thought
        assert extract_answer(text) == "2"
        assert REWARDS["accuracy"](problem, text) == 1.0


def test_mistake_18_the_two_formats_are_not_mixed() -> None:
    problem = Problem("p", "t", "1+1", "2", checker="number")
    zero = render_completion("a", "2", "r1-zero")
    chat = render_completion("a", "", "chat", boxed("2"))
    assert REWARDS["format_zero"](problem, chat) == REWARDS["format_chat"](problem, zero) == 0.0


def group_of(problem: Problem, *texts: str) -> Group:
    """Return a group of given completions."""
    rollouts = [rollout([1], [2]) for _ in texts]
    for made, text in zip(rollouts, texts, strict=True):
        made.text = text
    return Group(problem, rollouts)


def test_mistake_22_a_general_prompt_is_not_trained_on_its_checker() -> None:
    problem = Problem("g", "general", "who?", "cat", checker="contains")
    group = group_of(problem, "<think>a</think>cat", "<think>a</think>dog")
    score_groups([group], {"accuracy": 1.0}, "chat", {"general": lambda pairs: [0.5, 0.5]})
    assert [made.verdict for made in group.rollouts] == ["correct", "wrong"]
    assert [made.reward for made in group.rollouts] == [0.5, 0.5]


def test_mistake_23_the_language_reward_reads_the_thought_and_not_the_summary() -> None:
    problem = Problem("p", "t", "1+1", "2", language="en")
    mixed_summary = render_completion("one and one", "", "chat", f"答案是 {boxed('2')}")
    mixed_thought = render_completion("one 加一", "", "chat", f"It is {boxed('2')}")
    assert REWARDS["language"](problem, mixed_summary) == 1.0
    assert REWARDS["language"](problem, mixed_thought) == pytest.approx(1 / 3)


def test_mistake_23_a_right_answer_half_in_another_language_beats_a_wrong_clean_one() -> None:
    # as the paper sums them: 1 + 1 + 0.5 against 0 + 1 + 1
    problem = Problem("p", "t", "1+1", "2", language="en", checker="number")
    texts = [
        render_completion("one 加", "", "chat", f"It is {boxed('2')}"),
        render_completion("one and", "", "chat", f"It is {boxed('3')}"),
    ]
    group = group_of(problem, *texts)
    score_groups([group], {"accuracy": 1.0, "format": 1.0, "language": 1.0}, "chat")
    assert [made.reward for made in group.rollouts] == [2.5, 2.0]
