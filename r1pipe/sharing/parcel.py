"""A parcel: the files of one output with their card, written to a folder or pushed to the Hub."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.keys import copy_and_digest
from r1pipe.manifest import Manifest
from r1pipe.manifest.recipe import project_root
from r1pipe.sharing.card import LINEAGE, Facts, card_text, recipe_of
from r1pipe.sharing.scores import scores_of
from r1pipe.sharing.sources import origins
from r1pipe.sharing.stamps import SUFFIX, copy_stamped
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.sealing import read_seal
from r1pipe.store.store import Store
from r1pipe.store.transfer import EXPORT_FORMAT, ancestors

CARD = "README.md"
OWN_CARD = "DATA_CARD.md"
"""The name that a card of the artifact itself gets, such as a mix's."""
PUSHED = ("model", "rows", "problems")


@dataclass(frozen=True)
class Parcel:
    """What is handed on."""

    type: str
    """`model`, `rows` or `problems`."""
    files: Mapping[str, Path]
    """Name in the parcel -> sealed file."""
    digests: Mapping[str, str]
    texts: Mapping[str, bytes]
    """Name -> what is made for the parcel: its card and its lineage."""
    stamp: Mapping[str, str]
    """What the headers of safetensors files get; empty for rows."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        sizes = [path.stat().st_size for path in self.files.values()]
        return sum(sizes) + sum(map(len, self.texts.values()))

    def is_stamped(self, name: str) -> bool:
        """Return whether a file gets the stamp as it is copied."""
        return bool(self.stamp) and name.endswith(SUFFIX)

    def copy(self, name: str, target: Path) -> None:
        """Copy a file, with its stamp; DamagedError if its bytes are not those that were sealed."""
        source = self.files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.is_stamped(name):
            digest = copy_stamped(source, target, self.stamp)
        else:
            digest = copy_and_digest(source, target)
        if digest != self.digests[name]:
            raise DamagedError(f"{source}: expected digest {self.digests[name]}, found {digest}")


def make_parcel(
    manifest: Manifest, store: Store, record: ActionRecord, output: str | None = None
) -> Parcel:
    """Return one output of an artifact with its card; the record is of the manifest's stage.

    Raises ArtifactError for an output that is neither a model nor rows, DamagedError if its bytes
    are not what was sealed.
    """
    root = store.artifact_dir(record.artifact_id)
    store.is_intact(record)
    name, kind_of = _output(manifest, record, output)
    prefix = f"{name}/"
    sealed = [each for each in read_seal(root).files if each.path.startswith(prefix)]
    names = {each.path: _name_of(each.path.removeprefix(prefix)) for each in sealed}
    above = ancestors(record, store.records())
    lineage = {
        "format": EXPORT_FORMAT,
        "record": record.to_json(),
        "ancestors": [each.to_json() for each in above],
    }
    facts = Facts(
        record,
        above,
        name,
        kind_of,
        command_of(manifest, record.stage_name),
        origins(manifest, store, [record, *above]),
        scores_of(record.outputs[name], store) if kind_of == "model" else [],
    )
    if kind_of != "model":
        facts = _with_rows(facts, root / name)
    return Parcel(
        kind_of,
        {names[each.path]: root / each.path for each in sealed},
        {names[each.path]: each.digest for each in sealed},
        {CARD: card_text(facts).encode(), LINEAGE: json.dumps(lineage, indent=1).encode()},
        stamp_of(facts) if kind_of == "model" else {},
    )


def stamp_of(facts: Facts) -> dict[str, str]:
    """Return what a model's weights say of themselves, wherever they are taken."""
    record = facts.record
    return {
        "r1pipe.artifact": record.artifact_id,
        "r1pipe.key": record.key,
        "r1pipe.recipe": json.dumps(recipe_of(facts), sort_keys=True),
    }


def _output(manifest: Manifest, record: ActionRecord, output: str | None) -> tuple[str, str]:
    """Return the output that is handed on, and its type."""
    types = manifest.stages[record.stage_name].kind.outputs
    fit = [name for name, kind_of in types.items() if kind_of in PUSHED]
    chosen = [output] if output is not None else fit
    if len(chosen) != 1 or chosen[0] not in fit:
        listed = ", ".join(f"{name} ({kind_of})" for name, kind_of in types.items())
        raise ArtifactError(
            f"{record.stage_name}: say with --output which output, a model or rows; it has {listed}"
        )
    return chosen[0], types[chosen[0]]


def _name_of(path: str) -> str:
    return OWN_CARD if path == CARD else path


def _with_rows(facts: Facts, folder: Path) -> Facts:
    from r1pipe.rows import count_rows, schema_of

    return replace(facts, num_rows=count_rows(folder), columns=schema_of(folder).names)


def command_of(manifest: Manifest, stage: str) -> str:
    """Return the command that makes a stage again, without the folders of this machine."""
    root, path = project_root(manifest.path).resolve(), manifest.path.resolve()
    shown = path.relative_to(root) if path.is_relative_to(root) else Path("manifests") / path.name
    words = ["r1pipe", "run", str(shown)]
    words += ["--profile", manifest.profile] if manifest.profile else []
    for text in manifest.overrides:
        words += ["--set", text]
    return shlex.join([*words, "--to", stage])


def write_folder(parcel: Parcel, folder: Path) -> None:
    """Write a parcel into a new folder, each file digested as it is copied.

    Nothing is left there when a byte is not what was sealed.
    """
    if os.path.lexists(folder):
        raise ArtifactError(f"{folder} exists; name a new folder")
    draft = folder.with_name(f".{folder.name}.{disk.token()}")
    with disk.place_errors(folder):
        draft.mkdir(parents=True)
    try:
        with disk.store_errors(folder, "cannot be written"):
            for name in parcel.files:
                parcel.copy(name, draft / name)
            for name, text in parcel.texts.items():
                (draft / name).write_bytes(text)
            draft.rename(folder)
    except BaseException:
        disk.remove_tree(draft)
        raise
