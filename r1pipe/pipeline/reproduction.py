"""The certificate of a reproduction: which results are the locked ones, how the others agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1pipe.keys import JsonObject, key_of
from r1pipe.pipeline.lock import Lock, Score, fitting_lock, scores, versions_text
from r1pipe.pipeline.run import RunResult
from r1pipe.store.store import Store
from r1pipe.text import short_id


@dataclass(frozen=True)
class ComparedScore:
    """The pass@1 of one benchmark in an evaluation whose bytes are not the locked ones."""

    stage: str
    benchmark: str
    locked: Score
    here: Score | None

    @property
    def agrees(self) -> bool:
        """Whether each value lies inside the other's interval."""
        return self.here is not None and self.locked.agrees_with(self.here)

    @property
    def is_trivial(self) -> bool:
        """Whether no sample was right, there and here: such scores agree whatever was trained."""
        return self.here is not None and self.locked.high == self.here.high == 0.0


@dataclass(frozen=True)
class Certificate:
    """What became of a lock's stages in another store.

    `differing` has the stages whose bytes are others, in the order of the run; `causes` those among
    them that had the locked inputs, so that the difference began there.
    """

    recipe: str
    same: list[str]
    differing: list[str]
    causes: list[str]
    compared: list[ComparedScore]
    num_built: int
    versions: str
    artifacts: dict[str, tuple[str, str]]
    """Stage -> the locked artifact and the one here."""
    fitting: Path | None = None
    """A lock of the same run beside this one, made on this machine's processor."""

    @property
    def telling(self) -> list[ComparedScore]:
        """The scores whose agreement says something: not 0 there and here."""
        return [each for each in self.compared if not each.is_trivial]

    @property
    def holds(self) -> bool:
        """Whether every result is the same to the byte, or every telling score agrees."""
        return not self.differing or (
            bool(self.telling) and all(each.agrees for each in self.telling)
        )

    def lines(self) -> Iterator[str]:
        """Yield the certificate as text."""
        total = len(self.same) + len(self.differing)
        yield f"{self.recipe}: {len(self.same)} of {total} artifacts are the same to the byte"
        yield f"{self.num_built} were built here; {self.versions}"
        for name in self.differing:
            locked, here = self.artifacts[name]
            cause = "   the first: it had the locked inputs" if name in self.causes else ""
            yield f"  {name}: {short_id(locked)} -> {short_id(here)}{cause}"
        for each in self.compared:
            change = f"{_shown(each.locked)} -> {_shown(each.here)}"
            word = "agree" if each.agrees else "DISAGREE"
            said = "no sample right in either" if each.is_trivial else word
            yield f"  {each.stage} {each.benchmark}: {change}: {said}"
        if self.differing:
            yield self._sum()
        if self.differing and self.fitting is not None:
            yield f"made on this kind of processor: r1pipe reproduce {self.fitting}"
        yield "reproduced" if self.holds else "NOT reproduced"

    def _sum(self) -> str:
        """Return how many scores agree, without those that are 0 there and here."""
        kept = sum(each.agrees for each in self.telling)
        text = f"{kept} of {len(self.telling)} scores lie inside each other's 95 % intervals"
        num_trivial = len(self.compared) - len(self.telling)
        more = f"; {num_trivial} more are 0 in both, which shows nothing" if num_trivial else ""
        return text + more

    def to_json(self) -> JsonObject:
        """Return the certificate as JSON values."""
        return {
            "recipe": self.recipe,
            "holds": self.holds,
            "same": self.same,
            "differing": self.differing,
            "causes": self.causes,
            "built": self.num_built,
            "versions": self.versions,
            "fitting_lock": self.fitting and str(self.fitting),
            "artifacts": {
                name: {"locked": locked, "here": here}
                for name, (locked, here) in self.artifacts.items()
            },
            "scores": [
                {
                    "stage": each.stage,
                    "benchmark": each.benchmark,
                    "locked": each.locked.model_dump(),
                    "here": each.here and each.here.model_dump(),
                    "agrees": each.agrees,
                    "trivial": each.is_trivial,
                }
                for each in self.compared
            ],
        }


def certify(lock: Lock, path: Path, result: RunResult, store: Store) -> Certificate:
    """Compare the results of a run of all stages with the lock at `path`."""
    records = {name: each.record for name, each in result.stages.items()}
    differing = [
        n for n, record in records.items() if record.artifact_id != lock.stages[n].artifact
    ]
    return Certificate(
        recipe=lock.manifest + (f" ({lock.profile})" if lock.profile else ""),
        same=[name for name in records if name not in differing],
        differing=differing,
        causes=[n for n in differing if records[n].key == key_of(lock.stages[n].preimage)],
        compared=[
            ComparedScore(name, benchmark, locked, scores(records[name], store).get(benchmark))
            for name in differing
            for benchmark, locked in sorted(lock.stages[name].scores.items())
        ],
        num_built=len(result.built),
        versions=versions_text(lock),
        fitting=fitting_lock(path, lock),
        artifacts={n: (lock.stages[n].artifact, r.artifact_id) for n, r in records.items()},
    )


def _shown(score: Score | None) -> str:
    if score is None:
        return "not there"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
