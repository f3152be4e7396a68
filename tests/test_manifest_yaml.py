"""Reading YAML 1.2 with places."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.errors import Mistake
from r1pipe.manifest.yaml_source import MAX_DEPTH, Origin, Value, parse_yaml, plain_scalar

START = Origin("m.yaml", 1, 1)


def read(text: str) -> tuple[Value | None, list[str]]:
    mistakes: list[Mistake] = []
    value = parse_yaml(text, START, mistakes)
    return value, [str(mistake) for mistake in mistakes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-6", 1e-6),
        ("5.", 5.0),
        (".5", 0.5),
        ("-17", -17),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),  # not octal in YAML 1.2
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),  # not base 60
        ("2024-01-01", "2024-01-01"),  # not a date
        ("~", None),
        ("", None),
        ("<<", "<<"),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    found = plain_scalar(text)
    assert found == expected
    assert type(found) is type(expected)


def test_quoted_and_tagged_scalars_are_text() -> None:
    value, mistakes = read("a: '5'\nb: \"true\"\nc: !!str 5\nd: |\n  7\n")
    assert value is not None
    assert value.plain() == {"a": "5", "b": "true", "c": "5", "d": "7\n"}
    assert mistakes == []


def test_every_value_and_key_knows_its_place() -> None:
    value, _ = read("a: 1\nb:\n  - x\n  - {c: y}\n")
    assert value is not None
    places = {path: str(item.origin) for path, item in value.walk()}
    assert places == {
        "a": "m.yaml:1:4",
        "b": "m.yaml:3:3",
        "b.0": "m.yaml:3:5",
        "b.1": "m.yaml:4:5",
        "b.1.c": "m.yaml:4:9",
    }
    key = value.get("b")
    assert key is not None
    assert str(key.key_origin) == "m.yaml:2:1"


def test_a_duplicate_key_names_both_places() -> None:
    _, mistakes = read("a:\n  lr: 1\n  x: 2\n  lr: 3\n")
    assert mistakes == [
        "m.yaml:4:3: duplicate key 'lr', first given at m.yaml:2:3; keep one of the two"
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a: [1\nb: 2", "m.yaml:2:2: not YAML: while parsing a flow sequence"),
        ("a:\n\tb: 1", "m.yaml:2:1: not YAML: a tab, where YAML is indented by spaces"),
        ("a:\n  b: 1\n\tc: 2", "m.yaml:3:1: not YAML: a tab, where YAML is indented by spaces"),
        ("a: \x07", "m.yaml:1:1: not YAML: unacceptable character #x0007"),
        ("a: 1\nb: \x07", "m.yaml:2:1: not YAML: unacceptable character #x0007"),
        ("", "m.yaml:1:1: the document is empty"),
        ("# nothing\n", "m.yaml:1:1: the document is empty"),
        ("a: 1\n---\nb: 2", "m.yaml:2:1: a second document"),
        ("a: *x", "m.yaml:1:4: *x names no anchor before it"),
        ("a: &x [*x]", "m.yaml:1:8: *x names no anchor before it"),
        ("a: .inf", "m.yaml:1:4: .inf is not a finite number"),
        ("a: !foo 3", "m.yaml:1:4: the tag !foo is not supported"),
        ("? [1]\n: 2", "m.yaml:1:3: a key must be plain text"),
        ("[" * 5000, "m.yaml:1:1001: not YAML: while increasing flow level, exceeded maximum"),
        ("[" * 500, f"m.yaml:1:{MAX_DEPTH + 2}: the document is too large or nested too deeply"),
    ],
)
def test_what_is_not_a_manifest_ends_with_its_place(text: str, mistake: str) -> None:
    _, mistakes = read(text)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(mistake)


def test_aliases_that_unfold_without_end_are_refused() -> None:
    names = "abcdefgh"
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for above, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]")
    value, mistakes = read("\n".join(lines))
    assert value is None
    assert mistakes[0].endswith("the document is too large or nested too deeply")


def test_an_alias_stands_for_what_its_anchor_marks() -> None:
    value, mistakes = read("a: &x {b: 1}\nc: *x\n")
    assert value is not None
    assert value.plain() == {"a": {"b": 1}, "c": {"b": 1}}
    assert mistakes == []


@given(st.text())
def test_no_text_raises(text: str) -> None:
    value, mistakes = read(text)
    assert value is not None or mistakes
