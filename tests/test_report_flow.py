"""The picture of candidates on the report: from problems to rows, and where they were lost."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from test_report import report

from r1pipe.report.flow import Flow, flow_of
from r1pipe.report.flow_picture import BAR, CANDIDATES, HEIGHT, SLOT, picture_of
from r1pipe.report.page import render

LONG = "dropped_" + "a_filter_of_a_plugin_with_a_very_long_name_" * 4
TWELVE = {f"dropped_filter_{n}": 10 + n for n in range(12)}
CASES: dict[str, dict[str, object]] = {
    "few": {"failed_format": 2, "dropped_verdict": 1, "kept": 1},
    "none kept": {"failed_unjudged": 40, "kept": 0},
    "twelve": {**TWELVE, "kept": 3},
    "nearly all": {"dropped_verdict": 99_990, "dropped_length": 2, "kept": 8},
    "long names": {LONG: 5, "dropped_\u4e2d\u6587" + "\u5b57" * 40: 5, "kept": 5},
}


def flow(facts: dict[str, object]) -> Flow:
    counts = [n for name, n in facts.items() if name != "problems" and isinstance(n, int)]
    found = flow_of("s", SimpleNamespace(facts={"sampled": sum(counts), **facts}))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("name", CASES)
def test_bands_leave_the_candidates_without_a_gap_and_words_do_not_touch(name: str) -> None:
    found = flow(CASES[name])
    picture = picture_of(found)
    starts = [re.match(r"M([0-9.]+),([0-9.]+)C", band.path) for band in picture.bands]
    assert all(start is not None and float(start[1]) == CANDIDATES + BAR for start in starts)
    y = picture.candidates.y
    flowing = [bar for bar in picture.outcomes if bar.height]
    assert len(flowing) == sum(part.count > 0 for part in found.parts), "nothing has no band"
    for start, bar in zip(starts, flowing, strict=True):
        assert start is not None
        assert float(start[2]) == pytest.approx(y, abs=0.06), "one band begins where one ends"
        y += bar.height
    assert y == pytest.approx(picture.candidates.y + picture.candidates.height)
    for above, below in pairwise(picture.outcomes):
        assert below.middle - above.middle >= SLOT
        assert below.y >= above.y + above.height
    for bar in (picture.candidates, *picture.outcomes):
        assert 0 < bar.y <= bar.y + bar.height <= picture.height
        assert bar.height == 0 or bar.height >= 1.5


def test_heights_are_shares_and_problems_without_candidates_stand_apart() -> None:
    facts = {"failed_format": 30, "kept": 10, "quarantined": 1, "problems_without_rows": 2}
    counted = {"sampled": 40, "problems": {"full": 3, "sampled": 3, "not_reached": 2}, **facts}
    found = flow_of("s", SimpleNamespace(facts=counted))  # type: ignore[arg-type]
    assert found is not None
    picture = picture_of(found)
    assert [bar.height for bar in picture.outcomes] == [0.75 * HEIGHT, 0.25 * HEIGHT]
    assert [bar.text for bar in picture.outcomes] == [
        "failed: format, 30 (75.0 %)",
        "kept, 10 rows of 4 problems (25.0 %)",
    ]
    # 6 sampled + 2 not reached + 1 set aside
    assert [bar.text for bar in picture.problems] == ["6 sampled", "2 not reached", "1 set aside"]
    assert picture.problems[0].height == pytest.approx(HEIGHT * 6 / 9)
    assert [band.css for band in picture.bands] == ["trunk", "lost", "kept"]
    assert picture.left == 0


def test_a_stage_that_read_its_candidates_has_a_flow_without_problems() -> None:
    facts = {"candidates": 4, "kept": 1, "dropped_judge": 3}
    found = flow_of("judge", SimpleNamespace(facts=facts))  # type: ignore[arg-type]
    assert found is not None
    assert picture_of(found).problems == []
    assert picture_of(found).left > 0


def test_a_share_is_never_none_of_something_nor_all_of_less() -> None:
    found = flow(CASES["nearly all"])
    assert [(p.label, p.share) for p in found.parts] == [
        ("dropped: verdict", "over 99.9 %"),
        ("dropped: length", "under 0.1 %"),
        ("kept", "under 0.1 %"),
    ]


@pytest.mark.parametrize("name", CASES)
def test_the_page_has_the_picture_in_words_and_the_table_below_it(name: str) -> None:
    found = flow(CASES[name])
    page = render(replace(report(), flows=[found]))
    (drawn,) = re.findall(r"<svg [^>]*aria-labelledby=\"flow-1-title.*?</svg>", page, re.S)
    picture = ElementTree.fromstring(drawn)  # noqa: S314 - our own page
    assert picture.get("role") == "img"
    assert picture.findtext("title") == "Candidates of s"
    assert picture.findtext("desc") == found.summary
    below = page[page.index(drawn) + len(drawn) :].split("</table>")[0]
    for part in found.parts:
        assert part.label in found.summary
        assert f'<th scope="row">{part.label}</th>' in below, "a long name is whole there"
        assert part.share in below
    assert max(len("".join(text.itertext())) for text in picture.iter("text")) < 70


def test_no_candidates_and_stages_that_go_are_said() -> None:
    none = flow({"kept": 0, "problems": {}})
    page = render(replace(report(), flows=[none], awaited=[("more", "running")]))
    assert "No candidates: there is nothing to lose." in page
    assert "</a>: running; its candidates are counted when it ends." in page
    only = render(replace(report(), flows=[], awaited=[("more", "to build")]))
    assert 'href="#flow"' in only
    assert 'id="flow"' in only
