"""N-gram overlap between problem sets."""

from __future__ import annotations

import random

from r1pipe.data.overlap import Overlap, ngram_overlaps, words


def slow_overlaps(train: list[str], held_out: list[str], n: int) -> set[tuple[int, int]]:
    """Compare every pair by joined words: the definition, in quadratic time."""
    found = set()
    for i, left in enumerate(train):
        for j, right in enumerate(held_out):
            a, b = words(left), words(right)
            if len(b) < 3:
                continue
            size = min(n, len(b))
            grams = [b[s : s + size] for s in range(len(b) - size + 1)]
            if any(a[s : s + size] in grams for s in range(len(a) - size + 1)):
                found.add((i, j))
    return found


def test_ten_shared_words_overlap_and_nine_do_not() -> None:
    held_out = ["one two three four five six seven eight nine ten eleven"]
    ten = "so one two three four five six seven eight nine ten"
    nine = "so one two three four five six seven eight nine zero"
    assert ngram_overlaps([nine, ten], held_out) == [
        Overlap(1, 0, "one two three four five six seven eight nine ten")
    ]


def test_a_short_held_out_text_must_occur_whole() -> None:
    assert ngram_overlaps(["what is 2+3, then?"], ["What is 2 + 3?"]) == [
        Overlap(0, 0, "what is 2 + 3")
    ]
    assert ngram_overlaps(["what is 2*4"], ["What is 2 + 3?"]) == []


def test_texts_under_three_words_match_nothing() -> None:
    assert ngram_overlaps(["two words", "two words more"], ["two words"]) == []


def test_a_chinese_character_is_a_word() -> None:
    assert words("用 12 凑 7。A面") == ["用", "12", "凑", "7", "a", "面"]
    assert (
        len(ngram_overlaps(["小明有三个苹果，又买了五个"], ["请问：小明有三个苹果，又买了五个梨"]))
        == 1
    )
    assert ngram_overlaps(["小明有三个苹果"], ["小明有四个苹果"]) == []


def test_case_width_and_punctuation_do_not_hide_a_copy() -> None:
    original = "How many clips did Natalia sell altogether in April and May?"
    disguised = "HOW many clips -- did Natalia sell, altogether, in Ａｐｒｉｌ and may"
    assert len(ngram_overlaps([disguised], [original])) == 1


def test_the_hash_agrees_with_comparing_every_pair() -> None:
    generator = random.Random(5)
    texts = [" ".join(generator.choices("abc", k=generator.randrange(1, 14))) for _ in range(120)]
    train, held_out = texts[:60], texts[60:]
    for n in (3, 5, 10):
        found = {(o.train_index, o.held_out_index) for o in ngram_overlaps(train, held_out, n)}
        assert found == slow_overlaps(train, held_out, n)
        assert found
