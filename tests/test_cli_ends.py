"""How the command line begins and ends: its help, a stop, a question that is answered no."""

from __future__ import annotations

import pytest
import typer
from command import Run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
        (typer.Abort(), 1, "not confirmed; nothing was done\n"),
    ],
)
def test_a_stop_and_a_no_end_with_a_line(
    r1pipe: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("r1pipe.api.project.load", stop)
    assert r1pipe("plan", "manifests/r1.yaml") == (code, "", said)


@pytest.mark.parametrize("width", ["60", "80"])
def test_help_has_the_first_sentence_of_every_command_whole(
    r1pipe: Run, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    out = r1pipe("--help")[1]
    assert "..." not in out.split("Commands:")[1]
    assert max(map(len, out.splitlines())) <= int(width)
    text = " ".join(out.split())
    assert "stage Run one stage; its inputs are taken from the store. ablate" in text
    assert (
        "init Begin a project: folders, and a manifest for a model and data of your own. plan"
        in text
    )
