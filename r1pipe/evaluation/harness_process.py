"""lm-evaluation-harness as a process of its own: its command line, its end, what went wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from r1pipe.errors import StageError
from r1pipe.text import visible

POLL_S = 0.2
TAIL_BYTES = 64 << 10
TAIL_LINES = 12
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""What would lead another environment's Python to our packages."""
Explain = Callable[[str, str], StageError]
"""(`missing` or `failed`, the end of stderr) -> the error to raise."""
_NO_NETWORK = ("OfflineMode", "ConnectionError", "LocalEntryNotFound", "Couldn't reach", "offline")


def command_of(python: str | None, command: Sequence[str]) -> list[str]:
    """Return what starts the harness; paths are those of the folder in which we are."""
    first, *others = [python, "-m", "lm_eval"] if python is not None else command
    if os.sep in first or first.startswith("~"):
        first = str(Path(first).expanduser().absolute())  # a link to an interpreter stays one
    return [first, *others]


def check_version(python: str, version: str, stage: str) -> None:
    """Raise StageError unless an interpreter has lm-eval of a version."""
    code = "import importlib.metadata as m; print(m.version('lm_eval'))"
    command = [python, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, env=_environment(True), check=False)
    except OSError as error:
        raise _missing(python, version, stage, str(error)) from None
    found = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise _missing(python, version, stage, "it has no lm_eval")
    check_found(found, version, stage)


def check_found(found: str | None, version: str, stage: str) -> None:
    """Raise StageError if the harness is of another version than the parameters say."""
    if found != version:
        shown = visible(str(found))
        raise StageError(
            f"{stage}: the harness is lm-eval {shown}, and params.harness_version says {version};"
            f" set params.harness_version: {shown}, or install lm-eval=={version}"
        )


def prepared(work: Path, model: Path, tasks: Path | None) -> None:
    """Lay out the folder in which the harness runs: the model by a link, own tasks as a copy.

    Copies have times of their own, so the harness's cache of data sets cannot mistake a changed
    file for an old one.
    """
    from r1pipe.models.stored_adapters import is_apart, write_merged

    if is_apart(model):  # the harness's environment may have no peft, and would take the base
        (work / "model").mkdir()
        write_merged(model, work / "model")
    else:
        (work / "model").symlink_to(model.resolve(), target_is_directory=True)
    if tasks is None:
        (work / "tasks").mkdir()
    else:
        shutil.copytree(tasks, work / "tasks", copy_function=shutil.copyfile)


def run_task(
    command: Sequence[str],
    arguments: Sequence[str],
    work: Path,
    *,
    is_offline: bool,
    stop: Callable[[], None],
    explain: Explain,
) -> None:
    """Run the harness to its end; `stop` is called while it runs and may raise.

    Raises what `explain` makes of the reason and the end of its stderr, if it fails.
    """
    errors = work / "stderr.txt"
    with errors.open("wb") as stderr, (work / "stdout.txt").open("wb") as stdout:
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=work / "tasks",
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=_environment(is_offline),
                start_new_session=True,
            )
        except OSError as error:
            raise explain("missing", str(error)) from None
        try:
            while (code := _ended(process)) is None:
                stop()
        finally:
            _kill(process)
    if code:
        raise explain("failed", _tail(errors))


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=POLL_S)
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(is_offline: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    return kept | (offline if is_offline else {})


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def explained(stage: str, task: str, command: Sequence[str], version: str) -> Explain:
    """Return what makes an error of a failure of one task."""

    def explain(reason: str, text: str) -> StageError:
        if reason == "missing" or "No module named lm_eval" in text:
            return _missing(command[0], version, stage, text.strip().split("\n")[-1])
        if "Tasks not found" in text:
            shown = visible(" ".join([*command, "ls", "tasks"]))
            return StageError(
                f"{stage}: lm-eval {version} knows no task {task!r}; '{shown}' lists them, and one"
                " of your own is a YAML file in the folder of inputs.tasks"
            )
        hint = ""
        if any(word in text for word in _NO_NETWORK):
            hint = "; its data set may not be on this machine: run.offline: false lets it download"
        lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
        end = "\n".join(f"  {visible(line)}" for line in lines[-TAIL_LINES:])
        return StageError(f"{stage}: lm-eval failed at task {task!r}{hint}; its last words:\n{end}")

    return explain


def _missing(program: str, version: str, stage: str, reason: str) -> StageError:
    return StageError(
        f"{stage}: lm-eval cannot be started with {visible(program)!r} ({visible(reason[:200])});"
        " make an environment of its own, pip install"
        f" 'lm-eval[hf]=={version}' there, and give its interpreter as run.python"
    )


def model_arguments(precision: str) -> str:
    """Return the harness's --model_args for the model of `prepared`."""
    return f"pretrained=../model,dtype={precision}"


def options(values: Mapping[str, object]) -> list[str]:
    """Return options of the command line; those that are None are left out, True has no value."""
    given: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            given += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return given
