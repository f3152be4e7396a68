"""Run the recipe in a checkout under many settings, and compare keys and artifact ids with another.

    python benchmarks/same_results.py --out ids.json               # this checkout's ids, in a file
    python benchmarks/same_results.py --against ids.json           # do they come out again?
    python benchmarks/same_results.py --against ../other-checkout  # run both
    python benchmarks/same_results.py --settings smoke zero-bfloat16 --against ids.json

Each setting is what a user types: `r1pipe run manifests/r1.yaml` with a profile and `--set`.
`smoke`, `engines` and `laptop` run a whole profile. Those that change one stage start from a copy
of the finished store of their profile and build that stage only. `killed` is killed with SIGKILL in
the middle of three stages, `engines-killed` in GRPO on two ranks; both must end with the ids of a
run without a kill.

The ids are a JSON file, {setting: {stage: {key, artifact}}}. Stages with another key or artifact
are printed; the exit code is then 1. Ids are equal on one machine with one set of packages. The
default settings take two minutes; the engines need vLLM and DeepSpeed and take three more, `laptop`
takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Stages: TypeAlias = dict[str, dict[str, str]]
"""{stage: {"key": ..., "artifact": ...}}"""
Ids: TypeAlias = dict[str, Stages]

POLL_S = 0.001


@dataclass(frozen=True)
class Setting:
    """One way to run the recipe."""

    profile: str
    to: str | None = None
    """The stage that is built again, after which the run stops; None runs the whole profile."""
    overrides: tuple[str, ...] = ()
    """Values of `--set`, below `stages.<to>.`."""
    kills: tuple[str, ...] = ()
    """Stages that are killed once each, after their first checkpoint."""
    same_as: str | None = None
    """The setting whose ids must come out."""


SETTINGS = {
    "smoke": Setting("smoke"),
    "zero-truncation": Setting("smoke", "zero", ("params.sampler_truncation=2.0",)),
    # the ratios of so short a run are near 1: only limits as near as these bind
    "zero-truncated": Setting("smoke", "zero", ("params.sampler_truncation=1.0",)),
    "zero-clipped": Setting(
        "smoke",
        "zero",
        ("params.clip_low=0.001", "params.clip_high=0.002", "params.optimizer.lr=1e-3"),
    ),
    "zero-mask": Setting("smoke", "zero", ("params.truncated=mask", "params.max_tokens=12")),
    "zero-dapo": Setting(
        "smoke",
        "zero",
        ("params.kl_coef=0.0", "params.aggregation=token-mean", "params.clip_high=0.28"),
    ),
    "zero-dr-grpo": Setting(
        "smoke", "zero", ("params.aggregation=constant", "params.advantage_std=none")
    ),
    "zero-bfloat16": Setting("smoke", "zero", ("params.precision=bfloat16",)),
    "zero-packed": Setting("smoke", "zero", ("run.layout=packed",)),
    "second-sft-packed": Setting("smoke", "second-sft", ("run.layout=packed",)),
    "second-sft-bfloat16": Setting("smoke", "second-sft", ("params.precision=bfloat16",)),
    "helpful-rm-bfloat16": Setting("smoke", "helpful-rm", ("params.precision=bfloat16",)),
    "alignment-rl-bfloat16": Setting("smoke", "alignment-rl", ("params.precision=bfloat16",)),
    "alignment-rl-packed": Setting("smoke", "alignment-rl", ("run.layout=packed",)),
    "killed": Setting(
        "smoke", "helpful-rm", kills=("zero", "second-sft", "helpful-rm"), same_as="smoke"
    ),
    "engines": Setting("engines"),
    "engines-killed": Setting("engines", "zero", kills=("zero",), same_as="engines"),
    "laptop": Setting("laptop"),
}
DEFAULT = [name for name, setting in SETTINGS.items() if setting.profile == "smoke"]


def command(checkout: Path, store: Path, setting: Setting) -> list[str]:
    """Return what a user types, in `checkout`, for one setting."""
    options = [f"--profile={setting.profile}", f"--store={store}", "--yes", "--json"]
    if setting.to:
        options += ["--to", setting.to]
        if not setting.kills:
            options += ["--rebuild", setting.to]
    if setting.kills:
        options.append("--checkpoint-every=0")
    for override in setting.overrides:
        options += ["--set", f"stages.{setting.to}.{override}"]
    manifest = checkout / "manifests" / "r1.yaml"
    return [sys.executable, "-m", "r1pipe", "run", str(manifest), *options]


def environment(checkout: Path) -> dict[str, str]:
    """Return the environment in which Python finds the checkout's package, and no other."""
    return os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}


