"""Several vLLM engines side by side, each in a process of its own with its own GPUs.

One stream of requests feeds them all (`r1pipe.generate.scheduler`). If one dies while it samples,
the others take over. Parent and child speak lines of JSON:

    {"shape", "settings"}                     -> {"ready": completions sampled together}
    {"sampling"}, then {"request": [index, seed, ids]} for each
                                              -> {"sampled": [index, ids, logprobs, reason]}
    {"end"}, which gives up what is under way -> {"done"}
    {"load"}, then {"path"} for each file     -> {"taken"} for each, then {"done"}
    the end of the input                      -> the process ends
or {"failed": text} in place of an answer. New weights go through files in shared memory, a bounded
number of bytes at a time.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.scheduler import Answer, ManyEngines, Scheduler
from r1pipe.generate.vllm_engine import EngineShape
from r1pipe.generate.vllm_setup import kind_of_device, require_vllm
from r1pipe.generate.weights import weight_files
from r1pipe.keys import JsonObject
from r1pipe.records import FinishReason

if TYPE_CHECKING:
    from r1pipe.generate.vllm_backend import VllmSettings

CLOSE_TIMEOUT_S = 20.0
SHOWN_LINES = 12
RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Of the training job, if this is one of its processes; an engine would try to join it."""


class ReplicaGenerator(ManyEngines):
    """One stream of requests over replicas; tokens do not depend on their number."""

    def __init__(self, shape: EngineShape, settings: VllmSettings) -> None:
        require_vllm(shape.device)
        self._answers: queue.Queue[tuple[int, JsonObject]] = queue.Queue()
        self._replicas: list[_Replica] = []
        self._gone: set[int] = set()
        self._slots = 0
        self.losses: list[str] = []
        try:
            for number in range(settings.data_parallel):
                environment = replica_environment(number, shape.device, settings.tensor_parallel)
                self._replicas.append(_Replica(number, environment, self._answers))
            single = settings.model_copy(update={"data_parallel": 1})
            self._send({"shape": _plain(shape), "settings": single.model_dump()})
            self._slots = min(map(int, self._await("ready")))
        except BaseException:
            self.close()
            raise

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes anywhere; take new ones meanwhile.

        Raises StageError when an engine refuses a request, or when the last one is gone.
        """
        self._tell({"sampling": asdict(sampling)})
        scheduler = Scheduler([self._slots] * len(self._replicas))
        yield from self.over_engines(scheduler, requests)

    def send(self, engine: int, request: Request) -> None:
        """Hand a request to one replica; if it is gone, its last answer says so."""
        with suppress(_GoneError):
            self._replicas[engine].send(
                {"request": [request.index, request.seed, request.prompt_ids]}
            )

    def answer(self) -> tuple[int, Answer]:
        """Wait for a replica's next completion, or its end."""
        number, answer = self._answers.get()
        engine = next(i for i, r in enumerate(self._replicas) if r.number == number)
        if "failed" in answer:
            raise StageError(f"sampling process {number}: {answer['failed']}")
        if "ended" in answer:
            return engine, StageError(self._replicas[engine].last_words())
        index, ids, logprobs, reason = answer["sampled"]
        return engine, Sampled(index, ids, logprobs, FinishReason(reason))

    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        """Leave a replica that is gone."""
        self._gone.add(self._replicas[engine].number)
        self.losses.append(f"{why}; {num_moved} requests went to others")

    def settle(self) -> None:
        """Have all replicas give up what is under way, and pass over what they still answer."""
        waiting = {replica.number for replica in self._replicas} - self._gone
        self._tell({"end": True})
        while waiting:
            number, answer = self._answers.get()
            if "ended" in answer:
                self._gone.add(number)
            if "done" in answer or "ended" in answer:
                waiting.discard(number)
        for replica in self._replicas:
            if replica.number in self._gone:
                replica.end()
        self._replicas = [each for each in self._replicas if each.number not in self._gone]

    def _tell(self, message: JsonObject) -> None:
        """Send to all that are there; one that is gone says so in its last answer."""
        for replica in self._replicas:
            with suppress(_GoneError):
                replica.send(message)

    @property
    def num_slots(self) -> int:
        """Completions that are sampled together by the replicas that are there."""
        return self._slots * len(self._replicas)

    def load_weights(self, tensors: Weights) -> None:
        """Replace the weights of all replicas."""
        self._send({"load": True})
        with weight_files(tensors) as paths:
            for path in paths:
                self._send({"path": path})
                self._await("taken")
                Path(path).unlink()
        self._send({"path": None})
        self._await("done")

    def sleep(self) -> None:
        """Replicas have their GPUs to themselves."""

    def close(self) -> None:
        """End the processes."""
        for replica in self._replicas:
            replica.hang_up()
        for replica in self._replicas:
            replica.end()
        self._replicas = []

    def _send(self, message: JsonObject) -> None:
        for replica in self._replicas:
            replica.send(message)

    def _await(self, word: str) -> list[Any]:
        """Wait until every replica has said a word; return what they said with it."""
        answers = [self._answer() for _ in self._replicas]
        for answer in answers:
            assert word in answer, f"a replica answered {list(answer)}, not {word}"
        return [answer[word] for answer in answers]

    def _answer(self) -> JsonObject:
        number, answer = self._answers.get()
        if "failed" in answer:
            raise StageError(f"sampling process {number}: {answer['failed']}")
        if "ended" in answer:
            raise StageError(next(r for r in self._replicas if r.number == number).last_words())
        return answer


class _GoneError(StageError):
    """A sampling process has ended."""


class _Replica:
    """The caller's side of one process."""

    def __init__(
        self,
        number: int,
        environment: dict[str, str],
        answers: queue.Queue[tuple[int, JsonObject]],
    ) -> None:
        self.number = number
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "r1pipe.generate.replica"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()

    def _read(self, answers: queue.Queue[tuple[int, JsonObject]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answers.put((self.number, json.loads(line)))
        answers.put((self.number, {"ended": True}))

    def send(self, message: JsonObject) -> None:
        """Write one line; StageError with its last words if the process is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _GoneError(self.last_words()) from None

    def last_words(self) -> str:
        """Say how the process ended and what it wrote last."""
        status = self._process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]
        said = "".join(f"\n    {line}" for line in lines)
        return (
            f"sampling process {self.number} ended with {how}{'; it wrote' if said else ''}{said}"
        )

    def hang_up(self) -> None:
        """Let the process see the end of its input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            return

    def end(self) -> None:
        """Wait for the process, or kill it."""
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def replica_environment(number: int, device: str, num_gpus: int) -> dict[str, str]:
    """Return the environment of one replica: its own GPUs, no part in a training job."""
    environment = {k: v for k, v in os.environ.items() if k not in RANK_NAMES}
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if kind_of_device(device) != "cpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(i) for i in range((number + 1) * num_gpus)]
        own = names[number * num_gpus : (number + 1) * num_gpus]
        if len(own) < num_gpus:
            raise StageError(
                f"run.generator: data_parallel x tensor_parallel needs more GPUs than the"
                f" {len(names)} that are visible"
            )
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return environment


def _plain(shape: EngineShape) -> JsonObject:
    return asdict(shape) | {"folder": str(shape.folder), "end_ids": list(shape.end_ids)}
