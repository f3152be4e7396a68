"""Which files of a folder hold rows, and to which config and split each one belongs.

Configs and splits are found as the Hub does: from the `configs` of a data set card (README.md),
else from folder and file names. Folders of `save_to_disk` say it themselves.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from r1pipe.files.record import broken
from r1pipe.keys import JsonObject
from r1pipe.text import did_you_mean

FORMATS = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}
PACKED = (".gz", ".zst")
"""Suffixes of compression, behind those of text."""
READABLE = ".jsonl, .json, .csv, .tsv (also with .gz or .zst), .parquet or .arrow"
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
CARD = "README.md"
DESCRIBING = (CARD, "dataset_dict.json", "dataset_info.json", "state.json", "*/state.json")
"""Patterns of the files that may say which other files belong together."""
DEFAULT_SPLIT = "train"
"""Of files whose names say nothing."""
_NO_ROWS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"}
)
_SHARD = re.compile(r"^data/([\w.-]+?)-\d{5}-of-\d{5}\.", re.ASCII)
_CARD_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    path: Path
    name: str
    """Relative to the folder that was asked for, or the file's own name."""
    format: str
    """One of `FORMATS`."""
    packing: str = ""
    """`.gz`, `.zst`, or nothing."""


@dataclass(frozen=True)
class Listing:
    """The data files of one config of a folder, by split; names are relative to the folder."""

    splits: Mapping[str, Sequence[str]]
    config: str | None = None


def data_files(path: Path, config: str | None = None, split: str | None = None) -> list[DataFile]:
    """Return the files of rows of a file, or of one config and split of a folder, in order.

    Raises SourceError for a path that is not there, files that cannot be read, formats that are
    mixed, and configs or splits that are ambiguous or unknown.
    """
    if path.is_dir():
        names = chosen_names(path, file_names(path), config, split)
        files = [_data_file(path / name, name) for name in names]
        _check_formats(path, files)
        return files
    if not path.exists():
        raise broken(path, "no such file or folder", f"give a folder, or a file of {READABLE}")
    if not path.is_file():
        raise broken(path, "it is not a plain file", f"give a folder, or a file of {READABLE}")
    if config is not None:
        raise broken(path, f"a file has no config {config!r}", "leave 'config' out")
    if split not in (None, found := _split_of(path.name)):
        raise broken(path, f"its name says split {found!r}, not {split!r}", "leave 'split' out")
    return [_data_file(path, path.name)]


def file_names(root: Path) -> list[str]:
    """Return the names of all files below a folder, hidden ones left out."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def chosen_names(
    root: Path, names: Sequence[str], config: str | None, split: str | None
) -> list[str]:
    """Return which files below a folder hold the rows of a config and split.

    `names` are all that there are; of those only the few that describe the others are opened.
    """
    listings = _listings(root, names)
    if not any(files for each in listings for files in each.splits.values()):
        raise broken(root, "no file in it holds rows", f"put files of {READABLE} there")
    listing = _one_config(root, listings, config)
    found = sorted(split for split, files in listing.splits.items() if files)
    if not found:
        raise broken(root, f"config {config!r} has no file", "copy the whole folder")
    if split is None:
        if len(found) > 1:
            what = f"it has splits {', '.join(found)}" + (f" of {config}" if config else "")
            raise broken(root, what, f"say which: split: {_usual(found)}")
        split = found[0]
    if split not in found:
        _unknown(root, "split", split, found)
    return list(listing.splits[split])


def _usual(splits: Sequence[str]) -> str:
    return DEFAULT_SPLIT if DEFAULT_SPLIT in splits else splits[0]


def _unknown(root: Path, what: str, name: str, known: Sequence[str]) -> NoReturn:
    raise broken(root, f"no {what} {name!r}", did_you_mean(name, known))


def _one_config(root: Path, listings: Sequence[Listing], config: str | None) -> Listing:
    known = [each.config for each in listings if each.config is not None]
    if config is None:
        if len(listings) == 1:
            return listings[0]
        raise broken(root, f"it has configs {', '.join(known)}", f"say which: config: {known[0]}")
    for listing in listings:
        if listing.config == config:
            return listing
    if not known:
        raise broken(root, f"no config {config!r}: it has no configs", "leave 'config' out")
    return _unknown(root, "config", config, known)


def _listings(root: Path, names: Sequence[str]) -> list[Listing]:
    """Return the configs of a folder; one without a name if it has none."""
    if "dataset_dict.json" in names:
        saved = _read_json(root / "dataset_dict.json").get("splits")
        splits = [str(each) for each in saved] if isinstance(saved, list) else []
        return [Listing({each: _saved(root, each, names) for each in splits})]
    if "state.json" in names and "dataset_info.json" in names:
        return [Listing({DEFAULT_SPLIT: _saved(root, "", names)})]
    usable = [name for name in names if _is_data(name)]
    if CARD in names and (card := _card_configs(root / CARD)):
        return [_carded(root, entry, usable) for entry in card]
    return _listings_by_name(usable)


def _saved(root: Path, folder: str, names: Sequence[str]) -> list[str]:
    """Return the Arrow files of a folder written by `save_to_disk`, in its own order."""
    state_path = root / folder / "state.json"
    state = _read_json(state_path)
    if state.get("_indices_data_files"):
        what = "its rows are an unapplied selection (indices)"
        raise broken(state_path, what, "call flatten_indices() and save it again")
    found = []
    entries = state.get("_data_files")
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("filename") if isinstance(entry, dict) else None
        inside = (PurePosixPath(folder) / str(name)).as_posix()
        if not isinstance(name, str) or "/" in name or inside not in names:
            raise broken(
                state_path, f"it names {name!r}, which is not there", "copy the whole folder"
            )
        found.append(inside)
    return found


def _read_json(path: Path) -> JsonObject:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path, f"it cannot be read ({error})", "copy the whole folder again") from error
    return document if isinstance(document, dict) else {}


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    if path.name in _NO_ROWS or path.name.startswith("_"):
        return False
    return _format_of(path.name)[0] is not None


def _format_of(name: str) -> tuple[str | None, str]:
    """Return the format and the packing that a file's name states; (None, ...) if unknown."""
    lower = PurePosixPath(name.lower())
    packing = lower.suffix if lower.suffix in PACKED else ""
    inner = PurePosixPath(lower.stem) if packing else lower
    found = FORMATS.get(inner.suffix)
    return (None if packing and found in ("Parquet", "Arrow") else found), packing


