"""A stand-in for lm-evaluation-harness: an executable that writes what lm-eval 0.4.13 writes."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = """#!{python}
import json, os, sys, time
arguments = {{}}
for name in sys.argv:
    if name.startswith("--"):
        place = sys.argv.index(name) + 1
        arguments[name] = sys.argv[place] if place < len(sys.argv) else ""
task = arguments["--tasks"]
with open({log!r}, "a") as file:
    call = {{"pid": os.getpid(), "argv": sys.argv[1:], "cwd": os.listdir(".")}}
    call |= {{"model": os.listdir("../model"), "offline": os.environ.get("HF_HUB_OFFLINE")}}
    file.write(json.dumps(call | {{"path": os.environ.get("PYTHONPATH")}}) + "\\n")
if task == "crash":
    print("Traceback (most recent call last):", file=sys.stderr)
    print("ValueError: \\x1b[31mred\\x1b[0m bits", file=sys.stderr)
    sys.exit(3)
if task == "gone":
    print("ConnectionError: Couldn't reach the Hub", file=sys.stderr)
    sys.exit(1)
if task == "sleep":
    time.sleep(60)
if task == "nowhere":
    print("ValueError: Tasks not found: nowhere", file=sys.stderr)
    sys.exit(1)
if task == "silent":
    sys.exit(0)
results = {{
    "sums": {{"name": "sums", "alias": "sums", "sample_len": 6, "exact_match,none": 0.5,
             "exact_match_stderr,none": 0.1}},
    "gsm8k": {{"alias": "gsm8k", "exact_match,strict-match": 0.25,
              "exact_match_stderr,strict-match": 0.02, "exact_match,flexible-extract": 0.75,
              "exact_match_stderr,flexible-extract": "N/A"}},
    "mmlu": {{"alias": "mmlu", "acc,none": 0.4, "acc_stderr,none": 0.01}},
    "mmlu_law": {{"alias": "  - law", "acc,none": 0.3, "acc_stderr,none": 0.02}},
    "arc_easy": {{"alias": "arc_easy", "acc,none": 0.6, "acc_stderr,none": 0.02}},
    "arc_hard": {{"alias": "arc_hard", "acc,none": float("nan"), "acc_stderr,none": "N/A"}},
}}
groups = {{"mmlu": ["mmlu", "mmlu_law"], "arc": ["arc_easy", "arc_hard"]}}
names = groups.get(task, [task])
document = {{
    "results": {{name: results[name] for name in names if name in results}},
    "group_subtasks": {{}}, "configs": {{}}, "higher_is_better": {{}},
    "versions": {{name: 1.0 for name in names}},
    "n-shot": {{name: int(arguments.get("--num_fewshot", 0)) for name in names}},
    "n-samples": {{name: {{"original": 6, "effective": int(arguments.get("--limit", 6))}}
                  for name in names}},
    "lm_eval_version": {version!r}, "total_evaluation_time_seconds": "1.0",
}}
if task == "listed":
    document["results"] = []
if task == "text":
    document["results"] = {{"text": {{"acc,none": "high"}}}}
if task == "empty":
    document["results"] = {{"empty": {{"alias": "empty"}}}}
folder = os.path.join(arguments["--output_path"], "..__model")
os.makedirs(folder)
path = os.path.join(folder, "results_2026-11-28T18-53-52.582785.json")
with open(path, "w") as file:
    file.write("{{" if task == "broken" else json.dumps(document))
"""


def write_harness(folder: Path, version: str = "0.4.13") -> Path:
    """Write the executable; what it was called with is in `calls.jsonl` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lm_eval"
    log = str(folder / "calls.jsonl")
    path.write_text(SOURCE.format(python=sys.executable, log=log, version=version))
    path.chmod(0o755)
    return path
