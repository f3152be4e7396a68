"""Pairs from answer keys by rule: forms, the two parts, certain labels, an audited sample."""

from __future__ import annotations

import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import sympy as sp

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from answer_pairs import (
    CHANGES,
    KEEPS,
    PARTS,
    Row,
    against_themselves,
    chosen_pairs,
    golds_of,
    is_in_tuned,
    pairs_of,
    part_of,
)
from answer_rules.frames import MATHEMATICS, PLAIN, SPOILED, WORDS
from answer_rules.keys import core_of, form_of, gold_of, keys, relation_of
from answer_rules.values import same_value, value_of

from r1pipe.audit.audit import audit
from r1pipe.audit.pairs import pair_of
from r1pipe.files import Record, records
from r1pipe.verify import close_shared
from r1pipe.verify.reading.extract import extract_answer

KEYS = Path(__file__).with_name("answer_keys.jsonl")
"""Gold answers of our own, several of each form."""


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Row]]:
    golds = golds_of(keys(KEYS))
    return {part: chosen_pairs(golds, part, 10**6)[0] for part in PARTS}


def test_each_gold_answer_is_read_as_its_form() -> None:
    for record in records(KEYS):
        gold, form = record.values["gold"], record.values["form"]
        assert form_of(core_of(gold)) == form, gold


def test_gold_answers_are_found_in_the_shapes_of_public_sets() -> None:
    assert gold_of({"answer": "She has 9.\n#### 1,234"}, None) == "1,234"
    assert gold_of({"ground_truth": "So 4 are left.\nA: 18"}, None) == "18"
    assert gold_of({"final_answer": ["$2$"], "answer": None}, None) == "$2$"
    assert gold_of({"problem": "?", "solution": r"Thus \boxed{3}, so \boxed{\frac12}."}, None) == (
        r"\frac12"
    )
    assert gold_of({"answer": None, "label": "D"}, None) == "D"
    assert gold_of({"answer": "5", "key": 7.5}, "key") == "7.5"
    assert gold_of({"answer": True}, None) == ""


def test_the_second_reading_knows_values_worked_by_hand() -> None:
    x, y = sp.symbols("x y", positive=True)
    for text, value in {
        r"-\frac{3}{4}": sp.Rational(-3, 4),
        r"2x^{2}-3(x+1)": 2 * x**2 - 3 * x - 3,
        r"\frac12 \sqrt[3]{8}": sp.Integer(1),
        r"\sin^2 x + \cos^2 x": sp.sin(x) ** 2 + sp.cos(x) ** 2,
        r"\left(x+y\right)/2": (x + y) / 2,
        "3!": sp.Integer(6),
        r"\binom{5}{2}": sp.Integer(10),
        "e^{2}": sp.E**2,
    }.items():
        found = value_of(text)
        assert found is not None, text
        assert found - value == 0, text
    assert value_of("1+i", True) == 1 + sp.I
    for text in ("(1,2)", "f(x)", r"6\frac23", "x=3", r"\log x", "1/0", "9^{9^{9}}", "2+"):
        assert value_of(text) is None, text


def test_values_are_the_same_where_they_agree_at_points() -> None:
    x = sp.Symbol("x", positive=True)
    assert same_value((x + 1) ** 2, x**2 + 2 * x + 1)
    assert not same_value((x + 1) ** 2, x**2 + 2 * x + 2)
    assert not same_value(sp.Rational(1, 3), sp.Rational(333333, 10**6))
    assert not same_value(sp.Rational(10) ** -40, sp.Rational(10) ** -41)


def test_every_rule_has_its_argument_and_makes_a_pair() -> None:
    golds, dropped = golds_of(keys(KEYS)), Counter[str]()
    made = {(r["kind"], r["rule"]) for g in golds for r in pairs_of(g, "untouched", dropped)}
    rules = [(form, rule) for table in (KEEPS, CHANGES) for form in table for rule in table[form]]
    assert [rule.__name__ for _, rule in rules if not rule.__doc__] == []
    assert [(form, r.__name__) for form, r in rules if (form, r.__name__) not in made] == []
    assert {form for form, _ in made} == KEEPS.keys() == CHANGES.keys()


