"""Gold answers and answers that write numbers too big for memory or time: each verdict is bounded.

A pair that had to be stopped is `timeout` or `crashed`; none of these is. So each was refused, or
decided, before anything big was computed.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from functools import partial

import pytest

from r1pipe.audit.audit import audit
from r1pipe.audit.golds import check_golds
from r1pipe.audit.pairs import Pair
from r1pipe.records import Problem, Verdict
from r1pipe.verify import close_shared, verify, verify_many
from r1pipe.verify.equivalence import MAX_GOLD_CHARS

UNUSABLE = {
    "tower": [
        *("9^{9^{9^9}}", "9^{9^9}", "9**9**9**9", "2^{2^{2^{2^{2^{2}}}}}", "(9^9)^{9^9}"),
        *(r"\pi^{\pi^{\pi^{\pi^{\pi}}}}", "2^{-10^{10}}", "1.1^{10^{12}}", "(1+x)^{10^6}"),
    ],
    "tower in a structure": [
        *(r"\{9^{9^9}, 1\}", "[9^{9^9}, 9^{9^{10}}]", "x>9^{9^9}", "x^{9^9}+1=0"),
        *(r"9^{9^9}\%", r"9^{9^9}\text{ km}", "9^{9^9} = 9^{9^9}", r"\frac{1}{9^{9^9}}"),
    ],
    "tower under a modulus": [r"7^{7^{7^7}} \bmod 10", r"x \equiv 9^{9^9} \pmod{11}"],
    "digits": ["10^{10^{10}}", "10^{10^{10^{10}}}", r"1.5\times 10^{999999999}", "1e9999999"],
    "factorial": ["(10^9)!", "100000!", "((5!)!)!", "9!!!!!!", "170!^{170!}"],
    "binomial": [r"\binom{10^9}{5\cdot10^8}", r"\binom{10^{100}}{2}", "C(10^9,10^8)"],
    "root": [r"\sqrt[10^9]{2^{10^9}}", r"\sqrt{9^{9^9}}"],
    "sum": [
        *(r"\sum_{k=1}^{10^9}\frac{1}{k}", r"\prod_{k=1}^{10^8}k", r"\sum_{k=1}^{10000}k!"),
        *(r"\sum_{k=1}^{9999}\frac{1}{k^{k}}", r"\prod_{k=1}^{10000}k^k"),
    ],
}
USABLE = {
    "digits": ["3" * 299, "0." + "3" * 280, "1" * MAX_GOLD_CHARS, "0." + "1" * 1990],
    "fraction": [r"\frac{" + "7" * 900 + "}{" + "3" * 900 + "}", "1" + "0" * 1900 + "/3"],
    "repeating decimal": [r"0.\overline{" + "123456789" * 30 + "}"],
    "factorial": ["5000!", "4999!+1", "(n!)!", "n!^{n!}"],
    "binomial": [r"\binom{5000}{2500}", r"\binom{n}{10^9}", r"\binom{x}{5000}"],
    "root": [
        r"\sqrt{" * 11 + "2" + "}" * 11,
        r"\sqrt{2+" * 11 + "2" + "}" * 11,
        r"\sqrt[1000000]{2}",
        "+".join(rf"\sqrt{{{prime}}}" for prime in (2, 3, 5, 7, 11, 13, 17, 19)),
    ],
    "letters": ["x^{x^{x^{x^{x}}}}"],
}
KINDS = sorted({*UNUSABLE, *USABLE})


def of(kind: str) -> list[str]:
    return [*UNUSABLE.get(kind, ()), *USABLE.get(kind, ())]


def problem(gold: str) -> Problem:
    return Problem("p", "math", "", gold)


@pytest.fixture(scope="module", autouse=True)
def _pool() -> Iterator[None]:
    yield
    close_shared()


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_answer_is_wrong_before_it_is_computed(kind: str) -> None:
    golds = ("5", r"\sqrt{8}", "x^2+1", r"\{1,2\}")
    pairs = [(problem(gold), f"\\boxed{{{answer}}}") for gold in golds for answer in of(kind)]
    assert set(verify_many(pairs)) == {Verdict.WRONG}


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_gold_answer_is_unusable_or_read_before_it_is_computed(kind: str) -> None:
    for gold in UNUSABLE.get(kind, ()):
        assert verify(gold, r"\boxed{5}") is Verdict.GOLD_UNUSABLE, gold
    for gold in USABLE.get(kind, ()):
        assert verify(gold, r"\boxed{5}") is Verdict.WRONG, gold[:60]
        assert verify(gold, f"\\boxed{{{gold}}}") is Verdict.CORRECT, gold[:60]


@pytest.mark.parametrize("kind", KINDS)
def test_gold_checks_set_huge_gold_answers_aside(kind: str) -> None:
    report = check_golds([problem(gold) for gold in of(kind)], max_unusable_frac=1.0)
    assert [one.gold for one, _ in report.quarantined] == UNUSABLE.get(kind, [])
    assert {verdict for _, verdict in report.quarantined} <= {Verdict.GOLD_UNUSABLE}
    assert [one.gold for one in report.usable] == USABLE.get(kind, [])


def pairs_of(kinds: list[str]) -> Iterator[Pair]:
    for kind in kinds:
        for huge in of(kind):
            yield Pair(problem(huge), r"\boxed{5}", False, kind, "a:1")
            yield Pair(problem("5"), f"\\boxed{{{huge}}}", False, kind, "a:2")
            yield Pair(problem("12"), r"\boxed{12.0}", True, kind, "a:3")


def test_an_audit_of_huge_answers_stops_no_pair() -> None:
    report = audit(partial(pairs_of, KINDS), with_math_verify=False)
    assert report["num_disagreements"] == 0
    assert set(report["verdicts"]["r1pipe"]) == {"correct", "wrong", "gold_unusable"}


def test_huge_answers_take_no_memory_of_this_process() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    golds = [huge for kind in KINDS for huge in of(kind)]
    check_golds([problem(gold) for gold in golds], max_unusable_frac=1.0)
    verify_many((problem("5"), f"\\boxed{{{huge}}}") for huge in golds)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
