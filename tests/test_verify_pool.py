"""The pool: deadlines, crashes, sharing between threads, asyncio and forked processes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import GOLDS, hostile_completions
from killing import is_running

from r1pipe.audit.cases import case_problem, verify_answer, verify_file
from r1pipe.audit.golds import check_golds
from r1pipe.errors import StageError
from r1pipe.files import Record
from r1pipe.records import Problem, Row, Verdict
from r1pipe.verify import verify, verify_many, verify_one, verify_stream
from r1pipe.verify.workers.pool import Pool, Promise

SLOW = r"\prod_{k=1}^{2000} (x+k)"
EXOTIC = r"\int_0^1 f(t)\,dt"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    assert pool.submit("x+y", "y+x", 30).result() is Verdict.CORRECT
    yield pool
    pool.close()


def math(gold: str) -> Problem:
    return Problem("p", "math", "", gold)


def box(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def test_algebra_is_verified_in_workers(pool: Pool) -> None:
    pairs = [("x^2-1", "(x-1)(x+1)"), ("x^2-1", "(x-1)^2"), (r"\sqrt8", r"2\sqrt2")]
    verdicts = [pool.submit(*pair).result() for pair in pairs]
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT]


def test_a_slow_answer_is_a_timeout_within_its_limit(pool: Pool) -> None:
    promise = pool.submit("5", SLOW, 1.0)
    assert promise.result() is Verdict.TIMEOUT
    assert promise.elapsed_s < 1.2


def test_a_stuck_worker_is_killed_and_replaced() -> None:
    pool = Pool(1)
    try:
        assert pool.submit("x+y", "y+x", 30).result() is Verdict.CORRECT
        worker = next(w for w in pool._dispatcher.workers if w.pid)
        stuck = worker.pid
        os.kill(stuck, signal.SIGSTOP)  # nothing inside it can ring a timer now
        promise = pool.submit("x+y", "y+x", 0.5)
        assert promise.result(timeout=5) is Verdict.TIMEOUT
        assert promise.elapsed_s < 0.7
        assert pool.submit("x+y", "y+x", 5).result() is Verdict.CORRECT
        with pytest.raises(ProcessLookupError):
            os.kill(stuck, 0)
    finally:
        pool.close()


def test_a_dying_worker_is_a_crash_and_is_replaced() -> None:
    pool = Pool(1)
    try:
        assert pool.submit("x+y", "y+x", 30).result() is Verdict.CORRECT
        promise = pool.submit("5", SLOW, 5)
        time.sleep(0.3)
        os.kill(pool._dispatcher.workers[0].pid, signal.SIGKILL)
        assert promise.result(timeout=5) is Verdict.CRASHED
        assert pool.submit("x+y", "y+x", 5).result() is Verdict.CORRECT
    finally:
        pool.close()


def test_a_worker_lost_between_two_pairs_costs_nothing() -> None:
    pool = Pool(1)
    try:
        assert pool.submit("x+y", "y+x", 30).result() is Verdict.CORRECT
        os.kill(pool._dispatcher.workers[0].pid, signal.SIGKILL)
        time.sleep(0.2)
        assert pool.submit("x+y", "y+x", 5).result() is Verdict.CORRECT
    finally:
        pool.close()


def test_hostile_answers_are_never_right_never_late_and_touch_no_neighbour() -> None:
    limit_s = 1.0
    good = [(math(f"a+{i}"), box(f"{i}+a")) for i in range(40)]
    bad = [(math(gold), text) for gold in GOLDS[:2] for _, text in hostile_completions()]
    assert len(bad) >= 200
    pairs = []
    for index, pair in enumerate(bad):
        pairs += [pair, good[index % len(good)]]
    judged = list(verify_stream(pairs, timeout_s=limit_s))
    for (_, text), judgement in zip(bad, judged[0::2], strict=True):
        assert judgement.verdict is not Verdict.CORRECT, text[:80]
        assert judgement.ms < 1000 * 3 * limit_s, text[:80]
    assert {judgement.verdict for judgement in judged[1::2]} == {Verdict.CORRECT}
    assert not Path("/tmp/owned-by-an-answer").exists()


def test_threads_share_a_pool(pool: Pool) -> None:
    found: dict[int, list[Verdict]] = {}

    def work(number: int) -> None:
        found[number] = [pool.submit(f"x+{i}", f"{i % 5}+x").result() for i in range(number, 40)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, verdicts in found.items():
        assert [v is Verdict.CORRECT for v in verdicts] == [i == i % 5 for i in range(number, 40)]


def test_asyncio_waits_without_blocking_its_loop(pool: Pool) -> None:
    async def work() -> tuple[list[Verdict], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        promises = [pool.submit("5", SLOW, 0.6), pool.submit("x+1", "1+x", 5)]
        verdicts = await asyncio.gather(*map(asyncio.wrap_future, promises))
        ticking.cancel()
        return list(verdicts), ticks

    verdicts, ticks = asyncio.run(work())
    assert verdicts == [Verdict.TIMEOUT, Verdict.CORRECT]
    assert ticks > 8  # 0.48 s at 0.02 s each, with room for a busy machine


def test_off_the_main_thread_the_limit_holds_too() -> None:
    verdicts: list[Verdict] = []
    thread = threading.Thread(
        target=lambda: verdicts.extend(verify_many([(math("5"), box(SLOW))], timeout_s=1.0))
    )
    thread.start()
    thread.join(timeout=20)
    assert verdicts == [Verdict.TIMEOUT]


def test_the_callers_alarms_are_left_alone(pool: Pool) -> None:
    rang: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert pool.submit("x+1", "1+x").result() is Verdict.CORRECT
        time.sleep(0.4)
        assert rang == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_forked_child_gets_a_pool_of_its_own() -> None:
    assert verify(math("x+2"), box("2+x")) is Verdict.CORRECT
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if verify(math("x+3"), box("3+x")) is Verdict.CORRECT else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert verify(math("x+4"), box("4+x")) is Verdict.CORRECT


def test_a_daemonic_child_process_judges_too() -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_judge_and_exit, daemon=True)  # may have no children of its own
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0


def _judge_and_exit() -> None:
    sys.exit(0 if verify(math("x+5"), box("5+x")) is Verdict.CORRECT else 3)


def test_no_process_outlives_a_killed_caller(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "from r1pipe.verify.workers.pool import shared_pool\n"
        "pool = shared_pool(1)\n"
        "pool.submit('x+1', '1+x', 60).result()\n"
        "print(pool._dispatcher.fork_server.pid, pool._dispatcher.workers[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert caller.stdout is not None
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    caller.kill()
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def test_pairs_do_not_wait_for_workers_that_cannot_be_started() -> None:
    pool = Pool(1, "r1pipe.verify.workers.no_verifier")
    promises = [pool.submit("1", "x"), pool.submit("2", "y")]
    for promise in promises:
        with pytest.raises(StageError, match=r"^verify: the process that forks the workers ended"):
            promise.result(timeout=60)
    pool.close()


def test_a_closed_pool_says_so() -> None:
    pool = Pool(1)
    pool.close()
    with pytest.raises(StageError, match="the pool is closed"):
        pool.submit("1", "x")


def test_equal_pairs_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, submit = [], Pool.submit

    def counted(pool: Pool, gold: str, answer: str, *limits: Any) -> Promise:
        asked.append((gold, answer))
        return submit(pool, gold, answer, *limits)

    monkeypatch.setattr(Pool, "submit", counted)
    assert set(verify_many([(math("x+y+z"), box("z+y+x"))] * 500)) == {Verdict.CORRECT}
    assert asked == [("x+y+z", "z+y+x")]


def test_gold_answers_that_do_not_verify_against_themselves_are_set_aside() -> None:
    golds = [
        "5",
        r"\frac{1}{2}",
        "x^2+1",
        "(1,2]",
        r"\text{Tuesday}",
        "B",
        "",
        "9^{9^{9^{9}}}",
        ")(",
    ]
    report = check_golds([math(gold) for gold in golds], max_unusable_frac=0.5, timeout_s=1.0)
    assert [problem.gold for problem in report.usable] == golds[:6]
    assert [problem.gold for problem, _ in report.quarantined] == golds[6:]
    with pytest.raises(StageError, match=r"3 of 9 gold answers do not verify .* gold ''"):
        check_golds([math(gold) for gold in golds], max_unusable_frac=0.3, timeout_s=1.0)


def test_a_gold_answer_too_slow_to_read_is_the_golds_fault(pool: Pool) -> None:
    assert pool.submit(SLOW, "5", 1.0).result() is Verdict.GOLD_UNUSABLE


def test_cases_come_back_in_order_with_ids_and_times(tmp_path: Path) -> None:
    cases: list[Row] = [
        {"id": "a", "gold": "5", "completion": box("5")},
        {"gold": "x+1", "completion": box("1+x")},
        {"id": 7, "gold": "5", "completion": "<think>5"},
        {"task": "countdown", "gold": "", "numbers": [1, 2], "target": 3, "completion": box("1+2")},
        {"task": "choice", "gold": "B", "completion": box("(B)")},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, cases)))
    rows = list(verify_file(tmp_path / "a.jsonl"))
    assert [row["id"] for row in rows] == ["a", 2, 7, 4, 5]
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == ["correct", "correct", "no_answer", "correct", "correct"]
    assert [row["extracted"] for row in rows] == ["5", "1+x", None, "1+2", "(B)"]
    methods = ["box/exact", "box/symbolic", "none/exact", "box/exact", "box/exact"]
    assert [row["method"] for row in rows] == methods
    assert all(0 <= row["ms"] < 3200 for row in rows)


BAD_CASES: list[tuple[Row, str]] = [
    ({"gold": "5"}, r"a.jsonl:3: completion missing"),
    ({"gold": "5", "completion": 5}, r"a.jsonl:3: the completion is no text"),
    ({"task": "countdown", "gold": "5", "completion": ""}, r"needs numbers and target"),
    (
        {"task": "coutdown", "gold": "5", "completion": ""},
        r"'coutdown'; did you mean 'countdown'\?",
    ),
    ({"task": ["math"], "gold": "5", "completion": ""}, r"unknown task \['math'\]"),
]


@pytest.mark.parametrize(("case", "message"), BAD_CASES)
def test_a_bad_case_says_where_and_what(case: Row, message: str) -> None:
    with pytest.raises(StageError, match=message):
        case_problem(Record("a.jsonl", 3, case))


@pytest.mark.parametrize("gold", [None, [], ["5"], {"a": 5}, True, "", float("nan")])
def test_a_gold_answer_that_is_none_is_unusable_and_no_wrong_answer(gold: object) -> None:
    problem = case_problem(Record("a.jsonl", 1, {"gold": gold, "completion": box("5")}))
    assert verify_one(problem, box("5")).verdict is Verdict.GOLD_UNUSABLE


def test_an_answer_on_the_command_line_needs_no_box() -> None:
    assert verify_answer("1/2", "0.5").verdict is Verdict.CORRECT
    assert verify_answer("1/2", box("0.5")).verdict is Verdict.CORRECT
    assert verify_answer("1/2", "<think>0.5").verdict is Verdict.NO_ANSWER
    assert verify_answer("1/2", "").verdict is Verdict.NO_ANSWER
