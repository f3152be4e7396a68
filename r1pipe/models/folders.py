"""What a folder of a model holds, by names and headers: no weight is read, and torch is not loaded.

A plan looks so at a stranger's folder. transformers says of most of these faults that it cannot
make a tokenizer or read a header, and only when the stage runs.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from r1pipe.files.record import broken
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.text import visible

MAX_JSON_BYTES = 100_000_000
LENGTH_BYTES = 8
"""Of the length that a safetensors file begins with."""
POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json", "merges.txt")
"""Names of files that a tokenizer is made of; its configuration alone makes none."""
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FETCH = "give the folder that the model was saved in, or fetch it again"
AGAIN = "fetch or copy it again"


def model_found(folder: Path) -> str:
    """Say what a folder holds; raises SourceError if it cannot be a model of transformers."""
    if not folder.is_dir():
        raise broken(folder, "it is not a folder", FETCH)
    if not any(folder.glob("*.safetensors")) and (files := sorted(folder.glob("*.gguf"))):
        return f"a model and its tokenizer in {', '.join(file.name for file in files)}"
    config = _json(folder, "config.json", "it has no config.json, which says what the model is")
    if not isinstance(config.get("model_type"), str):
        raise broken(folder / "config.json", "it names no model_type", FETCH)
    _check_tokenizer(folder)
    counts = Counter[str]()
    for path in _weights(folder):
        counts.update(_parameters(path))
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config["model_type"]
    size = f"{counts.total():,} numbers in {', '.join(each for each, _ in counts.most_common())}"
    return f"{visible(str(name))}, {size}; chat template: {_template(folder)}"


def _json(folder: Path, name: str, absent: str) -> dict[str, object]:
    path = folder / name
    try:
        value = parse_json(read_regular(path, MAX_JSON_BYTES), is_finite=False)
    except FileNotFoundError as error:
        raise broken(folder, absent, FETCH) from error
    except UnfitError as error:
        raise broken(path, str(error), AGAIN) from error
    except OSError as error:
        raise broken(path, f"it cannot be read: {error.strerror}", AGAIN) from error
    if not isinstance(value, dict):
        raise broken(path, "it is no JSON object", AGAIN)
    return value


def _check_tokenizer(folder: Path) -> None:
    names = {path.name for pattern in TOKENIZERS for path in folder.glob(pattern)}
    if not names - {TOKENIZER_CONFIG}:
        raise broken(
            folder,
            "it has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)",
            "put the files of the tokenizer that the model was trained with beside its weights",
        )


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights, or raise SourceError if there are none or one is missing."""
    found = sorted(folder.glob("*.safetensors"))
    if not found and (pickled := [path for name in PICKLED for path in folder.glob(name)]):
        what = f"its weights are pickled ({pickled[0].name}), which is never read: it may run code"
        raise broken(folder, what, "save it as safetensors, with save_pretrained of transformers")
    if not found:
        raise broken(folder, "it has no weights (*.safetensors, or one *.gguf)", FETCH)
    if (folder / INDEX).exists():
        index = _json(folder, INDEX, "")
        places = index.get("weight_map")
        named = set(places.values()) if isinstance(places, dict) else set()
        if missing := sorted(map(str, named - {path.name for path in found})):
            what = f"{len(missing)} of its {len(named)} files of weights are missing: {missing[0]}"
            raise broken(folder, what, "fetch the folder again")
    return found


def _parameters(path: Path) -> Counter[str]:
    """Return how many numbers of each dtype a file has; raises SourceError if it is not whole."""
    try:
        with path.open("rb") as file:
            first = file.read(len(POINTER))
            if first == POINTER:
                raise broken(path, "it is a pointer of Git LFS, not the weights", "git lfs pull")
            length = int.from_bytes(first[:LENGTH_BYTES], "little")
            file.seek(LENGTH_BYTES)
            header = parse_json(file.read(length) if length <= MAX_JSON_BYTES else b"{")
        counts, end = _counted(header)
    except UnfitError as error:
        raise broken(path, "its header is not that of a safetensors file", AGAIN) from error
    except OSError as error:
        raise broken(path, f"it cannot be read: {error.strerror}", AGAIN) from error
    size, whole = path.stat().st_size, LENGTH_BYTES + length + end
    if size < whole:
        raise broken(path, f"it is cut off: {size:,} of {whole:,} bytes", AGAIN)
    return counts


def _counted(header: object) -> tuple[Counter[str], int]:
    """Return the numbers of each dtype, and where the last tensor ends; UnfitError if unknown."""
    counts, end = Counter[str](), 0
    try:
        tensors = dict(header)  # type: ignore[call-overload]
        tensors.pop("__metadata__", None)
        for each in tensors.values():
            counts[visible(each["dtype"])] += prod(each["shape"])
            end = max(end, int(each["data_offsets"][1]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UnfitError("it has other fields") from error
    return counts, end


def _template(folder: Path) -> str:
    if any((folder / name).exists() for name in TEMPLATES):
        return "its own"
    path = folder / TOKENIZER_CONFIG
    config = _json(folder, TOKENIZER_CONFIG, "") if path.exists() else {}
    return "its own" if config.get("chat_template") else "none: only r1-zero can prompt it"