def run(checkout: Path, store: Path, setting: Setting) -> Stages:
    """Run a setting to its end and return each stage's key and artifact id."""
    done = subprocess.run(
        command(checkout, store, setting),
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)} ended with {done.returncode}:\n{done.stderr}")
    # some packages print a line of their own before the document
    lines = done.stdout.splitlines()
    document = json.loads("\n".join(lines[lines.index("{") :]))
    return {
        stage["name"]: {"key": stage["key"], "artifact": stage["artifact"]}
        for stage in document["stages"]
    }


def kill(checkout: Path, store: Path, setting: Setting, stage: str) -> None:
    """Start a run and kill it, with its children, when `stage` has its first checkpoint."""
    with subprocess.Popen(
        command(checkout, store, setting),
        cwd=checkout,
        env=environment(checkout),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"{stage}: starts"):
                break
        else:
            raise SystemExit(f"{stage} never started; the run ended with {process.wait()}")
        while process.poll() is None and not any(
            store.glob("attempts/*/work-*/checkpoints/step-*/seal.json")
        ):
            time.sleep(POLL_S)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if not any(store.glob("attempts/*/work-*/checkpoints/step-*/seal.json")):
        raise SystemExit(f"{stage} was finished before it could be killed; try again")


def ids_of(checkout: Path, name: str, work: Path) -> Stages:
    """Return one setting's ids; its profile's own run is made first if `work` does not have it."""
    setting, store = SETTINGS[name], work / name
    if setting.kills:
        for stage in setting.kills:
            kill(checkout, store, setting, stage)
    elif setting.to:
        whole = work / setting.profile
        if not whole.exists():
            run(checkout, whole, SETTINGS[setting.profile])
        shutil.copytree(whole, store, symlinks=True)
    return run(checkout, store, setting)


def measure(checkout: Path, names: Sequence[str], work: Path, out: Path | None) -> Ids:
    """Run settings in a checkout; every setting's ids are written to `out` when it has them."""
    work.mkdir(parents=True, exist_ok=True)
    ids: Ids = json.loads(out.read_text()) if out and out.exists() else {}
    found: Ids = {}
    for name in names:
        start = time.monotonic()
        found[name] = ids_of(checkout, name, work)
        print(f"{name}: {len(found[name])} stages, {time.monotonic() - start:.0f} s", flush=True)
        if out:
            out.write_text(json.dumps(ids | found, indent=1) + "\n")
    return found


def differences(found: Ids, expected: Ids) -> list[str]:
    """Return a line for every stage whose key or artifact differs, or that one side lacks."""
    lines = []
    for setting, stages in found.items():
        if setting not in expected:
            lines.append(f"{setting}: nothing to compare with")
            continue
        lines += _stage_lines(setting, stages, expected[setting])
    return lines


def _stage_lines(setting: str, found: Stages, expected: Stages) -> list[str]:
    lines = [f"{setting}: {stage} is missing" for stage in expected if stage not in found]
    for stage, now in found.items():
        if stage not in expected:
            lines.append(f"{setting}: {stage} is new")
            continue
        lines += [
            f"{setting}: {stage} has another {what}: {expected[stage][what][:8]} -> {now[what][:8]}"
            for what in ("key", "artifact")
            if now[what] != expected[stage][what]
        ]
    return lines


def interrupted(found: Ids) -> list[str]:
    """Return a line for every stage that a kill changed."""
    lines = []
    for name, stages in found.items():
        same = SETTINGS[name].same_as if name in SETTINGS else None
        if same in found:
            expected = {stage: found[same][stage] for stage in stages if stage in found[same]}
            lines += [f"{line} (after kills)" for line in _stage_lines(name, stages, expected)]
    return lines


def main() -> int:
    """Measure, compare, print; return 1 if something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, default=here, help="what runs; default: this one")
    parser.add_argument("--against", type=Path, help="another checkout, or a file of ids")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=DEFAULT)
    parser.add_argument("--out", type=Path, help="the file that gets the ids")
    parser.add_argument("--work", type=Path, help="an empty folder for the stores; they stay there")
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="r1pipe-same-"))).resolve()
    try:
        found = measure(options.checkout.resolve(), options.settings, work / "stores", options.out)
        lines = interrupted(found)
        if options.against and options.against.is_dir():
            other = options.against.resolve()
            lines += differences(found, measure(other, options.settings, work / "against", None))
        elif options.against:
            lines += differences(found, json.loads(options.against.read_text()))
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)
    what = "no difference in" if options.against else "measured"
    print(
        "\n".join(lines) or f"{what} {len(found)} settings, {sum(map(len, found.values()))} stages"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
