"""Take a model from outside into the store, as a base for the larger profiles.

Paper: arXiv:2501.12948, sections 2.2 and 2.4 (DeepSeek-V3-Base; Qwen2.5 and Llama-3 students).

In: `source`, a model directory or a pinned hub model. Out: `model`.

By default all stays as it is: weights in their dtype, special tokens, the model's own chat
template; the recipe's tags are text, in tokens that the model knows. `tags: own` makes them whole
tokens and installs the recipe's template.

Run it with `r1pipe stage base --profile gpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 2
INPUTS = {"source": Input("model")}
OUTPUTS = {"model": "model"}


class Params(StageModel):
    """Parameters that decide the model."""

    tags: Literal["text", "own"] = "text"
    """`text` keeps the model's tokens and chat template; `own` makes the recipe's tags whole
    tokens, which start from the tokens of their text, and installs its template."""
    dtype: Literal["keep", "float32", "bfloat16"] = "keep"
    """Of the weights that are written; training computes as its own `precision` says."""
    add_tags: bool | None = None
    """The former name: true is `tags: own`, false is `tags: text`."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Params:
        is_other = self.add_tags is not None and self.add_tags != (self.tags == "own")
        if is_other and "tags" in self.model_fields_set:
            raise ValueError(f"tags {self.tags} and add_tags {self.add_tags} disagree; keep tags")
        return self

    @property
    def are_tags_whole(self) -> bool:
        """Whether the recipe's tags become whole tokens."""
        return self.tags == "own" or bool(self.add_tags)


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Load, adapt the tokenizer if that is asked for, save as safetensors."""
    from r1pipe.models.folders import model_found
    from r1pipe.models.foreign import load_foreign, make_tags_whole
    from r1pipe.models.policy import save_model
    from r1pipe.models.prompts import opened_thought

    model_found(inputs.path("source"))  # says in one line what transformers says in many
    found = load_foreign(inputs.path("source"), params.dtype)
    model, tokenizer = found.model, found.tokenizer
    own = "the model's own" if tokenizer.chat_template else "none: only r1-zero can prompt it"
    new = make_tags_whole(model, tokenizer) if params.are_tags_whole else []
    save_model(model, tokenizer, context.output("model"))
    context.note(
        num_parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        chat_template="r1pipe's" if params.are_tags_whole else own,
        new_tokens=new,
        opened_thought=opened_thought(tokenizer, "chat") if tokenizer.chat_template else "",
    )
    if found.sampling:
        context.note(sampling_settings_left_out=found.sampling)
    if found.dropped_ends:
        context.note(end_ids_outside_the_vocabulary=found.dropped_ends)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the folder holds, by names and headers."""
    from r1pipe.models.folders import model_found

    return {"source": model_found(inputs.path("source"))}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: the model is read, held and written in its dtype."""
    from dataclasses import replace

    from r1pipe.costs.work import Cost, Range

    model = inputs["source"]
    if params.are_tags_whole:
        model = replace(model, tokenizer=None)  # it has four tokens more
    size = Range(2.0, 4.0) * float(model.num_parameters)
    return Cost({"model": model}, other_s=size * Range(1e-9, 2e-8), held_bytes=size * Range(1, 2))
