"""The regression corpus: every case has the verdict that its reason demands."""

from __future__ import annotations

from r1pipe.audit.pairs import corpus, corpus_cases
from r1pipe.verify import close_shared, verify_many


def test_the_corpus_is_large_labelled_and_without_repeats() -> None:
    cases = [case.values for case in corpus_cases()]
    assert len(cases) >= 500
    assert len({case["id"] for case in cases}) == len(cases)
    pairs = {(case["gold"], case["completion"], str(case.get("numbers"))) for case in cases}
    assert len(pairs) == len(cases)
    for case in cases:
        assert case["reason"].strip(), case["id"]
        assert case["expected"] in ("correct", "wrong", "no_answer"), case["id"]


def test_every_case_has_its_expected_verdict() -> None:
    verdicts = verify_many((pair.problem, pair.completion) for pair in corpus())
    differing = [
        (case.values["id"], verdict)
        for case, verdict in zip(corpus_cases(), verdicts, strict=True)
        if verdict != case.values["expected"]
    ]
    assert differing == []
    close_shared()


def test_a_case_of_the_corpus_is_right_exactly_if_the_contract_says_correct() -> None:
    expected = [case.values["expected"] == "correct" for case in corpus_cases()]
    assert [pair.is_right for pair in corpus()] == expected
