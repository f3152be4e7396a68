"""Run llama.cpp's converter on a tokenizer whose pre-tokenizer it does not know: `SCRIPT NAME ...`.

The converter knows a pre-tokenizer by the digest of the tokens that one text gives, hence of the
models in its list only; it has no option for the name. So its method is replaced by one that says
the name. This file runs in a process of its own, with nothing of r1pipe.
"""

import sys
from importlib import import_module
from pathlib import Path

METHOD = "get_vocab_base_pre"


def main() -> None:
    """Import the script, give the name to each class that asks for it, and run it."""
    script, name = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [str(script), *sys.argv[3:]]
    sys.path.insert(0, str(script.parent))
    converter = import_module(script.stem)
    kinds = [getattr(converter, kind, None) for kind in ("ModelBase", "TextModel", "Model")]
    asking = [kind for kind in _below(kinds) if METHOD in vars(kind)]
    if not asking:
        sys.exit(f"{script}: has no {METHOD}, where the pre-tokenizer's name would be given")
    for kind in asking:
        setattr(kind, METHOD, lambda model, tokenizer: name)
    converter.main()


def _below(kinds: list[type | None]) -> list[type]:
    """Return classes and those made from them."""
    found = [kind for kind in kinds if kind is not None]
    for kind in found:  # which grows
        found.extend(set(kind.__subclasses__()) - {*found})
    return found


if __name__ == "__main__":
    main()
