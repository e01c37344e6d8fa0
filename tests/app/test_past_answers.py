"""What is asked about the past, to see what would have been said, says nothing about a version's service."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop

from trimtab.core.time import DAY_US


@pytest.mark.fast
def test_answers_about_the_past_leave_the_watch_as_it_was_and_status_green(trained: Path) -> None:
    with shop.opened(trained) as project:
        shop.move(project, 3 * DAY_US)  # the day of the promotion is over, and waited for
        now_us = project.clock.now_us()
        before = project.loop("buyer").monitor.watch
        for days in (30, 29, 2):  # before the promotion and after it
            at_us = now_us - days * DAY_US
            rows = [shop.visit(f"w{days}{n}", at_us, x=-9.0) for n in range(20)]
            project.predict("buyer", rows, at=at_us)
            project.predict_table("buyer", rows, at=at_us)
            project.predict_table("buyer", rows)  # as of their own time
        project.loop("buyer").tick()
        assert project.loop("buyer").monitor.watch == before
        assert project.signals() == []
        assert not [line for line in project.status().red if "closed" in line or "label" in line]
