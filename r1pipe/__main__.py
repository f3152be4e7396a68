"""`python -m r1pipe` is the command line, too."""

from r1pipe.cli.main import command

command()
