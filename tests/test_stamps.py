"""Weights that are handed on say where they come from, and are the same weights."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from handed_world import handed
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_sharing import FakeHub
from transformers import AutoModelForCausalLM

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.keys import digest_file
from r1pipe.manifest import Manifest
from r1pipe.sharing import hub
from r1pipe.sharing.parcel import Parcel, make_parcel, write_folder
from r1pipe.sharing.stamps import copy_stamped
from r1pipe.store.store import Store

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Store]:
    return handed(tmp_path_factory.mktemp("world"))


def parcel(world: tuple[Manifest, Store], stage: str, output: str | None = None) -> Parcel:
    made, store = world
    return make_parcel(made, store, store.resolve(stage), output)


def sharded(made: Parcel, folder: Path) -> Parcel:
    """Return a parcel whose weights are in several files."""
    model = AutoModelForCausalLM.from_pretrained(made.files[WEIGHTS].parent)
    model.save_pretrained(folder, max_shard_size="20KB")
    files = {path.name: path for path in folder.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 2
    return replace(
        made, files=files, digests={name: digest_file(path) for name, path in files.items()}
    )


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_folder_of_weights_names_its_artifact_key_and_recipe(
    world: tuple[Manifest, Store], tmp_path: Path
) -> None:
    record = world[1].resolve("zero")
    made = parcel(world, "zero")
    write_folder(made, tmp_path / "model")
    found = metadata(tmp_path / "model" / WEIGHTS)
    assert found["format"] == "pt"
    assert found["r1pipe.artifact"] == record.artifact_id
    assert found["r1pipe.key"] == record.key
    assert json.loads(found["r1pipe.recipe"])["zero"] == record.preimage["params"]
    assert json.loads(found["r1pipe.recipe"]).keys() == {"zero", "rows"}
    assert "headers of the safetensors files" in made.texts["README.md"].decode()
    assert "r1pipe.key" not in metadata(made.files[WEIGHTS])


def test_rows_have_no_stamp(world: tuple[Manifest, Store]) -> None:
    made = parcel(world, "rows")
    assert made.stamp == {}
    assert not made.is_stamped("part.safetensors")
    assert "safetensors" not in made.texts["README.md"].decode()


def test_every_shard_is_stamped_and_the_model_is_the_same(
    world: tuple[Manifest, Store], tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    made = sharded(parcel(world, "both", "model"), tmp_path / "shards")
    write_folder(made, tmp_path / "model")
    for name, path in made.files.items():
        if made.is_stamped(name):
            assert metadata(tmp_path / "model" / name)["r1pipe.key"] == made.stamp["r1pipe.key"]
            before, after = load_file(path), load_file(tmp_path / "model" / name)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)
        else:
            assert path.read_bytes() == (tmp_path / "model" / name).read_bytes()
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "shards").state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_one_stamped_copy_at_a_time_waits_for_the_hub(
    world: tuple[Manifest, Store], tmp_path: Path
) -> None:
    made, fake = sharded(parcel(world, "both", "model"), tmp_path), FakeHub()
    hub.push(made, "me/both", "message", api=cast(HfApi, fake))
    stamped = [name for name in made.files if made.is_stamped(name)]
    assert fake.went_ahead == {name: [name] for name in stamped}
    assert fake.files.keys() == {*made.files, *made.texts}
    (tmp_path / "copy").write_bytes(fake.files[stamped[-1]])
    assert metadata(tmp_path / "copy")["r1pipe.artifact"] == made.stamp["r1pipe.artifact"]


def test_damaged_weights_are_not_stamped(world: tuple[Manifest, Store], tmp_path: Path) -> None:
    made = parcel(world, "zero")
    damaged = replace(made, digests={**made.digests, WEIGHTS: "0" * 64})
    with pytest.raises(DamagedError, match="expected digest 0000"):
        write_folder(damaged, tmp_path / "model")
    fake = FakeHub()
    with pytest.raises(DamagedError, match="expected digest 0000"):
        hub.push(damaged, "me/zero", "message", api=cast(HfApi, fake))
    assert fake.files == {}


def test_metadata_that_is_there_stays_and_tensors_begin_at_eight_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": torch.arange(5, dtype=torch.int8)}, source, {"mine": "1", "r1pipe.key": "old"})
    digest = copy_stamped(source, target, {"r1pipe.key": "new", "r1pipe.recipe": '{"\u00e9": 1}'})
    assert digest == digest_file(source)
    assert metadata(target) == {"mine": "1", "r1pipe.key": "new", "r1pipe.recipe": '{"\u00e9": 1}'}
    assert load_file(target)["x"].tolist() == [0, 1, 2, 3, 4]
    assert int.from_bytes(target.read_bytes()[:8], "little") % 8 == 0
    save_file({"x": torch.ones(2)}, source := tmp_path / "c.safetensors")
    copy_stamped(source, tmp_path / "d.safetensors", {"r1pipe.key": "k"})
    assert metadata(tmp_path / "d.safetensors") == {"r1pipe.key": "k"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        b"\xff" * 16,
        (99).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"[1,2,3,4]",
        (18).to_bytes(8, "little") + b'{"__metadata__":1}',
        (2).to_bytes(8, "little") + b"\xff\xfe",
    ],
)
def test_what_has_no_header_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (source := tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.safetensors: it has no header"):
        copy_stamped(source, tmp_path / "b.safetensors", {"r1pipe.key": "k"})


def test_weights_of_any_size_are_copied_in_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, source)
    with source.open("r+b") as file:  # 64 MiB of holes
        file.truncate(1 << 26)
    tracemalloc.start()
    try:
        copy_stamped(source, tmp_path / "b.safetensors", {"r1pipe.key": "k"})
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "b.safetensors").stat().st_size > 1 << 26
