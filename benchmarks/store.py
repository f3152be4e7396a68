"""Measure the store: no-op runs, digests, why and lineage over many records, the journal.

    python benchmarks/store.py [--dvc PATH_TO_DVC] [--json FILE]

CPU seconds decide, so that a busy machine does not. `process` counts the whole command, from the
start of the interpreter; `own` counts what is left without start and imports. Artifacts of many
terabytes are sparse files with made-up digests: a no-op run never reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.keys import FileEntry, JsonObject, digest_bytes, digest_file, key_of
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.pipeline.resolution import Resolver
from r1pipe.store import disk, signatures
from r1pipe.store.actions import ActionRecord
from r1pipe.store.journal import FileJournal
from r1pipe.store.sealing import digest_all, make_seal, write_seal
from r1pipe.store.store import Store

KIND = '''
"""A stage that is never run."""
from r1pipe.stage import Input, StageModel
VERSION = 1
class Params(StageModel):
    number: int = 0
    """A number."""
class Run(StageModel):
    pass
INPUTS = {"a": Input("rows", optional=True)}
OUTPUTS = {"data": "rows"}
def run(context, params, run, inputs):
    raise AssertionError("a no-op run runs nothing")
'''
REPEATS = 10


def write_project(root: Path, stages: int) -> Manifest:
    """Write a manifest of a chain of stages and their kind."""
    (root / "stages").mkdir(parents=True)
    (root / "manifests").mkdir()
    (root / "stages" / "tiny.py").write_text(KIND)
    lines = ["r1pipe: 1", "name: bench", "stages:"]
    for number in range(stages):
        inputs = f", inputs: {{a: s{number - 1}}}" if number else ""
        lines.append(f"  s{number}: {{kind: tiny, params: {{number: {number}}}{inputs}}}")
    path = root / "manifests" / "bench.yaml"
    path.write_text("\n".join(lines) + "\n")
    return load_manifest(path)


def fill_store(store: Store, manifest: Manifest, files: int, size: int) -> None:
    """Place a finished artifact of sparse files for every stage."""
    store.prepare()
    resolver = Resolver(manifest, store)
    finished: dict[str, Any] = {}
    for name, node in manifest.stages.items():
        entries = [
            FileEntry(f"data/shard-{index:05d}.bin", size, digest_bytes(f"{name}{index}".encode()))
            for index in range(files)
        ]
        seal = make_seal(entries)
        root = store.objects / seal.artifact
        (root / "data").mkdir(parents=True)
        for entry in entries:
            with (root / entry.path).open("wb") as file:
                file.truncate(size)
        write_seal(root, seal)
        signatures.write_signatures(store.stats / seal.artifact, disk.walk(root)[0])
        preimage = resolver.preimage(node, finished)
        assert preimage is not None
        finished[name] = place_record(
            store, name, preimage, seal.artifact, seal.outputs, resolver.links(node, finished)
        )


def place_record(
    store: Store,
    name: str,
    preimage: JsonObject,
    artifact: str,
    outputs: Mapping[str, str],
    links: JsonObject,
) -> ActionRecord:
    """Place an action record as a run would."""
    record = ActionRecord(
        key=key_of(preimage),
        preimage=preimage,
        kind="tiny",
        stage_name=name,
        manifest_name="bench",
        profile=None,
        artifact_id=artifact,
        outputs=dict(outputs),
        created=f"2026-01-01T00:00:00.{len(name):06d}+00:00",
        seconds=1.0,
        peak_rss_bytes=1,
        inputs=dict(links),
        logs="none",
        size=0,
    )
    disk.place_json(store.record_path(record.key), record.to_json(), durable=False)
    return record


def cpu_of(command: list[str], cwd: Path) -> float:
    """Return the least CPU seconds that a command took."""
    taken = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, env=environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def environment() -> dict[str, str]:
    """Let subprocesses find this copy of r1pipe."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def own_cpu(function: Callable[[], object]) -> float:
    """Return the least CPU seconds that a call took in this process."""
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken)


