"""Render chat templates of strangers, in a process that can be killed and has little memory.

A template is a program: its sandbox keeps it from the system, but not from looping, from numbers
without end, or from filling the memory. `r1pipe.models.templates` starts this, asks by JSON lines,
and kills it where a template takes too long.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys

MEMORY_BYTES = 1 << 30
MAX_CHARS = 64 << 20
MAX_ERROR_CHARS = 300
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer each line of stdin, the arguments of `render_jinja_template`, with a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints does not answer
    for line in sys.stdin:
        reply: dict[str, str] = {}
        try:
            texts, _ = render_jinja_template(**json.loads(line))
            if len(texts[0]) > MAX_CHARS:
                raise MemoryError
            reply["text"] = texts[0]
            said = json.dumps(reply)
        except MemoryError:
            said = json.dumps({"limit": "more memory than it may have"})
        except (Exception, RecursionError) as error:  # noqa: BLE001 - a template's own fault
            said = json.dumps({"error": str(error)[:MAX_ERROR_CHARS] or type(error).__name__})
        print(said, file=replies, flush=True)


if __name__ == "__main__":
    main()
