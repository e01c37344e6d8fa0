from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trimtab import store
from trimtab.core.errors import Conflict
from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.feedback import day_quality
from trimtab.monitoring import QualityMonitor, Watch
from trimtab.stats.edetector import LOSS_CAP
from trimtab.store import Catalog, Put

FLAT = [0.3, 0.31, 0.29, 0.3, 0.32, 0.28, 0.3, 0.31, 0.3, 0.29, 0.3, 0.33, 0.3, 0.28]


def day(number: int, loss: float, *, version: str = "v1", labelled: int = 1_000) -> DayQuality:
    return DayQuality(
        model="click",
        version=version,
        day_us=number * DAY_US,
        predictions=1_000,
        labelled=labelled,
        missing=1_000 - labelled,
        score_sum=0.3 * labelled,
        label_sum=(0.3 + 0.01 * (number % 3 - 1)) * labelled,
        loss_sum=loss * labelled,
        capped_loss_sum=loss * labelled,
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def anchored(catalog: Catalog, reference: Sequence[DayQuality], *, cap: float = LOSS_CAP) -> QualityMonitor:
    monitor = QualityMonitor(catalog, "click", run_length_days=200)
    _, put = monitor.anchor("v1", reference, at_us=0, loss_cap=cap)
    assert monitor.watch is None or monitor.watch.figures == {}  # nothing new stands before it is written
    catalog.write([put])
    monitor.reload()
    return monitor


def healthy() -> list[DayQuality]:
    return [day(n, loss) for n, loss in enumerate(FLAT)]


def signals(catalog: Catalog) -> list[Signal]:
    return [msgspec.json.decode(entry.body, type=Signal) for entry in catalog.journal("signals")]


@pytest.mark.fast
def test_a_worse_loss_rings_once_and_the_signal_is_kept_with_the_watch(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    rung = monitor.observe([day(n, FLAT[n - 20]) for n in range(20, 25)], now_us=1)
    assert rung == []
    rung = monitor.observe([day(n, 0.6) for n in range(25, 45)], now_us=2)
    assert [signal.kind for signal in rung] == ["quality_loss"]
    assert 24 <= rung[0].onset_us // DAY_US <= 26
    assert signals(catalog) == rung
    assert monitor.watch is not None
    assert monitor.watch.alarming


def test_all_of_a_look_is_stored_or_nothing(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    days = [day(n, 0.6) for n in range(20, 40)]
    before = monitor.watch
    with pytest.raises(Conflict):
        monitor.observe(days, now_us=1, also=[Put("reached", "click", b"1", expected=7)])
    assert (monitor.watch, signals(catalog), catalog.get("reached", "click")) == (before, [], None)
    rung = monitor.observe(days, now_us=1, also=[Put("reached", "click", b"1", expected=0)])
    assert signals(catalog) == rung != []
    assert catalog.get("reached", "click") is not None


def test_days_given_again_and_days_of_other_versions_change_nothing(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    monitor.observe([day(20, 0.3), day(21, 0.31)], now_us=1)
    before = monitor.watch
    assert monitor.observe([day(20, 9.0), day(21, 9.0), day(22, 9.0, version="v0")], now_us=2) == []
    assert monitor.watch == before


@pytest.mark.fast
def test_days_before_the_promotion_do_not_count_for_a_version(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "click", run_length_days=200)
    _, put = monitor.anchor("v1", healthy(), at_us=30 * DAY_US + 1)
    catalog.write([put])
    monitor.reload()
    before = monitor.watch
    assert monitor.observe([day(n, 9.0, labelled=0) for n in range(20, 30)], now_us=1) == []
    assert monitor.watch == before
    monitor.observe([day(30, 0.3)], now_us=1)  # the day of the promotion itself
    assert monitor.watch is not None
    assert (monitor.watch.first_day_us, monitor.watch.silent_days) == (30 * DAY_US, 0)


def test_one_look_at_many_days_is_as_good_as_many_looks(catalog: Catalog, tmp_path: Path) -> None:
    days = [day(20 + n, 0.3 + 0.012 * n) for n in range(25)]
    at_once = anchored(catalog, healthy())
    rung = at_once.observe(days, now_us=1)
    with store.open(f"sqlite://{tmp_path}/other.db", "catalog") as other:
        daily = anchored(other, healthy())
        assert [signal for one in days for signal in daily.observe([one], now_us=1)] == rung != []
        assert daily.watch == at_once.watch


def test_a_look_from_an_old_watch_is_a_conflict(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    other = QualityMonitor(catalog, "click", run_length_days=200)
    other.observe([day(20, 0.3)], now_us=1)
    with pytest.raises(Conflict):
        monitor.observe([day(20, 0.3)], now_us=1)
    monitor.reload()
    assert monitor.observe([day(20, 0.3)], now_us=1) == []


def test_labels_that_stop_ring_on_the_second_day(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    rung = monitor.observe([day(20, 0.3), *(day(n, 0.0, labelled=0) for n in (21, 22, 23))], now_us=1)
    assert [(signal.kind, signal.onset_us) for signal in rung] == [("no_labels", 21 * DAY_US)]


def test_a_reference_that_cannot_be_used_leaves_its_reason_in_the_watch(catalog: Catalog) -> None:
    watch = anchored(catalog, healthy()[:4]).watch
    assert watch is not None
    assert (watch.figures, set(watch.unwatched)) == ({}, {"quality_loss", "quality_calibration"})
    assert "needs at least 10 reference days, found 4" in watch.unwatched["quality_loss"]
    flat = anchored(catalog, [day(n, 0.3) for n in range(14)]).watch
    assert flat is not None
    assert list(flat.figures) == ["quality_calibration"]
    assert "never varies" in flat.unwatched["quality_loss"]


def test_the_cap_of_the_reference_is_that_of_live_days(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy(), cap=40_000.0)
    assert monitor.loss_cap("v1") == 40_000.0
    assert monitor.loss_cap("v0") == LOSS_CAP
    assert QualityMonitor(catalog, "click", run_length_days=200).loss_cap("v1") == 40_000.0


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e5])
def test_errors_of_numbers_ring_alike_in_any_unit(catalog: Catalog, unit: float) -> None:
    chance = np.random.default_rng(5)
    errors = chance.normal(0, unit, 30 * 200) * np.where(np.arange(30 * 200) < 20 * 200, 1.0, 1.6)
    at_us = np.arange(30 * 200) * (DAY_US // 200)
    cap = 9 * float(np.median(errors[: 14 * 200] ** 2))

    def days(part: slice) -> list[DayQuality]:
        zeros = np.zeros(len(errors[part]))
        return day_quality("click", "squared_error", "v1", at_us[part], errors[part], zeros, cap=cap)

    monitor = anchored(catalog, days(slice(0, 14 * 200)), cap=cap)
    assert monitor.observe(days(slice(14 * 200, 20 * 200)), now_us=1) == []
    (rung,) = (s for s in monitor.observe(days(slice(20 * 200, None)), now_us=2) if s.kind == "quality_loss")
    assert 19 <= rung.onset_us // DAY_US <= 21


def test_a_watch_of_before_caps_were_kept_is_read(catalog: Catalog) -> None:
    watch = Watch(model="click", version="v1", anchored_at_us=5, figures={})
    old = {k: v for k, v in msgspec.to_builtins(watch).items() if k not in ("unwatched", "loss_cap")}
    catalog.write([Put("quality_watch", "click", msgspec.json.encode(old))])
    assert QualityMonitor(catalog, "click", run_length_days=200).watch == watch
