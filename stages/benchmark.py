"""Run tasks of lm-evaluation-harness on a model, in an environment of its own.

Paper: arXiv:2501.12948, section 3 (MMLU, GPQA, IFEval and the like; the harness has most of them).

In: `model`; optionally `tasks`, a folder of task files (YAML) of your own, in which the harness
runs. Out: `report` (harness.json: scores with standard errors, for the scoreboard).

The harness is https://github.com/EleutherAI/lm-evaluation-harness, PyPI `lm-eval`. Each task is a
process, and one that was finished is not run again. It reads data sets from the cache of Hugging
Face; their revisions are in no key, so `harness_version` alone says which task it was.

Run it with `r1pipe stage NAME`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from r1pipe.settings import ModelParams
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"model": Input("model"), "tasks": Input("dataset", optional=True)}
OUTPUTS = {"report": "report"}


class Params(ModelParams):
    """What decides the scores."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks or groups, as `lm-eval ls tasks` has them."""
    harness_version: str
    """Of lm-eval, such as 0.4.13; another one that is found is refused."""
    seed: int = 0
    """Of the harness: the choice of shots, and sampling."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; default: the task's own number."""
    limit: int | None = Field(default=None, gt=0)
    """First questions of each task; default: all."""
    apply_chat_template: bool = False
    """Whether questions go through the model's chat template."""
    generation: dict[str, bool | int | float] = Field(default_factory=dict)
    """Of tasks that generate, over their own: max_gen_toks, temperature, do_sample, ..."""

    @model_validator(mode="after")
    def _names_each_task_once(self) -> Params:
        for name in self.tasks:
            if not name or name != name.strip() or set(name) & set(", \n") or name[0] == "-":
                raise ValueError(f"tasks: {name!r} is no name of a task; give one in each item")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks: a task comes twice; name each once")
        return self


class Run(StageModel):
    """How it is computed."""

    python: str | None = None
    """Interpreter of the environment that has lm-eval: /path/to/venv/bin/python."""
    command: tuple[str, ...] = Field(default=("lm_eval",), min_length=1)
    """In place of `python`: what starts the harness, such as [uvx, --from, "lm-eval[hf]", lm_eval].
    """
    device: str = "cpu"
    """Device of the model: `cpu`, `cuda`, `cuda:1`."""
    batch_size: int | str = "auto"
    """Questions at once: a number, `auto`, or `auto:4`."""
    offline: bool = True
    """Whether the harness may use only what is on this machine."""

    def incompatible_with(self, params: Params) -> str | None:
        """Say what to set if both an interpreter and a command are given."""
        if self.python is not None and self.command != ("lm_eval",):
            return "run.python and run.command both say how lm-eval is started; leave one out"
        return None


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Run every task, one after the other, and write what was found."""
    from r1pipe.evaluation.harness import HARNESS_FILE
    from r1pipe.evaluation.harness_process import check_version, command_of

    if run.python is not None:
        check_version(command_of(run.python, ())[0], params.harness_version, context.name)
    journal = context.journal("tasks")
    done = journal.done()
    for number, task in enumerate(params.tasks):
        if str(number) in done:
            continue
        found = _run_task(context, params, run, inputs, task)
        journal.append(str(number), [{"tasks": found}])
        context.log(number + 1, len(params.tasks))
        context.stop_if_asked()
    tasks = {name: each for row in journal.rows() for name, each in row["tasks"].items()}
    report = {"harness": "lm-eval", "version": params.harness_version, "tasks": tasks}
    text = json.dumps(report, indent=1, sort_keys=True)
    (context.output("report") / HARNESS_FILE).write_text(text + "\n")
    shown = {name: each["scores"] for name, each in tasks.items() if each["is_shown"]}
    context.note(
        **{
            f"{name} {metric}": score["value"]
            for name, scores in shown.items()
            for metric, score in scores.items()
        }
    )


def _run_task(
    context: Context, params: Params, run: Run, inputs: Inputs, task: str
) -> Mapping[str, object]:
    """Run one task in a folder of its own and return its results, and those of its parts."""
    from r1pipe.evaluation import harness_process as process
    from r1pipe.evaluation.harness import read_results

    command = process.command_of(run.python, run.command)
    own_tasks = inputs.path("tasks") if "tasks" in inputs else None
    with tempfile.TemporaryDirectory(prefix="r1pipe-lm-eval-") as folder:
        work = Path(folder)
        process.prepared(work, inputs.path("model"), own_tasks)
        process.run_task(
            command,
            _arguments(params, run, task, has_tasks=own_tasks is not None),
            work,
            is_offline=run.offline,
            stop=context.stop_if_asked,
            explain=process.explained(context.name, task, command, params.harness_version),
        )
        found = read_results(work / "out", task)
    process.check_found(found["version"], params.harness_version, context.name)
    tasks: Mapping[str, object] = found["tasks"]
    return tasks


def _arguments(params: Params, run: Run, task: str, *, has_tasks: bool) -> list[str]:
    from r1pipe.evaluation.harness_process import model_arguments, options

    return options(
        {
            "model": "hf",
            "model_args": model_arguments(params.precision),
            "tasks": task,
            "output_path": "../out",
            "device": run.device,
            "batch_size": run.batch_size,
            "seed": params.seed,
            "num_fewshot": params.num_fewshot,
            "limit": params.limit,
            "apply_chat_template": params.apply_chat_template,
            "gen_kwargs": ",".join(f"{n}={v}" for n, v in sorted(params.generation.items()))
            or None,
            "include_path": "." if has_tasks else None,
        }
    )


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: tasks of the harness have sizes that nobody here knows."""
    from r1pipe.costs.work import Cost, Info, Range

    seconds = Range(10, 6 * 3600) * len(params.tasks)
    weights = inputs["model"].num_parameters * (2 if params.precision == "bfloat16" else 4)
    held = Range(weights, 2 * weights + (3 << 30))
    assumes = ("10 s to 6 h for each task of the harness",)
    return Cost({"report": Info()}, other_s=seconds, held_bytes=held, assumes=assumes)
