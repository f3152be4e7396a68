"""Results in a store: models, rows, metrics and folders of artifacts by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import ArtifactError
from r1pipe.keys import JsonObject
from r1pipe.store.store import Store

if TYPE_CHECKING:
    from r1pipe.api.documents import Document, LineageDocument, Summary
    from r1pipe.models.interfaces import LanguageModel, Tokenizer
    from r1pipe.records import Row
    from r1pipe.store.actions import ActionRecord

MODEL_FILE = "config.json"
ROW_FILES = "part-*.parquet"


def open_store(path: Path | str) -> Results:
    """Return the results of a store."""
    return Results(Store(Path(path)))


class Results:
    """The results of a store, by the names that `r1pipe show` takes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self._store.root

    def __getitem__(self, name: str) -> Result:
        """Return the result with a name: stage, stage@7f3a, tag, or an id's prefix.

        A stage's name is the artifact that its last run used. Raises ArtifactError.
        """
        return Result(self._store, self._store.resolve(name))

    def __iter__(self) -> Iterator[Result]:
        """Yield all results, oldest first."""
        records = sorted(self._store.records(), key=lambda record: record.created)
        return (Result(self._store, record) for record in records)

    def show(self) -> list[Summary]:
        """Return what `r1pipe show --json` prints: one line for each result, oldest first."""
        from r1pipe.api.documents import summary

        return [summary(result.record) for result in self]

    def __len__(self) -> int:
        return len(self._store.records())


class Result:
    """One artifact with its record. Nothing of it can be changed."""

    def __init__(self, store: Store, record: ActionRecord) -> None:
        self._store = store
        self.record = record

    def __repr__(self) -> str:
        return f"<{self.record.kind} {self.record.stage_name}@{self.record.artifact_id[:12]}>"

    @property
    def id(self) -> str:
        """The artifact's id, the digest of its files."""
        return self.record.artifact_id

    @property
    def facts(self) -> JsonObject:
        """What the stage noted: counts, certificates, warnings."""
        return self.record.facts

    @property
    def path(self) -> Path:
        """The sealed, read-only folder, with a folder for each output.

        Raises ArtifactError if the bytes are gone, DamagedError if they are not what was sealed.
        """
        folder = self._store.artifact_dir(self.record.artifact_id)
        self._store.is_intact(self.record)
        return folder.absolute()

    def output(self, name: str | None = None) -> Path:
        """Return the folder of one output; the name can be left out if there is only one."""
        return self.path / (name or self._one(list(self.record.outputs)))

    def model_folder(self) -> Path:
        """Return the folder of the one model; transformers and vLLM load it as it is."""
        folders = [path.parent for path in self.path.glob(f"*/{MODEL_FILE}")]
        if len(folders) != 1:
            made = self.record
            count = f"{len(folders)} models" if folders else "no model"
            raise ArtifactError(
                f"{made.stage_name} ({made.kind}) holds {count}; name a stage that makes one"
            )
        return folders[0]

    def model(self, output: str | None = None, device: str = "cpu") -> LanguageModel:
        """Load a model as transformers' class of it, in the dtype of its files, for inference."""
        from r1pipe.models.policy import freeze, load_model

        return freeze(load_model(self._holding(MODEL_FILE, output), dtype="auto", device=device))

    def tokenizer(self, output: str | None = None) -> Tokenizer:
        """Load a model's tokenizer."""
        from r1pipe.models.policy import load_tokenizer

        return load_tokenizer(self._holding("tokenizer*.json", output))

    def rows(
        self, output: str | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[Row]:
        """Yield rows in order, one batch in memory; `columns` reads only these."""
        from r1pipe.rows import read_rows

        return read_rows(self._holding(ROW_FILES, output), columns)

    def metrics(self) -> list[JsonObject]:
        """Return the metrics, a mapping for each step."""
        return self._store.metrics(self.record)

    def samples(self) -> list[JsonObject]:
        """Return the example rows that the stage kept."""
        return self._store.samples(self.record)

    def show(self) -> Document:
        """Return what `r1pipe show NAME --json` prints."""
        from r1pipe.api.documents import document

        return document(self.record, self._store)

    def lineage(self) -> LineageDocument:
        """Return what `r1pipe show NAME --lineage --json` prints."""
        from r1pipe.api.documents import lineage_document

        return lineage_document(self.record, self._store.known())

    def _holding(self, pattern: str, output: str | None) -> Path:
        """Return the folder of the output that holds some files."""
        if output is not None:
            return self._store.output_dir(self.record, output)
        names = [name for name in self.record.outputs if any(self.path.glob(f"{name}/{pattern}"))]
        return self.path / self._one(names, f" with {pattern}")

    def _one(self, names: list[str], what: str = "") -> str:
        if len(names) == 1:
            return names[0]
        listed = ", ".join(self.record.outputs)
        advice = "name one" if names else "name another result"
        raise ArtifactError(
            f"{self!r}: {len(names)} outputs{what}; {advice} (its outputs are {listed})"
        )
