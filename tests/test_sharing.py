"""Handing on: the card of an artifact, its folder, and the Hub (a fake one)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command import Run
from fake_project import MANIFEST, make_project, write_manifest
from handed_world import HOSTILE, handed
from httpx2 import ConnectError, Request, Response
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.rows import read_rows
from r1pipe.sharing import hub
from r1pipe.sharing.card import LINEAGE
from r1pipe.sharing.markdown import fenced, plain
from r1pipe.sharing.parcel import Parcel, command_of, make_parcel, write_folder
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Store]:
    made, store = handed(tmp_path_factory.mktemp("world"))
    (root := store.root.parent / "licensed").mkdir()
    (root / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\nlicense: mit\n")
    return made, store


def parcel(world: tuple[Manifest, Store], stage: str, output: str | None = None) -> Parcel:
    made, store = world
    return make_parcel(made, store, store.resolve(stage), output)


def card(world: tuple[Manifest, Store], stage: str, output: str | None = None) -> str:
    return parcel(world, stage, output).texts["README.md"].decode()


def test_a_card_of_a_model_says_what_its_record_says(world: tuple[Manifest, Store]) -> None:
    text, record = card(world, "zero"), world[1].resolve("zero")
    assert f"Artifact `{record.artifact_id}`, output `{record.outputs['model']}`" in text
    assert "```bash\nr1pipe run tiny.yaml --profile laptop --to zero\n```" in text
    assert "| sums | 0.500 | 0.250 - 0.750 | 8 | eval-zero" in text
    assert "| numbers | numbers.json | not stated | " in text
    rows = world[1].resolve("rows")
    assert f"| rows | mix, version 1 | {rows.artifact_id[:16]} | numbers |" in text
    params = json.loads(text.split("```json\n")[1].split("\n```")[0])
    assert params == {"zero": {}, "rows": {"text": HOSTILE}}


def test_the_head_of_a_card_is_yaml_for_the_hub(world: tuple[Manifest, Store]) -> None:
    found = YAML(typ="safe").load(card(world, "zero").split("---\n")[1])
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["r1pipe", "grpo"],
    }
    found = YAML(typ="safe").load(card(world, "rows").split("---\n")[1])
    assert found["configs"] == [{"config_name": "default", "data_files": "part-*.parquet"}]


def test_licences_and_hub_names_of_sources_reach_the_card(world: tuple[Manifest, Store]) -> None:
    made, store = world
    source = made.sources["numbers"]
    stated = source._replace(licence="apache-2.0")
    from_hub = source._replace(path=None, hf="owner/numbers", revision="main", licence="mit")
    beside = source._replace(path=store.root.parent / "licensed")
    for node, expected in ((stated, "apache-2.0"), (from_hub, "mit"), (beside, "cc-by-4.0")):
        text = card((replace(made, sources={"numbers": node}), store), "zero")
        assert f'license: "{expected}"' in text
        assert f"| {expected} |" in text
    text = card((replace(made, sources={"numbers": from_hub}), store), "zero")
    assert '\ndatasets: ["owner/numbers"]\n' in text
    assert f"| {plain('owner/numbers, revision main')} | mit |" in text


def test_a_manifest_states_a_licence_that_decides_nothing(tmp_path: Path) -> None:
    make_project(tmp_path)
    text = MANIFEST.replace("as: dataset}", "as: dataset, licence: cc-by-4.0}")
    loaded = load_manifest(write_manifest(tmp_path, text))
    assert loaded.sources["prompts"].licence == "cc-by-4.0"


def test_text_of_others_is_never_markup(world: tuple[Manifest, Store]) -> None:
    made, store = world
    record = store.resolve("zero")
    hostile = replace(
        record, stage_name="zero", manifest_name=HOSTILE, facts={"warnings": [f"a\n# b {HOSTILE}"]}
    )
    text = make_parcel(made, store, hostile).texts["README.md"].decode()
    outside = "".join(text.split("```")[::2])
    assert "<" not in outside.replace("---", "")
    assert "\x1b" not in text
    assert "\n# b" not in text
    assert "](" not in outside
    assert fenced("a\n````\nb") == "`````\na\n````\nb\n`````"
    assert plain("1.5 www.x.y *a* _b_ 中文") == "1.5 www&#46;x.y &#42;a&#42; &#95;b&#95; 中文"


def test_a_warning_of_several_lines_is_an_item_with_its_example_below(
    world: tuple[Manifest, Store],
) -> None:
    made, store = world
    warnings = ["flat groups. An example:\n  prompt: 1 + 1", "cut"]
    record = replace(store.resolve("zero"), facts={"warnings": warnings})
    text = make_parcel(made, store, record).texts["README.md"].decode()
    assert (
        "## Warnings\n\n- flat groups. An example&#58;\n\n"
        "  ```text\n    prompt: 1 + 1\n  ```\n- cut\n" in text
    )


def test_a_folder_is_a_model_that_loads_with_its_lineage(
    world: tuple[Manifest, Store], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write_folder(parcel(world, "both", "model"), folder)
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    lineage = json.loads((folder / LINEAGE).read_text())
    made_from = [ActionRecord.from_json(each, "lineage") for each in lineage["ancestors"]]
    assert [each.stage_name for each in made_from] == ["rows"]
    assert ActionRecord.from_json(lineage["record"], "lineage").stage_name == "both"
    with pytest.raises(ArtifactError, match="exists; name a new folder"):
        write_folder(parcel(world, "both", "model"), folder)


def test_a_folder_of_rows_reads_back(world: tuple[Manifest, Store], tmp_path: Path) -> None:
    write_folder(parcel(world, "rows"), tmp_path / "rows")
    assert [row["completion"] for row in read_rows(tmp_path / "rows")] == ["2", "3"]
    assert "2 rows with the columns prompt, completion" in card(world, "rows")


def test_bytes_that_changed_are_not_written(world: tuple[Manifest, Store], tmp_path: Path) -> None:
    made = parcel(world, "rows")
    name = next(iter(made.files))
    damaged = replace(made, digests={**made.digests, name: "0" * 64})
    with pytest.raises(DamagedError, match=f"{name}: expected digest 0000"):
        write_folder(damaged, tmp_path / "rows")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/out", "/dev/null/out"])
def test_a_folder_that_cannot_be_made_is_named(place: str) -> None:
    with pytest.raises(StoreError, match=f"{place}: cannot be written: .*; name a place"):
        write_folder(Parcel("rows", {}, {}, {}, {}), Path(place))


def test_which_output_is_meant_is_asked_for(world: tuple[Manifest, Store]) -> None:
    with pytest.raises(ArtifactError, match=r"--output.*it has model \(model\), rows \(rows\)"):
        parcel(world, "both")
    with pytest.raises(ArtifactError, match=r"it has report \(report\)"):
        parcel(world, "eval-zero")


def test_the_command_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    loaded = load_manifest(path, profile="gpu", overrides=["params.seed=4"])
    expected = "r1pipe run manifests/small.yaml --profile gpu --set params.seed=4 --to joined"
    assert command_of(loaded, "joined") == expected


class FakeHub:
    """Stands for HfApi: remembers repositories and commits."""

    def __init__(self, private: bool | None = True, refuses: Exception | None = None) -> None:
        self.token = "secret"
        self.private = private
        self.refuses = refuses
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.went_ahead: dict[str, list[str]] = {}
        """File that went over before the commit -> what lay in its folder then."""

    def create_repo(self, repo: str, **options: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.created.append({"repo": repo, **options})

    def repo_info(self, repo: str, **options: Any) -> Any:
        return SimpleNamespace(private=self.private)

    def preupload_lfs_files(self, repo: str, additions: Any, **options: Any) -> None:
        for each in additions:
            folder = Path(each.path_or_fileobj).parent
            self.went_ahead[each.path_in_repo] = sorted(path.name for path in folder.iterdir())
            self.files[each.path_in_repo] = Path(each.path_or_fileobj).read_bytes()
            each.path_or_fileobj = b""

    def create_commit(self, repo: str, operations: Any, **options: Any) -> Any:
        for each in operations:
            if each.path_in_repo in self.went_ahead:
                continue
            with each.as_file() as file:
                self.files[each.path_in_repo] = file.read()
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")


def pushed(made: Parcel, fake: FakeHub, public: bool = False) -> str:
    return hub.push(made, "me/zero", "message", public=public, api=cast(HfApi, fake))


def test_a_push_is_one_commit_to_a_private_repository(world: tuple[Manifest, Store]) -> None:
    made, fake = parcel(world, "zero"), FakeHub()
    assert pushed(made, fake) == "https://hub/me/zero/commit/1"
    assert fake.created == [
        {"repo": "me/zero", "repo_type": "model", "private": True, "exist_ok": True}
    ]
    assert fake.files.keys() == {*made.files, "README.md", LINEAGE}
    assert fake.files["config.json"] == made.files["config.json"].read_bytes()
    rows = FakeHub()
    pushed(parcel(world, "rows"), rows, public=True)
    assert rows.created[0]["repo_type"] == "dataset"
    assert rows.created[0]["private"] is False


def test_nothing_goes_to_a_public_repository_unasked(world: tuple[Manifest, Store]) -> None:
    fake = FakeHub(private=False)
    with pytest.raises(ArtifactError, match="me/zero is public; say --public"):
        pushed(parcel(world, "zero"), fake)
    assert fake.files == {}


def http_error(status: int) -> HfHubHTTPError:
    response = Response(status, request=Request("POST", "https://hub/api"))
    return HfHubHTTPError("You \x1b[31mshall not", response=response)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OfflineModeIsEnabled("offline"), "because HF_HUB_OFFLINE is set"),
        (http_error(401), r"refuses \(401\): You \\x1b\[31mshall not; no token of the Hub"),
        (http_error(507), r"refuses \(507\)"),
        (ConnectError("no route"), r"cannot be reached \(no route\); the same command"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    world: tuple[Manifest, Store], error: Exception, said: str
) -> None:
    with pytest.raises(StoreError, match=said):
        pushed(parcel(world, "zero"), FakeHub(refuses=error))


def test_without_a_token_nothing_is_tried(
    world: tuple[Manifest, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_stored_token", lambda: None)
    fake = FakeHub()
    fake.token = ""
    with pytest.raises(StoreError, match="run 'hf auth login', or set HF_TOKEN; --to FOLDER"):
        pushed(parcel(world, "zero"), fake)
    assert fake.created == []


def make_project_of_rows(folder: Path) -> None:
    """Write a project whose stage `joined` makes a row."""
    make_project(folder)
    stage = folder / "stages" / "join.py"
    body = "    import r1pipe.rows as r\n    r.write_rows(context.output('rows'), [{'n': 1}])\n"
    stage.write_text(stage.read_text().partition("    parts = ")[0] + body)


def test_push_is_a_command(tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project_of_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_stored_token", lambda: None)
    arguments = ("push", "joined", "--manifest", "manifests/small.yaml")
    code, _, err = r1pipe(*arguments, "--to", "out")
    assert code == 3
    assert "joined: not built with these settings; build it with: r1pipe run" in err
    assert r1pipe(*arguments)[0] == 3
    r1pipe("run", "manifests/small.yaml")
    code, out, _ = r1pipe(*arguments, "--to", "out")
    assert code == 0
    assert out.splitlines()[:3] == ["  README.md", "  part-00000.parquet", f"  {LINEAGE}"]
    assert "1 rows with the columns n" in (tmp_path / "out" / "README.md").read_text()
    code, out, _ = r1pipe(*arguments, "me/rows", "--to", "dry", "--dry-run")
    assert code == 0
    assert out.rstrip().endswith("; nothing was pushed to me/rows")
    assert (tmp_path / "dry" / "README.md").exists()
    code, _, err = r1pipe(*arguments, "me/rows")
    assert (code, err.partition(":")[0]) == (8, "me/rows")


def test_a_dry_run_of_a_push_takes_no_word_and_writes_nothing(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project_of_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    r1pipe("run", "manifests/small.yaml")
    push = ("push", "joined", "--manifest", "manifests/small.yaml")
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, _ = r1pipe(*push, "--dry-run", "me/rows")
    assert code == 0
    assert "  README.md\n" in out
    *_, last = out.splitlines()
    assert last.startswith("me/rows: rows of joined, ")
    assert last.endswith("; nothing was pushed")
    code, out, _ = r1pipe(*push, "--dry-run")
    assert code == 0
    assert out.rstrip().endswith("; nothing was pushed")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    for word in ("dry", "./dry", "a/b/c"):
        code, _, err = r1pipe(*push, "--dry-run", word)
        assert code == 3
        said = f"'{word}' is no OWNER/NAME of the Hub; to write a folder: r1pipe push joined --to"
        assert err.startswith(said)
