"""`python -m r1pipe.cli` is the command line, too."""

from r1pipe.cli.main import command

if __name__ == "__main__":
    command()
