"""Take a model from outside into the store, as a base for the larger profiles.

Paper: arXiv:2501.12948, sections 2.2 and 2.4 (DeepSeek-V3-Base; Qwen2.5 and Llama-3 students).

In: `source`, a model directory or a pinned hub model. Out: `model`.

The tokenizer gets the recipe's chat template and tags, so that the formats are those of the other
profiles; the tags' embeddings start at the mean of the table. Weights become float32.

Run it with `r1pipe stage base --profile gpu`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.models.interfaces import LanguageModel, Tokenizer

VERSION = 1
INPUTS = {"source": Input("model")}
OUTPUTS = {"model": "model"}


class Params(StageModel):
    """Parameters that decide the model."""

    add_tags: bool = True
    """Make the recipe's tags whole tokens and install its chat template."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Load, adapt the tokenizer, save as safetensors."""
    from r1pipe.models.policy import load_model, load_tokenizer, save_model

    try:
        model, tokenizer = load_model(inputs.path("source")), load_tokenizer(inputs.path("source"))
    except (OSError, ValueError) as error:
        raise StageError(
            f"{context.name}: {inputs.path('source')} is not a model: {error}"
        ) from error
    if params.add_tags:
        _add_tags(model, tokenizer)
    save_model(model, tokenizer, context.output("model"))
    context.note(num_parameters=sum(p.numel() for p in model.parameters()))


def _add_tags(model: LanguageModel, tokenizer: Tokenizer) -> None:
    from r1pipe import chat
    from r1pipe.models.tokenizer import TAGS

    num_known = len(tokenizer)
    tokenizer.add_special_tokens(
        {
            "eos_token": chat.END,
            "pad_token": chat.PAD,
            "additional_special_tokens": [chat.USER, chat.ASSISTANT],
        }
    )
    tokenizer.add_tokens(list(TAGS))
    tokenizer.chat_template = chat.CHAT_TEMPLATE
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # its own mean draws from torch's global generator: another result in another process
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = table.weight.data
        rows[num_known : len(tokenizer)] = rows[:num_known].mean(dim=0)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: the model is read, held in float32 and written."""
    from r1pipe.costs.work import Cost, Range

    model = inputs["source"]
    size = Range(4.0 * model.num_parameters)
    return Cost({"model": model}, other_s=size * Range(1e-9, 2e-8), held_bytes=size * Range(1, 2))
