"""Answers by kind: right ones in the spellings of public answer keys, beside wrong neighbours."""

from __future__ import annotations

import pytest
from answer_kinds import cases_of, kinds

from r1pipe.records import Problem, Verdict
from r1pipe.verify import verify_many
from r1pipe.verify.golds import check_golds
from r1pipe.verify.reading.extract import extract_answer
from r1pipe.verify.reading.recast import recast


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_has_right_answers_beside_wrong_ones(kind: str) -> None:
    cases = list(cases_of(kind))
    assert len({(case.gold, case.completion) for case in cases}) == len(cases)
    assert sum(case.is_right for case in cases) >= 12
    assert sum(not case.is_right for case in cases) >= 12


@pytest.mark.parametrize("kind", kinds())
def test_every_answer_of_a_kind_is_verified_as_its_label_says(kind: str) -> None:
    cases = list(cases_of(kind))
    pairs = [(Problem(case.place, "math", "", case.gold), case.completion) for case in cases]
    verdicts = verify_many(pairs)
    wrong = [
        f"{case.place}: {case.gold} <- {case.completion}: {verdict}"
        for case, verdict in zip(cases, verdicts, strict=True)
        if (verdict is Verdict.CORRECT) != case.is_right
    ]
    assert wrong == []


UNUSABLE = [
    r"p \land q",
    r"1, 2, \ldots, n",
    "local min. $(1,0)$; saddle pt. $(-1,0)$",
    "The area is $5$ when $x$ is $3$ and $7$ otherwise",
    r"1+\frac{1}{2}+\frac13+\cdots+\frac1n",
    r"\frac{x^{2}}{16}+\frac{y^{2}}{4}=1 (y>0)",
    r"\begin{cases} x & x>0 \\ -x & x\le 0\end{cases}",
]


@pytest.mark.parametrize("gold", UNUSABLE)
def test_a_gold_answer_of_which_a_part_is_not_understood_is_unusable(gold: str) -> None:
    report = check_golds([Problem("1", "math", "", gold)], max_unusable_frac=1.0)
    assert [verdict for _, verdict in report.quarantined] == [Verdict.GOLD_UNUSABLE]


TEMPLATES = [
    ("chat", "<think>\nso \\boxed{6}", None),
    ('{"think":["<r>","</r>"]}', "<think>\nso \\boxed{6}", None),  # opened by the chat template
    ('{"think":["<r>","</r>"]}', "<r>so \\boxed{6}", None),
    ('{"think":["<r>","</r>"]}', "<r>so \\boxed{6}</r> \\boxed{7}", "7"),
    ('{"think":null}', "<think>\nso \\boxed{6}", None),
    ('{"answer":"last-line","think":null}', "<think>\n6", None),
]


@pytest.mark.parametrize(("fmt", "text", "answer"), TEMPLATES)
def test_a_thought_that_is_cut_off_has_no_answer_in_any_format(
    fmt: str, text: str, answer: str | None
) -> None:
    assert extract_answer(recast(text, fmt)) == answer