def _data_file(path: Path, name: str) -> DataFile:
    found, packing = _format_of(path.name)
    if found is None:
        suffixes = "".join(path.suffixes[-2:]) if packing else path.suffix
        raise broken(path, f"cannot read {suffixes!r} files", f"use one of {READABLE}")
    return DataFile(path, name, found, packing)


def _check_formats(root: Path, files: Sequence[DataFile]) -> None:
    """Raise for files of several formats: one of them is likely not meant."""
    first = {file.format.partition(" ")[0]: file.name for file in reversed(files)}
    if len(first) > 1:
        named = ", ".join(f"{kind} ({name})" for kind, name in sorted(first.items()))
        raise broken(
            root, f"it mixes formats: {named}", "give the files of one format, or one file"
        )


def _split_of(name: str) -> str:
    """Return the split that a file's name or folders state; the last word counts."""
    if found := _SHARD.match(name):
        return _named_split(found[1]) or found[1]
    for part in reversed(PurePosixPath(name).parts):
        if split := _named_split(part):
            return split
    return DEFAULT_SPLIT


def _named_split(text: str) -> str | None:
    """Return the split of the first word that names one: words end at dots, dashes and digits."""
    for word in re.split(r"[^a-z]+", text.lower()):
        for split, words in SPLIT_WORDS.items():
            if word in words:
                return split
    return None


def _by_split(names: Iterable[str], below: str = "") -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(_split_of(name.removeprefix(below)), []).append(name)
    return splits


def _listings_by_name(names: Sequence[str]) -> list[Listing]:
    """Return one listing, or one for each top folder if several have files of their own splits.

    Folders named after splits, and `data`, are no configs.
    """
    tops: dict[str, list[str]] = {}
    for name in names:
        tops.setdefault(name.partition("/")[0] if "/" in name else "", []).append(name)
    is_config = "" not in tops and not any(_named_split(top) or top == "data" for top in tops)
    says_split = any(
        _named_split(part) for name in names for part in PurePosixPath(name.partition("/")[2]).parts
    )
    if is_config and says_split:
        return [Listing(_by_split(files, f"{top}/"), top) for top, files in tops.items()]
    return [Listing(_by_split(names))]


def _card_configs(path: Path) -> list[JsonObject]:
    """Return the `configs` of a data set card, or nothing."""
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    if not (found := _CARD_HEAD.match(text)):
        return []
    try:
        card = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise broken(
            path, f"its header cannot be read ({first})", "correct it or remove it"
        ) from error
    configs = card.get("configs") if isinstance(card, dict) else None
    entries = [each for each in configs if isinstance(each, dict)] if configs else []
    return [each for each in entries if "data_files" in each or "data_dir" in each]


def _carded(root: Path, entry: JsonObject, names: Sequence[str]) -> Listing:
    """Return the listing of one config of a card: paths and patterns, for each split or at all."""
    config, below = str(entry.get("config_name", "default")), str(entry.get("data_dir") or "")
    inside = f"{below.strip('/')}/" if below.strip("/.") else ""
    given = entry.get("data_files")
    if given is None:
        return Listing(_by_split((n for n in names if n.startswith(inside)), inside), config)
    splits: dict[str, list[str]] = {}
    for split, patterns in _split_patterns(given):
        for pattern in patterns:
            found = list(_matching(inside + pattern.removeprefix("./"), names))
            splits.setdefault(split, []).extend(f for f in found if f not in splits[split])
    return Listing({split: files for split, files in splits.items() if files}, config)


def _split_patterns(given: object) -> Iterator[tuple[str, list[str]]]:
    entries = given if isinstance(given, list) else [given]
    for entry in entries:
        if isinstance(entry, dict):
            paths = entry.get("path") or []
            split = str(entry.get("split", DEFAULT_SPLIT))
            yield split, [str(each) for each in (paths if isinstance(paths, list) else [paths])]
        else:
            yield DEFAULT_SPLIT, [str(entry)]


def _matching(pattern: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the names that a card's pattern matches; `*` ends at a slash, `**` does not."""
    loose, depth = pattern.replace("**/", "*"), pattern.count("/")
    for name in names:
        is_near = "**" in pattern or name.count("/") == depth
        if is_near and fnmatch.fnmatchcase(name, loose):
            yield name
