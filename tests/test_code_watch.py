"""Changed code is named by `plan` and `why`, for every stage whose result it decides."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from store_world import QuietConsole, chain, kind, manifest, read_number, stage, write_number
from test_why_recipe import finish

from r1pipe.manifest import Manifest, load_manifest, recipe
from r1pipe.manifest.kinds import load_kinds
from r1pipe.pipeline import code, code_imports
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.pipeline.why import explain
from r1pipe.store.store import Store

ROOT = Path(__file__).parents[1]


@dataclass
class Copy:
    """A copy of package, stages and manifests, with a made-up result of every stage."""

    root: Path
    manifest: Manifest
    store: Store

    def reasons(self) -> dict[str, str]:
        """Return what `plan` remarks about every stage, as a new process would."""
        forget()
        found = plan(self.manifest, self.store).stages
        assert {planned.status for planned in found} == {"hit"}
        return {planned.name: planned.reason for planned in found}


def forget() -> None:
    code._package_digest.cache_clear()
    code._file_digest.cache_clear()
    code_imports.imported_modules.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "corpus")
    for name in ("r1pipe", "stages", "manifests"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "PACKAGE", root / "r1pipe")
        forget()
        loaded = load_manifest(root / "manifests" / "r1.yaml")
        store = Store(root / "store")
        finish(store, loaded)
        yield Copy(root, loaded, store)
    forget()


@pytest.fixture
def copy(made: Copy, request: pytest.FixtureRequest) -> Iterator[Copy]:
    """Yield the copy, whose files are put back afterwards."""
    before = {path: path.read_bytes() for path in made.root.glob("*/**/*.py")}
    yield made
    for path, data in before.items():
        path.write_bytes(data)
    for path in set(made.root.glob("*/**/*.py")) - set(before):
        path.unlink()


def mutate(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_unchanged_code_is_not_remarked_on(copy: Copy) -> None:
    assert set(copy.reasons().values()) == {""}


MUTATIONS = [
    # module, a line, its mutation, a stage that it decides, one that it does not (None: all are)
    ("rl/objective.py", "torch.minimum", "torch.maximum", "zero", "base"),
    ("curricula/order.py", "random.Random", "random.SystemRandom", "student-rl", "distil"),
    ("generate/uniforms.py", "return", "return ", "rejection-sample", "second-sft"),
    ("generate/in_process.py", "temperature", "temperature ", "eval-zero", "base"),
    ("verify/reading/numbers.py", "return", "return ", "zero", "base"),
    ("verify/workers/symbolic.py", "CORRECT", "CORRECT ", "cold-start-data", "distil"),
    ("train/schedule.py", "warmup", "warmup_", "distil", "problems"),
    ("train/batching.py", "sorted(", "list(", "helpful-rm", "problems"),
    ("chat.py", "<think>", "<thought>", "second-sft", None),
    ("rewards/language.py", "return", "return ", "reasoning-rl", "base"),
    ("tasks/parity.py", "return", "return ", "problems", "tokenizer"),
    ("models/prompts.py", "return", "return ", "reasoning-rl", "corpus"),
    (
        "candidates/filters.py",
        "MIN_REPEATED_CHARS = 8",
        "MIN_REPEATED_CHARS = 9",
        "rejection-sample",
        "zero",
    ),
]


@pytest.mark.parametrize(
    ("module", "old", "new", "decides", "leaves"), MUTATIONS, ids=[m[0] for m in MUTATIONS]
)
def test_a_mutated_line_is_named_for_each_stage_that_it_decides(
    copy: Copy, module: str, old: str, new: str, decides: str, leaves: str | None
) -> None:
    mutate(copy.root / "r1pipe" / module, old, new)
    reasons = copy.reasons()
    assert reasons[decides] == f"code changed since: {module}; --rebuild {decides} runs it again"
    assert leaves is None or reasons[leaves] == ""
    assert f"code changed since: {module}" in explain(copy.manifest, copy.store, decides).summary


def test_a_comment_counts_as_a_change(copy: Copy) -> None:
    with (copy.root / "stages" / "grpo.py").open("a") as file:
        file.write("# nothing\n")
    reasons = copy.reasons()
    changed = [name for name, reason in reasons.items() if reason]
    assert changed == ["zero", "reasoning-rl", "alignment-rl", "student-rl"]
    assert "code changed since: stages/grpo.py;" in reasons["zero"]


def test_a_module_that_is_gone_counts_and_many_are_counted(copy: Copy) -> None:
    for name in ("accuracy", "code", "format", "language", "length"):
        (copy.root / "r1pipe" / "rewards" / f"{name}.py").unlink()
    expected = "rewards/accuracy.py, rewards/code.py, rewards/format.py and 2 more"
    assert f"code changed since: {expected};" in copy.reasons()["zero"]


def test_what_only_tells_of_a_stage_is_not_watched(copy: Copy) -> None:
    mutate(copy.root / "r1pipe" / "costs" / "recipes.py", "def ", "def  ")
    mutate(copy.root / "r1pipe" / "cli" / "console.py", "def ", "def  ")
    assert set(copy.reasons().values()) == {""}


def test_code_that_runs_in_a_process_of_its_own_is_watched(copy: Copy) -> None:
    names = set(code.code_of(copy.manifest.stages["rejection-sample"].kind))
    assert {
        "generate/replica.py",  # vLLM's replicas
        "generate/vllm_engine.py",
        "rejection/writer.py",  # the writer's process
        "verify/workers/fork_server.py",
        "verify/workers/symbolic.py",
        "sandbox/program.py",
        "sandbox/server.py",
    } <= names
    ranks = set(code.code_of(copy.manifest.stages["zero"].kind))
    assert {"train/deepspeed_engine.py", "train/sequence_parallel.py"} <= ranks


def test_the_modules_found_without_importing_are_those_that_importing_loads() -> None:
    script = (
        "import sys, r1pipe.policies.setup; print([n for n in sys.modules if n[:7] == 'r1pipe.'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    loaded = {f"{name[7:].replace('.', '/')}.py" for name in ast.literal_eval(done.stdout)}
    loaded = {  # a package is no file
        name
        for name in loaded
        if (ROOT / "r1pipe" / name).is_file() and not name.startswith(code.UNWATCHED)
    }
    assert len(loaded) > 40
    assert loaded <= set(code.code_of(load_kinds(ROOT / "manifests" / "r1.yaml")["grpo"]))


def test_a_neighbour_of_a_users_stage_file_is_watched(tmp_path: Path) -> None:
    (tmp_path / "_greet.py").write_text("from _words import HELLO\n")
    (tmp_path / "_words.py").write_text("HELLO = 'hello'\n")
    (tmp_path / "own.py").write_text("def run():\n    from _greet import HELLO\n")
    own = kind(path=tmp_path / "own.py")
    noted = code.code_of(own)
    assert list(noted) == ["stages/_greet.py", "stages/_words.py", "stages/own.py"]
    (tmp_path / "_words.py").write_text("HELLO = 'hi'\n")
    forget()
    assert code.changed_modules(noted, own) == ["stages/_words.py"]


def test_imports_for_types_and_names_in_docstrings_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        '"""See r1pipe.rl.rollouts."""\nfrom typing import TYPE_CHECKING\n'
        "if TYPE_CHECKING:\n    from r1pipe.records import Problem\n"
        'BACKENDS = {"x": "r1pipe.generate.uniforms:draw"}\n'
    )
    assert list(code.code_of(kind(path=tmp_path / "own.py"))) == [
        "generate/uniforms.py",
        "keys.py",  # of it
        "stages/own.py",
    ]


# ---- while stages are built ----------------------------------------------------------------------


def test_a_stage_whose_code_changes_while_it_is_built_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("A = 1\n")

    def write_and_edit(context, params, run, inputs):  # type: ignore[no-untyped-def]
        write_number(context, params, run, inputs)
        path.write_text("A = 2\n")

    made = manifest(stage("only", kind(write_and_edit, path=path)))
    run(made, Store(tmp_path / "s"), QuietConsole())
    forget()
    found = plan(made, Store(tmp_path / "s")).stages[0]
    expected = "code changed while it was built: stages/own.py; --rebuild only runs it again"
    assert (found.status, found.reason) == ("hit", expected)


def test_rebuild_takes_the_remark_away(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("A = 1\n")
    made, root = manifest(stage("only", kind(path=path))), tmp_path / "s"
    run(made, Store(root), QuietConsole())
    path.write_text("A = 2\n")
    forget()
    assert run(made, Store(root), QuietConsole()).built == []  # nothing runs by itself
    assert plan(made, Store(root)).stages[0].reason.startswith("code changed since: stages/own.py")
    forget()
    assert run(made, Store(root), QuietConsole(), rebuild=["only"]).built == ["only"]
    forget()
    assert plan(made, Store(root)).stages[0].reason == ""


def test_an_attempt_that_goes_on_under_other_code_says_so_and_stays_marked(tmp_path: Path) -> None:
    path, root = tmp_path / "own.py", tmp_path / "s"
    path.write_text("A = 1\n")
    is_first = [True]

    def journal_and_fail(context, params, run, inputs):  # type: ignore[no-untyped-def]
        journal = context.journal("units")
        if is_first:
            journal.append("0", [{"a": 1}])
            is_first.clear()
            raise RuntimeError("the first attempt ends here")
        write_number(context, params, run, inputs)

    made = manifest(stage("only", kind(journal_and_fail, path=path)))
    with pytest.raises(RuntimeError, match="ends here"):
        run(made, Store(root), QuietConsole())
    path.write_text("A = 2\n")
    forget()
    found = plan(made, Store(root)).stages[0]
    assert found.status == "resume"
    assert found.reason.endswith("code changed since: stages/own.py")
    console = QuietConsole()
    run(made, Store(root), console)
    assert any(
        "goes on from what other code began: stages/own.py" in str(e) for e in console.events
    )
    forget()
    remark = plan(made, Store(root)).stages[0].reason
    assert remark.startswith("code changed while it was built: stages/own.py")


def test_a_record_without_digests_says_that_nobody_knows(tmp_path: Path) -> None:
    root = tmp_path / "s"
    run(chain(1), Store(root), QuietConsole())
    store = Store(root)
    record = store.records()[0]
    value = record.to_json()
    del value["code"]
    value |= {"format": 1, "source_digest": "0"}
    from r1pipe.keys import digest_json
    from r1pipe.store import disk

    value["digest"] = digest_json({n: v for n, v in value.items() if n != "digest"})
    disk.place_json(store.record_path(record.key), value, durable=False)
    reasons = {p.name: p.reason for p in plan(chain(1), Store(root)).stages}
    assert "made before code was watched" in reasons[record.stage_name]
    assert read_number(store.output_dir(record, "data")) is not None