def test_no_gold_answer_is_in_both_parts_and_a_third_of_the_rules_in_one() -> None:
    golds = golds_of(keys(KEYS))
    assert {part_of(gold.raw) for gold in golds} == set(PARTS)
    tuned, untouched = (chosen_pairs(golds, part, 10**6)[0] for part in PARTS)
    assert not {row["gold"] for row in tuned} & {row["gold"] for row in untouched}
    assert all(row["rule_in_tuned"] for row in tuned)
    names = {rule.__name__ for rules in (*KEEPS.values(), *CHANGES.values()) for rule in rules}
    assert 0.2 < sum(not is_in_tuned(name) for name in names) / len(names) < 0.45


def test_pairs_are_the_same_in_every_run_and_none_is_there_twice(
    pairs: dict[str, list[Row]],
) -> None:
    again = {part: chosen_pairs(golds_of(keys(KEYS)), part, 10**6)[0] for part in PARTS}
    assert again == pairs
    for rows in pairs.values():
        assert len({(row["gold"], row["completion"]) for row in rows}) == len(rows)


def test_no_rule_has_more_pairs_than_asked_for() -> None:
    rows, _ = chosen_pairs(golds_of(keys(KEYS)), "untouched", 2)
    assert max(Counter((row["kind"], row["rule"]) for row in rows).values()) == 2


def test_every_frame_states_the_answer_and_only_some_spoiled_ones_do() -> None:
    for name, frame in {**PLAIN, **MATHEMATICS, **WORDS}.items():
        text = frame.replace("{thought}", "Try 12.").replace("@", "-5")
        found = (extract_answer(text) or "").strip(r"\()$* ")
        assert found == "-5", name
    assert extract_answer(SPOILED["unfinished-thought"]("5", "6")) is None
    assert extract_answer(SPOILED["only-thought"]("5", "6")) == "6"


def test_relations_are_read_with_their_bounds() -> None:
    assert relation_of(r"-2 \le x < 7") == ("x", "-2", [(r"\le", "-2"), ("<", "7")])
    assert relation_of("x<9") == ("x", "", [("<", "9")])
    assert relation_of("a<b<c") is None


def test_labels_of_numbers_are_what_exact_arithmetic_says(pairs: dict[str, list[Row]]) -> None:
    checked = 0
    for row in (row for rows in pairs.values() for row in rows if row["kind"] == "decimal"):
        text = extract_answer(row["completion"]) if row["frame"] == "box" else None
        if text and text.replace(".", "").replace("-", "").isdigit():
            checked += 1
            same = Fraction(text) == Fraction(row["gold"])
            assert same == (row["label"] == "right"), row
    assert checked >= 8


def test_a_sample_of_pairs_is_audited_beside_math_verify(pairs: dict[str, list[Row]]) -> None:
    rows = sorted(
        (row for part in pairs.values() for row in part), key=lambda r: r["completion"][::-1]
    )
    rows = rows[:: max(1, len(rows) // 300)][:300]
    sample = [pair_of(Record("a", n, dict(row)), {}) for n, row in enumerate(rows, start=1)]
    report = audit(lambda: iter(sample), show=300)
    assert report["num_pairs"] == len(sample) == 300
    ours, plain = (report["total"][name] for name in ("r1pipe", "math-verify"))
    assert ours["false_negative"]["rate"] < plain["false_negative"]["rate"]
    assert ours["false_positive"]["cases"] == sum(not pair.is_right for pair in sample)
    close_shared()


def test_gold_answers_are_held_against_themselves_by_file() -> None:
    lines = list(against_themselves([("a.jsonl", "5"), ("a.jsonl", r"\frac{"), ("b.csv", "x+1")]))
    assert lines[0] == "a.jsonl: 1 of 2 = 50.00%"
    assert r"'\\frac{' gold_unusable" in lines[1]
    assert lines[2] == "b.csv: 1 of 1 = 100.00%"
    close_shared()
