"""Actors of Ray that sample a policy in training: pushes, deaths, and training ahead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ahead import PROBLEMS, chosen
from tiny import FakeContext, assert_same_weights, save_policy, stage, tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.backends import generator_of
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.models.policy import freeze, load_model
from r1pipe.policies.setup import check_sampler, opened
from r1pipe.policies.training import train_policy

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is missing"),
]
SAMPLING = SamplingParams(max_tokens=40)
ASKED = [Request((9, 30, 41 + i // 4), i, i) for i in range(48)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster, which all that follow use."""
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster("local", 4).ray
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def on_cluster(count: int, **changes: Any) -> TransformersSettings:
    return TransformersSettings(cluster="ray", data_parallel=count, **changes)


def sampler(policy: Any, settings: TransformersSettings) -> Any:
    run = SampleRun(workers=1, max_batch=8, generator=settings)
    return generator_of(policy, tokenizer(), run)


def in_order(found: Sequence[Sampled]) -> list[Sampled]:
    return sorted(found, key=lambda each: each.index)


def changed(policy: Any) -> Any:
    """Return a policy with other weights."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.25)
    return policy


def test_pushed_weights_are_sampled_and_neither_engines_nor_deaths_move_a_bit(
    cluster: Any, folder: Path
) -> None:
    policy, other = freeze(load_model(folder)), changed(load_model(folder))
    here = sampler(policy, TransformersSettings())
    before = in_order(list(here.generate(ASKED, SAMPLING)))
    here.load_weights(other.named_parameters())
    after = in_order(list(here.generate(ASKED, SAMPLING)))
    assert before != after
    with closing(sampler(load_model(folder), on_cluster(2))) as there:
        assert in_order(list(there.generate(ASKED, SAMPLING))) == before
        there.load_weights(other.named_parameters())
        assert there.pushed_bytes > 4 * sum(each.numel() for each in other.parameters())
        found = list[Sampled]()
        for each in there.generate(ASKED, SAMPLING):
            if not found:
                pids = [int(e.place.split()[-1]) for e in there.engines.all if e.is_up]
                os.kill(pids[0], signal.SIGKILL)
            found.append(each)
        assert in_order(found) == after, "log-probabilities too"
        (loss,) = there.losses
        assert "is lost and started again" in loss
        with pytest.raises(StageError, match=r"engine \d: 1 of 1 prompts leave no room in the 128"):
            list(there.generate([Request(tuple(range(200)), 1, 0)], SAMPLING))


def test_the_end_of_the_last_engine_is_told(cluster: Any, folder: Path) -> None:
    with closing(sampler(load_model(folder), on_cluster(1, max_restarts=0))) as there:
        sampling = there.generate(ASKED * 4, SAMPLING)
        next(sampling)
        os.kill(int(there.engines.all[0].place.split()[-1]), signal.SIGKILL)
        with pytest.raises(StageError, match=r"engine 0 .* is lost after 0 restarts; run\.gen"):
            list(sampling)
        group = there.engines.all[0].group
        assert is_given_back(cluster, group), "others may have its place, before `close`"


def is_given_back(ray: Any, group: Any) -> bool:
    """Return whether a placement group is removed within ten seconds."""
    for _ in range(100):
        if ray.util.placement_group_table(group)["state"] == "REMOVED":
            return True
        time.sleep(0.1)
    return False


def train(folder: Path, work: Path, staleness: int, generator: TransformersSettings) -> Any:
    kind = stage("grpo")
    run = kind.run_model(micro_batch_tokens=4096, max_batch=4, workers=1, generator=generator)
    policy, context = load_model(folder), FakeContext(work)
    with opened(context, policy, tokenizer(), chosen(staleness), run) as grpo:
        check_sampler(grpo, PROBLEMS, run)
        train_policy(grpo, PROBLEMS)
    assert ("parity" in context.notes) == bool(staleness or generator.cluster)
    return policy


def test_training_ahead_of_a_cluster_gives_the_weights_of_training_ahead_here(
    cluster: Any, folder: Path, tmp_path: Path
) -> None:
    here = train(folder, tmp_path / "here", 1, TransformersSettings())
    there = train(folder, tmp_path / "there", 1, on_cluster(2))
    assert_same_weights(here, there)


def pid(engine: Any) -> int:
    """Return the process of an engine that is up."""
    return int(engine.place.split()[-1])


BROADCAST = on_cluster(2, weight_transfer="broadcast")


def test_weights_are_broadcast_to_the_engines_that_are_up(cluster: Any, folder: Path) -> None:
    policy, other = freeze(load_model(folder)), changed(load_model(folder))
    here = sampler(policy, TransformersSettings())
    before = in_order(list(here.generate(ASKED, SAMPLING)))
    here.load_weights(other.named_parameters())
    after = in_order(list(here.generate(ASKED, SAMPLING)))

    def dying(number: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Give the weights; kill an engine when some are on their way."""
        for place, (name, tensor) in enumerate(policy.named_parameters()):
            if place == 3:
                os.kill(pid(number), signal.SIGKILL)
            yield name, tensor

    def pid(number: int) -> int:
        return int(there.engines.all[number].place.split()[-1])

    def sampled() -> list[Sampled]:
        return in_order(list(there.generate(ASKED, SAMPLING)))

    def until_all_are_up() -> None:
        while there.engines.starting():
            there.engines.wait()

    with closing(sampler(load_model(folder), BROADCAST)) as there:
        assert sampled() == before
        there.load_weights(other.named_parameters())
        assert there.pushed_bytes >= sum(each.nbytes for each in other.parameters())
        assert sampled() == after
        os.kill(pid(0), signal.SIGKILL)
        assert sampled() == after, "the other one takes over"
        until_all_are_up()
        again, left = there.engines.all
        assert [there._pushes.reached(each) for each in (again, left)] == [False, True]
        assert sampled() == after, "one has the weights of the folder, and is not asked"
        there.load_weights(load_model(folder).named_parameters())
        assert there._pushes.reached(again)
        assert sampled() == before
        for number in (0, 1):
            os.kill(pid(number), signal.SIGKILL)
        with pytest.raises(StageError, match=r"no engine that is up has the weights.*resumed"):
            sampled()
        until_all_are_up()
        with pytest.raises(StageError, match=r"engine 1 .* is lost .*can be resumed.*object_store"):
            there.load_weights(dying(1))


def test_a_policy_is_trained_by_broadcasts_as_in_one_process(
    cluster: Any, folder: Path, tmp_path: Path
) -> None:
    here = train(folder, tmp_path / "here", 0, TransformersSettings())
    there = train(folder, tmp_path / "there", 0, BROADCAST)
    assert_same_weights(here, there)


def test_broadcasts_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="weight_transfer needs a cluster"):
        TransformersSettings(weight_transfer="broadcast")
    ahead = BROADCAST.incompatible_ahead(1)
    assert ahead is not None
    assert "params.staleness" in ahead
    assert on_cluster(2).incompatible_ahead(1) is None
