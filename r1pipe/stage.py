"""What a stage file defines, and what a stage is given: the contract between core and stages.

A file `stages/<kind>.py` (dashes as underscores) defines

    VERSION = 1                                  # raised when results change
    class Params(StageModel): ...                # decides the result: in the key
    class Run(StageModel): ...                   # how it is computed: never in the key
    INPUTS = {"model": Input("model")}           # by name, with the type of artifact each one takes
    OUTPUTS = {"model": "model"}                 # by name, with the type of artifact each one is
    def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None: ...

if a larger value of one field only goes on from the end of a smaller one, it may name that field,
and is then given what results with other values of it hold (`Context.previous`, journals):

    EXTENDS = "target_rows"

if some values of `Params` and `Run` do not go together, `Run` may say so; `plan` and `run` then
refuse the stage at its place in the manifest, before anything runs:

    def incompatible_with(self, params: Params) -> str | None: ...  # what to set, or None

if parameters name labels of an input that takes many, `Params` may say which, so that a label that
is not there is refused likewise:

    def named_labels(self) -> Mapping[str, Sequence[str]]: ...       # input -> labels

if a parameter means something else than in other kinds, `Params` may say what, for those who set it
for all kinds:

    def meant_otherwise(self) -> Mapping[str, str]: ...              # field -> what it is here

and a stage may define what `plan` says it will cost, without importing anything heavy:

    def cost(params: Params, run: Run, inputs: InfoMap) -> Cost: ...       # r1pipe.costs.work

and what it finds in the first rows of those of its inputs that are sources, so that `plan` says
what will be made of them, or refuses them before anything runs (SourceError, StageError):

    def look(params: Params, inputs: Inputs) -> Mapping[str, str]: ...     # input -> one line
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from r1pipe.keys import InputIds, JsonObject

if TYPE_CHECKING:
    from r1pipe.ranks import Ranks

CHECKPOINT_EVERY_S = 30.0
"""Seconds of training that a kill may cost, unless `--checkpoint-every` says otherwise."""


class StageModel(BaseModel):
    """The base of every `Params` and `Run`: frozen, strict, and closed to unknown names.

    The docstring under a field is its description in `r1pipe schema`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Input(NamedTuple):
    """One input of a kind: the type of artifact it takes.

    Types: `model`, `problems`, `rows`, `report`, and of sources also `dataset` and `text` (one file
    of UTF-8, such as a prompt); a tuple if several will do. `many` inputs take a mapping of
    labels to references; the stage reads them with `Inputs.paths`.
    """

    type: str | tuple[str, ...]
    optional: bool = False
    many: bool = False
    fields: tuple[str, ...] = ()
    """Of a text: the fields that it must have in braces."""
    tokenizer_of: str | None = None
    """Of a model: the input whose tokenizer it must have; `plan` refuses another, where it can."""


class Inputs:
    """Where a stage's inputs are: sealed directories by the names of `INPUTS`.

    Optional inputs that the manifest does not give are left out: ask with `in`.
    """

    def __init__(self, given: Mapping[str, Path | Mapping[str, Path]] | None = None) -> None:
        self._given = dict(given or {})

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def path(self, name: str) -> Path:
        """Return the directory (or file) of an input that takes one."""
        value = self._given[name]
        assert isinstance(value, Path), f"input {name} takes many: use paths"
        return value

    def paths(self, name: str) -> Mapping[str, Path]:
        """Return label -> directory of an input that takes `many`; none if it is left out."""
        value = self._given.get(name, {})
        assert not isinstance(value, Path), f"input {name} takes one: use path"
        return value

    def items(self) -> Iterator[tuple[str, Path | Mapping[str, Path]]]:
        """Yield names and paths, as they are handed to other processes."""
        yield from self._given.items()


