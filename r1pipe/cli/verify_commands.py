"""Commands on the verifier: verify, audit."""

import json
from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import JsonOption, command_group, print_json

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
) -> None:
    """Verify one answer, or a file of cases; JSON on stdout.

    A row that is no case has `error` in its result, and the next one follows; the exit code is 1.
    """
    from r1pipe.errors import StageError
    from r1pipe.verify import cases

    if file is None:
        if gold is None or answer is None:
            raise typer.BadParameter("give GOLD and ANSWER, or --file CASES.jsonl")
        print_json(cases.verification_row(cases.verify_answer(gold, answer)))
        return
    num_rows = num_faults = 0
    first = ""
    for row in cases.verify_file(file, jobs=jobs):
        print(json.dumps(row, ensure_ascii=False))
        num_rows += 1
        if "error" in row:
            num_faults += 1
            first = first or str(row["error"])
    if num_faults:
        raise StageError(f"{num_faults} of {num_rows} rows are no cases; the first: {first}")


@app.command()
def audit(jobs: JobsOption = 0, as_json: JsonOption = False) -> None:
    """Verify the shipped corpus by r1pipe and by plain math-verify; print error rates."""
    from r1pipe.verify.audit import audit as run_audit
    from r1pipe.verify.audit import audit_lines

    report = run_audit(jobs=jobs)
    if as_json:
        print_json(report)
    else:
        print("\n".join(audit_lines(report)))
