"""A teacher behind a server: what is asked, what is refused, and the advantages that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_on_policy_distil import params
from test_openai_server import Body, Server, serving
from tiny import (
    FakeContext,
    frozen_logprobs,
    model,
    problems,
    save_policy,
    stage,
    tokenizer,
)

from r1pipe.errors import StageError
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.openai_scores import ServerTeacher
from r1pipe.policies.setup import Guides, open_teacher, opened
from r1pipe.policies.training import train_policy
from r1pipe.records import TokenSequence
from r1pipe.train.batching import Batching

BATCHING = Batching(4096, "padded", 0)
SEQUENCE = TokenSequence([5, 6, 7], [8, 9])
RUN = stage("on-policy-distil").run_model


def entry(token: int, value: float = -0.25) -> Body:
    text = tokenizer().decode([token])
    return {str(token): {"logprob": value, "rank": 1, "decoded_token": text}}


def scored(body: Body, times: int, teacher: Any = None) -> tuple[int, Any]:
    """Answer as vLLM does: nothing for the first token, then each one's log-probability."""
    ids = body["prompt"]
    values = [-0.25] * (len(ids) - 1)
    if teacher is not None:
        (values,) = frozen_logprobs(teacher, [TokenSequence(ids[:1], ids[1:])], 1.0, BATCHING)
    said = [None, *(entry(i, v) for i, v in zip(ids[1:], values, strict=True))]
    return 200, {"choices": [{"text": "x", "finish_reason": "length", "prompt_logprobs": said}]}


def connect(server: Server) -> ServerTeacher:
    settings = OpenAISettings(backend="openai", url=server.url, max_retries=1)
    return ServerTeacher(settings, tokenizer())


@pytest.fixture(autouse=True)
def _no_seed_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Server.reply
    monkeypatch.setattr(Server, "reply", lambda self, body: plain(self, {"seed": 0, **body}))


def test_tokens_go_as_ids_and_the_completions_log_probabilities_come_back() -> None:
    with serving(scored) as server:
        teacher = connect(server)
        assert teacher.logprobs([SEQUENCE], 1.0) == [[-0.25, -0.25]]
        teacher.close()
    (asked,) = server.asked
    assert asked["prompt"] == [5, 6, 7, 8, 9]
    assert (asked["max_tokens"], asked["prompt_logprobs"]) == (1, 0)


def test_a_server_that_gives_none_is_refused_and_told_what_would_do() -> None:
    plain = {"choices": [{"text": "17", "finish_reason": "stop"}]}
    with (
        serving(lambda body, times: (200, plain)) as server,
        pytest.raises(StageError, match=r"gives no log-probabilities of a prompt.*vllm serve"),
    ):
        connect(server).check(["3+4"])


def test_a_server_with_another_tokenizer_is_refused_by_ids_and_by_texts() -> None:
    def other_ids(body: Body, times: int) -> tuple[int, Any]:
        said = [None, *(entry(i + 1) for i in body["prompt"][1:])]
        return 200, {"choices": [{"prompt_logprobs": said}]}

    def other_texts(body: Body, times: int) -> tuple[int, Any]:
        ids = body["prompt"][1:]
        said = [None, *({str(i): {"logprob": -1.0, "decoded_token": "zebra"}} for i in ids)]
        return 200, {"choices": [{"prompt_logprobs": said}]}

    with serving(other_ids) as server, pytest.raises(StageError, match="scored another token than"):
        connect(server).check(["3+4"])
    with serving(other_texts) as server, pytest.raises(StageError, match="'zebra' there and"):
        connect(server).check(["3+4"])


@pytest.mark.parametrize(
    "said", [[None, {"6": {"logprob": -1}}], [None, *[{"6": {"logprob": float("nan")}}] * 4]]
)
def test_what_is_no_answer_is_asked_again_and_ends_the_stage(said: Any) -> None:
    def wrong(body: Body, times: int) -> tuple[int, Any]:
        named = [
            each and {str(i): next(iter(each.values()))}
            for i, each in zip(body["prompt"], said, strict=False)
        ]
        return 200, {"choices": [{"prompt_logprobs": named}]}

    with serving(wrong) as server, pytest.raises(StageError, match="failed 2 times"):
        connect(server).logprobs([SEQUENCE], 1.0)
    assert len(server.asked) == 2


def test_a_policy_learns_from_a_server_what_it_learns_from_the_same_model_here(
    tmp_path: Path,
) -> None:
    folder, chosen = save_policy(tmp_path / "teacher", seed=2), params(num_steps=2)
    columns = []
    other = model(seed=2)
    with serving(lambda body, times: scored(body, times, other)) as server:
        for given in (None, {"backend": "openai", "url": server.url}):
            run = RUN(micro_batch_tokens=4096, max_batch=64, teacher=given)
            context: Any = FakeContext(tmp_path / str(given is None))
            policy = model(seed=1)
            teacher = open_teacher(context, folder, tokenizer(), problems(8), chosen, run)
            guides = Guides(teacher=teacher)
            with opened(context, policy, tokenizer(), chosen.as_grpo(), run, guides) as it:
                train_policy(it, problems(8))
            columns.append(context.column("reward_kl"))
    assert len(columns[0]) == 2, "the second rollout is that of the policy after an update"
    assert columns[0] == pytest.approx(columns[1], abs=1e-4)
    assert columns[0][0] < -0.1


def test_another_temperature_than_one_is_refused_before_anything_runs() -> None:
    run = RUN(teacher={"backend": "openai", "url": "http://here/v1"})
    said = run.incompatible_with(params(temperature=0.7))
    assert said is not None
    assert "servers score at temperature 1" in said
    assert run.incompatible_with(params()) is None
