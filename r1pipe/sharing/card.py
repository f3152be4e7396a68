"""The card of an artifact, made from its record: lineage, recipe, sources, scores, the command.

Whatever a model or a user wrote is text in it, never markup (`markdown.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent

from r1pipe import __version__
from r1pipe.sharing import markdown
from r1pipe.sharing.scores import MEASURE, Score
from r1pipe.sharing.sources import NOT_STATED, Origin
from r1pipe.store.actions import ActionRecord
from r1pipe.text import format_bytes, format_duration

LINEAGE = "r1pipe-lineage.json"
MIXED = "other"
"""The Hub's word for a licence that is not one of its list, or several."""
STAMPED = (
    " The headers of the safetensors files here say them too; the tensors are the artifact's, byte"
    " for byte."
)


@dataclass(frozen=True)
class Facts:
    """All that a card says."""

    record: ActionRecord
    above: Sequence[ActionRecord]
    """The records of all that it was made from, nearest first."""
    output: str
    type: str
    command: str
    origins: Sequence[Origin]
    scores: Sequence[Score]
    num_rows: int | None = None
    columns: Sequence[str] = ()


def card_text(facts: Facts) -> str:
    """Return the card in Markdown, with the Hub's YAML head."""
    title = f"# {markdown.plain(facts.record.stage_name)}"
    sections = [_head(facts), title, _introduction(facts), *_sections(facts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _sections(facts: Facts) -> Iterator[str]:
    yield "## Make it again\n\n" + markdown.fenced(facts.command, "bash")
    if facts.scores:
        yield f"## Scores\n\n{_scores(facts.scores)}"
    if warnings := _warnings(facts):
        yield f"## Warnings\n\n{warnings}"
    yield f"## Sources\n\n{_sources(facts.origins)}"
    yield f"## Lineage\n\n{_lineage(facts)}"
    yield f"## Recipe\n\n{_recipe(facts)}"


def _head(facts: Facts) -> str:
    licences = {each.licence for each in facts.origins}
    fields: dict[str, object] = {
        "library_name": "transformers" if facts.type == "model" else None,
        "pipeline_tag": "text-generation" if facts.type == "model" else None,
        "license": _one_licence(licences),
        "tags": ["r1pipe", facts.record.kind],
        "base_model": [each.hub_name for each in facts.origins if each.type == "model"
                       and each.hub_name],
        "datasets": [each.hub_name for each in facts.origins if each.type != "model"
                     and each.hub_name],
        "configs": None if facts.type == "model" else [{"config_name": "default",
                                                        "data_files": "part-*.parquet"}],
    }  # fmt: skip
    return markdown.head(fields)


def _one_licence(licences: set[str]) -> str | None:
    """Return the licence that all sources share; none where one does not state its own."""
    if not licences or NOT_STATED in licences:
        return None
    return next(iter(licences)) if len(licences) == 1 else MIXED


def _introduction(facts: Facts) -> str:
    record = facts.record
    what = f"Output `{facts.output}` of kind {markdown.plain(record.kind)}"
    if facts.num_rows is not None:
        names = ", ".join(map(markdown.plain, facts.columns))
        what += f": {facts.num_rows:,} rows with the columns {names}"
    return (
        f"{what}. Made by r1pipe {__version__} from the manifest"
        f" {markdown.plain(record.manifest_name)}"
        f" (profile {markdown.plain(record.profile or 'none')}) in"
        f" {format_duration(record.seconds)}; {format_bytes(record.size)}.\n\n"
        f"Artifact `{record.artifact_id}`, output `{record.outputs[facts.output]}`, key"
        f" `{record.key}`. The ids are digests of the files and of what they were made from."
        f"{STAMPED if facts.type == 'model' else ''}"
    )


def _scores(scores: Sequence[Score]) -> str:
    rows = [
        (
            each.benchmark,
            f"{each.value:.3f}",
            f"{each.low:.3f} - {each.high:.3f}",
            f"{each.num_problems:,}{' (few: the interval is rough)' if each.is_rough else ''}",
            f"{each.stage}@{each.artifact[:12]}",
        )
        for each in scores
    ]
    heads = ("benchmark", MEASURE, "95 % interval over problems", "problems", "evaluation")
    return markdown.table(heads, rows)


def _warnings(facts: Facts) -> str:
    return "\n".join(map(_warning, facts.record.warnings()))


def _warning(text: str) -> str:
    """Return a warning as an item of a list; the lines after its first one are a block of code."""
    first, _, example = text.partition("\n")
    item = f"- {markdown.plain(first)}"
    return f"{item}\n\n{indent(markdown.fenced(example, 'text'), '  ')}" if example else item


def _sources(origins: Sequence[Origin]) -> str:
    if not origins:
        return "None from outside: the problems and texts are those of r1pipe's synthetic world."
    rows = [(each.name, each.place, each.licence, each.digest[:16]) for each in origins]
    return markdown.table(("source", "what", "licence", "digest"), rows)


def _lineage(facts: Facts) -> str:
    rows = [
        (
            each.stage_name,
            f"{each.kind}, version {each.preimage['version']}",
            each.artifact_id[:16],
            ", ".join(str(link.get("stage") or link.get("source")) for _, link in each.links()),
        )
        for each in (facts.record, *facts.above)
    ]
    heads = ("stage", "kind", "artifact", "reads")
    return f"{markdown.table(heads, rows)}\n\n`{LINEAGE}` has the records, with every id in full."


def recipe_of(facts: Facts) -> dict[str, object]:
    """Return the parameters of the whole recipe that are not their kind's defaults, by stage."""
    return {each.stage_name: each.preimage["params"] for each in (facts.record, *facts.above)}


def _recipe(facts: Facts) -> str:
    text = json.dumps(recipe_of(facts), indent=1, sort_keys=True)
    return f"Parameters that are not their kind's defaults:\n\n{markdown.fenced(text, 'json')}"
