"""Sizes of sources from outside, without fetching them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.costs.models import model_from_config, model_of_size
from r1pipe.costs.work import DatasetInfo, Info, ModelInfo, ProblemsInfo, Range, RowsInfo
from r1pipe.errors import R1PipeError
from r1pipe.files.layout import DataFile, data_files

if TYPE_CHECKING:
    from r1pipe.manifest import SourceNode

ASSUMED_SIZE = "1.5B"
"""Size assumed of a model that nothing is known of."""
MAX_COUNTED_BYTES = 256 << 20
REAL_PROMPT = Range(50, 250)
REAL_COMPLETION = Range(100, 2000)
UNKNOWN_ROWS = Range(1_000, 1_000_000)


def source_info(node: SourceNode) -> tuple[Info, str]:
    """Return what is known of a source, and in words what had to be assumed ('' for nothing)."""
    if node.type == "model":
        return model_source(node)
    count = _count_rows(node)
    assumed = "" if count is not None else "its number of rows is not known"
    rows = UNKNOWN_ROWS if count is None else Range(count)
    if node.type == "problems":
        return ProblemsInfo(rows, REAL_PROMPT, None), assumed
    if node.type == "rows":
        return RowsInfo(rows, REAL_PROMPT, REAL_COMPLETION), assumed
    if node.type == "dataset":
        return DatasetInfo(count), ""  # the stage that reads it knows how many it takes
    return Info(), ""


def model_source(node: SourceNode) -> tuple[ModelInfo, str]:
    """Return a model's sizes: its config.json, else its stated size, its name, an assumption."""
    for path in _configs(node):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = model_from_config(json.loads(path.read_bytes()))
            return replace(found, tokenizer=path.parent), ""
    if node.size and (sized := model_of_size(node.size)) is not None:
        return sized, f"a model of {node.size} parameters, as its 'size' says"
    name = node.hf or (node.path.name if node.path else "")
    if (named := model_of_size(name)) is not None:
        return named, f"the size that the name {name} states"
    default = model_of_size(ASSUMED_SIZE)
    assert default is not None, "a size in words"
    return default, f"a model of {ASSUMED_SIZE} parameters; 'size' beside its path says another"


def _configs(node: SourceNode) -> list[Path]:
    """Return where a config.json may be: in the folder, or in the hub's cache on this machine."""
    if node.path is not None:
        return [node.path / "config.json"]
    home = Path(os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{str(node.hf).replace('/', '--')}"
    exact = folder / "snapshots" / str(node.revision) / "config.json"
    with suppress(OSError):
        commit = (folder / "refs" / str(node.revision)).read_text(encoding="utf-8").strip()
        return [exact, folder / "snapshots" / commit / "config.json"]
    return [exact]


def _count_rows(node: SourceNode) -> int | None:
    """Return the rows of local JSON lines and Parquet; None for other forms, or huge files."""
    if node.path is None:
        return None
    try:
        counts = [_count_of(file) for file in data_files(node.path, node.config, node.split)]
    except (OSError, R1PipeError, ValueError):  # told when the source is read
        return None
    return None if None in counts else sum(count for count in counts if count is not None)


def _count_of(file: DataFile) -> int | None:
    if file.format == "Parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file.path).num_rows)
    if file.format != "JSON lines" or file.packing or file.path.stat().st_size > MAX_COUNTED_BYTES:
        return None
    with file.path.open("rb") as opened:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(1 << 20), b""))
