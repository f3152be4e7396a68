"""Sources of type `text`: one file of UTF-8 each, with the fields that its readers fill in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from r1pipe.errors import Mistake
from r1pipe.manifest.graph import refs_of
from r1pipe.manifest.nodes import SourceNode, StageNode
from r1pipe.manifest.references import Ref

TEXT = "text"
MAX_BYTES = 1 << 20


def check_texts(
    sources: Mapping[str, SourceNode], stages: Iterable[StageNode], mistakes: list[Mistake]
) -> None:
    """Report files that are no text, or lack a field, at the source's place.

    One that is not there is reported when a stage needs it, as any other source.
    """
    readers = [(stage, name, ref) for stage in stages for name, ref in _texts_read(stage)]
    for source in sources.values():
        if source.type != TEXT or source.path is None or not source.path.exists():
            continue
        text = _read(source, mistakes)
        for stage, name, ref in readers:
            fields = stage.kind.inputs[name].fields
            missing = [field for field in fields if f"{{{field}}}" not in (text or "")]
            if text is not None and ref.name == source.name and missing:
                mistakes.append(
                    source.origin.mistake(
                        f"source '{source.name}': {source.path} has no {{{missing[0]}}} in it, but"
                        f" stages.{stage.name} fills in {_listed(fields)}; put it there"
                    )
                )


def _texts_read(stage: StageNode) -> Iterator[tuple[str, Ref]]:
    for name, given in stage.inputs.items():
        if stage.kind.inputs[name].fields:
            yield from ((name, ref) for ref in refs_of({name: given}) if ref.is_source)


def _read(source: SourceNode, mistakes: list[Mistake]) -> str | None:
    """Return a source's text, or None after reporting that the file is no text."""
    assert source.path is not None, "checked by the caller"
    try:
        if not source.path.is_file():
            wrong = "is no plain file; a text is one file"
        elif source.path.stat().st_size > MAX_BYTES:
            wrong = f"has more than {MAX_BYTES:,} bytes; is it the right file?"
        else:
            return source.path.read_text("utf-8")
    except UnicodeDecodeError as error:
        wrong = f"is not UTF-8 (byte {error.start}); save it as UTF-8"
    except OSError:
        return None  # reported when a stage needs it
    mistakes.append(source.origin.mistake(f"source '{source.name}': {source.path} {wrong}"))
    return None


def _listed(fields: Iterable[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)
