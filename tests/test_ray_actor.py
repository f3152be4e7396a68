"""The engine's side of a cluster, without a cluster: orders in, replies out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import ScriptedGenerator, grpo_params, save_policy, stage

from r1pipe.errors import StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.ray_actor import EngineActor, EngineSpec, Failed, Made, Order, Up, streamed
from r1pipe.generate.ray_engines import RayGenerator
from r1pipe.generate.ray_policy import RayPolicy, batches, weight_bytes
from r1pipe.generate.ray_versions import OneVersion, versions
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.records import FinishReason

SAMPLING = SamplingParams(max_tokens=8, logprobs=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def requests(count: int) -> list[Request]:
    return [Request((9, 30, 41 + i // 4), i, i) for i in range(count)]


def spec(folder: Path) -> EngineSpec:
    return EngineSpec(SampleRun(workers=1, max_batch=4).model_dump_json(), str(folder), "float32")


def collected(actor: EngineActor, is_enough: Callable[[list[object]], bool]) -> list[object]:
    """Return the replies of an actor until there are enough."""
    replies: list[object] = []
    while not is_enough(replies):
        replies += actor.collect()
    return replies


def test_an_actor_answers_each_request_once_as_the_engine_would_here(folder: Path) -> None:
    actor, asked = EngineActor(spec(folder)), requests(10)
    actor.take(Order(1, SAMPLING, asked[:7]))
    actor.take(Order(1, SAMPLING, asked[7:]))
    up, *made = collected(actor, lambda replies: len(replies) == 11)
    assert isinstance(up, Up)
    assert up.num_slots == 4
    found = {m.sampled.index: m.sampled.token_ids for m in made if isinstance(m, Made)}
    with open_generator(folder, SampleRun(workers=1, max_batch=4)) as (generator, _):
        expected = {m.index: m.token_ids for m in generator.generate(asked, SAMPLING)}
    assert found == expected


def test_an_actor_takes_a_new_sampling_after_the_end_of_another(folder: Path) -> None:
    actor = EngineActor(spec(folder))
    actor.take(Order(1, SAMPLING, requests(6)))
    actor.take(Order(1, SAMPLING))
    actor.take(Order(2, SAMPLING))
    actor.take(Order(3, SAMPLING, requests(2)))
    replies = collected(
        actor, lambda replies: sum(isinstance(m, Made) and m.number == 3 for m in replies) == 2
    )
    assert [m.number for m in replies if isinstance(m, Made)] == [1] * 4 + [3] * 2, (
        "of the first only the batch that was under way"
    )


def test_a_request_that_no_engine_can_answer_is_a_refusal(folder: Path) -> None:
    actor = EngineActor(spec(folder))
    actor.take(Order(1, SAMPLING, [Request(tuple(range(200)), 1, 0)]))
    *_, failed = collected(actor, lambda replies: isinstance([*replies, None][-2:][0], Failed))
    assert isinstance(failed, Failed)
    assert failed.is_refusal
    assert "leave no room in the 128 tokens" in failed.why


def test_an_engine_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    (failed,) = EngineActor(spec(tmp_path / "nowhere")).collect()
    assert isinstance(failed, Failed)


def test_a_generator_that_streams_is_given_the_stream() -> None:
    class Echo(ScriptedGenerator):
        def __init__(self) -> None:
            super().__init__({}, "chat")
            self.num_slots, self.losses = 2, list[str]()

        def stream(
            self, requests: Iterator[Request | None], sampling: SamplingParams
        ) -> Iterator[Sampled]:
            for request in requests:
                if request is not None:
                    yield Sampled(request.index, [1], [], FinishReason.STOP)

    given = iter([*requests(1), None, *requests(1)])
    assert [made.index for made in streamed(Echo(), given, SAMPLING, 1)] == [0, 0]


def test_engines_of_other_versions_are_refused_by_name() -> None:
    here = versions()
    one = OneVersion()
    one.check("node a", here)
    one.check("node b", dict(here))
    with pytest.raises(StageError, match=r"node c and node a differ: torch 1\.0 and "):
        one.check("node c", here | {"torch": "1.0"})
    with pytest.raises(StageError, match="vllm 9 and missing"):
        one.check("node d", here | {"vllm": "9"})
    with pytest.raises(StageError, match="r1pipe's code on node e is not that of this run"):
        one.check("node e", here | {"r1pipe": "0"})


def test_without_ray_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = TransformersSettings(cluster="ray")
    with pytest.raises(StageError, match=r"pip install 'r1pipe\[ray\]'"):
        RayGenerator(settings, folder, SampleRun(generator=settings), "float32")


def test_one_process_drives_the_cluster_of_a_trainer_of_several() -> None:
    kind = stage("grpo")
    given: dict[str, Any] = {"generator": {"cluster": "ray"}}
    given["engine"] = {"backend": "deepspeed", "num_processes": 2}
    run = kind.run_model.model_validate(given)
    assert run.incompatible_with(grpo_params()) is None
    assert run.generator.is_driven
    assert not kind.run_model().generator.is_driven
    ahead = grpo_params(staleness=1, sampler_truncation=2.0)
    assert run.incompatible_with(ahead) is None
    assert "round by round" in str(run.incompatible_with(grpo_params(tools={})))


def test_a_policy_on_gpus_needs_a_cluster_that_was_started(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = TransformersSettings(cluster="ray")
    run = SampleRun(device="cuda:0", generator=settings)
    with pytest.raises(StageError, match=r"the trainer's GPUs; set run\.generator\.address"):
        RayPolicy(settings, folder, run, "float32")


def test_batches_are_as_in_one_process_or_one_for_each_engine_that_fills_its_slots() -> None:
    asked = [Request((9, 30 + i % 5), i, i) for i in range(20)]
    as_here = batches(asked, 6)
    assert [len(each) for each in as_here] == [6, 6, 6, 2]
    assert [r.prompt_ids for r in as_here[0]] == [(9, 30)] * 4 + [(9, 31)] * 2, "in prompt order"
    assert [len(each) for each in batches(asked, 6, 2)] == [10, 10]
    assert [len(each) for each in batches(asked, 6, 3)] == [7, 7, 6]
    assert [len(each) for each in batches(asked, 6, 9)] == [6, 6, 6, 2], "no slot is left empty"
    assert batches([], 6, 9) == []
    assert VllmSettings(backend="vllm").fills_slots
    assert not TransformersSettings().fills_slots


def test_what_a_push_takes_is_known_from_the_folder(tmp_path: Path) -> None:
    parts = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7)}
    for name, tensor in parts.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    assert weight_bytes(tmp_path) == 4 * (3 * 5 + 7)
