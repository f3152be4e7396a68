"""The regression corpus: every case has the verdict that its reason demands."""

from __future__ import annotations

import pytest

from r1pipe.verify import close_shared
from r1pipe.verify.audit import Rate, audit, audit_lines, corpus


def test_the_corpus_is_large_labelled_and_without_repeats() -> None:
    cases = corpus()
    assert len(cases) >= 500
    assert len({case["id"] for case in cases}) == len(cases)
    pairs = {(case["gold"], case["completion"], str(case.get("numbers"))) for case in cases}
    assert len(pairs) == len(cases)
    for case in cases:
        assert case["reason"].strip(), case["id"]
        assert case["expected"] in ("correct", "wrong", "no_answer"), case["id"]


def test_every_case_has_its_expected_verdict() -> None:
    report = audit(with_math_verify=False)
    assert report["disagreements"] == []
    close_shared()


def test_rates_come_with_wilson_intervals() -> None:
    # 1 error in 10: Wilson 95 % is 0.0179 to 0.4042 (Newcombe 1998, formula 3)
    assert Rate(1, 10).interval() == pytest.approx((0.0179, 0.4042), abs=5e-5)
    assert Rate(0, 10).interval() == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert Rate(0, 0).row()["rate"] == 0.0


def test_the_table_names_each_kind_and_the_total() -> None:
    rates = {name: Rate(1, 4).row() for name in ("false_positive", "false_negative")}
    lines = list(audit_lines({"kinds": {"integer": {"r1pipe": rates}}, "total": {"r1pipe": rates}}))
    assert lines[1].startswith("integer")
    assert "1/4 25.0%" in lines[1]
    assert lines[2].startswith("total")