class Journal(Protocol):
    """An append-only, durable list of rows inside an attempt; survives a kill.

    A unit is what resume counts: rows of a unit become visible together or not at all.
    """

    def append(self, unit: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add all rows of one unit of work (for example one batch of problems)."""

    def append_lines(self, unit: str, num_rows: int, payload: bytes) -> None:
        """Add the rows of one unit as lines of JSON that another process has made."""

    def done(self) -> frozenset[str]:
        """Return the units that are already in the journal."""

    def lines(self, unit: str) -> bytes:
        """Return the rows of a unit that is in the journal, as lines of JSON."""

    def rows(self) -> Iterator[JsonObject]:
        """Yield all rows, in the order in which their units were appended."""


class Checkpoints(Protocol):
    """Sealed training checkpoints inside an attempt; a half-written one is never seen."""

    def latest(self) -> tuple[int, Path] | None:
        """Return the step and directory of the newest sealed checkpoint, or None."""

    def saving(self, step: int) -> AbstractContextManager[Path]:
        """Give a directory to write into; sealed by one rename when the block ends well."""

    def save_beside(self, step: int, snapshot: Callable[[Path], Callable[[], None]]) -> None:
        """Save what `snapshot` copies now; what it returns writes the copy, in a thread.

        Waits for the checkpoint before; what failed in it is raised.
        """

    def check(self) -> None:
        """Raise what failed in a checkpoint that was written beside the stage."""

    def wait(self) -> None:
        """Wait for such a checkpoint; raise what failed."""


class Context(Protocol):
    """What the pipeline gives a running stage."""

    name: str
    input_ids: InputIds
    """Input name -> artifact id (or {label: id}), for provenance columns."""
    ranks: Ranks
    """The processes that run this stage together."""
    checkpoints: Checkpoints

    def output(self, name: str) -> Path:
        """Return the (created) directory of one output inside the private attempt."""

    def previous(self, name: str) -> Path | None:
        """Return an output of the largest finished result that this stage can go on from, or None.

        Its key differs only in the kind's `EXTENDS`.
        """

    def journal(self, name: str) -> Journal:
        """Open the named journal of this attempt."""

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        """Record metrics of one step (kept beside the data, outside the id) and show progress.

        `step` counts from 1; `total` is the number of steps. Well-known names shown live: `loss`,
        `reward`, `pass_rate`, `tokens_per_s`.
        """

    def sample(self, **row: object) -> None:
        """Keep one example row for `r1pipe show` (JSON values)."""

    def note(self, **facts: object) -> None:
        """Keep facts about the finished stage (counts, certificates) for `r1pipe show`."""

    def warn(self, text: str) -> None:
        """Say at once that something looks wrong, and keep it for `r1pipe show`."""

    def doing(self, what: str, done: int, total: int) -> None:
        """Show how far the work inside a step has come, such as (sampling, 48, 192)."""

    def checkpoint_due(self) -> bool:
        """True when it is time for a training checkpoint, or a stop was asked for."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Give a block that raises `Interrupted` as soon as SIGTERM or Ctrl-C comes.

        What it does must be worth nothing unless it ends: waiting for completions, for example. In
        a stage of several processes it is not left early.
        """

    def stop_if_asked(self) -> None:
        """Raise `Interrupted` when SIGTERM or Ctrl-C came. Call it where nothing can be lost."""


StageRun = Callable[..., None]
"""(context, params, run, inputs): `run` of a stage file, which takes its own `Params` and `Run`."""
StageCost = Callable[..., object]
"""(params, run, what is known of the inputs) -> `r1pipe.costs.work.Cost`."""
StageLook = Callable[..., Mapping[str, str]]
"""(params, those inputs that are sources and are there) -> what was found, by input."""


class StageKind(NamedTuple):
    """A loaded stage file."""

    kind: str
    version: int
    params: type[StageModel]
    run_model: type[StageModel]
    inputs: Mapping[str, Input]
    outputs: Mapping[str, str]
    run: StageRun
    path: Path
    extends: str | None = None
    """The field of `Params` that only says how far to go: see `EXTENDS` above."""
    cost: StageCost | None = None
    """What the stage will do, in tokens and models; None if the file does not say."""
    look: StageLook | None = None
    """What it finds in sources; None if the file does not look."""
