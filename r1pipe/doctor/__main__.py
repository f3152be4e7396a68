"""`python -m r1pipe.doctor`: works even if the command line cannot start."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from r1pipe.doctor.diagnosis import diagnose
from r1pipe.text import visible


def main(arguments: list[str] | None = None) -> int:
    """Print the diagnosis; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m r1pipe.doctor", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--online", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = diagnose(options.store, is_online=options.online, is_quick=options.quick)
    lines = map(visible, found.lines())
    print(json.dumps(found.to_json(), indent=2) if options.json else "\n".join(lines))
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
