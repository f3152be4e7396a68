"""Commands on a store elsewhere: store push, store pull."""

from dataclasses import asdict
from typing import Annotated

import typer

from r1pipe.cli.options import JsonOption, StoreOption, command_group, open_store, print_json
from r1pipe.cli.printing import complain, say
from r1pipe.text import format_bytes

app = command_group()
group = typer.Typer(
    rich_markup_mode=None, help="Push artifacts to a store elsewhere, or pull them."
)
app.add_typer(group, name="store")

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="file:///mnt/store, s3://bucket/store, hf://datasets/OWNER/NAME, ...",
        show_default=False,
    ),
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Stages, stage@7f3a or ids; all without one.", show_default=False),
]


@group.command("push")
def store_push(
    url: UrlArgument,
    names: NamesArgument = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Push artifacts: only files that are not there go over."""
    from r1pipe.sharing.exchange import push
    from r1pipe.sharing.remote import open_remote

    opened = open_store(store)
    records = (
        [opened.resolve(name) for name in names]
        if names
        else [record for record in opened.records() if opened.has_artifact(record)]
    )
    _told(asdict(push(opened, open_remote(url), records, complain)), "pushed", as_json)


@group.command("pull")
def store_pull(
    url: UrlArgument,
    names: NamesArgument = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pull artifacts, every byte verified: only those that are not here come over."""
    from r1pipe.sharing.exchange import pull
    from r1pipe.sharing.remote import open_remote

    found = pull(open_store(store), open_remote(url), names or (), complain)
    _told(asdict(found), "pulled", as_json)


def _told(done: dict[str, int], what: str, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        say(
            f"{what} {_count(done['artifacts'], 'artifact')}: {_count(done['files'], 'file')},"
            f" {format_bytes(done['bytes'])}; already there: {done['there']}"
        )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
