"""Counts of versions in service: by arm, written by the minute, merged by the hour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Unavailable
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.serving.answer.served import ServedVersion
from trimtab.serving.arms.arm_counts import ArmCounts, EndpointCounts, ServiceMetrics
from trimtab.serving.arms.arm_metrics import KEPT_US, KIND, ArmMetrics, merge_metrics, service_metrics
from trimtab.serving.arms.arms import Canary, Share
from trimtab.serving.failures import Late
from trimtab.serving.http.service import HttpService
from trimtab.serving.protect.degradation import Degrading, degrade
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.testing.builders import a_prediction

BEGIN_US = 1_000 * DAY_US


class Broken:
    def predict(self, matrix: Any) -> Any:
        raise ValueError("a bug of the user's")

    predict_row = predict


def other(shop: Any, arm: str, *, scorer: Any = None) -> Any:
    """Another version, which answers under an arm."""
    made = shop.answerer(number=2, scorer=scorer)
    made.served = msgspec.structs.replace(made.served, arm=arm)
    made._arm = arm
    shop.endpoint.know(made.served)
    return made


def users(n: int) -> list[str]:
    return [f"user-{k}" for k in range(n)]


def counted(shop: Any) -> dict[str, ServiceMetrics]:
    return {one.arm: one for one in (counts.snapshot() for counts in shop.endpoint.counts.all())}


def ask(shop: Any, names: list[str], *, together: bool = False) -> None:
    endpoint = shop.endpoint
    rows = [endpoint.current.rows.check([shop.ask(user)])[0] for user in names]
    for part in [rows] if together else [[row] for row in rows]:
        endpoint.prepare(endpoint.current, part, None)


def test_each_arm_counts_what_it_answers(shop: Any) -> None:
    shop.endpoint.canary = Canary(other(shop, "canary"), Share("late", 0.3, ["user"]))
    ask(shop, users(100))
    found = counted(shop)
    assert {arm: one.version for arm, one in found.items()} == {"champion": f"{1:064}", "canary": f"{2:064}"}
    assert sum(one.requests for one in found.values()) == 100
    assert 15 < found["canary"].requests < 45
    for one in found.values():
        assert one.failures == one.degraded == one.refused == 0
        assert one.timed == one.scored == one.requests
        assert 0.0 < one.latency_s(0.5) < 1.0


def test_a_request_of_many_rows_counts_once_for_each_arm_and_has_no_latency(shop: Any) -> None:
    shop.endpoint.canary = Canary(other(shop, "canary"), Share("late", 0.5, ["user"]))
    ask(shop, users(50), together=True)
    assert {arm: (one.requests, one.timed, one.scored) for arm, one in counted(shop).items()} == {
        "champion": (1, 0, 1),
        "canary": (1, 0, 1),
    }


def test_a_failure_of_a_canary_is_its_own_whatever_the_client_is_answered(shop: Any) -> None:
    shop.endpoint.canary = Canary(other(shop, "canary", scorer=Broken()), Share("late", 0.5, ["user"]))
    ask(shop, users(40))
    found = counted(shop)
    assert found["canary"].failures == found["canary"].requests > 10
    assert found["canary"].timed == found["canary"].degraded == 0
    assert found["champion"].failures == 0
    assert found["champion"].requests == 40 - found["canary"].requests  # it is not charged for those it stood in for


@pytest.mark.parametrize("policy", [True, False])
def test_both_arms_count_the_same_failure_alike(shop: Any, policy: bool) -> None:
    """By a policy the champion's failures become degraded responses: they are failures all the same."""
    if policy:
        shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
    shop.endpoint.swap(shop.answerer(number=1, scorer=Broken()))
    shop.endpoint.canary = Canary(other(shop, "canary", scorer=Broken()), Share("late", 0.5, ["user"]))
    for user in users(30):
        if policy:
            ask(shop, [user])
        else:
            with pytest.raises(Unavailable):
                ask(shop, [user])
    for one in counted(shop).values():
        assert one.requests > 5
        assert one.failures == one.requests
        assert one.degraded == (one.requests if policy else 0)
        assert one.scored == 0


def test_late_answers_are_degraded_or_failures(shop: Any) -> None:
    champion, over_s = shop.endpoint.current, perf_counter() - 1
    rows = champion.rows.check([shop.ask()])
    with pytest.raises(Late):
        shop.endpoint.prepare(champion, rows, None, over_s)
    shop.endpoint.degrading = Degrading(degrade(rule=0.5), about=["user"])
    shop.endpoint.prepare(champion, rows, None, over_s)
    found = counted(shop)["champion"]
    assert (found.requests, found.failures, found.degraded) == (2, 1, 1)


def test_rows_that_share_a_call_are_requests_of_their_own(shop: Any) -> None:
    endpoint = shop.endpoint
    rows = [endpoint.current.rows.check([shop.ask(user)])[0] for user in users(7)]
    endpoint.prepare(endpoint.current, rows, None, shared=True)
    found = counted(shop)["champion"]
    assert found.requests == found.timed == found.scored == 7


def test_answers_that_equal_the_one_before_are_repeats(shop: Any) -> None:
    ask(shop, ["ada"] * 5)
    assert counted(shop)["champion"].repeats == 4


