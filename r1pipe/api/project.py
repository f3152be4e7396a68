"""A manifest with its settings and its store: plan, run, show. The command line calls these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from r1pipe.api.results import Result, Results
from r1pipe.errors import ArtifactError
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.manifest.recipe import default_store
from r1pipe.stage import CHECKPOINT_EVERY_S
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.api.documents import Document, Summary
    from r1pipe.costs.report import Costs
    from r1pipe.pipeline.planning import Plan
    from r1pipe.pipeline.progress import Console
    from r1pipe.pipeline.run import RunResult
    from r1pipe.store.actions import ActionRecord


def load(
    manifest: Path | str,
    *,
    profile: str | None = None,
    sets: Sequence[str] = (),
    store: Path | str | None = None,
) -> Project:
    """Read a manifest; ManifestError has all its mistakes.

    `sets` are the texts of `--set`. The store is `artifacts/` beside the manifest's folder unless
    one is given; nothing is written to it before a run.
    """
    loaded = load_manifest(Path(manifest), profile=profile, overrides=tuple(sets))
    root = default_store(Path(manifest)) if store is None else Path(store)
    return Project(loaded, Store(root))


class Project:
    """A manifest as it was resolved, and the store with its results."""

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self.manifest = manifest
        self.opened = store

    @property
    def store(self) -> Results:
        """All results in the store, of this manifest and of others."""
        return Results(self.opened)

    def plan(self, *, to: str | None = None) -> Plan:
        """Say what a run would do, stage by stage, and why; writes nothing but caches."""
        from r1pipe.pipeline.planning import plan

        return plan(self.manifest, self.opened, to=to)

    def costs(self, plan: Plan, price: float | None = None) -> Costs:
        """Estimate tokens, time, memory and disk of what a plan builds; `price` is a GPU-hour's."""
        from r1pipe.costs.report import stage_costs

        names = [stage.name for stage in plan.stages if stage.builds]
        return stage_costs(self.manifest, self.opened, plan.records, names, price)

    def run(  # noqa: PLR0913 - the options of one command
        self,
        *,
        to: str | None = None,
        only: str | None = None,
        before: str | None = None,
        rebuild: Iterable[str] = (),
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        check: Callable[[str, ActionRecord], None] = lambda name, record: None,
        console: Console | None = None,
        keep_going: bool = False,
    ) -> RunResult:
        """Build what is not in the store yet: all, up to stage `to`, `only` one, or what one reads.

        What is told goes to the logger `r1pipe` unless a console is given. `check` is given every
        result. Raises Interrupted at Ctrl-C and SIGTERM; another run goes on where it stopped. With
        `keep_going` a stage that fails ends only those that need it; StageError comes at the end.
        """
        from r1pipe.pipeline.run import run

        return run(
            self.manifest,
            self.opened,
            console or _logged(),
            to=to,
            only=only,
            before=before,
            rebuild=rebuild,
            checkpoint_every_s=checkpoint_every_s,
            check=check,
            keep_going=keep_going,
        )

    def __getitem__(self, stage: str) -> Result:
        """Return the result of a stage with these settings, and of no others.

        Raises ManifestError for an unknown stage, ArtifactError for one that is not built.
        """
        from r1pipe.pipeline.commands import run_command

        record = self.plan(to=stage).records.get(stage)
        if record is None:
            built = {each.record.profile for each in self.store if each.record.stage_name == stage}
            others = ", ".join(sorted(name or "none" for name in built))
            hint = f"; the store has it of other settings (profiles: {others})" if built else ""
            raise ArtifactError(
                f"{stage}: not built with these settings{hint}; build it with:"
                f" {run_command(self.manifest, self.opened, stage)}"
            )
        return Result(self.opened, record)

    @overload
    def show(self) -> list[Summary]: ...

    @overload
    def show(self, stage: str) -> Document: ...

    def show(self, stage: str | None = None) -> list[Summary] | Document:
        """Return what `r1pipe show --json` prints: of all results, or of one stage's."""
        return self.store.show() if stage is None else self[stage].show()


def _logged() -> Console:
    from r1pipe.api.logged import LoggedConsole

    return LoggedConsole()
