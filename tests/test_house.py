"""What benchmarks/house.py counts, on a package small enough to count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from house import Sizes, circles, measure, percentile, reached
from house_source import Source
from house_walk import Trip, Walk

FILES = {
    "stages/train.py": '''
"""A stage."""
def run(context, params: "Params") -> None:
    """Train."""
    from r1pipe.algo.loop import train
    plan = make_plan(params)
    with opened(plan) as given:
        train(given, [1, 2])
        note([1] if params.rate else [])
    check(params.rate)

def make_plan(params):
    from r1pipe.algo.loop import Plan
    return Plan(3, params)

@contextmanager
def opened(plan):
    yield plan

def check(rate): ...
def note(rows): ...
''',
    "r1pipe/__init__.py": "",
    "r1pipe/words.py": "LIMIT = 3\n",
    "r1pipe/algo/__init__.py": "from r1pipe.algo.losses import loss\n",
    "r1pipe/algo/loop.py": '''
from dataclasses import dataclass
from typing import Any
from r1pipe.algo import loss
from r1pipe.tools.engine import Engine

@dataclass
class Plan:
    steps: int
    params: Any

def train(plan: Plan, data: Any) -> None:
    """Train."""
    engine = Engine(plan.params)
    settings, steps = plan.params, plan.steps
    for step in range(steps):
        loss(settings, step)
        engine.update_weights(step)
        loss(settings, step)
''',
    "r1pipe/algo/losses.py": """
def loss(params, step: int) -> float:
    return _scaled(params.rate, step)

def _scaled(rate, step):
    return rate * step
""",
    "r1pipe/algo/unused.py": "from r1pipe.zoo import animal\n\ndef other(): ...\n",
    "r1pipe/zoo/__init__.py": "def animal(): ...\n",
    "r1pipe/tools/engine.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from r1pipe.algo.loop import Plan

class Engine:
    def __init__(self, params, /, a=1, b=2, c=3, *rest, d=4, e=5, f=6, **more) -> None:
        self.kept = params

    def update_weights(self, step: int) -> "Plan":
        return self._rate(self.kept)

    @staticmethod
    def _rate(params: int) -> int:
        def nested() -> int:
            return params.rate
        return nested()
""",
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return the small package."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    return Source(tmp_path, ("r1pipe", "stages"))


def walk(source: Source, *, parts: bool = False) -> Trip:
    """Return the trip of the stage's params."""
    return Walk(source, parts).start(source.at("stages/train.py:run"), "params")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(range(1, 11), 0.9) == 9
    assert percentile([7], 0.9) == 7
    assert percentile([], 0.9) == 0


def test_functions_are_counted_by_hand(source: Source) -> None:
    row = Sizes([source.modules["r1pipe.tools.engine"]]).row()
    assert row["files"] == 1
    assert row["lines"] == 16
    # __init__ 2, update_weights 2, _rate 5 with its decorator aside: 4, nested 2
    assert row["function median/p90/longest"] == "2/4/4"
    # params, a, b, c, d, e, f: seven without self, *rest and **more
    assert row["functions with 7 or more arguments"] == 1
    # of update_weights and nested, none has a docstring
    assert row["public functions documented"] == "0 %"
    # update_weights, _rate and nested; __init__ has parameters without a type
    assert row["functions typed"] == "75 %"


def test_uses_of_any_are_counted_without_its_import(source: Source) -> None:
    sizes = Sizes([source.modules["r1pipe.algo.loop"]])
    assert sizes.lines == 18
    assert sizes.any_rate() == pytest.approx(1000 * 2 / 18, abs=0.05)


def test_folders_that_import_one_another_for_types_are_a_circle(source: Source) -> None:
    assert circles(source) == ["algo <-> tools"]


def test_an_update_is_what_the_entry_reaches_within_the_folders(source: Source) -> None:
    entry = source.at("stages/train.py:run")
    names = [module.name for module in reached(source, entry, ["algo"])]
    assert names == ["r1pipe.algo.loop", "r1pipe.algo.losses", "stages.train"]
    names = [module.name for module in reached(source, entry, ["algo", "tools"])]
    assert names == [
        "r1pipe.algo.loop",
        "r1pipe.algo.losses",
        "r1pipe.tools.engine",
        "stages.train",
    ]


def test_a_walk_follows_a_value_through_objects_that_hold_it(source: Source) -> None:
    trip = walk(source)
    assert [(depth, name) for depth, _, name in trip.stops] == [
        (0, "run"),
        (1, "make_plan"),
        (2, "Plan"),
        (1, "opened"),
        (1, "train"),
        (2, "Engine.__init__"),
        (2, "loss"),
        (2, "Engine.update_weights"),  # the engine holds it
        (3, "Engine._rate"),
        (2, "loss"),
    ]
    assert trip.files == {
        "stages/train.py",
        "r1pipe/algo/loop.py",
        "r1pipe/algo/losses.py",
        "r1pipe/tools/engine.py",
    }


def test_a_climb_is_a_call_after_coming_back_from_another_file(source: Source) -> None:
    # in train: loss after Engine, update_weights after loss, loss after update_weights
    assert walk(source).climbs == 3


def test_a_walk_follows_what_is_read_from_the_value_where_asked(source: Source) -> None:
    names = [name for _, _, name in walk(source, parts=True).stops]
    assert names.count("_scaled") == 1, "loss was read once"
    assert names[-1] == "check"
    assert "note" not in names, "a condition does not pass its value on"
    assert "check" not in [name for _, _, name in walk(source).stops]


def test_all_tables_are_there(source: Source) -> None:
    tables = measure(source, "stages/train.py:run", "stages/train.py:run", "params", ["algo"])
    assert tables["layout"]["modules at the top of the package"] == 2
    assert tables["layout"]["folder circles"] == "algo <-> tools"
    assert tables["folder algo"]["files"] == 4
    assert tables["trips"]["one update: files"] == 3


def test_an_unknown_entry_says_so(source: Source) -> None:
    with pytest.raises(SystemExit, match=r"no function stages/train.py:go"):
        source.at("stages/train.py:go")
