"""The mix at size: quotas, near-duplicates, one seeded order from disk, and the data card."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FakeContext, stage

from r1pipe.data import near, shuffle
from r1pipe.data.choosing import Limits, choose
from r1pipe.data.duplicates import duplicate_of
from r1pipe.data.near import NearDuplicates, minhash, normalised
from r1pipe.data.shuffle import rows_in_order
from r1pipe.data.survey import Survey, survey_parts
from r1pipe.errors import Interrupted, StageError
from r1pipe.records import Problem
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.stage import Inputs

COLUMNS = ["problem_id", "task", "language", "format", "prompt", "completion"]


def row(number: int, task: str = "math", completion: str | None = None, **more: Any) -> Any:
    return {
        "problem_id": f"p{number}",
        "task": task,
        "language": "en",
        "format": "chat",
        "prompt": f"question {number}",
        "completion": f"answer {number}" if completion is None else completion,
    } | more


def sentence(rng: random.Random, num_words: int) -> str:
    return " ".join(
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9)))
        for _ in range(num_words)
    )


# ---- near-duplicates -----------------------------------------------------------------------------


def windows(text: str) -> set[bytes]:
    data = normalised(text)
    return {data[i : i + 16] for i in range(len(data) - 15)}


def jaccard(one: str, other: str) -> float:
    """Compare two sets of windows: the definition."""
    a, b = windows(one), windows(other)
    return len(a & b) / len(a | b)


def edited(rng: random.Random, text: str, num_words: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), num_words):
        words[place] = sentence(rng, 1)
    return " ".join(words)


def sketched(texts: list[str]) -> NearDuplicates:
    found = NearDuplicates()
    for text in texts:
        prompt, _, completion = text.partition("\n")
        found.add({"prompt": prompt, "completion": completion})
    return found


def test_the_share_of_equal_bins_is_the_similarity_of_the_window_sets() -> None:
    rng = random.Random(1)
    errors = []
    for num_words in (4, 30, 300):
        for share in (0.0, 0.02, 0.1, 0.3):
            for _ in range(20):
                one = sentence(rng, num_words)
                other = edited(rng, one, round(share * num_words))
                bins = minhash([normalised(one), normalised(other)])
                errors.append(float((bins[0] == bins[1]).mean()) - jaccard(one, other))
    # 128 bins: a standard error of at most sqrt(0.25 / 128) = 0.044
    assert abs(float(np.mean(errors))) < 0.01
    assert float(np.std(errors)) < 0.05
    assert max(map(abs, errors)) < 0.22


def test_batches_and_neighbours_do_not_change_a_sketch() -> None:
    rng = random.Random(2)
    texts = [normalised(sentence(rng, rng.randrange(1, 60))) for _ in range(50)]
    together = minhash(texts)
    for index, text in enumerate(texts):
        assert (minhash([text])[0] == together[index]).all()


def test_near_rows_are_found_and_others_kept() -> None:
    rng = random.Random(3)
    originals = [sentence(rng, 120) for _ in range(300)]
    copies = [edited(rng, text, 2) for text in originals]  # about 0.9 similar
    cousins = [edited(rng, text, 40) for text in originals]  # about 0.3 similar
    assert min(jaccard(*pair) for pair in zip(originals, copies, strict=True)) > 0.85
    assert max(jaccard(*pair) for pair in zip(originals, cousins, strict=True)) < 0.6
    found = sketched([*originals, *copies, *cousins]).duplicates(np.arange(900), 0.8)
    assert (found[:300] == -1).all()
    assert (found[300:600] == np.arange(300)).mean() >= 0.99
    assert (found[600:] == -1).all()


def test_case_and_white_space_make_no_difference_and_width_is_kept() -> None:
    text = "He has 3 apples, and buys\n  4 more of them at the market."
    found = sketched([text, text.upper().replace(" ", "\n "), text.replace("3", "5")])
    assert found.duplicates(np.arange(3), 1.0).tolist() == [-1, 0, -1]


def test_short_and_chinese_texts_are_sketched_too() -> None:
    texts = ["ab", "ab ", "cd", "", "小明有三个苹果，又买了五个，现在有几个？" * 2]
    changed = texts[4][:-1] + "!"
    found = sketched([*texts, changed]).duplicates(np.arange(6), 0.8)
    assert found.tolist() == [-1, 0, -1, -1, -1, 4]


def test_the_first_in_the_given_order_stays() -> None:
    rng = random.Random(4)
    text = sentence(rng, 100)
    found = sketched([text, text, sentence(rng, 100), text])
    assert found.duplicates(np.array([3, 2, 0, 1]), 0.9).tolist() == [-1, -1, 3, 3]


def test_what_is_near_only_to_a_dropped_row_stays() -> None:
    """A chain a - b - c in which a and c are far from each other keeps a and c."""
    rng = random.Random(5)
    words = sentence(rng, 240).split()
    new = sentence(rng, 40).split()
    texts = [" ".join([*new[:size], *words[size:]]) for size in (0, 20, 40)]
    assert jaccard(texts[0], texts[1]) > 0.8
    assert jaccard(texts[1], texts[2]) > 0.8
    assert jaccard(texts[0], texts[2]) < 0.75
    assert sketched(texts).duplicates(np.arange(3), 0.78).tolist() == [-1, 0, -1]


def test_long_batches_are_flushed_and_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(6)
    texts = [sentence(rng, 40) for _ in range(60)] * 2
    expected = sketched(texts).duplicates(np.arange(120), 0.9)
    monkeypatch.setattr(near, "BATCH_BYTES", 1000)
    monkeypatch.setattr(near, "PAIRS_AT_ONCE", 7)
    assert sketched(texts).duplicates(np.arange(120), 0.9).tolist() == expected.tolist()
    assert expected.tolist() == [-1] * 60 + list(range(60))


# ---- the choice ----------------------------------------------------------------------------------


def surveyed(tmp_path: Path, **parts: list[Any]) -> Survey:
    for name, rows in parts.items():
        write_rows(tmp_path / name, rows)
    return survey_parts({name: tmp_path / name for name in parts}, COLUMNS, {})


def slow_choice(parts: dict[str, list[Any]], limits: Limits) -> list[tuple[str, str]]:
    """Take rows by counting all that were taken so far, for every row: the definition."""
    taken: list[tuple[str, Any]] = []
    for part, rows in parts.items():
        seen = set()
        for each in rows:
            mark = (each["prompt"], each["completion"])
            if mark in seen:
                continue
            seen.add(mark)
            others = [other for _, other in taken]
            length = len(each["completion"])
            bands = [0, *(most for most, _ in limits.lengths)]
            low, high, most = next(
                ((low, high, rows) for low, (high, rows) in zip(bands, limits.lengths, strict=False)
                 if length <= high), (0, 0, 10**9)
            )  # fmt: skip
            in_band = sum(low < max(1, len(o["completion"])) <= high for o in others)
            level = str(each["level"])
            if (
                sum(name == part for name, _ in taken) < limits.parts.get(part, 10**9)
                and sum(o["task"] == each["task"] for o in others)
                < limits.tasks.get(each["task"], 10**9)
                and sum(str(o["level"]) == level for o in others) < limits.levels.get(level, 10**9)
                and in_band < most
            ):
                taken.append((part, each))
    return [(part, each["problem_id"]) for part, each in taken]


def test_the_choice_is_the_one_made_by_counting(tmp_path: Path) -> None:
    rng = random.Random(7)
    limits = Limits(
        {"reasoning": 60, "general": 30},
        {"math": 20, "code": 25},
        {"1": 14},
        [(10, 5), (40, 30)],
    )
    parts = {
        part: [
            row(n, rng.choice(["math", "code", "logic"]), "x" * rng.randrange(1, 60),
                level=rng.randrange(3), prompt=f"question {n % 90}")
            for n in range(120)
        ]
        for part in ("reasoning", "general")
    }  # fmt: skip
    survey = surveyed(tmp_path, **parts)
    found = choose(survey, limits)
    numbers = [("reasoning", i) if i < 120 else ("general", i - 120) for i in found.rows.tolist()]
    assert [(p, parts[p][i]["problem_id"]) for p, i in numbers] == slow_choice(parts, limits)
    assert found.repeats + len(found.rows) + sum(found.over.values()) == 240
    assert {"part reasoning", "task math", "level 1", "length 10"} <= set(found.over)


def test_a_seeded_choice_is_spread_over_the_part_and_the_same_each_time(tmp_path: Path) -> None:
    survey = surveyed(tmp_path, a=[row(n) for n in range(200)])
    limits = Limits({"a": 50})
    first = choose(survey, limits).rows
    assert first.tolist() == list(range(50))
    spread = [choose(survey, limits, spread_seed=seed).rows.tolist() for seed in ("x", "x", "y")]
    assert spread[0] == spread[1] != spread[2]
    assert len(set(spread[0])) == 50
    assert 60 < float(np.mean(spread[0])) < 140  # the mean of all is 99.5


def test_a_part_is_read_no_further_than_its_limit(tmp_path: Path) -> None:
    rows = [row(0), row(0), row(1), row(2), row(3)]
    write_rows(tmp_path / "a", rows)
    survey = survey_parts({"a": tmp_path / "a"}, COLUMNS, {}, limits={"a": 2})
    assert survey.parts == {"a": 3}
    assert choose(survey, Limits({"a": 2})).rows.tolist() == [0, 2]


# ---- the order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket_bytes", [100, 1000, 1 << 20])
def test_rows_come_in_the_order_asked_for_whatever_the_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int
) -> None:
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(shuffle, "BATCH_ROWS", 7)
    rows = [row(n) for n in range(90)]
    write_rows(tmp_path / "a", rows[:40], rows_per_shard=15)
    write_rows(tmp_path / "b", rows[40:], rows_per_shard=15)
    order = random.Random(8).sample(range(80), 60)  # the last ten are not read
    spill = tmp_path / "spill"
    parts = {"a": tmp_path / "a", "b": tmp_path / "b"}
    found = list(rows_in_order(parts, COLUMNS, {"a": 40, "b": 40}, order, 2000, spill))
    sources = ["a" if number < 40 else "b" for number in order]
    assert found == [rows[n] | {"source": s} for n, s in zip(order, sources, strict=True)]
    assert not spill.exists()


def test_the_spill_goes_when_the_reader_stops(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", [row(n) for n in range(9)])
    spill = tmp_path / "spill"
    rows = rows_in_order({"a": tmp_path / "a"}, COLUMNS, {"a": 9}, range(9), 9, spill)
    assert next(rows)["problem_id"] == "p0"
    assert spill.is_dir()
    rows.close()  # type: ignore[attr-defined]
    assert not spill.exists()


# ---- the stage -----------------------------------------------------------------------------------


def mix(
    tmp_path: Path,
    reasoning: list[Any],
    general: list[Any],
    context: FakeContext | None = None,
    problems: list[Problem] | None = None,
    **params: Any,
) -> FakeContext:
    inputs: dict[str, Any] = {}
    for name, rows in (("reasoning", reasoning), ("general", general)):
        inputs[name] = tmp_path / name
        write_rows(inputs[name], rows)
    if problems is not None:
        write_problems(tmp_path / "problems", problems)
        inputs["problems"] = {"train": tmp_path / "problems"}
    kind = stage("mix")
    values = {"seed": 1, "reasoning_rows": 1000, "general_rows": 1000} | params
    context = context or FakeContext(tmp_path / "work")
    kind.run(
        context, kind.params.model_validate(values, strict=False), kind.run_model(), Inputs(inputs)
    )
    return context


def ids(context: FakeContext) -> list[str]:
    return [each["problem_id"] for each in read_rows(context.output("rows"))]


def test_quotas_of_tasks_hold_over_both_parts(tmp_path: Path) -> None:
    reasoning = [row(n, "math") for n in range(30)]
    general = [row(n, "math" if n % 2 else "talk") for n in range(100, 120)]
    context = mix(tmp_path, reasoning, general, quotas={"tasks": {"math": 33}})
    counts = Counter(each["task"] for each in read_rows(context.output("rows")))
    assert counts == {"math": 33, "talk": 10}
    assert context.notes["over_quota"] == {"task math": 7}
    assert context.notes["general_rows"] == 13


def test_levels_come_from_the_problems_where_rows_have_none(tmp_path: Path) -> None:
    rows = [row(n, "math") for n in range(12)]
    problems = [Problem(f"p{n}", "math", "", "1", level=n % 3) for n in range(12)]
    quotas = {"levels": {"2": 1}}
    context = mix(tmp_path, rows, [row(99, "talk")], problems=problems, quotas=quotas)
    assert sorted(set(ids(context)) & {"p2", "p5", "p8", "p11"}) == ["p2"]
    assert len(ids(context)) == 12 - 3 + 1
    with pytest.raises(StageError, match="needs rows with a level; give the problems"):
        mix(tmp_path, rows, rows, quotas=quotas)


def test_length_quotas_may_be_in_any_order(tmp_path: Path) -> None:
    rows = [row(n, completion="x" * n) for n in range(1, 31)]
    lengths = [{"up_to_chars": 20, "max_rows": 3}, {"up_to_chars": 10, "max_rows": 2}]
    context = mix(tmp_path, rows, [row(99, completion="y" * 50)], quotas={"lengths": lengths})
    assert sorted(ids(context), key=lambda each: int(each[1:])) == [
        *("p1", "p2"), *("p11", "p12", "p13"), *(f"p{n}" for n in range(21, 31)), "p99"
    ]  # fmt: skip
    assert context.notes["over_quota"] == {"length 10": 8, "length 20": 7}


def test_near_duplicates_go_across_the_parts_and_are_counted(tmp_path: Path) -> None:
    rng = random.Random(9)
    texts = [sentence(rng, 80) for _ in range(6)]
    reasoning = [row(n, completion=text) for n, text in enumerate(texts)]
    general = [row(n, completion=edited(rng, text, 1)) for n, text in enumerate(texts[:2])]
    fresh = row(50, completion=sentence(rng, 80))
    context = mix(tmp_path, reasoning, [*general, fresh], near_duplicates=0.8)
    assert sorted(ids(context)) == ["p0", "p1", "p2", "p3", "p4", "p5", "p50"]
    assert context.notes["near_duplicates"] == {"reasoning": 0, "general": 2}
    kept = mix(tmp_path, reasoning, [*general, fresh], FakeContext(tmp_path / "all"))
    assert len(ids(kept)) == 9
    assert "near_duplicates" not in kept.notes
    assert [duplicate_of(context.output("rows"), "general", n) for n in range(3)] == [
        ("reasoning", 0), ("reasoning", 1), None
    ]  # fmt: skip
    assert duplicate_of(context.output("rows"), "reasoning", 0) is None
    names = {path.name for path in kept.output("rows").iterdir()}
    assert names == {"part-00000.parquet"}, "a mix that takes none out is what it was"


def test_the_card_says_what_is_in_the_mix(tmp_path: Path) -> None:
    reasoning = [
        row(n, "math" if n < 3 else "code", "x" * (10 * n + 10), num_tokens=n, model_id="m1",
            verifier_version=4)
        for n in range(4)
    ]  # fmt: skip
    general = [row(9, "talk|chat", "z" * 100, language="zh")]
    card = {"title": "A mix", "licences": {"reasoning": "mit"}, "sources": {"general": "the\nweb"}}
    context = mix(tmp_path, [*reasoning, reasoning[0]], general, card=card)
    text = (context.output("rows") / "README.md").read_text()
    assert text.startswith("---\nlanguage:\n- en\n- zh\n")
    assert "license:" not in text  # one part's is not stated
    for line in (
        "# A mix",
        "5 rows of prompt and completion",
        "| reasoning | 4 | 80.0 % | not stated | mit |",
        "| general | 1 | 20.0 % | the web | not stated |",
        "| math | 3 | 60.0 % | 20 |  |",
        "| talk\\|chat | 1 | 20.0 % | 100 |  |",
        "| zh | 1 | 20.0 % |",
        # 10, 20, 30, 40, 100 characters
        "| completion, characters | 10 | 10 | 30 | 100 | 100 | 100 | 40 | 200 |",
        # 0, 1, 2, 3 tokens, and one row that does not say
        "| completion, tokens where known | 0 | 0 | 1 | 3 | 3 | 3 | 2 | 6 |",
        "| m1 | 4 | 80.0 % |",
        "| not stated | 1 | 20.0 % |",
        "| equal to an earlier row | 1 |",
        "| reasoning_rows | `1000` |",
    ):
        assert line in text, line
    both = {"licences": {"reasoning": "mit", "general": "mit"}}
    again = mix(tmp_path, reasoning, general, FakeContext(tmp_path / "again"), card=both)
    assert "license: mit\n" in (again.output("rows") / "README.md").read_text()


def test_without_options_the_folder_holds_the_rows_and_nothing_else(tmp_path: Path) -> None:
    context = mix(tmp_path, [row(1), row(2)], [row(3)])
    assert [path.name for path in context.output("rows").iterdir()] == ["part-00000.parquet"]
    rows = sorted(read_rows(context.output("rows")), key=lambda each: each["problem_id"])
    assert rows == [row(n) | {"source": "general" if n == 3 else "reasoning"} for n in (1, 2, 3)]


def test_a_mix_stops_when_asked(tmp_path: Path) -> None:
    rows = [row(n) for n in range(10_000)]
    with pytest.raises(Interrupted, match="stopped by the test"):
        mix(
            tmp_path,
            rows,
            rows[:1],
            FakeContext(tmp_path / "w", stop_after=2),
            reasoning_rows=20_000,
        )
