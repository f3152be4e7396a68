"""Imports point one way, and what only reads the store stays light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "datasets", "vllm", "deepspeed", "sympy", "math_verify")
FLOORS = (
    ("errors", "keys", "text", "ranks", "machine", "records", "regular"),
    ("chat", "tables", "fitting", "workers"),
    ("plugins", "stage", "sandbox", "verify/reading", "files"),
    ("rows", "backends", "tracking", "verify/comparing"),
    ("settings", "store", "manifest", "doctor", "verify/workers"),
    ("engine_settings", "generator_settings"),
    ("verify", "models", "launch"),
    ("tasks", "rewards", "generate", "train", "audit"),
    ("method_params",),
    ("curricula", "supervision"),
    ("rl", "candidates", "evaluation"),
    ("policies",),
    ("rejection", "data", "costs"),
    ("lineage", "pipeline"),
    ("report", "api", "sharing"),
    ("stages", "cli"),
    ("__main__",),
)
"""Folders and single files of the package, and the stage files, lowest floor first. Nothing imports
what is on its own floor or above it, not even for types; inside a folder modules may."""
LIBRARY = {
    *("tasks", "sandbox", "audit", "rewards", "verify"),
    *("verify/reading", "verify/comparing", "verify/workers"),
    *("models", "generate", "train", "rl", "candidates", "rejection", "data", "evaluation"),
}
"""What stages are made of; the core knows none of it."""
COMMAND = {"cli", "api", "sharing", "pipeline", "report", "launch", "lineage", "store", "manifest"}
"""What runs stages and shows results; neither a stage nor what it is made of may know of it."""
READS_ROWS = {"cli", "api", "lineage"}
"""What of it may load a part of the library when a command needs it."""
STAGES = sorted((ROOT / "stages").glob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, lazy: bool = True, types: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports; those for type checking only if `types`."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            waiting.extend(node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        else:
            waiting.extend(ast.iter_child_nodes(node))


MODULES = {module_name(path): path for path in sorted((ROOT / "r1pipe").rglob("*.py"))}


def own(name: str) -> str | None:
    """Return the r1pipe module that an imported name is, or lies in."""
    while name.startswith("r1pipe"):
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


FOLDERS = {
    "/".join(name.split(".")[1:]) for name, path in MODULES.items() if path.stem == "__init__"
}


def room(module: str) -> str:
    """Return the folder, or the single file, that a module of r1pipe belongs to."""
    parts = module.split(".")[1:]
    inner = "/".join(parts[:2])
    return inner if inner in FOLDERS else "/".join(parts[:1])


def floor(place: str) -> int:
    """Return the floor of a folder or a single file."""
    found = [number for number, places in enumerate(FLOORS) if place in places]
    assert len(found) == 1, f"{place} is on {len(found)} floors; FLOORS has every place once"
    return found[0]


ROOMS = {name: room(name) for name in MODULES if name != "r1pipe"}


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_a_module_imports_lower_floors_only(name: str) -> None:
    for found in imports(MODULES[name], types=True):
        module = own(found)
        if module not in (None, "r1pipe") and (other := room(str(module))) != ROOMS[name]:
            assert floor(other) < floor(ROOMS[name]), f"{name} imports {found}"


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_a_stage_file_imports_lower_floors_only(path: Path) -> None:
    for found in imports(path, types=True):
        module = own(found)
        if module not in (None, "r1pipe"):
            assert floor(room(str(module))) < floor("stages"), found


def test_every_place_on_a_floor_is_there() -> None:
    assert {place for places in FLOORS for place in places} == {*ROOMS.values(), "stages"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {found for each in imports(path) if (found := own(each)) and found != name}
        for name, path in MODULES.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_what_runs_stages_and_what_they_are_made_of_do_not_know_each_other(name: str) -> None:
    place = ROOMS[name]
    forbidden: set[str]
    if place in LIBRARY:
        forbidden, lazy = COMMAND, True
    elif place in READS_ROWS:
        forbidden, lazy = LIBRARY, False
    elif place in COMMAND or is_core(name):
        forbidden, lazy = LIBRARY, True
    else:
        return
    for found in imports(MODULES[name], lazy):
        module = own(found)
        assert module is None or room(module) not in forbidden, f"{name} imports {found}"


def is_core(name: str) -> bool:
    """True for what `run`, `plan` and `show` need: whatever a command module reaches."""
    return name in CORE


def reach(start: list[str]) -> set[str]:
    found: set[str] = set()
    while start:
        name = start.pop()
        if name not in found:
            found.add(name)
            start.extend(module for each in imports(MODULES[name]) if (module := own(each)))
    return found


CORE = reach([name for name, place in ROOMS.items() if place in COMMAND - READS_ROWS])


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_no_stage_imports_a_stage_or_what_runs_it(path: Path) -> None:
    names = {other.stem for other in STAGES}
    for found in imports(path):
        first = found.partition(".")[0]
        assert first not in {"stages", "r1pipe_stages"} | (names - {"datasets"}), found
        module = own(found)
        assert module is None or room(module) not in COMMAND, f"{path.name} imports {found}"


def loaded_by(code: str) -> list[str]:
    """Return the heavy modules that are loaded after running some code in a fresh Python."""
    script = f"import sys\n{code}\nprint([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_the_core_loads_nothing_heavy() -> None:
    names = sorted({*CORE, "r1pipe.cli.main"})
    assert loaded_by(f"import {', '.join(names)}") == []


def test_stage_files_load_nothing_heavy() -> None:
    code = (
        "from pathlib import Path\nfrom r1pipe.manifest.kinds import load_kinds\n"
        "kinds = load_kinds(Path('manifests/r1.yaml'))\n"
        "for name in kinds: kinds[name]"
    )
    assert loaded_by(code) == []


def test_the_walk_sees_imports_inside_functions_and_not_those_for_types(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import c\n"
        "def f():\n    from d import e\n"
    )
    assert set(imports(path)) == {"typing.TYPE_CHECKING", "a.b", "d.e"}
    assert set(imports(path, lazy=False)) == {"typing.TYPE_CHECKING", "a.b"}