class Silent:
    """A console that says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@contextmanager
def folder() -> Iterator[Path]:
    """Give a temporary directory that holds read-only trees."""
    path = Path(tempfile.mkdtemp(prefix="r1pipe-bench-"))
    try:
        yield path
    finally:
        disk.remove_tree(path)


def measure_no_op(stages: int, files: int, size: int) -> dict[str, float]:
    """Measure a run that finds everything in the store."""
    from r1pipe.pipeline.run import run

    with folder() as root:
        manifest = write_project(root, stages)
        fill_store(Store(root / "artifacts"), manifest, files, size)
        command = [sys.executable, "-m", "r1pipe.cli", "run", "manifests/bench.yaml", "--yes"]
        process = cpu_of(command, root)
        start = cpu_of([sys.executable, "-c", "import r1pipe.cli.table, r1pipe.pipeline.run"], root)

        def no_op() -> None:
            result = run(load_manifest(manifest.path), Store(root / "artifacts"), Silent())
            assert result.built == []

        own = own_cpu(no_op)
    return {"process_cpu_s": process, "imports_cpu_s": start, "own_cpu_s": own}


def measure_records(count: int) -> dict[str, float]:
    """Measure why and lineage over many action records."""
    from r1pipe.cli import views as show
    from r1pipe.pipeline.why import explain

    with folder() as root:
        manifest = write_project(root, 12)
        store = Store(root / "artifacts")
        fill_store(store, manifest, 1, 10)
        last = store.resolve("s11")
        for number in range(count - 12):
            preimage = {**last.preimage, "params": {"number": 1000 + number}}
            fake = digest_bytes(str(number).encode())
            place_record(store, f"s{number % 12}", preimage, fake, {"data": fake}, last.inputs)
        store.records()  # the index is written by the first one to read them all
        path = manifest.path
        path.write_text(path.read_text().replace("{number: 0}", "{number: 99}"))
        changed = load_manifest(path)

        def why() -> None:
            assert explain(changed, Store(root / "artifacts"), "s11").roots()[0][0] == "s0"

        def lineage() -> None:
            opened = Store(root / "artifacts")
            records = opened.known()
            assert len(records) == count
            assert show.lineage_lines(opened.resolve(last.key), records)

        command = [sys.executable, "-m", "r1pipe.cli"]
        return {
            "why_process_cpu_s": cpu_of([*command, "why", "s11", "-m", str(path)], root),
            "why_own_cpu_s": own_cpu(why),
            "lineage_process_cpu_s": cpu_of([*command, "show", "s11", "--lineage"], root),
            "lineage_own_cpu_s": own_cpu(lineage),
        }


def measure_digest(gigabytes: float) -> dict[str, float]:
    """Measure digesting, of one large file and of many in threads."""
    block = os.urandom(1 << 24)
    with folder() as root:
        for index in range(4):
            with (root / f"shard{index}").open("wb") as file:
                for _ in range(int(gigabytes * 1e9 / 4 / len(block))):
                    file.write(block)
        files = disk.walk(root)[0]
        size = sum(file.size for file in files)
        one = own_cpu(lambda: digest_file(root / "shard0"))
        pool = own_cpu(lambda: digest_all(root, files))
        began = time.perf_counter()
        digest_all(root, files)
        wall = time.perf_counter() - began
    return {
        "one_file_gb_per_cpu_s": size / 4 / one / 1e9,
        "threads_gb_per_cpu_s": size / pool / 1e9,
        "threads_gb_per_s": size / wall / 1e9,
    }


def measure_journal(units: int, rows: int) -> dict[str, float]:
    """Measure appending sampled rows with 64 tokens and their log-probabilities each."""
    row = {
        "problem_id": "arithmetic-000001",
        "sample_index": 3,
        "text": "x" * 200,
        "token_ids": list(range(1000, 1064)),
        "sampler_logprobs": [-0.123456789 * index for index in range(64)],
        "verdict": "correct",
    }
    with folder() as root:
        journal = FileJournal(root / "rows.jsonl")
        began, cpu = time.perf_counter(), time.process_time()
        for unit in range(units):
            journal.append(str(unit), [row] * rows)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        began = time.perf_counter()
        count = sum(1 for _ in journal.rows())
        read = time.perf_counter() - began
        journal.close()
    assert count == units * rows
    return {
        "append_rows_per_s": count / wall,
        "append_rows_per_cpu_s": count / cpu,
        "read_rows_per_s": count / read,
    }


def measure_dvc(dvc: Path) -> dict[str, float]:
    """Measure a no-op `dvc repro` of a chain of six stages of tiny files."""
    with folder() as root:
        env = {**environment(), "DVC_NO_ANALYTICS": "1"}

        def call(*words: str) -> None:
            subprocess.run([str(dvc), *words], cwd=root, check=True, capture_output=True, env=env)

        call("init", "--no-scm")
        stages = ["stages:"]
        for number in range(6):
            deps = f"\n    deps: [o{number - 1}]" if number else ""
            stages.append(f"  s{number}:\n    cmd: echo {number} > o{number}{deps}")
            stages.append(f"    outs: [o{number}]")
        (root / "dvc.yaml").write_text("\n".join(stages) + "\n")
        call("repro")
        return {"process_cpu_s": cpu_of([str(dvc), "repro"], root)}


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dvc", type=Path, help="a dvc to measure beside, from its environment")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    results: dict[str, Mapping[str, float]] = {
        "no-op, 12 artifacts, 2,400 files, 10 TB": measure_no_op(12, 200, 10**13 // 2400),
        "no-op, 200 artifacts, 20,000 files": measure_no_op(200, 100, 10**6),
        "10,000 action records": measure_records(10_000),
        "digest, 2 GB in the page cache": measure_digest(2.0),
        "journal, 2,000 units of 8 rows": measure_journal(2000, 8),
    }
    if options.dvc:
        results["no-op dvc repro, 6 stages"] = measure_dvc(options.dvc)
        results["no-op r1pipe run, 6 stages"] = measure_no_op(6, 1, 2)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name, figures in results.items():
        for what, value in figures.items():
            print(f"{name:42} {what:26} {value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