@pytest.mark.parametrize(("apart", "repeats"), [(1e-8, 9), (1e-4, 0)])
def test_scores_that_are_equal_to_six_digits_are_repeats(apart: float, repeats: int) -> None:
    for together in (True, False):  # both ways of counting
        counts = ArmCounts(ServedVersion(model="late", version="7f", label="late@1", arm="champion", inputs=()))
        for n in range(10):
            made = [a_prediction(score=0.25 * (1.0 + apart * (n % 2)))]
            counts.answered(made if together else [*made, *made], 0.001, together)
        assert counts.repeats == repeats


def test_what_is_refused_for_saturation_is_counted_for_the_version_in_service(shop: Any) -> None:
    service = HttpService([shop.endpoint], shop.log)
    assert service.overloaded(service.predictors["late"], service.predictors["late"].form).status == 429
    found = counted(shop)["champion"]
    assert (found.requests, found.refused) == (0, 1)
    assert found.lines()[-1] == "  refused because too many were in flight: 1"


class World:
    """A process that counts, its clock and its catalogue."""

    def __init__(self, catalog: Any) -> None:
        self.catalog = catalog
        self.clock = VirtualClock(BEGIN_US)
        self.counts = EndpointCounts()
        self.served = ServedVersion(model="late", version="7f", label="late@1", arm="champion", inputs=())
        self.figures = ArmMetrics(catalog, self.clock, lambda: [self.counts])

    def answer(self, times: int) -> None:
        for _ in range(times):
            made = a_prediction(id="1", request_id="1", model="late", version="7f", score=0.25)
            self.counts.of(self.served).answered([made], 0.01, False)

    def pass_us(self, us: int) -> None:
        self.clock.advance_to(self.clock.now_us() + us)

    def found(self, since_us: int = 0) -> ServiceMetrics:
        return service_metrics(self.catalog, "late", "7f", "champion", since_us=since_us)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqlCatalog]:
    made = SqlCatalog.sqlite(tmp_path / "catalog.db")
    yield made
    made.close()


def test_what_is_counted_is_written_once_and_read_by_the_minute(catalog: Any) -> None:
    world = World(catalog)
    for n in (1, 2, 3, 4):
        world.answer(10 * n)
        world.figures.write()
        world.figures.write()
        world.pass_us(MINUTE_US)
    assert len(catalog.find(KIND)) == 4
    assert world.found().requests == world.found().timed == world.found().scored == 100
    assert world.found().repeats == 99
    assert world.found(BEGIN_US + 2 * MINUTE_US).requests == 70
    assert world.found(BEGIN_US + 2 * MINUTE_US - 1).requests == 90
    assert service_metrics(catalog, "late", "7f", "canary", since_us=0).requests == 0


def test_processes_add_up(catalog: Any) -> None:
    one, two = World(catalog), World(catalog)
    for world in (one, two):
        world.answer(10)
        world.figures.write()
        world.answer(5)
        world.figures.write()
    assert len(catalog.find(KIND)) == 2
    assert one.found().requests == 30


def test_an_idle_process_writes_nothing(catalog: Any) -> None:
    world = World(catalog)
    world.answer(1)
    world.figures.write()
    before = [(one.key, one.revision) for one in catalog.find(KIND)]
    for _ in range(5):
        world.pass_us(MINUTE_US)
        world.figures.write()
    assert [(one.key, one.revision) for one in catalog.find(KIND)] == before


class Full:
    """A catalogue whose disk is full for a while."""

    def __init__(self, catalog: Any) -> None:
        self.full, self._catalog = False, catalog

    def write(self, changes: Any) -> None:
        if self.full:
            raise Unavailable("the disk is full")
        self._catalog.write(changes)

    def find(self, *arguments: Any) -> Any:
        return self._catalog.find(*arguments)


def test_what_cannot_be_written_is_written_later_under_its_own_minute(catalog: Any) -> None:
    world = World(full := Full(catalog))
    full.full = True
    for _ in range(3):
        world.answer(10)
        with pytest.raises(Unavailable):
            world.figures.write()
        world.pass_us(MINUTE_US)
    full.full = False
    world.figures.write()
    assert world.found().requests == 30
    assert world.found(BEGIN_US + MINUTE_US).requests == 20


def test_minutes_become_hours_and_hours_go(catalog: Any) -> None:
    worlds = [World(catalog), World(catalog)]
    for hour in range(6):
        for world in worlds:
            for _ in range(3):
                world.answer(10)
                world.figures.write()
                world.pass_us(HOUR_US // 3)
        merge_metrics(catalog, worlds[0].clock.now_us())
        assert worlds[0].found().requests == 60 * (hour + 1)  # whatever is put together
    assert len(catalog.find(KIND)) == 3 + 3 * 3 * 2
    assert merge_metrics(catalog, worlds[0].clock.now_us()) == 0
    assert worlds[0].found(BEGIN_US + HOUR_US).requests == 300
    assert merge_metrics(catalog, BEGIN_US + KEPT_US + HOUR_US) == 2 + 18
    assert worlds[0].found().requests == 60 * 4
    merge_metrics(catalog, BEGIN_US + 3 * KEPT_US)
    assert catalog.find(KIND) == []


def test_a_clock_set_back_begins_no_minute_again(catalog: Any) -> None:
    world = World(catalog)
    world.pass_us(5 * MINUTE_US)
    world.answer(10)
    world.figures.write()
    world.figures._clock = VirtualClock(BEGIN_US)
    world.answer(10)
    world.figures.write()
    assert world.found().requests == 20
    assert len(catalog.find(KIND)) == 1
