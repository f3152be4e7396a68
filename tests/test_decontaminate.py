"""What overlaps the evaluation sets is taken out, told pair by pair, and the recall measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, stage

from r1pipe.data.canaries import DISGUISES, measured
from r1pipe.data.overlap import OverlapIndex, letters, masked, windows, words
from r1pipe.errors import Interrupted, StageError
from r1pipe.records import Problem
from r1pipe.rows import read_problems, read_rows, write_problems, write_rows
from r1pipe.stage import Inputs

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    " How many clips did Natalia sell altogether in April and May?"
)
OTHER = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total"
    " does it take?"
)
CHINESE = "小明有三个苹果，又买了五个苹果，送给小红两个，现在他还有几个苹果？"
SHORT = "What is the capital of France?"
HELD_OUT = [QUESTION, OTHER, CHINESE, SHORT]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def found(text: str, variant: str, held_out: list[str] = HELD_OUT) -> list[int]:
    matches = OverlapIndex(held_out, variants=(variant,)).matches(text)
    assert {match.variant for match in matches} <= {variant}
    return [match.held_out_index for match in matches]


# ---- variants ------------------------------------------------------------------------------------


def test_other_numbers_hide_a_copy_from_the_plain_rule_alone() -> None:
    copy = "A robe takes 7 bolts of blue fiber. What does it cost?"
    assert found(copy, "plain") == []
    assert found(copy, "masked") == []  # eight words in a row, however the numbers are read
    copy = "A robe takes twelve bolts of blue fiber and 3/4 that much white fiber."
    assert found(copy, "plain") == []
    assert found(copy, "masked") == [1]


def test_masked_numbers_are_runs_of_digits_and_number_words() -> None:
    assert masked(words("1,250 pens, twenty-five books, 3.5 m, 7th")) == [
        "0", "pens", "0", "books", "0", "m", "0"
    ]  # fmt: skip
    assert masked(words("二十三个苹果")) == ["0", "个", "苹", "果"]
    assert masked(words("stone tens often")) == ["stone", "tens", "often"]


def test_sums_are_not_all_alike_when_numbers_are_masked() -> None:
    sums = ["compute 3+4*5-6+7*8-9+1 now", "compute 9-1*2+3-4*5+6-7 now"]
    assert found(sums[1], "masked", [sums[0]]) == []
    assert found(sums[0], "masked", [sums[0]]) == []  # it is the plain rule that sees it
    assert found(sums[0], "plain", [sums[0]]) == [0]


@pytest.mark.parametrize(("ngram", "words_around"), [(5, 3), (6, 4), (10, 6), (13, 8)])
def test_six_of_ten_words_of_a_masked_ngram_are_no_numbers(ngram: int, words_around: int) -> None:
    for content in (words_around - 1, words_around):
        text = " ".join(["apples", "cost", "plus", "pears", "and", "figs", "or", "nuts"][:content])
        signs = " + 3" * ngram  # more masks and signs than the n-gram has room for
        held_out, copy = f"{text} = 4{signs}", f"{text} = 7{signs.replace('3', '5')}"
        index = OverlapIndex([held_out], ngram, ("masked",))
        assert bool(index.matches(copy)) == (content == words_around)


def test_a_masked_text_without_numbers_is_left_to_the_plain_rule() -> None:
    text = "who wrote the play that is about a prince of denmark"
    assert found(text, "masked", [text]) == []
    assert found(text, "plain", [text]) == [0]


REWRAPPED = {
    "hyphens at line ends": QUESTION.replace("friends", "fri-\nends").replace("clips", "cl-\nips"),
    "no blanks": QUESTION.replace(" ", ""),
    "invisible characters": "\u200b".join(QUESTION),
    "markup": " ".join(rf"{word[0]}<b>{word[1:]}</b> \\, " for word in QUESTION.split()),
    "quoted lines": "\n> ".join(QUESTION[i : i + 7] for i in range(0, len(QUESTION), 7)),
    "spread letters": " ".join(QUESTION),
}


@pytest.mark.parametrize("name", REWRAPPED)
def test_another_wrapping_hides_a_copy_from_the_plain_rule_alone(name: str) -> None:
    text = f"Please solve this: {REWRAPPED[name]} Thank you."
    assert found(text, "plain") == []
    assert found(text, "rewrapped") == [0]


def test_chinese_is_found_however_it_is_broken() -> None:
    broken = "，".join(CHINESE.replace("，", "").replace("？", ""))
    assert found(f"请问：{broken}", "rewrapped") == [2]
    assert found("小明有七个苹果，又买了九个", "rewrapped") == []


def test_a_window_is_as_long_as_ten_words() -> None:
    # 50 letters, 10 Chinese characters, or 45 letters and one character
    assert list(windows("a" * 49)) == []
    assert list(windows("a" * 50)) == ["a" * 50]
    assert [len(window) for window in windows("a" * 52)] == [50, 50, 50]
    assert list(windows("苹" * 9)) == []
    assert list(windows("苹" * 11)) == ["苹" * 10] * 2
    assert list(windows("a" * 45 + "苹")) == ["a" * 45 + "苹"]
    assert list(windows("苹" + "a" * 47)) == ["苹" + "a" * 45]
    assert list(windows("abcdefghijkl", n=2)) == ["abcdefghij", "bcdefghijk", "cdefghijkl"]


def test_a_short_text_rewrapped_must_be_the_whole_text() -> None:
    assert found("What is the cap-\nital of FRANCE", "rewrapped") == [3]
    assert found("What is the cap-\nital of FRANCE and of Spain", "rewrapped") == []
    assert found("So, what is the capital of France, then?", "plain") == [3]


def test_letters_are_all_that_counts() -> None:
    assert letters("Ａ－b_c \\text{d} &amp; e1") == "abcde1"


def test_a_pair_is_told_once_by_the_first_variant_that_sees_it() -> None:
    matches = OverlapIndex(HELD_OUT).matches(f"{QUESTION} {REWRAPPED['no blanks']} {SHORT}")
    assert [(match.held_out_index, match.variant) for match in matches] == [
        (0, "plain"),
        (3, "plain"),
    ]
    assert matches[0].shared == "natalia sold clips to 48 of her friends in april"


def test_texts_too_short_to_tell_are_counted() -> None:
    assert OverlapIndex(["two words", "three words now", ""]).num_too_short == 2


# ---- canaries ------------------------------------------------------------------------------------


def recalls(variants: tuple[str, ...], held_out: list[str]) -> dict[str, float | None]:
    report: Any = measured(OverlapIndex(held_out, variants=variants), held_out, 200, seed=1)
    return {name: part["recall"] for name, part in report.items()}


def test_canaries_tell_what_the_plain_rule_misses() -> None:
    plain = recalls(("plain",), HELD_OUT[:3])
    every = recalls(("plain", "masked", "rewrapped"), HELD_OUT[:3])
    assert plain["verbatim"] == plain["restyled"] == plain["excerpt"] == 1.0
    assert {name: every[name] for name in DISGUISES} == dict.fromkeys(DISGUISES, 1.0)
    assert every["control"] == 0.0


def test_a_blind_index_has_no_recall() -> None:
    report = measured(OverlapIndex([SHORT, OTHER]), [QUESTION, CHINESE], 5, seed=1)
    assert report["verbatim"] == {
        "planted": 2,
        "found": 0,
        "recall": 0.0,
        "by": {"plain": 0, "masked": 0, "rewrapped": 0},
    }


def test_finding_another_text_is_not_finding_the_canary() -> None:
    report = measured(OverlapIndex([QUESTION, CHINESE]), [OTHER, QUESTION], 5, seed=1)
    assert (report["verbatim"]["planted"], report["verbatim"]["found"]) == (2, 0)


def test_nothing_to_plant_is_no_recall() -> None:
    report = measured(OverlapIndex(["two words"]), ["two words"], 5, seed=1)
    assert report["verbatim"]["recall"] is None


@pytest.mark.skipif(not DATA.exists(), reason="the data sets are not here")
def test_the_recall_on_a_real_evaluation_set() -> None:
    lines = (DATA / "gsm8k" / "test.jsonl").read_text().splitlines()[:300]
    every = recalls(
        ("plain", "masked", "rewrapped"), [json.loads(line)["question"] for line in lines]
    )
    assert every["verbatim"] == every["restyled"] == every["excerpt"] == 1.0
    assert min(every["rewrapped"] or 0, every["renumbered"] or 0) >= 0.98
    assert (every["control"] or 0) <= 0.01


# ---- the stage -----------------------------------------------------------------------------------


def row(number: int, prompt: str, **more: Any) -> dict[str, Any]:
    return {"problem_id": f"p{number}", "prompt": prompt, "completion": "so"} | more


def problem(number: int, prompt: str) -> Problem:
    return Problem(f"p{number}", "math", prompt, "1")


ROWS = [
    row(0, "What is two plus two?"),
    row(1, f"Hello. {QUESTION}"),
    row(2, "A robe takes 30 bolts of blue fiber and 4 of red. How many?"),
    row(3, "Tell me a story about a robe."),
    row(4, "fine", completion=QUESTION),
]


def clean(
    tmp_path: Path,
    rows: list[dict[str, Any]] | None = None,
    problems: list[Problem] | None = None,
    context: FakeContext | None = None,
    **params: Any,
) -> FakeContext:
    inputs: dict[str, Any] = {"held_out": {}}
    for name, texts in (("test", HELD_OUT[:2]), ("zh", HELD_OUT[2:])):
        inputs["held_out"][name] = tmp_path / name
        held = [Problem(f"{name}-{i}", "math", text, "1") for i, text in enumerate(texts)]
        write_problems(inputs["held_out"][name], held)
    if rows is not None:
        inputs["rows"] = tmp_path / "rows"
        write_rows(inputs["rows"], rows)
    if problems is not None:
        inputs["problems"] = tmp_path / "problems"
        write_problems(inputs["problems"], problems)
    kind = stage("decontaminate")
    context = context or FakeContext(tmp_path / "work")
    values = {"max_removed_frac": 1.0} | params
    kind.run(
        context, kind.params.model_validate(values, strict=False), kind.run_model(), Inputs(inputs)
    )
    return context


def output(context: FakeContext, name: str) -> list[dict[str, Any]]:
    return list(read_rows(context.output(name)))


def certificate(context: FakeContext) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (context.output("certificate") / "certificate.json").read_text()
    )
    return found


def test_rows_that_overlap_go_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    context = clean(tmp_path, ROWS)
    assert output(context, "rows") == [ROWS[0], ROWS[3], ROWS[4]]
    assert output(context, "problems") == []
    pairs = output(context, "certificate")
    told = [(p["problem_id"], p["variant"], p["held_out_set"], p["held_out_id"]) for p in pairs]
    assert told == [("p1", "plain", "test", "test-0"), ("p2", "masked", "test", "test-1")]
    assert pairs[0]["shared"] == "natalia sold clips to 48 of her friends in april"
    assert (pairs[1]["text"], pairs[1]["held_out_text"]) == (ROWS[2]["prompt"], OTHER)
    assert pairs[1]["position"] == 2


def test_the_certificate_has_counts_settings_and_the_recall(tmp_path: Path) -> None:
    context = clean(tmp_path, ROWS, [problem(7, QUESTION), problem(8, "What is 1+1?")], seed=5)
    found = certificate(context)
    assert found["checked"] == {"rows": 5, "problems": 2}
    assert found["removed"] == {"rows": 2, "problems": 1}
    assert found["pairs_by_variant"] == {"plain": 2, "masked": 1}
    assert found["pairs_by_set"] == {"test": 3}
    assert found["held_out"] == {"test": 2, "zh": 2}
    assert found["params"]["ngram"] == 10
    assert found["params"]["seed"] == 5
    assert found["canaries"]["verbatim"] == {
        "planted": 4, "found": 4, "recall": 1.0, "by": {"plain": 4, "masked": 0, "rewrapped": 0}
    }  # fmt: skip
    assert context.notes["removed"] == found["removed"]
    kept = read_problems(context.output("problems"))
    assert [each.id for each in kept] == ["p8"]


def test_the_paper_alone_and_other_columns_can_be_asked_for(tmp_path: Path) -> None:
    context = clean(tmp_path, ROWS, variants=("plain",), columns=("prompt", "completion"))
    assert [each["problem_id"] for each in output(context, "rows")] == ["p0", "p2", "p3"]
    assert [pair["column"] for pair in output(context, "certificate")] == ["prompt", "completion"]


def test_a_template_that_overlaps_many_texts_names_some_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "one two three four five six seven eight nine ten eleven"
    held = [Problem(f"h{i}", "math", f"{text} {i}", "1") for i in range(30)]
    write_problems(tmp_path / "many", held)
    write_rows(tmp_path / "rows", [row(0, text), row(1, "fine")])
    kind = stage("decontaminate")
    context = FakeContext(tmp_path / "work")
    inputs = Inputs({"rows": tmp_path / "rows", "held_out": {"many": tmp_path / "many"}})
    kind.run(context, kind.params(max_removed_frac=0.5), kind.run_model(), inputs)
    assert len(output(context, "certificate")) == 16
    assert [each["problem_id"] for each in output(context, "rows")] == ["p1"]


def test_too_much_to_take_out_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"2 of 5 rows overlap .*plain 1, masked 1.*leave 'masked'"
    ):
        clean(tmp_path, ROWS, max_removed_frac=0.2)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"rows has no column 'question' \(it has problem_id, pro"):
        clean(tmp_path, ROWS, columns=("question",))
    with pytest.raises(StageError, match=r"held_out\.test has no column 'q'.*held_out_column"):
        clean(tmp_path, ROWS, held_out_column="q")


def test_nothing_to_clean_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"give inputs\.rows, inputs\.problems or both"):
        clean(tmp_path)


def test_it_stops_when_asked(tmp_path: Path) -> None:
    rows = [row(n, f"text {n}") for n in range(10_000)]
    with pytest.raises(Interrupted, match="stopped by the test"):
        clean(tmp_path, rows, context=FakeContext(tmp_path / "work", stop_after=1))
