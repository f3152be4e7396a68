"""Answers by kind: right ones in the spellings of public answer keys, beside wrong neighbours."""

from __future__ import annotations

import pytest
from answer_kinds import cases_of, kinds


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_has_right_answers_beside_wrong_ones(kind: str) -> None:
    cases = list(cases_of(kind))
    assert len({(case.gold, case.completion) for case in cases}) == len(cases)
    assert sum(case.is_right for case in cases) >= 12
    assert sum(not case.is_right for case in cases) >= 12
