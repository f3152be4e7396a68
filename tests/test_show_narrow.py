"""What `show` compares fits a narrow window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe.cli import views
from r1pipe.costs import report
from r1pipe.costs.report import compared_lines
from r1pipe.text import display_width


def test_warnings_and_facts_are_broken_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "step 5: only flat groups for 5 updates in a row\n  prompt: 1 + 1"
    assert views.warning_lines([text]) == text.split("\n"), "a pipe gets whole lines"
    monkeypatch.setattr(views, "window_width", lambda _: 32)
    assert views.warning_lines([text]) == [
        "step 5: only flat groups for 5",
        "  updates in a row",
        "  prompt: 1 + 1",
    ]
    assert views.fact_lines({"device": "an engine that is far away"}) == [
        "device: an engine that is far",
        "  away",
    ]


def test_predicted_and_actual_fit_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    actual = {"peak_bytes": 700 << 20, "disk_bytes": 44_000}
    monkeypatch.setattr(report, "actual_values", lambda *_: actual)
    predicted = {"peak_bytes": [1 << 28, 1 << 30], "disk_bytes": [1000, 33_000]}
    record: Any = SimpleNamespace(facts={"predicted": predicted})
    store: Any = None
    whole = compared_lines(record, store)
    assert max(map(display_width, whole)) > 58, "the case is one that overflows"
    narrow = compared_lines(record, store, 58)
    assert len(narrow) == len(whole)
    assert max(map(display_width, narrow)) <= 58
