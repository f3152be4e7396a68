"""A candidate writer in its own process, reached by two pipes; it ends when the stage's does.

To the child: a line of JSON with the settings, then for each unit `{"unit": problems}`, any number
of `{"samples": [...]}` as they finish, and `{"end": true}`, or `{"abandon": true}` if sampling
failed; or `{"replay": problems, "bytes": n}` and n bytes of a journal's lines; at last
`{"finish": true}`. From the child: for each unit a line of JSON and the bytes of its rows.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

from pydantic_core import from_json

import r1pipe
from r1pipe.candidates.candidate import Sample
from r1pipe.errors import R1PipeError, StageError
from r1pipe.keys import JsonObject
from r1pipe.records import FinishReason, Problem, json_lines
from r1pipe.rejection.writer import CandidateWriter, ProblemResult, UnitResult, WriterSettings

Message: TypeAlias = JsonObject
PIPE_BYTES = 1 << 20
"""What a pipe holds: about a unit, so that neither side waits for the other to read."""


class CandidateWriterProcess:
    """The caller's side. Units are written in the order in which they are begun."""

    def __init__(self, settings: WriterSettings) -> None:
        root = str(Path(r1pipe.__file__).parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "r1pipe.rejection.writer_process"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=PIPE_BYTES,
            start_new_session=True,
        )
        assert self._process.stdin is not None, "asked for above"
        assert self._process.stdout is not None, "asked for above"
        self._to_child, self._from_child = self._process.stdin, self._process.stdout
        self._replies: queue.SimpleQueue[tuple[Message, bytes]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="r1pipe-writer", daemon=True)
        self._reader.start()
        self._places: dict[str, int] = {}
        self._failure: Exception | None = None
        self._tell(settings.to_json())

    def begin(self, problems: Sequence[Problem]) -> None:
        """Begin a unit; its samples follow."""
        self._places = {problem.id: place for place, problem in enumerate(problems)}
        self._tell({"unit": [problem.to_row() for problem in problems]})

    def add(self, samples: Sequence[Sample]) -> None:
        """Hand over samples of the unit that was begun; they are verified at once."""
        places = self._places
        plain = [
            (places[s.problem.id], s.sample_index, s.seed, s.text, s.num_tokens, s.finish_reason)
            for s in samples
        ]
        self._tell({"samples": plain})

    def end(self) -> None:
        """End the unit that was begun; its result will follow."""
        self._tell({"end": True})

    def abandon(self) -> None:
        """Forget the unit that was begun; nothing follows."""
        self._tell({"abandon": True})

    def replay(self, problems: Sequence[Problem], payload: bytes) -> None:
        """Have a unit written from a journal's lines; its result will follow."""
        rows = [problem.to_row() for problem in problems]
        self._tell({"replay": rows, "bytes": len(payload)}, payload)

    def result(self) -> UnitResult:
        """Wait for the result of the oldest unit that has none yet."""
        value, payload = self._reply()
        problems = [ProblemResult(*problem) for problem in value["problems"]]
        return UnitResult(value["rows"], value["correct"], problems, payload)

    @property
    def has_result(self) -> bool:
        """Whether `result` would not wait."""
        return not self._replies.empty()

    def finish(self) -> dict[str, int]:
        """Close the shards; return counts of the candidates by outcome."""
        self._tell({"finish": True})
        counts: dict[str, int] = self._reply()[0]["counts"]
        self._to_child.close()
        self._process.wait()
        return counts

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._to_child, self._from_child):
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def _tell(self, message: Message, payload: bytes = b"") -> None:
        try:
            self._to_child.write(json_lines([message]) + payload)
            self._to_child.flush()
        except BrokenPipeError:
            while True:  # it said why before it ended
                self._reply()

    def _reply(self) -> tuple[Message, bytes]:
        if self._failure is None:
            value, payload = self._replies.get()
            if "error" in value:
                self._failure = StageError(value["error"])
            elif "bug" in value:
                text = f"in the process that verifies candidates:\n{value['bug']}"
                self._failure = RuntimeError(text)
            else:
                return value, payload
        raise self._failure

    def _read(self) -> None:
        """Take replies off the pipe as they come, so that the child never waits to be heard."""
        while line := self._from_child.readline():
            value = from_json(line)
            self._replies.put((value, self._from_child.read(value.get("bytes", 0))))
        text = "the process that verifies candidates ended early (killed, or out of memory)"
        self._replies.put(({"error": f"{text}; go on with --resume"}, b""))


class _AbandonedError(Exception):
    """The unit in progress is abandoned."""


def main() -> None:
    """Serve as the candidate writer of the parent process until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller to handle
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    try:
        _serve(sys.stdin.buffer, replies)
    except (EOFError, BrokenPipeError):
        return  # the caller is gone
    except R1PipeError as error:
        _answer(replies, {"error": str(error)})
    except Exception:  # noqa: BLE001 - the parent raises it
        _answer(replies, {"bug": traceback.format_exc()})


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    writer = CandidateWriter(WriterSettings.from_json(_next(requests)))
    while "finish" not in (message := _next(requests)):
        rows = message["replay"] if "replay" in message else message["unit"]
        problems = [Problem.from_row(row) for row in rows]
        if "replay" in message:
            result = writer.replay(problems, requests.read(message["bytes"]))
        else:
            try:
                result = writer.verify(problems, _samples(requests, problems))
            except _AbandonedError:
                continue
        value = {
            "rows": result.num_rows,
            "correct": result.num_correct,
            "problems": [[p.new_lengths, p.over_quota, p.num_tokens] for p in result.problems],
            "bytes": len(result.payload),
        }
        _answer(replies, value, result.payload)
    _answer(replies, {"counts": writer.finish()})


def _samples(requests: BinaryIO, problems: Sequence[Problem]) -> Iterator[Sample]:
    """Yield the samples of a unit as they arrive."""
    while "end" not in (message := _next(requests)):
        if "abandon" in message:
            raise _AbandonedError
        for place, sample_index, seed, text, num_tokens, reason in message["samples"]:
            finish_reason = FinishReason(reason)
            yield Sample(problems[place], sample_index, seed, text, num_tokens, finish_reason)


def _next(requests: BinaryIO) -> Message:
    line = requests.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message: Message = from_json(line)
    return message


def _answer(replies: BinaryIO, value: Message, payload: bytes = b"") -> None:
    replies.write(json_lines([value]) + payload)
    replies.flush()


if __name__ == "__main__":
    main()
