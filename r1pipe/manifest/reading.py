"""Read a resolved tree into nodes, or report what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from r1pipe.errors import ManifestError, Mistake
from r1pipe.manifest.expand import ANY_KIND, SECTIONS, Defaults, fields_of
from r1pipe.manifest.graph import topological_order
from r1pipe.manifest.layers import Resolved
from r1pipe.manifest.names import nearest
from r1pipe.manifest.nodes import SourceNode, StageNode
from r1pipe.manifest.other_names import here
from r1pipe.manifest.recipe import path_in
from r1pipe.manifest.references import Outputs, Ref, read_inputs, unknown_input
from r1pipe.manifest.schema import ManifestSpec, SourceSpec
from r1pipe.manifest.texts import check_texts
from r1pipe.manifest.validation import validate
from r1pipe.manifest.yaml_source import Origin, Value
from r1pipe.plugins.tables import active
from r1pipe.stage import StageKind, StageModel

Inputs = Mapping[str, Ref | Mapping[str, Ref]]
Models = tuple[StageModel | None, StageModel | None]
Found = tuple[ManifestSpec, dict[str, SourceNode], dict[str, StageNode]]


class TreeReader:
    """Reads the variants of one manifest; a stage that several of them share is checked once.

    A partial tree lacks the values of some profile: nothing in it counts as missing.
    """

    def __init__(self, kinds: Mapping[str, StageKind], mistakes: list[Mistake]) -> None:
        self.kinds = kinds
        self.mistakes = mistakes
        self.checked: dict[int, tuple[Value, Models]] = {}
        self.used: set[str] = set()
        """The kinds of all stages."""

    def read(self, resolved: Resolved, is_partial: bool = False) -> Found | None:
        """Return a tree as said, its sources and stages; mistakes are reported on the way."""
        tree = resolved.tree

        def hint(path: Sequence[str]) -> str | None:
            is_in_stage = len(path) == 3 and path[0] == "stages"
            kind = self.kind_of(tree.get(*path[:2]), []) if is_in_stage else None
            if "defaults" in path[:-2] and path[-2] in self.kinds:
                kind = self.kind(path[-2], [])
            return (_home(kind, path[-1]) or here(kind, path[-1])) if kind else None

        spec = validate(ManifestSpec, tree, "", self.mistakes, hint, is_partial)
        sources = _read_sources(tree)
        stages = self.stages(resolved, sources, is_partial)
        check_texts(sources, stages.values(), self.mistakes)
        return None if spec is None else (spec, sources, stages)

    def kind_of(self, stage: Value | None, mistakes: list[Mistake]) -> StageKind | None:
        """Return the kind a stage names, or None after reporting that there is none."""
        named = stage.get("kind") if stage else None
        if named is None or not isinstance(named.data, str):
            return None
        if named.data not in self.kinds:
            message = f"unknown kind '{named.data}'{nearest(named.data, self.kinds, 'kinds')}"
            mistakes.append(named.origin.mistake(message))
            return None
        return self.kind(named.data, mistakes)

    def kind(self, name: str, mistakes: list[Mistake]) -> StageKind | None:
        """Return a known kind, or None after reporting what is wrong with its file."""
        try:
            return self.kinds[name]
        except ManifestError as error:
            mistakes.extend(error.mistakes)
            return None

    def check_defaults(self, layers: Sequence[Defaults]) -> None:
        """Report unknown kinds and fields under `defaults`, and wrong values.

        What stages take from them has been checked; this finds what no stage takes.
        """
        for defaults in layers:
            for name, value in defaults.value.entries().items():
                place = value.key_origin or value.origin
                if name == ANY_KIND:
                    self.check_any_kind(defaults)
                elif name not in self.kinds:
                    end = nearest(name, self.kinds, "kinds")
                    message = f"unknown kind '{name}' under 'defaults'{end}"
                    self.mistakes.append(place.mistake(message))
                elif (kind := self.kind(name, self.mistakes)) is not None:
                    self.check_part(f"defaults.{name}", value, kind)

    def check_part(self, label: str, value: Value, kind: StageKind) -> None:
        """Check what `defaults` say of a kind; nothing is missing in it."""
        self.models(label, value, kind, is_partial=True)
        inputs = value.get("inputs")
        for name, given in inputs.entries().items() if inputs else ():
            if name not in kind.inputs:
                self.mistakes.append(unknown_input(name, given, kind, label))

    def check_any_kind(self, defaults: Defaults) -> None:
        """Check the fields of `"*"` with the kinds that have them, and report those of none."""
        value = defaults.value.get(ANY_KIND)
        sections = value.entries() if value else {}
        fields = {(name, each) for name, part in sections.items() for each in part.entries()}
        known: dict[str, set[str]] = {name: set() for name in sections}
        for name in sorted(self.kinds, key=lambda name: name not in self.used):
            if name not in self.used and all(field in known[part] for part, field in fields):
                break  # no need to load the kinds that no stage has
            if (kind := self.kind(name, [])) is None:
                continue
            for part, own in fields_of(kind).items():
                known.setdefault(part, set()).update(own)
            if (fitting := defaults.fitting(name)) is not None:
                self.check_part(f"defaults.{ANY_KIND}", fitting, kind)
        for part, field in sorted(fields):
            if part in SECTIONS and field not in known[part]:
                item = sections[part].entries()[field]
                end = nearest(field, known[part], "fields")
                message = f"no kind has '{field}' in its {part}, as defaults.\"*\" says{end}"
                self.mistakes.append((item.key_origin or item.origin).mistake(message))

    def stages(
        self, resolved: Resolved, sources: Mapping[str, SourceNode], is_partial: bool
    ) -> dict[str, StageNode]:
        """Return the stages in topological order."""
        tree = resolved.tree
        section = tree.get("stages")
        values = section.entries() if section else {}
        if not values:
            origin = (section or tree).origin
            self.mistakes.append(origin.mistake("there are no stages; add some under 'stages:'"))
        for name in sources.keys() & values.keys():
            origin = values[name].key_origin or values[name].origin
            self.mistakes.append(origin.mistake(f"'{name}' is a source too; rename one of the two"))
        kinds = {name: self.kind_of(value, self.mistakes) for name, value in values.items()}
        self.used |= {kind.kind for kind in kinds.values() if kind}
        inputs = self.inputs(resolved, kinds, sources, is_partial)
        nodes = {
            name: self.stage(name, values[name], kind, inputs[name], is_partial)
            for name, kind in kinds.items()
            if kind is not None
        }
        order = topological_order(inputs)
        if order.cycle:
            origin = _origin_of_edge(values[order.cycle[0]], order.cycle[1])
            path = " -> ".join(order.cycle)
            text = f"each stage of this cycle needs the next one: {path}"
            self.mistakes.append(origin.mistake(text))
        return {name: node for name in order.names if (node := nodes.get(name)) is not None}

    def inputs(
        self,
        resolved: Resolved,
        kinds: Mapping[str, StageKind | None],
        sources: Mapping[str, SourceNode],
        is_partial: bool,
    ) -> dict[str, Inputs]:
        """Return the inputs of all stages whose kind is known."""
        tree = resolved.tree
        declared = tree.get("sources")
        outputs = Outputs(
            stages=kinds,
            sources={name: source.type for name, source in sources.items()},
            malformed=frozenset(declared.entries() if declared else ()) - sources.keys(),
            groups=resolved.groups,
        )
        found: dict[str, Inputs] = {}
        for name, kind in kinds.items():
            stage = tree.get("stages", name)
            if kind is not None and stage is not None:
                label = f"stages.{name}"
                found[name] = read_inputs(stage, kind, label, outputs, self.mistakes, is_partial)
        return found

    def stage(
        self, name: str, value: Value, kind: StageKind, inputs: Inputs, is_partial: bool
    ) -> StageNode | None:
        """Return one stage, or None if its parameters are wrong."""
        if id(value) not in self.checked:
            models = self.models(f"stages.{name}", value, kind, is_partial)
            if models[0] is not None and models[1] is not None and not is_partial:
                self.check_together(f"stages.{name}", value, models[0], models[1])
                self.check_labels(f"stages.{name}", value, models[0], inputs)
            self.checked[id(value)] = value, models
        params, run = self.checked[id(value)][1]
        if params is None or run is None:
            return None
        origins = {} if is_partial else {path: item.origin for path, item in value.walk()}
        return StageNode(name, kind, inputs, params, run, origins, active().used_by(params))

    def models(self, label: str, value: Value, kind: StageKind, is_partial: bool) -> Models:
        """Return a stage's parameters and run settings as its kind's models."""

        def hint(path: Sequence[str]) -> str | None:
            home = _home(kind, path[0]) if len(path) == 1 else None
            return home or here(kind, path[-1])

        def model(section: str, base: type[StageModel]) -> StageModel | None:
            part = value.get(section) or Value({}, value.origin, value.key_origin)
            if not isinstance(part.data, dict):
                return None  # reported by the schema
            return validate(base, part, f"{label}.{section}", self.mistakes, hint, is_partial)

        return model("params", kind.params), model("run", kind.run_model)

    def check_together(self, label: str, value: Value, params: StageModel, run: StageModel) -> None:
        """Report parameters and run settings that do not go together, as `run` itself says."""
        check = getattr(run, "incompatible_with", None)
        said: str | None = None if check is None else check(params)
        if said is not None:
            origin = (value.get("run") or value).origin
            self.mistakes.append(origin.mistake(f"{label}: {said}"))

    def check_labels(self, label: str, value: Value, params: StageModel, inputs: Inputs) -> None:
        """Report labels of inputs that the parameters name and that are not there."""
        labels_of = getattr(params, "named_labels", None)
        named: Mapping[str, Sequence[str]] = {} if labels_of is None else labels_of()
        for name, labels in named.items():
            given = inputs.get(name)
            if given is None or isinstance(given, Ref):
                continue
            missing = [each for each in labels if each not in given]
            if not missing:
                continue
            section = value.get("params") or value
            places = [item.origin for _, item in section.walk() if item.data in missing]
            text = (
                f"{label}.params names {', '.join(missing)}, but inputs.{name} has only"
                f" {', '.join(given)}; name no others in the params"
            )
            self.mistakes.append((places or [section.origin])[0].mistake(text))


def _home(kind: StageKind, name: str) -> str | None:
    """Say which section of a stage takes a name, or None."""
    sections = {
        "params": kind.params.model_fields,
        "run": kind.run_model.model_fields,
        "inputs": kind.inputs,
    }
    homes = [section for section, names in sections.items() if name in names]
    return f"; it belongs under '{homes[0]}'" if homes else None


def _read_sources(tree: Value) -> dict[str, SourceNode]:
    """Return the well-formed sources; the others have been reported by the schema."""
    nodes = {}
    section = tree.get("sources")
    for name, value in (section.entries() if section else {}).items():
        spec = validate(SourceSpec, value, f"sources.{name}", [])
        if spec is None:
            continue
        origin = value.key_origin or value.origin
        path = None if spec.path is None else _source_path(spec.path, value.get("path"))
        nodes[name] = SourceNode(
            name,
            path,
            spec.hf,
            spec.revision,
            spec.as_,
            origin,
            spec.size,
            config=spec.config,
            split=spec.split,
            licence=spec.licence,
        )
    return nodes


def _source_path(text: str, value: Value | None) -> Path:
    """Return a source's path: relative to the file that says so, or here for an override."""
    path = Path(text).expanduser()
    is_override = value is None or value.origin.set_text is not None
    return path if is_override or value is None else path_in(Path(value.origin.file), path)


def _origin_of_edge(stage: Value, upstream: str) -> Origin:
    """Return where a stage names another one as its input."""
    for path, value in stage.walk():
        is_name = isinstance(value.data, str) and value.data.partition(".")[0] == upstream
        if path.startswith("inputs.") and is_name:
            return value.origin
    raise AssertionError(f"no input reads {upstream}")
