"""Two raylets on this machine: one of them is killed, or does not see the store."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_ray_engines import SAMPLING, expected, requests, run_on, wait_for
from tiny import save_policy, tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.backends import generator_of, open_generator
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.models.policy import load_model

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is missing"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}

HIDES = """
import os, sys

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith(os.environ["HIDDEN"]):
        raise FileNotFoundError(arguments[0])

sys.addaudithook(refuse)
"""
"""Of a node that has no file below a folder."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Start two nodes of one core each, and connect to them."""
    from ray.cluster_utils import Cluster

    from r1pipe.generate.ray_cluster import RayCluster, use_own_token

    use_own_token()  # as `ray start` does, and the run that joins
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    ray = None
    try:
        made.second = made.add_node(**NODE)
        ray = RayCluster(made.address, 2).ray
        yield made
    finally:
        if ray is not None:
            ray.shutdown()
        made.shutdown()


def test_a_node_that_dies_leaves_its_requests_to_the_others(cluster: Any, tmp_path: Path) -> None:
    folder, asked = save_policy(tmp_path / "policy"), requests(160)
    found: dict[int, list[int]] = {}
    with open_generator(folder, run_on(2)) as (opened, _):
        generator: Any = opened
        while not all(engine.is_up for engine in generator._engines):
            generator._hear(*generator._events.get())
        for made in generator.stream(iter(asked), SAMPLING):
            found[made.index] = made.token_ids
            if len(found) == 10:
                cluster.remove_node(cluster.second, allow_graceful=False)
        # Ray may place the new one on the dead node too, before it knows: that is a second loss
        assert 1 <= len(generator.losses) <= 2
        assert len({text.split(" (")[0] for text in generator.losses}) == 1, "of the same engine"
        assert all("is lost and started again" in text for text in generator.losses)
        assert generator.num_slots == 16, "the second engine waits for a node"
        cluster.add_node(**NODE)
        wait_for(lambda: up_again(generator))
    assert found == expected(folder, asked)


def up_again(generator: Any) -> bool:
    """Return whether all engines are up, after hearing what there is."""
    while not generator._events.empty():
        generator._hear(*generator._events.get())
    return all(engine.is_up for engine in generator._engines)


def test_a_policy_whose_engines_are_never_placed_again_ends_in_time(
    cluster: Any, tmp_path: Path
) -> None:
    policy = load_model(save_policy(tmp_path / "policy"))
    settings = TransformersSettings(cluster="ray", data_parallel=1)
    run = SampleRun(workers=2, max_batch=8, generator=settings)
    with pytest.raises(StageError, match=r"no engine was up within 1 s.*'CPU': 2.*resumed"):
        generator_of(policy, tokenizer(), impatient(run))
    wide = cluster.add_node(**(NODE | {"num_cpus": 2}))
    opened: Any = generator_of(policy, tokenizer(), run)
    with closing(opened):
        sampling = opened.generate(requests(160), SAMPLING)
        next(sampling)
        opened.engines.patience.longest_s = 1.0
        cluster.remove_node(wide, allow_graceful=False)
        with pytest.raises(StageError, match=r"no engine has been up for 1 s .*resumed"):
            list(sampling)
        assert [text.split(" (")[0] for text in opened.losses] == ["engine 0"]


def impatient(run: SampleRun) -> SampleRun:
    settings = run.generator.model_copy(update={"start_timeout_s": 1.0})
    return run.model_copy(update={"generator": settings})


def test_a_node_that_does_not_see_a_model_fetches_it_once_for_its_engines(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    from r1pipe.generate.ray_cluster import RayCluster, use_own_token

    use_own_token()
    store, far = tmp_path / "store", tmp_path / "far"
    first, second = save_policy(store / "first"), save_policy(store / "second")
    far.mkdir()
    (far / "sitecustomize.py").write_text(HIDES)
    hidden = {
        "PYTHONPATH": os.pathsep.join([str(far), *sys.path]),
        "HIDDEN": str(store),
        "TMPDIR": str(far),
    }
    head = {**NODE, "include_dashboard": False}
    made, ray = Cluster(initialize_head=True, head_node_args=head), None
    try:
        made.add_node(**(NODE | {"num_cpus": 2, "env_vars": hidden}))
        ray = RayCluster(made.address, 3).ray
        asked, run = requests(24), run_on(3)
        with open_generator(first, run) as (opened, _):
            generator: Any = opened
            wait_for(lambda: up_again(generator))
            assert generator.fetched_bytes == size_of(first), "by two engines of the far node"
            assert places(far) == 1
            found = {made.index: made.token_ids for made in generator.generate(asked, SAMPLING)}
        assert found == expected(first, asked)
        policy: Any = generator_of(load_model(second), tokenizer(), run)
        with closing(policy):
            while not all(engine.is_up for engine in policy.engines.all):
                policy.engines.wait()
            assert policy.engines.fetched_bytes == size_of(second)
            assert policy.losses == []
        assert places(far) == 1, "nobody has the first any more"
    finally:
        if ray is not None:
            ray.shutdown()
        made.shutdown()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def places(temporary: Path) -> int:
    """Return how many models are in the cache of a node with this temporary folder."""
    return sum(path.is_dir() for path in temporary.glob("r1pipe-models-*/*"))
