"""Time GRPO and SFT steps of r1pipe against TRL's trainers: same model, same data, one run.

usage: PYTHONPATH=. python benchmarks/trainers.py [--peer PYTHON] [--rounds 5] [--only NAME]

A Qwen3 of 2.4M parameters. GRPO: 32 prompts in groups of 8, up to 64 tokens, one update for each
rollout; SFT: 64 rows of 20 to 90 tokens. `--peer` is the interpreter of an environment with TRL
1.16 beside what r1pipe needs (default: this one; without TRL only r1pipe is timed). The
sides are processes that take turns, step by step, so other work on the machine slows all alike;
seconds are those of the clock and those of the processor. Matrix products of 1024 x 1024 take
turns with them: their rate is the arithmetic limit. Prints the tables of docs/performance.md;
with TRAINERS_MODEL=FOLDER the model is that of a folder, in steps of 2 prompts (4 where it only
samples) in groups of 8 and of 8 rows of 60 to 240 tokens; plain loops join the sides, no group is
flat on purpose, and ratios of GRPO are of seconds for a completion token, since so few completions
differ in length.
`--set 'grpo best:TRL={"bf16": true}'` changes the settings of a side, to look for better ones;
`--side NAME` runs some sides only, where all of them together do not fit the memory (of SmolLM2
they take 20 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trainers_work as work
from trainers_data import GROUP_SIZE, KL_COEF, MODEL, NUM_PROMPTS, NUM_SAMPLED, write_model

from r1pipe.launch.process import prepare_process

WARM_UP = 1
OURS, PEER, LIMIT = "r1pipe", "TRL", "gemm"
PLAIN, GENERATE = "plain", "generate"
MEAN_CHARS = 100.0 if MODEL is None else 200.0
"""About the median of the completions of a fresh model, and of SmolLM2 with 64 tokens; the length
reward is centred on it."""
# PyTorch's fused attention is slow backwards in bfloat16 on a CPU
EAGER_PEER: dict[str, Any] = {"model_init_kwargs": {"attn_implementation": "eager"}}
# the best settings were looked for with --set on a CPU without matrix units for bfloat16
COMPARISONS: dict[str, dict[str, dict[str, Any]]] = {
    "grpo float32": {
        OURS: {"kl_coef": KL_COEF},
        PEER: {"kl_coef": KL_COEF},
        LIMIT: {"bf16": False},
    },
    "sft float32": {OURS: {}, PEER: {}, LIMIT: {"bf16": False}},
    "grpo best": {
        OURS: {"kl_coef": 0.0},
        PEER: {"kl_coef": 0.0, "bf16": True, **EAGER_PEER},
        LIMIT: {"bf16": False},
    },
    "sft best": {
        OURS: {
            "precision": "bfloat16",
            "engine": {"attention": "eager"},
            "layout": "packed",
            "micro_batch_tokens": 1900,
        },
        PEER: {"bf16": True, **EAGER_PEER},
        LIMIT: {"bf16": True},
    },
}
BFLOAT16 = {"precision": "bfloat16", "engine": {"attention": "eager"}}
SAMPLED = {"max_batch": GROUP_SIZE * NUM_SAMPLED // 2}
TRAINED = {"max_batch": GROUP_SIZE * NUM_PROMPTS // 2, "kl_coef": 0.0}
"""So few completions are one batch by default, which one of two workers would sample by itself."""
OF_A_MODEL: dict[str, dict[str, dict[str, Any]]] = {
    "sample float32": {
        OURS: {"precision": "float32", "run": SAMPLED},
        GENERATE: {"precision": "float32"},
    },
    "sample bfloat16": {
        OURS: {"precision": "bfloat16", "run": SAMPLED},
        GENERATE: {"precision": "bfloat16"},
    },
    "sft float32": {OURS: {}, PEER: {}, PLAIN: {"bf16": False}},
    "sft bfloat16": {OURS: BFLOAT16, PEER: {"bf16": True, **EAGER_PEER}, PLAIN: {"bf16": True}},
    "grpo float32": {OURS: TRAINED, PEER: {"kl_coef": 0.0}, PLAIN: {"bf16": False}},
    "grpo bfloat16": {
        OURS: {**TRAINED, **BFLOAT16},
        PEER: {"kl_coef": 0.0, "bf16": True, **EAGER_PEER},
        PLAIN: {"bf16": True},
    },
}
if MODEL is not None:
    COMPARISONS = OF_A_MODEL


@dataclass
class Side:
    """A process that makes a step when asked, and what its steps took."""

    process: subprocess.Popen[str]
    said: Path
    """What it writes to stderr."""
    steps: list[dict[str, Any]] = field(default_factory=list)

    def answer(self) -> dict[str, Any]:
        """Wait for what the process says."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            said = self.said.read_text(encoding="utf-8", errors="replace").strip()
            status = self.process.wait()
            raise SystemExit(f"a side ended with status {status}:\n{said[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def step(self) -> None:
        """Have it make one step."""
        assert self.process.stdin is not None, "sides are started with pipes"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.steps.append(self.answer())

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None, "sides are started with pipes"
        self.process.stdin.close()
        self.process.wait()

    def median(self, name: str) -> float:
        """Return the median of the steps after the warm-up."""
        return statistics.median(float(step[name]) for step in self.steps[WARM_UP:])

    def mean_fact(self, name: str) -> float:
        """Return the mean of what the steps after the warm-up say of their data."""
        return statistics.mean(float(step["facts"].get(name, 0.0)) for step in self.steps[WARM_UP:])


def start(name: str, who: str, folder: Path, options: dict[str, Any], python: str) -> Side:
    """Start one side; OpenMP threads sleep where they wait, for all sides."""
    if who == LIMIT:
        options = {"products": 20} | options
    elif name.startswith("grpo"):
        options = {"mean_chars": MEAN_CHARS} | options
    side = LIMIT if who == LIMIT else f"{name.split()[0]}:{who}"
    threads = {} if who == OURS else {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    script = Path(__file__).with_name("trainers_sides.py")
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    said = folder / f"{side.replace(':', '-')}.stderr"
    with said.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [python, str(script), side, str(folder), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=inherited | quiet | threads,
        )
    return Side(process, said)


def compare(
    name: str, folder: Path, chosen: argparse.Namespace, has_peer: bool, one_by_one: bool = False
) -> dict[str, Side]:
    """Run one comparison: all sides warm, then a step of each in turn.

    `one_by_one` sides start when those before them are ready: vLLM measures a GPU's free memory as
    it starts, and refuses one where another process takes some meanwhile.
    """
    sides: dict[str, Side] = {}
    for who, options in COMPARISONS[name].items():
        if (who == PEER and not has_peer) or (chosen.side and who not in chosen.side):
            continue
        python = chosen.peer if who == PEER else sys.executable
        sides[who] = start(name, who, folder, dict(options), python)
        if one_by_one:
            sides[who].answer()
    for side in sides.values() if not one_by_one else ():
        side.answer()
    rounds = chosen.rounds * (2 if name.startswith("sft") and MODEL is None else 1)
    for _ in range(WARM_UP + rounds):
        for side in sides.values():
            side.step()
    for side in sides.values():
        side.close()
    return sides


def report(name: str, sides: dict[str, Side], model: Path) -> None:
    """Print a comparison: speeds, their ratios, and where our seconds go."""
    first = next(side for who, side in sides.items() if who != LIMIT)
    load = work.load_of(name, model, sides.get(OURS, first).steps[WARM_UP:])
    unit = "samples/s" if name.startswith("grpo") else "tokens/s"
    print(f"\n### {name}\n")
    print(f"| | {unit} | wall s a step | cpu s a step | peak MiB | tokens | flat groups |")
    print("|---|---|---|---|---|---|---|")
    for who, side in sides.items():
        if who == LIMIT:
            continue
        wall, cpu, peak = side.median("wall"), side.median("cpu"), side.steps[-1]["peak_mib"]
        units = side.mean_fact("tokens") or load.units
        tokens = side.mean_fact("completion_tokens")
        figures = f"{units / wall:.1f} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {tokens:.1f}"
        print(f"| {who} | {figures} | {side.mean_fact('flat_group_frac'):.2f} |")
    for who in sides if OURS in sides else ():
        if who not in (OURS, LIMIT):
            print_ratio(sides, who)
            ours, theirs = (sides[each].steps[-1]["peak_mib"] for each in (OURS, who))
            print(f"peak memory of r1pipe over {who}: {ours / theirs:.2f}")
    if LIMIT in sides and OURS in sides:
        gflop = sides[LIMIT].steps[-1]["facts"]["gflop"]
        per_cpu, per_wall = (gflop / sides[LIMIT].median(clock) for clock in ("cpu", "wall"))
        print(f"matrix products: {per_cpu:.0f} GFLOP a cpu second, {per_wall:.0f} a second\n")
        work.print_parts(sides[OURS].steps[WARM_UP:], load, per_cpu)


def print_ratio(sides: dict[str, Side], peer: str) -> None:
    """Print how much faster r1pipe is, round by round and in the middle, and what both computed."""

    def cost(step: dict[str, Any], clock: str) -> float:
        facts = step["facts"]
        per = facts.get("completion_tokens", 1.0) if MODEL is not None else 1.0
        return float(step[clock] / facts.get("tokens", per))

    for clock, said in (("wall", "by the clock"), ("cpu", "by processor time")):
        theirs, ours = (
            [cost(step, clock) for step in sides[who].steps[WARM_UP:]] for who in (peer, OURS)
        )
        rounds = [a / b for a, b in zip(theirs, ours, strict=True)]
        middle = statistics.median(theirs) / statistics.median(ours)
        print(f"\nr1pipe over {peer} {said}: {middle:.2f} ({min(rounds):.2f} to {max(rounds):.2f})")
    for who in (OURS, peer):
        losses = [step["facts"].get("loss", 0.0) for step in sides[who].steps]
        if any(losses):
            print(f"losses of {who}: {' '.join(f'{loss:.5f}' for loss in losses[:4])}")
    spent = [s["parts"].get("generation", [0, 0])[1] for s in sides[peer].steps[WARM_UP:]]
    if any(spent):
        print(f"generation of {peer}: {statistics.median(spent):.2f} cpu s")


def has_trl(python: str) -> str | None:
    """Return the version of TRL that an interpreter finds."""
    ask = "import importlib.metadata as m; print(m.version('trl'))"
    found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def main() -> None:
    """Run all comparisons and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=list(COMPARISONS))
    parser.add_argument("--side", action="append", choices=(OURS, PEER, PLAIN, GENERATE, LIMIT))
    parser.add_argument("--set", action="append", default=[], metavar="NAME:SIDE=JSON")
    chosen = parser.parse_args()
    for change in chosen.set:
        where, _, value = change.partition("=")
        name, _, who = where.partition(":")
        COMPARISONS[name][who] |= json.loads(value)
    prepare_process()
    began, version = time.perf_counter(), has_trl(chosen.peer)
    with tempfile.TemporaryDirectory() as folder:
        count = write_model(Path(folder))
        import torch

        cores = len(os.sched_getaffinity(0))
        load = f"{os.getloadavg()[0]:.1f}"
        print(
            f"{count:,} parameters, {platform.machine()}, {cores} cores, torch {torch.__version__},"
        )
        print(f"TRL {version}, load {load} at the start")
        for name in chosen.only or COMPARISONS:
            sides = compare(name, Path(folder), chosen, version is not None)
            report(name, sides, Path(folder))
            sys.stdout.flush()
    load = f"{os.getloadavg()[0]:.1f}"
    print(f"\n{time.perf_counter() - began:.0f} s in all, load {load} at the end")


if __name__ == "__main__":
    main()
