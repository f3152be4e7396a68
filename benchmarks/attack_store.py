"""Attack a store: damage, deletions, cuts, hostile imports, refusing disks, races; count what held.

    python benchmarks/attack_store.py [--seed 3] [--seconds 120]

Each attack starts from a copy of one small finished store with a tag, an attempt that failed and
one that was killed, and runs commands as a user would. What counts as broken: a traceback, a
command that takes longer than `LIMIT_S`, an exit code that says nothing, a run that does not reach
the ids of an untouched store in three tries, a file outside of the store that changed. Attacks are
drawn from the seed; a full and a read-only disk need root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from attack_commands import LIMIT_S, Commands, Reply
from attack_imports import forge, mutate_export, outside
from fake_project import make_project

from r1pipe.store import disk

MANIFEST = "manifests/small.yaml"
OTHER = ("--set", "stages.joined.params.name=other")
READING = (
    ("plan", MANIFEST),
    ("why", "scores", "-m", MANIFEST),
    ("show",),
    ("show", "joined"),
    ("show", "joined", "--lineage"),
    ("show", "best", "--json"),
    ("diff", "joined", "numbers"),
    ("tag",),
    ("gc",),
    ("fsck", "--full"),
)
EXPECTED = (0, 3, 6, 8)


@dataclass
class World:
    """A finished project, the ids of its results, and what was counted."""

    project: Path
    rng: random.Random
    commands: Commands
    ids: Mapping[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def check(self, what: str, reply: Reply, codes: tuple[int, ...] = EXPECTED) -> None:
        """Count one command, and keep what broke."""
        self.counts["commands"] += 1
        text = "" if reply.code in codes else f"exit {reply.code}"
        text = "a traceback" if "Traceback (most recent call last)" in reply.err else text
        text = f"more than {LIMIT_S:.0f} s" if reply.code == 124 else text
        if not (reply.out + reply.err).replace("\n", "").isprintable():
            text = "control characters"
        if text:
            last = (reply.err.strip().splitlines() or [""])[-1]
            self.broken.append(f"{what}: {' '.join(reply.command)}: {text}: {last[:160]}")

    def call(
        self, what: str, root: Path, *command: str, codes: tuple[int, ...] = EXPECTED
    ) -> Reply:
        """Run one command and check it."""
        reply = self.commands.run(root, *command)
        self.check(what, reply, codes)
        return reply

    def recover(self, what: str, root: Path, more: tuple[str, ...] = ()) -> None:
        """Run until the results are there; they must be those of an untouched store."""
        replies = [self.call(what, root, "run", MANIFEST, *more, codes=(0, 6)) for _ in range(3)]
        if replies[-1].code != 0:
            self.broken.append(f"{what}: run does not succeed: {replies[-1].err[-200:]}")
        elif not more and results(self, root) != self.ids:
            self.broken.append(f"{what}: another result than that of an untouched store")


def results(world: World, root: Path) -> dict[str, str]:
    """Return {stage: artifact id} as the plan has them."""
    reply = world.commands.run(root, "plan", MANIFEST, "--json")
    stages = json.loads(reply.out)["stages"] if reply.code == 0 else []
    return {stage["name"]: stage["artifact"] for stage in stages}


def furnish(world: World) -> None:
    """Finish the project, and leave a tag, a failed attempt and an export beside it."""
    root = world.project
    make_project(root)
    for command in (
        ("run", MANIFEST),
        ("tag", "best", "joined"),
        ("pin", "numbers"),
        ("export", "scores", "out"),
        ("export", "scores", "out.tar"),
    ):
        world.call("furnish", root, *command, codes=(0,))
    path = root / "stages/join.py"
    text = path.read_text()
    path.write_text(text + "    context.note(rows=1)\n    raise SystemExit(9)\n")
    world.commands.run(root, "run", MANIFEST, *OTHER)
    path.write_text(text)
    world.call("furnish", root, "show", codes=(0,))
    world.ids = results(world, root)
    assert len(world.ids) == 3, "the project is finished"


@contextmanager
def copied(world: World, folder: Path | None = None) -> Iterator[Path]:
    """Give a copy of the finished project."""
    root = Path(tempfile.mkdtemp(prefix="r1pipe-attack-", dir=folder))
    try:
        shutil.copytree(world.project, root / "p", symlinks=True)
        yield root / "p"
    finally:
        disk.remove_tree(root)


def small_files(root: Path) -> list[Path]:
    """Return every file of a store, sorted."""
    return sorted(
        path
        for path in (root / "artifacts").rglob("*")
        if path.is_file() and not path.is_symlink() and path.parent.name != "locks"
    )


def damage(rng: random.Random, path: Path) -> str:
    """Damage one file; return how."""
    path.parent.chmod(0o755)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    how = rng.choice(("flip", "cut", "empty", "zeros", "grow", "swap", "pipe", "folder", "deep"))
    if how == "flip" and data:
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
    elif how == "swap" and any(char in b"0123456789abcdef" for char in data):
        places = [place for place, char in enumerate(data) if char in b"0123456789abcdef"]
        data[rng.choice(places)] = rng.choice(b"0123456789abcdef")
        path.write_bytes(bytes(data))
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "grow":
        with path.open("r+b") as file:
            file.truncate(30 << 30)
    else:
        forms = {"empty": b"", "zeros": bytes(len(data)), "deep": b"[" * 200_000}
        path.write_bytes(forms.get(how, bytes(data[: rng.randrange(len(data) + 1)])))
    return how


def attack_damage(world: World) -> None:
    """Damage some files of the store, read with every command, and run."""
    with copied(world) as root:
        paths = world.rng.sample(small_files(root), k=world.rng.choice((1, 1, 1, 2, 4)))
        said = [f"{damage(world.rng, path)} {path.relative_to(root)}" for path in paths]
        what = f"damage ({'; '.join(said)})"
        for command in world.rng.sample(READING, k=3):
            world.call(what, root, *command)
        world.recover(what, root)
        world.recover(what, root, OTHER)
        world.call(what, root, "fsck", "--set-aside")
        world.call(what, root, "fsck", "--full", codes=(0,))
        world.call(what, root, "gc", "--move", codes=(0,))


def attack_deletion(world: World) -> None:
    """Delete files and folders of the store, or copy only a part of it, and run."""
    with copied(world) as root:
        store = root / "artifacts"
        everything = sorted(path for path in store.rglob("*") if path.name != "r1pipe-store.json")
        gone = world.rng.sample(everything, k=world.rng.randint(1, max(1, len(everything) // 3)))
        for path in gone:
            if os.path.lexists(path):
                for parent in (path.parent, path):
                    if not parent.is_symlink():
                        parent.chmod(0o755)
                disk.remove_tree(path)
        what = f"deletion of {', '.join(str(path.relative_to(store)) for path in gone[:4])}"
        for command in world.rng.sample(READING, k=3):
            world.call(what, root, *command)
        world.recover(what, root)
        world.call(what, root, "fsck", "--full", "--set-aside")
        world.call(what, root, "gc", "--move", codes=(0,))


def attack_import(world: World) -> None:
    """Import an export with changed bytes, or a forged record; nothing else may be written."""
    with copied(world) as root:
        if world.rng.random() < 0.5:
            what, source = f"import of bytes ({mutate_export(world.rng, root)})", "out"
        else:
            what, source = f"forged import ({forge(world.rng, root)})", "out"
        if world.rng.random() < 0.3:
            with tarfile.open(root / "new.tar", "w") as tar:
                for path in sorted((root / "out").rglob("*")):
                    tar.add(path, path.relative_to(root / "out").as_posix(), recursive=False)
            source = "new.tar"
        before = outside(root)
        world.call(what, root, "import", source, "--store", "other")
        for command in (("show",), ("gc", "--move"), ("fsck", "--full")):
            world.call(what, root, *command, "--store", "other", codes=(0, 6))
        world.call(what, root, "run", MANIFEST, "--store", "other", codes=(0, 6))
        world.call(what, root, "run", MANIFEST, "--store", "other", codes=(0,))
        if outside(root) != before:
            world.broken.append(f"{what}: something outside of the store changed")


def attack_race(world: World) -> None:
    """Run, collect, check and export at the same time."""
    with copied(world) as root:
        kinds = [
            ("run", MANIFEST),
            ("run", MANIFEST, *OTHER),
            ("run", MANIFEST, "--rebuild", "joined"),
            ("gc", "--move"),
            ("gc", "--move", "--attempts"),
            ("gc",),
            ("fsck", "--full"),
            ("show", "joined"),
            ("plan", MANIFEST),
        ]
        chosen = [world.rng.choice(kinds) for _ in range(6)]
        for reply in world.commands.together(root, chosen):
            world.check("race", reply, EXPECTED)
        world.recover("race", root)


def attack_kill(world: World) -> None:
    """Kill runs and collections at a random moment; the next run must end well."""
    with copied(world) as root:
        for _ in range(3):
            command = world.rng.choice(
                (
                    ("run", MANIFEST, "--rebuild", "joined"),
                    ("run", MANIFEST, *OTHER),
                    ("gc", "--move"),
                )
            )
            world.commands.kill(root, world.rng.uniform(0.1, 0.7), *command)
            world.counts["kills"] += 1
        world.recover("kill", root)
        world.call("kill", root, "fsck", "--full", codes=(0,))


def attack_disk(world: World, state: str) -> None:
    """Fill a disk, or make it read-only, and try every command; then free it and go on."""
    with tempfile.TemporaryDirectory(prefix="r1pipe-disk-") as folder:
        size = world.rng.choice(("1m", "2m", "4m"))
        if os.geteuid() or not mount("-t", "tmpfs", "-o", f"size={size}", "none", folder):
            world.counts[f"{state} disk: skipped, needs root"] += 1
            return
        try:
            with copied(world, Path(folder)) as root:
                refuse(world, state, root, Path(folder))
        finally:
            mount("-o", "remount,rw", folder)
            mount("--lazy", folder, program="umount")


def mount(*options: str, program: str = "mount") -> bool:
    """Mount or unmount; return whether that worked."""
    command = [shutil.which(program) or program, *options]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def refuse(world: World, state: str, root: Path, folder: Path) -> None:
    """Have a disk refuse, up to a random number of free bytes."""
    what, ballast = f"{state} disk", folder / "ballast"
    if state == "full":
        left = world.rng.choice((0, 0, 1, 4, 16, 64)) << 12
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                file.truncate(max(0, file.tell() - left))
    else:
        mount("-o", "remount,ro", str(folder))
    changing = [
        ("gc", "--move"),
        ("export", "joined", "new"),
        ("export", "joined", "new.tar"),
        ("import", "out", "--store", "other"),
        ("tag", "good", "joined"),
        ("run", MANIFEST, *OTHER),
        ("run", MANIFEST),
        ("fsck", "--set-aside"),
    ]
    for command in [*READING, *changing]:
        world.call(what, root, *command, codes=(0, 8))
    if state == "full":
        world.call(what, root, "gc", "--empty-trash", codes=(0,))
        ballast.unlink()
    else:
        mount("-o", "remount,rw", str(folder))
    world.recover(what, root)
    world.call(what, root, "fsck", "--full", codes=(0,))


ATTACKS: Mapping[str, tuple[int, Callable[[World], None]]] = {
    "damage": (8, attack_damage),
    "deletion": (4, attack_deletion),
    "import": (6, attack_import),
    "race": (2, attack_race),
    "kill": (2, attack_kill),
    "full disk": (2, lambda world: attack_disk(world, "full")),
    "read-only disk": (1, lambda world: attack_disk(world, "read-only")),
}
"""Attack -> how often it is drawn, and what does it."""


def main() -> None:
    """Attack until the time is up, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="r1pipe-attacks-"))
    with Commands() as commands:
        world = World(base / "project", random.Random(options.seed), commands)
        began = time.monotonic()
        try:
            furnish(world)
            names = [name for name, (weight, _) in ATTACKS.items() for _ in range(weight)]
            while time.monotonic() - began < options.seconds:
                name = world.rng.choice(names)
                world.counts[name] += 1
                ATTACKS[name][1](world)
        finally:
            disk.remove_tree(base)
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    for name, count in sorted(world.counts.items()):
        print(f"{name:40} {count}")
    print(f"{'broken':40} {len(world.broken)}")
    for line in world.broken:
        print(f"  {line}")
    sys.exit(1 if world.broken else 0)


if __name__ == "__main__":
    main()
