"""Hostile imports: nothing is written but into the store, whatever the records say."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Run
from fake_project import make_project
from store_world import build

from r1pipe.keys import digest_json, key_of
from r1pipe.manifest import load_manifest
from r1pipe.store.store import Store
from r1pipe.store.transfer import export

Card = dict[str, Any]
ID = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once, and an export of its last stage."""
    root = tmp_path_factory.mktemp("project")
    build(root / "artifacts", load_manifest(make_project(root)))
    store = Store(root / "artifacts")
    export(store, store.resolve("scores"), root / "out")
    return root


@pytest.fixture
def cli(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run) -> Run:
    """A copy of the small project in the current folder."""
    shutil.copytree(project, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return r1pipe


def forge(change: Callable[[Card], object], who: str = "record") -> None:
    """Change a record of the export, and give it the digest and the key of what it says now."""
    path = Path("out/r1pipe-artifact.json")
    card = json.loads(path.read_text())
    record = card["record"] if who == "record" else card["ancestors"][0]
    record.pop("digest")
    change(record)
    try:
        record["digest"] = digest_json(record)
    except (ValueError, TypeError):
        record["digest"] = ID
    path.write_text(json.dumps(card))


def tree(root: Path) -> dict[str, object]:
    """Return all that is below a folder, but for the stores and the export."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.relative_to(root).parts[0] not in ("artifacts", "other", "out")
    }


HOSTILE: dict[str, Callable[[Card], object]] = {
    "logs above": lambda r: r.update(logs="../../evil"),
    "logs elsewhere": lambda r: r.update(logs="/tmp/evil-r1pipe"),
    "logs a folder": lambda r: r.update(logs="a/b"),
    "logs this one": lambda r: r.update(logs="."),
    "logs none": lambda r: r.update(logs=None),
    "an artifact above": lambda r: r.update(artifact_id="../../../precious"),
    "an artifact short": lambda r: r.update(artifact_id="ab"),
    "outputs above": lambda r: r.update(outputs={"../../evil": ID}),
    "outputs a list": lambda r: r.update(outputs=["report"]),
    "outputs none": lambda r: r.update(outputs={}),
    "outputs of numbers": lambda r: r.update(outputs={"report": 7}),
    "seconds infinite": lambda r: r.update(seconds=float("inf")),
    "seconds NaN": lambda r: r.update(seconds=float("nan")),
    "seconds negative": lambda r: r.update(seconds=-1.0),
    "seconds a text": lambda r: r.update(seconds="long"),
    "size a text": lambda r: r.update(size="huge"),
    "a kind of numbers": lambda r: r.update(kind=7),
    "a name of none": lambda r: r.update(stage_name=None),
    "a time of numbers": lambda r: r.update(created=7),
    "facts a list": lambda r: r.update(facts=["x"]),
    "facts deep": lambda r: r.update(facts={"x": nested(150)}),
    "inputs a list": lambda r: r.update(inputs=["x"]),
    "inputs of ids that are none": lambda r: r.update(inputs={"rows": {"id": "../../x"}}),
    "links of keys that are none": lambda r: r.update(inputs={"rows": {"id": ID, "key": "../x"}}),
    "code a list": lambda r: r.update(code=["x"]),
    "a preimage of nothing": lambda r: r.update(preimage={}, key=key_of({})),
    "a preimage of texts": lambda r: r.update(preimage="x", key=digest_json("x")),
    "params a list": lambda r: (
        r["preimage"].update(params=[]),
        r.update(key=key_of(r["preimage"])),
    ),
    "a format of text": lambda r: r.update(format="2"),
}


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("who", ["record", "ancestor"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_record_that_is_none_is_not_imported(
    cli: Run, tmp_path: Path, what: str, who: str
) -> None:
    before = tree(tmp_path)
    forge(HOSTILE[what], who)
    code, _, err = cli("import", "out", "--store", "other")
    assert code == 6, err
    assert "r1pipe-artifact.json" in err
    assert tree(tmp_path) == before
    assert Store(Path("other")).records() == []
    assert list(Path("other/objects").iterdir()) == []
    assert list(Path("other/logs").iterdir()) == []
    for command in (("show",), ("gc", "--move"), ("fsck", "--full")):
        assert cli(*command, "--store", "other")[0] == 0


def test_odd_facts_end_no_command(cli: Run) -> None:
    odd = {
        "warnings": 7,
        "predicted": {"trained_tokens": "x", "seconds": [1, None], "completions": "y"},
        "trained_tokens": "many",
        "sampled_tokens": ["x"],
        "rows": {"\x1b[2J": "\u202e"},
    }
    forge(lambda record: record.update(facts=odd, stage_name="sc\x1b[31mores\n", kind="\x9bx"))
    assert cli("import", "out", "--store", "other")[0] == 0
    for command in (
        ("show",),
        ("show", "--json"),
        ("show", ID[:4]),
        ("show", "sc\x1b[31mores\n"),
        ("show", "sc\x1b[31mores\n", "--json"),
        ("show", "sc\x1b[31mores\n", "--lineage"),
        ("show", "joined", "--lineage"),
        ("gc",),
        ("fsck", "--full"),
    ):
        code, out, err = cli(*command, "--store", "other")
        assert code in (0, 3), (command, err)
        assert (out + err).replace("\n", "").isprintable(), command


def test_a_file_of_another_size_is_refused_before_it_is_copied(cli: Run, tmp_path: Path) -> None:
    for name in ("object/report/scoreboard.txt", "logs/metrics.jsonl", "object/seal.json"):
        path = Path("out", name)
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o755)
        kept = path.read_bytes() if path.exists() else None
        if kept is not None:
            path.chmod(0o644)
        with path.open("wb") as file:
            file.truncate(200 << 30)  # sparse: copying it would fill any disk
        code, _, err = cli("import", "out", "--store", "other")
        assert (code, name in err) == (6, True), err
        path.unlink() if kept is None else path.write_bytes(kept)
    assert cli("import", "out", "--store", "other")[0] == 0


def test_a_pipe_in_an_export_is_no_file(cli: Run) -> None:
    path = Path("out/object/report/scoreboard.txt")
    path.parent.chmod(0o755)
    path.unlink()
    os.mkfifo(path)
    assert cli("import", "out", "--store", "other")[0] == 6
    os.mkfifo("pipe.tar")
    assert cli("import", "pipe.tar", "--store", "other")[0] == 3
    assert cli("import", "/dev/zero", "--store", "other")[0] == 3


def test_a_tar_whose_header_claims_gigabytes_is_damage(cli: Run, tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with (tmp_path / "evil.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(9 << 30)
    code, _, err = cli("import", "evil.tar", "--store", "other")
    assert code == 6, err


def test_a_seal_that_leads_elsewhere_writes_nothing(cli: Run, tmp_path: Path) -> None:
    from r1pipe.keys import FileEntry
    from r1pipe.store.sealing import make_seal, write_seal

    for name in ("report/../../../evil", f"{tmp_path}/evil", "report//x", "report/./x", "report"):
        before = tree(tmp_path)
        folder = Path("out/object")
        folder.chmod(0o755)
        (folder / "seal.json").unlink()
        seal = make_seal([FileEntry(name, 1, ID)])
        write_seal(folder, seal)
        forge(lambda r, seal=seal: r.update(artifact_id=seal.artifact, outputs=dict(seal.outputs)))  # type: ignore[misc]
        assert cli("import", "out", "--store", "other")[0] == 6, name
        assert tree(tmp_path) == before


def test_what_leads_out_of_a_tar_is_never_read(cli: Run, tmp_path: Path) -> None:
    with tarfile.open("evil.tar", "w") as tar:
        for path in sorted(Path("out").rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to("out").as_posix())
        info = tarfile.TarInfo("object/../../../evil")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("object/report/more")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert cli("import", "evil.tar", "--store", "other")[0] == 0
    assert not list(tmp_path.rglob("evil"))
    assert not list(tmp_path.rglob("more"))


# Trust -----------------------------------------------------------------------------------


def test_an_import_that_is_built_again_with_the_same_bytes_is_verified(cli: Run) -> None:
    options = ("--verify", "scores", "-m", "manifests/small.yaml", "--store", "other")
    code, out, err = cli("import", "out", *options)
    assert code == 0, err
    assert "built again, the same bytes" in out
    assert cli("fsck", "--full", "--store", "other")[0] == 0


def test_an_import_whose_key_makes_other_bytes_is_named_and_not_kept(cli: Run) -> None:
    path = Path("stages/scoreboard.py")
    honest = path.read_text()
    path.write_text(honest.replace("0.50", "0.99"))  # as its sender might have
    assert cli("run", "manifests/small.yaml", "--store", "theirs")[0] == 0
    assert cli("export", "scores", "forged", "--store", "theirs")[0] == 0
    path.write_text(honest)
    options = ("--verify", "scores", "-m", "manifests/small.yaml", "--store", "other")
    code, _, err = cli("import", "forged", *options)
    assert code == 6
    assert "the store keeps the result that was built here" in err
    record = json.loads(cli("show", "scores", "--store", "other", "--json")[1])
    here = json.loads(cli("show", "scores", "--json")[1])
    assert record["artifact_id"] == here["artifact_id"]
    assert not any(
        "0.99" in found.read_text() for found in Path("other/objects").rglob("scoreboard.txt")
    )


def test_an_import_of_another_key_says_so(cli: Run) -> None:
    options = ("-m", "manifests/small.yaml", "--store", "other")
    changed = ("--set", "stages.numbers.params.count=3")
    code, _, err = cli("import", "out", "--verify", "numbers", *changed, *options)
    assert code == 3
    assert "give the manifest, profile and --set texts that it was made with" in err
    code, _, err = cli("import", "out", "--verify", "nothing", *options)
    assert code == 2
