"""Trackers that are not installed: modules with the calls that the adapters make, which remember.

Their signatures are those of trackio 0.43, wandb 0.31, mlflow 3.17 and PyTorch's SummaryWriter.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

NAMES = ("trackio", "tensorboard", "wandb", "mlflow")


@dataclass
class Seen:
    """What reached the fakes: of each run, in order."""

    opened: list[tuple[str, str, str]] = field(default_factory=list)
    """(tracker, project, run)."""
    logged: list[tuple[str, str, int, dict[str, float]]] = field(default_factory=list)
    """(tracker, run, step, values)."""
    closed: list[tuple[str, object]] = field(default_factory=list)
    """(tracker, how)."""
    config: dict[str, Any] = field(default_factory=dict)
    fails_at: int | None = None
    """The step at which every tracker fails."""

    def steps(self, tracker: str) -> list[int]:
        return [step for name, _, step, _ in self.logged if name == tracker]

    def log(self, tracker: str, run: str, step: int, values: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the network is down")
        self.logged.append((tracker, run, step, dict(values)))


class Handle:
    """What `trackio.init` and `wandb.init` return."""

    def __init__(self, seen: Seen, tracker: str, name: str) -> None:
        self.seen, self.tracker, self.name = seen, tracker, name

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.seen.log(self.tracker, self.name, step, data)

    def finish(self, exit_code: int | None = None) -> None:
        self.seen.closed.append((self.tracker, exit_code))


class Client:
    """`mlflow.MlflowClient`, all instances on one store."""

    seen: Seen
    experiments: dict[str, str]
    runs: dict[str, dict[str, str]]

    def __init__(self, tracking_uri: str) -> None:
        assert tracking_uri.startswith("sqlite:////"), tracking_uri

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        assert name not in self.experiments
        self.experiments[name] = name
        return name

    def search_runs(self, experiment_ids: Sequence[str], filter_string: str) -> list[Any]:
        found = [
            each for each, tags in self.runs.items() if f"'{tags['r1pipe.run']}'" in filter_string
        ]
        return [SimpleNamespace(info=SimpleNamespace(run_id=each)) for each in found]

    def create_run(self, experiment_id: str, *, run_name: str, tags: dict[str, str]) -> Any:
        self.runs[run_name] = tags
        self.seen.opened.append(("mlflow", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def update_run(self, run_id: str, status: str) -> None:
        assert status == "RUNNING"
        self.seen.opened.append(("mlflow", next(iter(self.experiments)), run_id))

    def log_batch(
        self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()
    ) -> None:
        self.seen.config.update({each.key: each.value for each in params})
        for each in metrics:
            self.seen.log("mlflow", run_id, each.step, {each.key: each.value})

    def set_terminated(self, run_id: str, status: str) -> None:
        self.seen.closed.append(("mlflow", status))


class Writer:
    """`torch.utils.tensorboard.SummaryWriter`."""

    seen: Seen

    def __init__(self, log_dir: str) -> None:
        *_, project, self.run = log_dir.split("/")
        self.seen.opened.append(("tensorboard", project, self.run))

    def add_text(self, tag: str, text_string: str) -> None: ...

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.seen.log("tensorboard", self.run, global_step, {tag: scalar_value})

    def close(self) -> None:
        self.seen.closed.append(("tensorboard", None))


def install(patch: pytest.MonkeyPatch) -> Seen:
    """Put the four modules in place of what is installed; return what will be seen."""
    seen = Seen()

    def module(name: str, **values: object) -> None:
        made = ModuleType(name)
        made.__dict__.update(values, __spec__=ModuleSpec(name, None))
        patch.setitem(sys.modules, name, made)

    def trackio_init(project: str, name: str, config: object, resume: str, **rest: bool) -> Handle:
        assert resume == "allow"
        assert not any(rest.values())
        seen.opened.append(("trackio", project, name))
        return Handle(seen, "trackio", name)

    def wandb_init(project: str, id: str, resume: str, **rest: object) -> Handle:  # noqa: A002
        assert resume == "allow"
        seen.opened.append(("wandb", project, id))
        return Handle(seen, "wandb", id)

    def metric(key: str, value: float, timestamp: int, step: int) -> SimpleNamespace:
        return SimpleNamespace(key=key, value=value, step=step)

    def param(key: str, value: str) -> SimpleNamespace:
        return SimpleNamespace(key=key, value=value)

    client = type("MlflowClient", (Client,), {"seen": seen, "experiments": {}, "runs": {}})
    module("trackio", init=trackio_init, finish=lambda: seen.closed.append(("trackio", None)))
    module("wandb", init=wandb_init, Settings=lambda **_: None)
    module("tensorboard")
    module("torch.utils.tensorboard", SummaryWriter=type("Writer", (Writer,), {"seen": seen}))
    module("mlflow", MlflowClient=client)
    module("mlflow.entities", Metric=metric, Param=param)
    return seen
