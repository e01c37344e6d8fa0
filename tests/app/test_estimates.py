"""What the status says of losses that are estimated before labels come."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.inspect.estimates import daily_estimates, estimate_in_words, estimated_days, newest_estimate
from trimtab.app.project import Project
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.inputs.input_state import InputWatch
from trimtab.monitoring.quality.loss_estimates import KIND, EstimatedDays, EstimatedSums, with_hours
from trimtab.monitoring.quality.watches import Watch
from trimtab.steering.causes import Triggers, on_estimated_drop
from trimtab.store.ports import Put, Remove

DAY = shop.NOW_US // DAY_US  # the day that begins now
OF_NOW = "2024-04-09"  # the day before


def store(project: Project, days: dict[int, tuple[int, int, float]], usual: float | None = 0.2) -> EstimatedDays:
    """Store for each day (counted back from today) the rows, those with an estimate, and the mean estimate."""
    champion = project.registry.alias("buyer", "champion")
    assert champion is not None
    watch = Watch(
        model="buyer",
        version=champion.id,
        anchored_at_us=0,
        figures={},
        loss_cap=1.0,
        reference_loss=usual,
        first_day_us=0,
        last_day_us=0,
    )
    hours = [(24 * (DAY - back), EstimatedSums(rows, some, some * mean)) for back, (rows, some, mean) in days.items()]
    found = with_hours(EstimatedDays(watch=watch), hours, DAY * DAY_US)
    watched = msgspec.json.encode(InputWatch(estimated=found))
    project.state.catalog.write([Put("input_watch", "buyer", watched)])
    return found


def said(project: Project, **rules: object) -> str | None:
    deployment = msgspec.structs.replace(project.definitions.deployment("buyer"), **rules)
    return estimate_in_words(project, deployment, project.clock.now_us())


def test_the_newest_day_that_is_over_is_told_with_what_is_still_to_come(trained: Path) -> None:
    with shop.opened(trained) as project:
        found = store(project, {2: (40, 40, 0.25), 1: (40, 40, 0.3), 0: (9, 9, 9.0)})
        unwatched = "; not watched: there are too few days to compare with"
        usual = "(usual 0.2; labels of 2 days are still to come"
        assert said(project) == f"estimated loss on {OF_NOW}: 0.3 {usual}{unwatched})"
        assert newest_estimate(found, project.clock.now_us()) == pytest.approx(0.3)
        assert [round(value, 6) for _, value in daily_estimates(found)] == [0.25, 0.3]
        store(project, {1: (100, 95, 0.3)})
        assert str(said(project)).endswith("; 5% of the rows are left out, which are unlike those it learnt from)")
        store(project, {1: (100, 96, 0.3)})
        assert "left out" not in str(said(project))
        store(project, {2: (40, 40, 0.3), 1: (100, 79, 0.3)})
        assert said(project) == (
            f"no estimate of the loss on {OF_NOW}: 21% of the rows are unlike those it learnt from"
        )


def test_an_old_estimate_is_not_told_as_one_of_now(trained: Path) -> None:
    with shop.opened(trained) as project:
        found = store(project, {4: (40, 40, 0.3)})
        assert said(project) == "no estimate of the loss since 2024-04-06: there were no requests, or inputs are red"
        assert newest_estimate(found, project.clock.now_us()) is None
        assert newest_estimate(found, project.clock.now_us() - DAY_US - HOUR_US) == pytest.approx(0.3)


def test_a_declared_cause_without_an_estimate_is_told(trained: Path) -> None:
    with shop.opened(trained) as project:
        champion = project.registry.alias("buyer", "champion")
        assert champion is not None
        declared = Triggers((on_estimated_drop(),))
        assert said(project, retrain=declared) is None  # there is one, but no day is over yet
        project.state.catalog.write([Remove(KIND, champion.id)])
        assert said(project) is None
        assert said(project, retrain=declared) == (
            "no estimate of the loss: the version has too few labelled reference rows, or was imported"
        )
        other = store(project, {1: (40, 40, 0.3)})
        gone = msgspec.structs.replace(other, watch=msgspec.structs.replace(other.watch, version="gone"))
        watched = msgspec.json.encode(InputWatch(estimated=gone))
        project.state.catalog.write([Put("input_watch", "buyer", watched)])
        assert estimated_days(project, "buyer") is None  # those of a version that is no longer in service
