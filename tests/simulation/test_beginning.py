"""Where a replay begins, and which rows it does not judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import worlds
from worlds import day_us

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.simulation.replay import Recording, Replay, ReplaySettings
from trimtab.simulation.results import ReplayResult

DAYS = 8


def replayed(
    folder: Path, tables: Mapping[str, Columns], starts: tuple[int, ...], ended_us: int | None = None
) -> ReplayResult:
    settings = ReplaySettings(start_us=starts[0], or_start_us=starts[1:], until_us=day_us(DAYS), seed=1)
    with Replay([worlds.never()], Recording(tables, worlds.SOURCES, until_us=ended_us), folder, settings) as running:
        return running.run()


def test_a_replay_starts_where_a_first_version_can_be_trained(tmp_path: Path) -> None:
    tables = worlds.make(13, days=DAYS)
    early = (day_us(-29), day_us(-27))  # the history has 30 days, and a version is judged on 7 or more
    result = replayed(tmp_path / "tried", tables, (*early, day_us(2), day_us(4)))
    assert result.start_us == day_us(2)
    assert [one.at_us for one in result.refused_starts] == list(early)
    assert all("label" in one.why for one in result.refused_starts)
    line = result.lines["never"]
    assert line.at_us.min() >= day_us(2)
    assert [d.at_us for d in line.decisions if d.act == "promote"] == [day_us(2)]
    alone = replayed(tmp_path / "alone", tables, (day_us(2),))
    assert alone.refused_starts == []
    assert line.scores.tolist() == alone.lines["never"].scores.tolist()  # what was tried before left no trace
    with pytest.raises(Misuse, match="has no version to begin with at any of 2 starts"):
        replayed(tmp_path / "none", tables, early)


@pytest.mark.parametrize("left_days", [0.0, 2.5, 3.0])
def test_days_whose_wait_is_not_over_stay_out_of_every_total(tmp_path: Path, left_days: float) -> None:
    tables = worlds.make(14, days=DAYS)
    ended_us = day_us(DAYS) - int(left_days * DAY_US)
    line = replayed(tmp_path, tables, (day_us(0),), ended_us).lines["never"]
    wait_us = worlds.never().deployment.model.label.wait_us
    open_days = {int(us) // DAY_US for us in line.at_us if us + wait_us > ended_us}
    expected = [int(us) // DAY_US < min(open_days) for us in line.at_us]
    assert open_days
    assert line.judged.tolist() == (np.array(expected) & ~np.isnan(line.labels)).tolist()
    assert line.final_until_us == min(open_days) * DAY_US
    total = line.months()[-1]
    assert (total.predictions, total.labelled) == (len(line.at_us), int(line.judged.sum()))
    assert total.labelled < int((~np.isnan(line.labels)).sum())  # some that are left out have a label
