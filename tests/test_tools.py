"""Programs in completions: run, answered, without loss; bounded, and resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import tiny
import torch

from r1pipe.curricula.curricula import Draw
from r1pipe.generate.following import Followed, Kept
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.tools import ToolGenerator, shown
from r1pipe.models.programs import program_of
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.ranks import ALONE
from r1pipe.records import FinishReason, Problem, Rollout
from r1pipe.rl.credits import kl_of
from r1pipe.sandbox.session import Outcome, Status
from r1pipe.settings import Tools
from r1pipe.train.aggregation import assign_weights
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching, one_batch
from r1pipe.verify.reading.extract import extract_answer

RUN = tiny.stage("grpo").run_model(micro_batch_tokens=4096, max_batch=64)
PROMPT = (5, 6, 7)
SUM = "so\n```python\nprint(19 + 23)\n```"


class Scripted:
    """Says what a script says for the text so far, then stops; it knows nothing of programs."""

    prompt_length = len(PROMPT)

    def __init__(self, script: Callable[[str], str], max_calls: int = 99) -> None:
        self.script = script
        self.calls = 0
        self.max_calls = max_calls

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        self.calls += 1
        if self.calls > self.max_calls:
            raise KeyboardInterrupt
        for request in requests:
            text = tiny.tokenizer().decode(list(request.prompt_ids[self.prompt_length :]))
            ids = encode_completion(tiny.tokenizer(), self.script(text))[: sampling.max_tokens]
            is_whole = ids[-1] == tiny.tokenizer().eos_token_id
            reason = FinishReason.STOP if is_whole else FinishReason.LENGTH
            yield Sampled(request.index, ids, [-0.5] * len(ids), reason)

    def load_weights(self, tensors: object) -> None: ...
    def sleep(self) -> None: ...
    def close(self) -> None: ...


def adds(text: str) -> str:
    """Write a program; then box what it has printed."""
    return "\nit is \\boxed{42}" if "output\n42" in text else f"{SUM}\nit is \\boxed{{41}}"


def completion(
    script: Callable[[str], str],
    tools: Tools | None = None,
    context: int | None = None,
    most: int = 200,
) -> Sampled:
    """Return the only completion of one request."""
    made = ToolGenerator(Scripted(script), tiny.tokenizer(), tools or Tools(), context)
    (sampled,) = made.generate([Request(PROMPT, 3, 0)], SamplingParams(max_tokens=most))
    return sampled


def parts(sampled: Sampled) -> tuple[str, str]:
    """Return the text that was sampled, and the text that was not."""
    mask = sampled.is_sampled or [True] * len(sampled.token_ids)
    return tuple(
        tiny.tokenizer().decode(
            [i for i, own in zip(sampled.token_ids, mask, strict=True) if own is w]
        )
        for w in (True, False)
    )


def test_an_output_goes_on_in_the_completion_and_is_not_sampled() -> None:
    sampled = completion(adds)
    own, given = parts(sampled)
    assert (
        own
        == f"{SUM}\nit is \\boxed{{42}}{tiny.tokenizer().decode([tiny.tokenizer().eos_token_id])}"
    )
    assert given == "\n```output\n42\n```\n"
    assert sampled.finish_reason is FinishReason.STOP
    mask = sampled.is_sampled
    assert mask is not None
    assert sampled.logprobs == [-0.5 if own else 0.0 for own in mask]


def test_what_was_sampled_after_a_closed_program_is_thrown_away() -> None:
    text = tiny.tokenizer().decode(completion(adds).token_ids)
    assert "41" not in text
    assert text.index("output") < text.index("boxed")


def test_rounds_are_bounded_and_the_last_one_runs_nothing() -> None:
    again = lambda text: SUM  # noqa: E731 - a script
    made = completion(again, Tools(max_rounds=2))
    text = tiny.tokenizer().decode(made.token_ids)
    assert text.count("```output\n42\n```") == 2
    assert text.count("print(19 + 23)") == 3
    assert made.finish_reason is FinishReason.STOP


def test_every_round_has_a_seed_of_its_own_that_the_requests_seed_decides() -> None:
    def seeds(seed: int) -> list[int]:
        asked: list[int] = []

        class Noting(Scripted):
            def generate(
                self, requests: Sequence[Request], sampling: SamplingParams
            ) -> Iterator[Sampled]:
                asked.extend(request.seed for request in requests)
                return super().generate(requests, sampling)

        made = ToolGenerator(Noting(lambda text: SUM), tiny.tokenizer(), Tools(max_rounds=2), None)
        list(made.generate([Request(PROMPT, seed, 0)], SamplingParams(max_tokens=200)))
        return asked

    first, other = seeds(3), seeds(4)
    assert len({*first, *other}) == 6
    assert seeds(3) == first


def test_a_completion_without_a_program_is_what_it_was() -> None:
    sampled = completion(lambda text: "\\boxed{7}")
    assert sampled.is_sampled is None
    assert sampled.token_ids == encode_completion(tiny.tokenizer(), "\\boxed{7}")


def test_an_output_that_does_not_fit_ends_the_completion_before_it() -> None:
    whole = completion(adds)
    assert whole.is_sampled is not None
    first = whole.is_sampled.index(False)
    given = whole.is_sampled.count(False)
    cut = completion(adds, most=first + given)  # no room for a token after the output
    assert (cut.token_ids, cut.is_sampled) == (whole.token_ids[:first], None)
    assert cut.finish_reason is FinishReason.LENGTH
    near = completion(adds, most=first + given + 1)
    assert near.token_ids == whole.token_ids[: first + given + 1]
    assert near.finish_reason is FinishReason.LENGTH
    same = completion(adds, context=len(PROMPT) + first + given)
    assert same.token_ids == cut.token_ids


def test_a_program_of_thought_ends_with_its_output() -> None:
    sampled = completion(adds, Tools(ends=True))
    assert sampled.finish_reason is FinishReason.STOP
    assert sampled.token_ids[-1] == tiny.tokenizer().eos_token_id
    text = tiny.tokenizer().decode(sampled.token_ids[:-1])
    assert text.endswith("```\n42")
    assert text.splitlines()[-1] == "42"
    assert extract_answer(f"\\boxed{{{text.splitlines()[-1]}}}") == "42"


def test_what_is_printed_is_neither_a_special_token_nor_a_fence() -> None:
    end = tiny.tokenizer().decode([tiny.tokenizer().eos_token_id])
    said = f"print('{end}')\nprint('`' * 3)"
    sampled = completion(lambda text: "x" if "output" in text else f"```python\n{said}\n```")
    mask = sampled.is_sampled
    assert mask is not None
    given = [i for i, own in zip(sampled.token_ids, mask, strict=True) if not own]
    assert tiny.tokenizer().eos_token_id not in given
    assert tiny.tokenizer().decode(given) == f"\n```output\n{end[0]} {end[1:]}\n'''\n```\n"


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(Status.OK, "1\n2\n", ""), "1\n2"),
        (
            Outcome(Status.FAILED, "1\n", "Traceback\nZeroDivisionError: x\n"),
            "1\nZeroDivisionError: x",
        ),
        (Outcome(Status.TIMEOUT, "", ""), "timeout"),
        (Outcome(Status.OK, "7" * 50, ""), "7" * 30 + "..."),
    ],
)
def test_output_is_what_was_printed_and_the_last_line_of_an_error(
    outcome: Outcome, text: str
) -> None:
    assert shown(outcome, Tools(max_output_chars=30)) == text


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```py\nx\n```", "x\n"),
        ("```output\n3\n```\n```python\ny\n```", "y\n"),
        ("```python\n\n```\n```python\nz\n```", "z\n"),
        ("```python\nx", None),
        ("```python", None),
        ("say ```python\nx\n```", None),
        ("```js\nx\n```", None),
    ],
)
def test_the_first_closed_python_block_is_the_program(text: str, program: str | None) -> None:
    assert program_of(text) == program


def test_searching_for_a_program_takes_time_linear_in_the_text() -> None:
    for text in ("```\n" * 100_000, "```js\n" * 100_000, "`" * 400_000):
        program_of(text)


def test_tokens_of_an_output_have_no_loss_and_no_share_in_the_denominator() -> None:
    sampled = completion(adds)
    made = Rollout(list(PROMPT), sampled.token_ids, trained=sampled.is_sampled)
    plain = Rollout(list(PROMPT), [5, 6, 7, 8])
    assign_weights([made, plain], "sequence-mean", 100)
    batch = one_batch([made, plain], tiny.tokenizer().pad_token_id)
    own = sum(sampled.is_sampled or [])
    wanted = [1 / (2 * own)] * own + [1 / 8] * 4
    torch.testing.assert_close(batch.at_trained("weight"), torch.tensor(wanted))
    ids = batch.input_ids[batch.loss_mask].tolist()
    mask = sampled.is_sampled or []
    assert ids[:own] == [i for i, is_own in zip(sampled.token_ids, mask, strict=True) if is_own]


def test_a_run_killed_between_batches_ends_with_the_same_completions(tmp_path: Path) -> None:
    requests = [Request(PROMPT, n, n) for n in range(6)]

    def run(folder: Path, max_calls: int = 99) -> list[Sampled]:
        context = tiny.FakeContext(folder)
        made = ToolGenerator(Scripted(adds, max_calls), tiny.tokenizer(), Tools(), None, 2)
        kept = Kept(context.journal("batches"), "0", 2)
        sampled = Followed(made, context, kept).generate(requests, SamplingParams())
        return sorted(sampled, key=lambda each: each.index)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", max_calls=3)  # in the second of three batches
    assert run(tmp_path / "killed") == whole
    assert all(each.is_sampled is not None for each in whole)


def test_an_update_reads_the_ratios_of_sampled_tokens_only() -> None:
    sampled, policy = completion(adds), tiny.model()
    made = Rollout(list(PROMPT), sampled.token_ids, trained=sampled.is_sampled)
    batching = Batching(4096, "padded", tiny.tokenizer().pad_token_id)
    (row,) = tiny.frozen_logprobs(policy, [made], 1.0, batching)
    mask = sampled.is_sampled or []
    known = [value if own else 0.0 for value, own in zip(row, mask, strict=True)]
    made.streams["sampler_logprobs"] = known  # as the sampler has it: nothing of outputs
    tiny.set_advantage(made, 1.0)
    chosen = tiny.grpo_params(kl_coef=0.0, clip_low=0.2, clip_high=0.2)
    engine = make_engine(policy, chosen.optimizer, RUN, ALONE, "float32")
    measures = tiny.update_policy(engine, [made], None, chosen, batching, 0.0)
    assert measures["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert measures["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert measures["loss"] == pytest.approx(-1.0, abs=1e-5)
    assert kl_of(made, row) == pytest.approx(0.0, abs=1e-5)


def test_a_group_is_sampled_with_programs_and_verified_on_the_whole_text(tmp_path: Path) -> None:
    problem = Problem("p", "arithmetic", "19+23", "42", checker="number")
    chosen = tiny.grpo_params(
        tools={"max_rounds": 2}, rewards={"accuracy": 1.0}, max_tokens=90, kl_coef=0.0
    )
    policy = tiny.model()
    engine = make_engine(policy, chosen.optimizer, RUN, ALONE, "float32")
    script = ByPrompt(adds, len(encode_prompt(tiny.tokenizer(), problem.prompt, "chat")))
    loop = tiny.grpo_of(chosen, engine, script)
    (group,) = loop.roll_out([Draw(problem)], 0)
    assert [rollout.verdict for rollout in group.rollouts] == ["correct"] * 4
    assert all(rollout.trained is not None for rollout in group.rollouts)
    assert "```output\n42\n```" in group.rollouts[0].text


class ByPrompt(Scripted):
    """A script behind a prompt of another length."""

    def __init__(self, script: Callable[[str], str], prompt_length: int) -> None:
        super().__init__(script)
        self.prompt_length = prompt_length
