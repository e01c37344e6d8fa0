"""Whoever waits for online features is told so, and how far they are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import shop

from processes import eventually
from trimtab.app.online.progress_log import ProgressLog
from trimtab.app.online.view_work import ViewWork


@pytest.mark.fast
def test_long_work_is_told_in_a_moment_and_again_and_quick_work_not(caplog: pytest.LogCaptureFixture) -> None:
    with ProgressLog("reading", quick_s=600.0):
        pass
    assert caplog.messages == []
    with ProgressLog("reading", quick_s=0.01, every_s=0.02) as tell:
        tell("reading", 0, 1_000)
        eventually(lambda: len(caplog.messages) >= 2)
        tell("filling", 250, 1_000)
        eventually(lambda: "filling: 25% of 1,000 records" in caplog.messages)
    assert caplog.messages[0] == "reading: 0% of 1,000 records"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def is_filling(line: str) -> bool:
    return line.startswith("online features: filling view 'site' from history: ")


def test_a_first_question_says_that_it_fills_online_features(
    trained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = ViewWork.fill

    def slow(self: ViewWork, names: object = None) -> object:
        for filled in fill(self):
            yield filled
            eventually(lambda: any(map(is_filling, caplog.messages)))

    monkeypatch.setattr(ViewWork, "fill", slow)
    with shop.opened(trained) as project:
        project.predict("buyer", [shop.visit("a", shop.NOW_US)])
    assert any(map(is_filling, caplog.messages))
