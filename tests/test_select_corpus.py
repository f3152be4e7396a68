"""Documents selected by their likeness to a seed: ranks, domains, rounds, what is taken out."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, stage

from r1pipe.errors import StageError
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs

pytest.importorskip("sklearn", reason="scikit-learn is missing")

MATHS = [
    "prove",
    "lemma",
    "theorem",
    "integral",
    "sum",
    "prime",
    "equation",
    "vector",
    "root",
    "angle",
]
PROOFS = [
    "suppose",
    "hence",
    "therefore",
    "induction",
    "contradiction",
    "qed",
    "corollary",
    "trivial",
]
NEWS = [
    "market",
    "minister",
    "football",
    "weather",
    "election",
    "concert",
    "recipe",
    "holiday",
    "train",
    "price",
]
SHARED = ["the", "a", "of", "and", "to", "in", "is", "that", "for", "with"]


def document(rng: random.Random, kind: list[str], count: int = 40) -> str:
    return " ".join(rng.choice(kind if rng.random() < 0.5 else SHARED) for _ in range(count))


def world() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a seed of mathematics, and a pool: of mathsite.org half of the pages are of the same
    kind, and half are proofs in other words; the newspapers have hardly any."""
    rng = random.Random(1)
    seed = [{"text": document(rng, MATHS)} for _ in range(60)]
    pool = [{"text": document(rng, MATHS), "url": "https://mathsite.org/a"} for _ in range(30)]
    pool += [
        {"text": document(rng, PROOFS), "url": "https://www.mathsite.org/b"} for _ in range(30)
    ]
    pool += [{"text": document(rng, PROOFS), "url": "https://other.edu/c"} for _ in range(30)]
    pool += [{"text": document(rng, NEWS), "url": f"http://news{n % 5}.com/"} for n in range(210)]
    rng.shuffle(pool)
    return seed, pool


def selected(
    folder: Path, seed: Any, pool: Any, held_out: Any = None, **params: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], FakeContext]:
    for name, rows in (("seed", seed), ("documents", pool), ("held-out", held_out)):
        if rows is not None:
            write_rows(folder / name, rows)
    given: dict[str, Any] = {"seed": folder / "seed", "documents": folder / "documents"}
    given |= {"held_out": {"test": folder / "held-out"}} if held_out else {}
    kind, context = stage("select-corpus"), FakeContext(folder / "work")
    values: dict[str, Any] = {"seed": 1, "collected_frac": 0.2, "hash_bits": 14, "max_ngram": 2}
    kind.run(context, kind.params(**(values | params)), kind.run_model(), Inputs(given))
    report = json.loads((context.output("report") / "report.json").read_text())
    return list(read_rows(context.output("rows"))), report, context


def share(rows: list[dict[str, Any]], kind: list[str]) -> float:
    return sum(any(word in row["text"].split() for word in kind) for row in rows) / len(rows)


def test_what_is_like_the_seed_comes_first_and_the_next_round_finds_its_neighbours(
    tmp_path: Path,
) -> None:
    seed, pool = world()
    rows, report, context = selected(tmp_path, seed, pool)
    first, second = report["rounds"]
    assert first["collected"] == second["collected"] == len(rows) == 60
    # all pages in the seed's words, which are half of the domain; the rest of the 60 is chance
    assert 0.5 <= first["recall"]["mathsite.org"] < 1.0
    assert first["joined"]["mathsite.org"] == round(60 * (1 - first["recall"]["mathsite.org"]))
    # proofs join the seed, and so the pages in their words rise, of another domain too
    assert second["positive"] == 60 + sum(first["joined"].values())
    assert share(rows, PROOFS) > 0.4
    assert second["recall"]["other.edu"] > first["recall"]["other.edu"]
    assert [row["rank"] for row in rows] == list(range(1, 61))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["domain"] for row in rows[:20]} <= {"mathsite.org", "other.edu"}
    assert context.notes["num_documents"] == 300


def test_one_round_has_the_seed_s_words_alone_and_the_same_seed_gives_the_same_rows(
    tmp_path: Path,
) -> None:
    seed, pool = world()
    options: dict[str, Any] = {"num_rounds": 1, "collected_frac": 0.1}
    rows, report, _ = selected(tmp_path / "one", seed, pool, **options)
    assert share(rows, MATHS) == 1.0
    assert report["rounds"][0]["recall"]["mathsite.org"] == 0.5
    again, _, _ = selected(tmp_path / "again", seed, pool, **options)
    assert again == rows


def test_recall_is_counted_by_domain(tmp_path: Path) -> None:
    seed, pool = world()
    rows, report, _ = selected(tmp_path, seed, pool, num_rounds=1)
    for domain, found in report["rounds"][0]["recall"].items():
        total = sum(domain in row["url"] for row in pool)
        assert found == pytest.approx(sum(row["domain"] == domain for row in rows) / total)


def test_evaluation_texts_and_repeats_are_taken_out_and_counted(tmp_path: Path) -> None:
    seed, pool = world()
    options: dict[str, Any] = {"num_rounds": 1, "collected_frac": 0.1}
    plain, _, _ = selected(tmp_path / "plain", seed, pool, **options)
    shared = " ".join(plain[3]["text"].split()[5:15])
    held_out = [{"prompt": f"solve {shared} now"}, {"prompt": "nothing of the kind at all here"}]
    clean, report, _ = selected(tmp_path / "clean", seed, pool, held_out, **options)
    assert report["overlapping"] == 1
    assert [r["text"] for r in clean] == [r["text"] for r in plain if shared not in r["text"]]
    twice = [*pool, {"text": plain[0]["text"], "url": "https://copy.org"}]
    rows, report, _ = selected(tmp_path / "twice", seed, twice, **options)
    assert report["repeats"] == 1
    assert len({row["text"] for row in rows}) == len(rows)


def test_documents_without_a_text_are_counted_and_too_many_stop_the_stage(tmp_path: Path) -> None:
    seed, pool = world()
    bad = [*pool, {"text": None, "url": "https://none.org"}, {"text": " ", "url": "x"}]
    _rows, _, context = selected(tmp_path / "some", seed, bad, num_rounds=1)
    assert context.notes["num_bad_rows"] == 2
    assert context.notes["num_documents"] == 300
    with pytest.raises(StageError, match=r"2 of 302 rows cannot be used .*no text in column"):
        selected(tmp_path / "strict", seed, bad, max_bad_frac=0.0)
    with pytest.raises(StageError, match="no text in column 'body'"):
        selected(tmp_path / "column", seed, pool, text="body")


def test_a_run_that_ended_while_it_ranked_is_begun_anew_over_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, report, _ = selected(tmp_path / "whole", *world())
    with monkeypatch.context() as patched:
        patched.setattr("r1pipe.data.shuffle.rows_in_order", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            selected(tmp_path / "ended", *world())
    left = tmp_path / "ended" / "work" / "out" / "rows" / "unsorted"
    assert list(left.iterdir())
    rows, again, context = selected(tmp_path / "ended", *world())
    assert (rows, again) == (whole, report)
    assert not left.exists()
    assert context.notes["num_rows"] == len(whole)


def test_without_scikit_learn_the_stage_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "r1pipe.data.corpus_selection", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(StageError, match=r"needs scikit-learn .*pip install 'r1pipe\[corpus\]'"):
        selected(tmp_path, *world())
