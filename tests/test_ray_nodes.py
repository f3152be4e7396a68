"""The death of a node: two raylets on this machine, one of which is killed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_ray_engines import SAMPLING, expected, requests, run_on, wait_for
from tiny import save_policy

from r1pipe.generate.backends import open_generator

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("ray"), reason="ray is missing"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Start two nodes of one core each, and connect to them."""
    from ray.cluster_utils import Cluster

    from r1pipe.generate.ray_cluster import RayCluster

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
        assert len(generator.losses) == 1
        assert "is lost and started again" in generator.losses[0]
        assert generator.num_slots == 16, "the second engine waits for a node"
        cluster.add_node(**NODE)
        wait_for(lambda: up_again(generator))
    assert found == expected(folder, asked)


def up_again(generator: Any) -> bool:
    """Return whether all engines are up, after hearing what there is."""
    while not generator._events.empty():
        generator._hear(*generator._events.get())
    return all(engine.is_up for engine in generator._engines)
