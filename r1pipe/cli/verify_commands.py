"""Commands on the verifier: verify, audit."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import JsonOption, command_group, print_json
from r1pipe.cli.printing import print_json_line, say_lines

app = command_group()

JobsOption = Annotated[
    int, typer.Option("--jobs", min=0, help="Workers for algebra; 0 means as few as will do.")
]


@app.command()
def verify(
    gold: Annotated[str | None, typer.Argument(help="The gold answer.")] = None,
    answer: Annotated[
        str | None, typer.Argument(help="The bare answer, or a whole completion.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file of cases: gold, completion, id, ...")
    ] = None,
    jobs: JobsOption = 0,
    sandbox: Annotated[
        str, typer.Option(help="full, or weak: run programs where layers of it are missing.")
    ] = "full",
) -> None:
    """Verify one answer, or a file of cases; JSON on stdout.

    A row that is no case has `error` in its result, and the next one follows; the exit code is 1.
    """
    from r1pipe.audit import cases
    from r1pipe.errors import StageError
    from r1pipe.sandbox.strength import using

    if file is None:
        if gold is None or answer is None:
            raise typer.BadParameter("give GOLD and ANSWER, or --file CASES.jsonl")
        print_json(cases.verification_row(cases.verify_answer(gold, answer)))
        return
    if sandbox not in ("full", "weak"):
        raise typer.BadParameter(f"--sandbox is full or weak, not {sandbox!r}")
    num_rows = num_faults = 0
    first = ""
    with using("weak" if sandbox == "weak" else "full"):
        for row in cases.verify_file(file, jobs=jobs):
            print_json_line(row)
            num_rows += 1
            if "error" in row:
                num_faults += 1
                first = first or str(row["error"])
    if num_faults:
        raise StageError(f"{num_faults} of {num_rows} rows are no cases; the first: {first}")


@app.command()
def audit(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Labelled pairs: gold, completion or answer, label, kind."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="gold=reference, label=is_correct, ...; may be repeated."),
    ] = None,
    show: Annotated[
        int, typer.Option("--show", min=0, help="How many disagreements to print.")
    ] = 20,
    jobs: JobsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Verify labelled pairs, or the shipped corpus, by r1pipe and by plain math-verify."""
    from r1pipe.audit.audit import audit as run_audit
    from r1pipe.audit.audit import audit_lines
    from r1pipe.audit.pairs import chosen_columns, corpus, labelled_pairs

    if file is None and column:
        raise typer.BadParameter("--column says where a file has its columns; give --file PAIRS")
    columns = chosen_columns(column or [])
    pairs = corpus if file is None else partial(labelled_pairs, file, columns)
    report = run_audit(pairs, jobs=jobs, show=show)
    if as_json:
        print_json(report)
    else:
        say_lines(audit_lines(report))
