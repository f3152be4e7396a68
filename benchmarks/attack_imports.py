"""Hostile exports: changed bytes, and forged records whose digests fit."""

from __future__ import annotations

import json
import random
from pathlib import Path

from r1pipe.keys import digest_json


def outside(root: Path) -> dict[str, bytes]:
    """Return all files around the stores of a project."""
    return {
        str(path.relative_to(root.parent)): path.read_bytes()
        for path in sorted(root.parent.rglob("*"))
        if path.is_file() and "other" not in path.parts and "__pycache__" not in path.parts
    }


def mutate_export(rng: random.Random, root: Path) -> str:
    """Change some bytes of one file of an export."""
    paths = sorted(path for path in (root / "out").rglob("*") if path.is_file())
    path = rng.choice(paths)
    path.parent.chmod(0o755)
    path.chmod(0o644)
    data = bytearray(path.read_bytes() or b"x")
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(len(data) + 1)))]))
    return str(path.relative_to(root))


ODD: tuple[object, ...] = (
    *("../../evil", "/evil-r1pipe", "..", ".", "", "a/b", "\x1b[2J", "x" * 3000, "\x00"),
    *(None, True, -1, 10**30, 1.5, [], {}, ["x"], {"x": "y"}, {"../x": "0" * 64}),
)


def forge(rng: random.Random, root: Path) -> str:
    """Put an odd value anywhere in a record of an export, with a digest that fits."""
    path = root / "out/r1pipe-artifact.json"
    card = json.loads(path.read_text())
    record = rng.choice([card["record"], *card["ancestors"]])
    record.pop("digest")
    place, said = record, ""
    while True:
        name = rng.choice(sorted(place))
        said = f"{said}.{name}"
        if not (isinstance(place[name], dict) and place[name] and rng.random() < 0.6):
            break
        place = place[name]
    place[name] = rng.choice(ODD)
    if rng.random() < 0.5 and isinstance(record["preimage"], dict):
        record["key"] = digest_json(record["preimage"])
    record["digest"] = digest_json(record)
    path.write_text(json.dumps(card))
    return f"{said} = {str(place[name])[:40]!r}"
