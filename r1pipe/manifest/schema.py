"""The shape of a manifest, as models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from r1pipe.keys import JsonObject
from r1pipe.manifest.names import NAME_PATTERN, path_fault
from r1pipe.stage import StageModel

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A stage, source, profile or label: letters, digits, `-` and `_`, since `.` divides references."""
_COUNT = r"[0-9]+(\.[0-9]+)?[BM]"  # not \d: pydantic compiles a class of all of Unicode slowly


class SourceSpec(StageModel):
    """Something from outside the store: a local file or folder, or a hub repository."""

    path: str | None = None
    """A file or folder, relative to the folder of the file that says so."""
    hf: str | None = None
    """A repository on the Hugging Face hub, as `owner/name`."""
    revision: str | None = None
    """The hub commit (40 hex digits), branch or tag."""
    config: str | None = None
    """Of a data set that has several: the one whose files are meant."""
    split: str | None = None
    """Of a data set that has several: train, validation, test, or as its files are called."""
    as_: Annotated[str, Field(alias="as")]
    """The type of artifact that the source stands for: model, problems, rows, dataset, text, ..."""
    size: str | None = Field(default=None, pattern=rf"^{_COUNT}(-A{_COUNT})?$")
    """Parameters of a model, stored and (with experts) active, such as `1.5B` or `671B-A37B`: what
    `plan` takes if the model is not there yet. It decides nothing."""

    licence: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.+-]{1,60}$")
    """Its licence as an SPDX name, for the cards of `r1pipe push`. It decides nothing."""

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str | None) -> str | None:
        if path is not None and (fault := path_fault(path)) is not None:
            raise ValueError(fault)
        return path

    @model_validator(mode="after")
    def _is_one_place(self) -> SourceSpec:
        if (self.path is None) == (self.hf is None):
            raise ValueError("give either 'path' or 'hf'")
        if self.hf is None and self.revision is not None:
            raise ValueError("'revision' goes with 'hf', not with 'path'")
        if self.hf is not None and self.revision is None:
            raise ValueError("'hf' needs a 'revision': a commit, a branch or a tag")
        if self.hf is not None and self.as_ == "text":
            raise ValueError("a text is one file; give its 'path'")
        if self.as_ in ("model", "text") and (self.config or self.split) is not None:
            raise ValueError("'config' and 'split' go with rows, problems and datasets")
        return self


class StageSpec(StageModel):
    """One stage: which kind, from what, with what parameters."""

    kind: str
    """The stage file, by name: `rejection-sample` is `stages/rejection_sample.py`."""
    inputs: dict[Name, str | dict[Name, str]] = Field(default_factory=dict)
    """Input name -> `stage`, `stage.output` or a source; if many go in, `{label: reference}`, or
    `NAME.*.output` for all entries of a stage with `each`."""
    params: JsonObject = Field(default_factory=dict)
    """Parameters that decide the result: always in the key."""
    run: JsonObject = Field(default_factory=dict)
    """How it is computed: never in the key."""


class DefaultsSpec(StageModel):
    """What every stage of a kind has in a layer, below what the layer says of the stage itself."""

    inputs: dict[Name, str | dict[Name, str | None] | None] = Field(default_factory=dict)
    params: JsonObject = Field(default_factory=dict)
    run: JsonObject = Field(default_factory=dict)


class LayerSpec(StageModel):
    """Values laid over those of the manifest."""

    defaults: dict[str, DefaultsSpec] = Field(default_factory=dict)
    """By kind of stage; `"*"` is every kind that has the field."""
    params: JsonObject = Field(default_factory=dict)
    sources: dict[str, JsonObject | None] = Field(default_factory=dict)
    stages: dict[str, JsonObject | None] = Field(default_factory=dict)


class ProfileSpec(LayerSpec):
    """Values laid over the manifest when the profile is chosen."""

    extends: str | None = None
    """Another profile, which is laid first."""
    targets: list[str] | None = None


class AblationsSpec(StageModel):
    """What `r1pipe ablate` leaves out of a chain in turn, and where it measures."""

    report: Name
    """The `evaluate` stage at the end of the chain."""
    without: dict[Name, LayerSpec]
    """Name of what is left out -> the values, over those of the profile, that leave it out."""


class ManifestSpec(StageModel):
    """A manifest."""

    r1pipe: int
    """The format of the manifest."""
    name: str
    """What `show` calls the run."""
    extends: str | None = None
    """A manifest beside this one, whose values lie below these."""
    profile: str | None = None
    """The profile that is used when none is asked for."""
    plugins: list[str] = Field(default_factory=list)
    """Python files with rewards, tasks and checkers, relative to the folder of this file."""
    params: JsonObject = Field(default_factory=dict)
    """Values that stages share, as `$params.name`."""
    defaults: dict[str, DefaultsSpec] = Field(default_factory=dict)
    """By kind of stage; `"*"` is every kind that has the field."""
    targets: list[str] | None = None
    """Wanted stages; those that they do not need are left out."""
    sources: dict[Name, SourceSpec] = Field(default_factory=dict)
    stages: dict[Name, StageSpec] = Field(default_factory=dict)
    profiles: dict[Name, ProfileSpec] = Field(default_factory=dict)
    ablations: AblationsSpec | None = None
    """What `r1pipe ablate` leaves out in turn."""
