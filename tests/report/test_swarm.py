"""The swarm chart: every point is drawn where it belongs, and spread where many meet."""

from __future__ import annotations

import re

import pytest

from trimtab.core.errors import Misuse
from trimtab.report import Swarm, swarm_chart


@pytest.mark.fast
def test_each_point_lies_at_its_place_and_near_its_line() -> None:
    points = [(x / 50 - 1, x / 100) for x in range(100)] + [(0.0, None)] * 30
    drawn = str(swarm_chart([Swarm(label="a <b>", points=points), Swarm(label="b", points=[(2.0, 1.0)])], title="t"))
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert len(circles) == 131
    assert all(0 <= float(x) <= 760 for x, _ in circles)
    assert all(54 < float(y) < 84 for _, y in circles[:130])
    assert 84 < float(circles[130][1]) < 114
    assert "a &lt;b&gt;" in drawn
    assert "a <b>" not in drawn
    unshaded = re.findall(r'cy="([\d.]+)" r="2.4" style="fill:var\(--faint', drawn)
    assert len(unshaded) == len(set(unshaded)) == 30  # none hides another


@pytest.mark.fast
def test_nothing_and_what_is_no_number_are_refused() -> None:
    for swarms in ([], [Swarm(label="a", points=[])]):
        with pytest.raises(Misuse, match="at least one point, found none"):
            swarm_chart(swarms, title="t")
    with pytest.raises(Misuse, match="1 of 1 positions are not finite"):
        swarm_chart([Swarm(label="a", points=[(float("nan"), 0.5)])], title="t")
