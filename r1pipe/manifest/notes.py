"""What of `defaults."*"` may not be as it is meant, though nothing of it is wrong.

It is said of every kind that has the field, so it may reach none, or one where the field's name
means something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from r1pipe.manifest.expand import ANY_KIND, SECTIONS, Defaults, fields_of
from r1pipe.manifest.nodes import StageNode
from r1pipe.stage import StageKind
from r1pipe.text import MAX_LISTED, listed


def notes_of(
    layers: Sequence[Defaults], kinds: Iterable[StageKind], stages: Sequence[StageNode]
) -> tuple[str, ...]:
    """Return what is to be told, each with its place; `kinds` are those of all profiles."""
    return tuple(dict.fromkeys([*_without_effect(layers, kinds), *_meant_otherwise(stages)]))


def _without_effect(layers: Sequence[Defaults], kinds: Iterable[StageKind]) -> Iterator[str]:
    sections = [fields_of(kind) for kind in kinds]
    for defaults in layers:
        star = defaults.value.get(ANY_KIND)
        for part, section in star.entries().items() if star else ():
            for name, item in section.entries().items():
                if part in SECTIONS and not any(name in fields[part] for fields in sections):
                    place = item.key_origin or item.origin
                    text = f'defaults."*".{part}.{name} has no effect: no stage here has it'
                    yield str(place.mistake(text))


def _meant_otherwise(stages: Sequence[StageNode]) -> Iterator[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for node in stages:
        meant = getattr(node.params, "meant_otherwise", None)
        for name, meaning in ({} if meant is None else meant()).items():
            general = f"defaults.{ANY_KIND}.params.{name}"
            origin = node.origins.get(f"params.{name}")
            if origin is None or origin.path is None or not origin.path.startswith(general):
                continue
            text = f'defaults."*".params.{name} is {meaning}, in stages of kind {node.kind.kind}'
            found.setdefault((str(origin.mistake(text)), name), []).append(node.name)
    for (text, name), names in found.items():
        yield f"{text} ({listed(names, MAX_LISTED)}); give them their own params.{name} if need be"
