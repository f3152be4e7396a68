"""The command that writes a report for a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    ManifestArgument,
    ProfileOption,
    SetOption,
    StoreOption,
    command_group,
    load,
)
from r1pipe.cli.printing import complain, say

app = command_group()


@app.command()
def report(
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The page, one HTML file.")
    ] = Path("report.html"),
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Completions of each evaluation on the page.")
    ] = 1_000,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve it on this machine while a run goes.")
    ] = False,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
) -> None:
    """Write a report: graph, scores, curves, candidates, samples, provenance, in one file."""
    from r1pipe.report.document import make_report
    from r1pipe.report.page import render
    from r1pipe.store.disk import place_errors, place_text

    project = load(manifest, profile, overrides, store)
    loaded, opened = project.manifest, project.opened
    if watch:
        from r1pipe.report.serving import serve
        from r1pipe.store.store import Store

        def announce(address: str) -> None:
            complain(f"{address}   (Ctrl-C ends it)")
            webbrowser.open(address)

        def page() -> str:
            now = Store(opened.root)  # a store that is open tells what it held when it was read
            return render(make_report(loaded, now, samples), is_watched=True)

        serve(page, announce)
        return
    made = render(make_report(loaded, opened, samples))
    with place_errors(output):
        place_text(output, made)
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB; open it in a browser")
