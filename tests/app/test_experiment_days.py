"""Closed days of experiments have the sums that plain loops over the written records give."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from experiment_world import BEGIN_US, World, definition_of, expected_day, opened, started

import trimtab as tt
from trimtab.app.experiments.closing import close_due
from trimtab.app.state.lease import Lease
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Conflict
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.definitions import source
from trimtab.experiments.days import LATE_AFTER, store_day, stored_days, stored_reached
from trimtab.experiments.definitions import Metric
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.first_exposures import FirstExposures
from trimtab.experiments.records import ArmSums, ExperimentDay, Exposure, VariantDay
from trimtab.experiments.unit_values import MetricFeatures
from trimtab.features.aggregates import count
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame

COLUMNS = {"user": str, "amount": float}
WAIT_US = 2 * DAY_US + 3 * HOUR_US  # the longest window, and the delay of the source


@pytest.mark.parametrize("seed", range(5))
def test_days_have_the_sums_of_plain_loops(seed: int, tmp_path: Path) -> None:
    rng, clock = random.Random(seed), VirtualClock(BEGIN_US - 3 * DAY_US)
    with opened(tmp_path / "p", clock) as project:
        definition = definition_of(project)
        ended_us = rng.choice((None, BEGIN_US + 5 * DAY_US + HOUR_US))  # windows take up to two days
        state = started(project, definition, BEGIN_US + 5 * HOUR_US, ended_at_us=ended_us)
        world = World(project, clock, rng, users=120, days=4)
        world.run(lambda: close_due(project), rng.choice((7 * HOUR_US, 3 * DAY_US)))
        clock.advance_to(clock.now_us() + 9 * DAY_US)
        close_due(project)
        assert close_due(project) == []
        days = stored_days(project.state.catalog, "prices", 1)
        assert [day.day_us for day in days[:4]] == [BEGIN_US + n * DAY_US for n in range(4)]
        assert len(days) == 4 if ended_us else len(days) > 4
        seen: set[str] = set()
        for day in days:
            assert day.known_by_us == day.day_us + DAY_US + WAIT_US
            given = world.written, definition, state, day.day_us, day.known_by_us
            assert day.variants == expected_day(*given, seen)[0]
        assert len(seen) > 20


@pytest.mark.parametrize("seed", range(4))
def test_orders_that_came_late_are_counted_next_to_the_closed_day(seed: int, tmp_path: Path) -> None:
    rng, clock = random.Random(seed), VirtualClock(BEGIN_US - 3 * DAY_US)
    with opened(tmp_path / "p", clock) as project:
        definition = definition_of(project)
        state = started(project, definition, BEGIN_US + 5 * HOUR_US)
        world = World(project, clock, rng, users=60, days=2)
        world.run(lambda: close_due(project), 9 * HOUR_US)
        for after in (2, 9, 40):  # at least so many days after all was closed
            clock.advance_to(max(clock.now_us(), BEGIN_US + (14 + after) * DAY_US))
            close_due(project)
            days = stored_days(project.state.catalog, "prices", 1)
            seen: set[str] = set()
            changed = 0
            for day in days:
                ages = [age for age in LATE_AFTER if day.known_by_us + age * DAY_US <= clock.now_us()]
                late_us, before = max(ages, default=0) * DAY_US, set(seen)
                given = world.written, definition, state, day.day_us, day.known_by_us
                closed_day, _ = expected_day(*given, seen)
                with_late, counts = expected_day(*given, before, late_us)
                assert day.variants == closed_day
                assert day.as_known_late.variants == with_late
                assert day.late == ({} if day.with_late is None else corrected(closed_day, with_late, counts))
                changed += day.with_late is not None
        assert changed >= 2
        revisions = [one.revision for one in project.state.catalog.find("experiment_reached")]
        close_due(project)
        assert [one.revision for one in project.state.catalog.find("experiment_reached")] == revisions


def corrected(
    before: dict[str, VariantDay], after: dict[str, VariantDay], more: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    """The late events by metric and variant, with 0 where events were only corrected or deleted."""
    found = {one: dict(of) for one, of in more.items()}
    for name, day in before.items():
        for metric, sums in day.metrics.items():
            if sums != after[name].metrics[metric]:
                found.setdefault(metric, {}).setdefault(name, 0)
    return found


def exposed(project: tt.Project, *units: str, variant: str = "old") -> None:
    now_us = project.clock.now_us()
    log_exposures(
        project.state.exposures,
        [Exposure(experiment="prices", generation=1, unit=one, variant=variant, at_us=now_us) for one in units],
    )


def order(project: tt.Project, name: str, user: str, at_us: int, amount: float, shop: int = 1) -> None:
    project.push("orders", [{"id": name, "at": at_us, "user": user, "shop": shop, "amount": amount}])


def closed(project: tt.Project, clock: VirtualClock, at_us: int) -> list[ExperimentDay]:
    clock.advance_to(at_us)
    close_due(project)
    return stored_days(project.state.catalog, "prices", 1)


def test_a_covariate_never_has_what_happened_or_became_known_after_the_exposure(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        at_us = BEGIN_US + HOUR_US
        clock.advance_to(at_us - 1)
        order(project, "o1", "ann", at_us - 2, 4.0)  # known before the exposure
        clock.advance_to(at_us)
        exposed(project, "ann")
        clock.advance_to(at_us + 1)
        order(project, "o2", "ann", at_us - 3, 100.0)  # happened before, and became known after
        order(project, "o3", "ann", at_us, 1_000.0)  # at the time of the exposure: an effect, no covariate
        order(project, "o1", "ann", at_us - 2, 50.0)  # a later correction of what was known
        (day, *_) = closed(project, clock, BEGIN_US + DAY_US + WAIT_US)
        spent = day.variants["old"].metrics["spent"]
        assert (spent.units, spent.x, spent.xx, spent.y, spent.xy) == (1, (4.0,), (16.0,), (1_000.0,), (4_000.0,))


def test_every_covariate_is_read_as_of_the_exposure(tmp_path: Path) -> None:
    """There is no other way to compute one: the time and the knowledge of all covariates are those of the exposure."""
    with opened(tmp_path / "p", VirtualClock(BEGIN_US)) as project:
        features = MetricFeatures(definition_of(project).metrics, 1)
        asked = []

        def evaluate(wanted: FeatureSet, requests: Columns, at_us: Any, known_by_us: int | None) -> FeatureFrame:
            asked.append((wanted.joins[0].name.partition("_")[0], at_us.tolist(), known_by_us))
            return FeatureFrame(Columns({name: column("float", [1.0]) for name in wanted.names}), {})

        found = features.values(["ann"], np.array([BEGIN_US]), BEGIN_US + 9 * DAY_US, evaluate)
    assert [one for one in asked if one[0] == "before"] == [("before", [BEGIN_US], None)] * 2
    assert all(at[0] > BEGIN_US and by == BEGIN_US + 9 * DAY_US for name, at, by in asked if name == "after")
    assert {name for name, values in found.items() if values.x is not None} == {"spent", "bought"}


def test_primary_metrics_are_summed_by_days_since_the_exposure(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        plain = definition_of(project).metrics
        spent = msgspec.structs.replace(plain[0], role="primary", within_us=60 * HOUR_US)
        bought, basket = (msgspec.structs.replace(one, role="primary", within_us=2 * DAY_US) for one in plain[3:5])
        started(project, definition_of(project, metrics=(spent, bought, basket, *plain[1:3])), BEGIN_US)
        order(project, "o0", "ann", BEGIN_US - HOUR_US, 8.0)  # for the covariate
        clock.advance_to(BEGIN_US + 1)
        exposed(project, "ann", "bob")
        for name, user, hours, amount in (("o1", "ann", 1, 20.0), ("o2", "ann", 24, 30.0), ("o3", "bob", 59, 5.0)):
            clock.advance_to(BEGIN_US + 1 + hours * HOUR_US)
            order(project, name, user, clock.now_us(), amount)
        (day, *_) = closed(project, clock, BEGIN_US + DAY_US + 63 * HOUR_US)
        old = day.variants["old"]
        ages = {name: [(one.units, one.y, one.yy, one.x, one.d) for one in some] for name, some in old.ages.items()}
        assert ages == {
            "spent": [
                (2, (20.0,), (400.0,), (8.0,), ()),
                (2, (30.0,), (900.0,), (8.0,), ()),  # an order at the end of the first day is in the second
                (2, (5.0,), (25.0,), (8.0,), ()),  # a shorter last part
            ],
            "bought": [(2, (1.0,), (1.0,), (), ()), (2, (1.0,), (1.0,), (), ())],
            "basket": [(2, (20.0,), (400.0,), (), (1.0,)), (2, (30.0,), (900.0,), (), (1.0,))],
        }
        assert old.metrics["spent"].y == (55.0,)
        clock.advance_to(clock.now_us() + 1)  # what becomes known while the day is closed was in time
        order(project, "o4", "bob", BEGIN_US + 2 * HOUR_US, 7.0)
        assert closed(project, clock, clock.now_us() + DAY_US)[0].with_late["old"].ages["spent"][0].y == (27.0,)


def test_late_events_and_exposures_do_not_reopen_a_day(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann")
        assert closed(project, clock, BEGIN_US + DAY_US + WAIT_US - 1) == []
        days = closed(project, clock, BEGIN_US + DAY_US + WAIT_US)
        order(project, "o1", "ann", BEGIN_US + 5, 9.0)
        late = Exposure(experiment="prices", generation=1, unit="bob", variant="old", at_us=BEGIN_US + 5)
        log_exposures(project.state.exposures, [late])
        assert len(days) == 1
        assert closed(project, clock, clock.now_us() + HOUR_US) == days
        assert days[0].variants["old"].metrics["spent"].y == ()


def test_a_day_that_is_closed_late_has_only_what_was_known_in_time(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann")
        clock.advance_to(BEGIN_US + DAY_US + WAIT_US)
        order(project, "o1", "ann", BEGIN_US + 5, 1.0)  # just in time
        clock.advance_to(BEGIN_US + DAY_US + WAIT_US + 1)
        order(project, "o2", "ann", BEGIN_US + 5, 2.0)
        order(project, "o1", "ann", BEGIN_US + 5, 4.0)
        day = closed(project, clock, BEGIN_US + 30 * DAY_US)[0]
        assert day.variants["old"].metrics["spent"].y == (1.0,)


def test_a_new_start_begins_anew(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann")
        assert len(closed(project, clock, BEGIN_US + DAY_US + WAIT_US)) == 1
        again_us = clock.now_us()
        started(project, definition_of(project), again_us, generation=2)
        log_exposures(
            project.state.exposures,
            [Exposure(experiment="prices", generation=2, unit="ann", variant="new", at_us=again_us)],
        )
        clock.advance_to(again_us + 9 * DAY_US)
        close_due(project)
        second = stored_days(project.state.catalog, "prices", 2)
        assert second[0].variants["new"].units == 1
        assert second[0].day_us == again_us // DAY_US * DAY_US
        assert len(stored_days(project.state.catalog, "prices", 1)) == 1


def test_units_of_other_types_and_several_columns_find_their_events(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        orders = project.definitions.sources["orders"]
        metrics = (Metric(name="n", kind="mean", source=orders, by=("user", "shop"), value=count(), within_us=DAY_US),)
        started(project, definition_of(project, unit=("user", "shop"), metrics=metrics), BEGIN_US)
        exposed(project, '["ann","7"]', '["ann","8"]', '["ann","x"]')
        for number, shop in enumerate((7, 7, 8, 9)):
            order(project, f"o{number}", "ann", BEGIN_US + 5, 1.0, shop)
        day = closed(project, clock, BEGIN_US + 5 * DAY_US)[0]
        assert day.variants["old"].metrics["n"] == ArmSums(units=3, y=(3.0,), yy=(5.0,))


def test_attributes_with_too_many_values_have_no_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.experiments.day_sums.MOST_SLICES", 3)
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project, slices=("country", "size")), BEGIN_US)
        for n in range(8):
            values = msgspec.msgpack.encode({"country": n % 3, "size": n})
            one = Exposure(experiment="prices", generation=1, unit=f"u{n}", variant="old", at_us=BEGIN_US,
                           attributes=values)  # fmt: skip
            log_exposures(project.state.exposures, [one])
        day = closed(project, clock, BEGIN_US + 5 * DAY_US)[0]
        assert day.variants["old"].slice_units == {"country=0": 3, "country=1": 3, "country=2": 2}
        assert set(day.variants["old"].slices) == set(day.variants["old"].slice_units)
        assert day.crowded == {"size": 8}
        notes = project.experiment_report("prices").notes
        assert notes[0].startswith(
            "size has up to 8 values a day, too many for slices: 1 of 2 days have no slices of it. Slice by"
        )
        assert not any("country" in one for one in notes)


@pytest.mark.slow
def test_days_are_the_same_from_memory_and_from_disk_and_in_any_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for kind in ("memory", "disk", "chunks"):
        if kind == "disk":
            monkeypatch.setattr("trimtab.app.features.feature_runs._fits", lambda system: False)
        elif kind == "chunks":
            monkeypatch.setattr("trimtab.app.features.feature_runs._fits", lambda system: True)
            monkeypatch.setattr(FirstExposures.chunks, "__defaults__", (3,))
        clock = VirtualClock(BEGIN_US - 3 * DAY_US)
        with opened(tmp_path / kind, clock) as project:
            started(project, definition_of(project), BEGIN_US)
            World(project, clock, random.Random(3), users=80, days=2).run(lambda: None, DAY_US)
            found.append(closed(project, clock, clock.now_us() + 9 * DAY_US))
    assert found[0] == found[1] == found[2]
    assert sum(one.units for one in found[0][0].variants.values()) > 5


def test_an_experiment_that_cannot_be_closed_stops_no_other(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        definition = definition_of(project)
        started(project, definition, BEGIN_US)
        gone = msgspec.structs.replace(definition.metrics[0], source=source("gone", time="at", columns=COLUMNS))
        started(project, msgspec.structs.replace(definition, name="broken", metrics=(gone,)), BEGIN_US)
        clock.advance_to(BEGIN_US + 5 * DAY_US)
        close_due(project)
        assert len(stored_days(project.state.catalog, "prices", 1)) == 2


def test_a_day_is_closed_by_one_process(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        state = started(project, definition_of(project), BEGIN_US)
        clock.advance_to(BEGIN_US + 4 * DAY_US)
        with Lease(project.state.catalog, "experiment.prices", project.state.folder).taken("held"):
            assert close_due(project) == []
        reached, revision = stored_reached(project.state.catalog, state)
        assert len(close_due(project, "prices")) == 1
        day = stored_days(project.state.catalog, "prices", 1)[0]
        puts, _ = store_day(day, "", "", reached, revision)
        with pytest.raises(Conflict):  # a process whose lease had expired
            project.state.catalog.write(puts)


def test_a_tick_closes_days(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann")
        clock.advance_to(BEGIN_US + 4 * DAY_US)
        project.tick()
        assert stored_days(project.state.catalog, "prices", 1)[0].variants["old"].units == 1


def test_values_that_no_sum_can_hold_are_left_out(tmp_path: Path) -> None:
    clock = VirtualClock(BEGIN_US)
    with opened(tmp_path / "p", clock) as project:
        started(project, definition_of(project), BEGIN_US)
        exposed(project, "ann", "bob")
        for number in range(20):
            order(project, f"o{number}", "ann", BEGIN_US + 5, 9e149)
        order(project, "o", "bob", BEGIN_US + 5, 1e150)
        spent = closed(project, clock, BEGIN_US + 5 * DAY_US)[0].variants["old"].metrics
        assert (spent["spent"].units, spent["spent"].yy) == (1, (1e150 * 1e150,))
        assert (spent["capped"].units, spent["capped"].y) == (2, (25.0,))
