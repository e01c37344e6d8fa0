from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trimtab import store
from trimtab.core.errors import Conflict
from trimtab.core.records import LOSS_CAP, DayQuality, Signal
from trimtab.core.time import DAY_US
from trimtab.feedback.days import day_quality
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.monitoring.quality.watches import Watch
from trimtab.monitoring.signals import listed_signals, settle_signals, standing_signals
from trimtab.store import Catalog, Put
from trimtab.testing.builders import a_signal

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
    _, puts = monitor.anchor("v1", reference, at_us=0, loss_cap=cap)
    assert monitor.watch is None or monitor.watch.figures == {}  # nothing new stands before it is written
    catalog.write(puts)
    monitor.reload()
    return monitor


def healthy() -> list[DayQuality]:
    return [day(n, loss) for n, loss in enumerate(FLAT)]


def signals(catalog: Catalog) -> list[Signal]:
    return [msgspec.json.decode(entry.body, type=Signal) for entry in catalog.journal("signals")]


def red(found: Sequence[Signal]) -> list[Signal]:
    return [one for one in found if one.severity == "red"]


@pytest.mark.fast
def test_a_worse_loss_rings_once_and_the_signal_is_kept_with_the_watch(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    rung = monitor.observe([day(n, FLAT[n - 20]) for n in range(20, 25)], now_us=1)
    assert rung == []
    rung = red(monitor.observe([day(n, 0.6) for n in range(25, 45)], now_us=2))
    assert [signal.kind for signal in rung] == ["quality_loss"]
    assert 24 <= rung[0].onset_us // DAY_US <= 26
    assert red(signals(catalog)) == rung
    assert monitor.watch is not None
    assert monitor.watch.alarming


@pytest.mark.parametrize("ended_day", [35, 23])
def test_a_fault_that_ended_weeks_ago_is_the_cause_of_an_alarm_that_began_during_it(
    catalog: Catalog, ended_day: int
) -> None:
    fault = a_signal(24 * DAY_US, kind="range", model="click", subject="column load", onset_us=22 * DAY_US)
    for at_day, found in ((24, [fault]), (ended_day, []), (50, [])):  # from day 50 on, it is no longer listed
        catalog.write(settle_signals(catalog, "click", ("range",), found, now_us=at_day * DAY_US)[1])
    assert [one.kind for one in listed_signals(catalog, "click")] == []
    monitor = anchored(catalog, healthy())
    monitor.observe([day(n, FLAT[n - 20]) for n in range(20, 25)], now_us=50 * DAY_US)
    (rung,) = red(monitor.observe([day(n, 0.6) for n in range(25, 45)], now_us=51 * DAY_US))
    assert rung.cause == ("range of column load" if ended_day == 35 else None)


@pytest.mark.parametrize(("gap", "rings"), [(0.01, False), (-0.01, False), (0.03, True), (-0.03, True)])
def test_a_gap_of_the_calibration_rings_if_it_costs_more_than_a_thousandth_of_the_loss(
    catalog: Catalog, gap: float, rings: bool
) -> None:
    rng = np.random.default_rng(1)

    def calibrated(number: int, off: float) -> DayQuality:
        known, label = day(number, 0.55), 0.3 + rng.normal(0.0, 0.002)
        sums = {"label_sum": 1_000 * label, "score_sum": 1_000 * (0.3 + off)}
        return msgspec.structs.replace(known, expected_loss_sum=known.capped_loss_sum, **sums)

    monitor = anchored(catalog, [calibrated(n, 0.0) for n in range(28)])
    rung = red(monitor.observe([calibrated(n, gap) for n in range(30, 130)], now_us=1))
    assert [signal.kind for signal in rung] == ["quality_calibration"] * rings


def test_all_of_a_look_is_stored_or_nothing(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    days = [day(n, 0.6) for n in range(20, 40)]
    before = monitor.watch
    with pytest.raises(Conflict):
        monitor.observe(days, now_us=1, also=[Put("reached", "click", b"1", expected=7)])
    assert (monitor.watch, signals(catalog), catalog.get("reached", "click")) == (before, [], None)
    rung = monitor.observe(days, now_us=1, also=[Put("reached", "click", b"1", expected=0)])
    assert red(signals(catalog)) == red(rung) != []
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
    _, puts = monitor.anchor("v1", healthy(), at_us=30 * DAY_US + 1)
    catalog.write(puts)
    monitor.reload()
    before = monitor.watch
    assert monitor.observe([day(n, 9.0, labelled=0) for n in range(20, 30)], now_us=1) == []
    assert monitor.watch == before
    monitor.observe([day(30, 0.3)], now_us=1)  # the day of the promotion itself
    assert monitor.watch is not None
    assert (monitor.watch.first_day_us, monitor.watch.silent_days) == (30 * DAY_US, 0)


@pytest.mark.fast
def test_labels_are_missing_since_the_first_day_without_one_even_if_days_without_predictions_follow(
    catalog: Catalog,
) -> None:
    monitor = anchored(catalog, healthy())
    monitor.observe([day(20, 0.3), day(21, 0.3, labelled=0)], now_us=1)
    (silent,) = monitor.observe([day(24, 0.3, labelled=0)], now_us=2)  # nothing was predicted on a weekend
    assert (silent.kind, silent.onset_us, silent.evidence["days"]) == ("no_labels", 21 * DAY_US, 2.0)
    assert "since 1970-01-22." in silent.message


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
    assert "needs at least 7 reference days, found 4" in watch.unwatched["quality_loss"]
    flat = anchored(catalog, [day(n, 0.3) for n in range(14)]).watch
    assert flat is not None
    assert list(flat.figures) == ["quality_calibration"]
    assert "never varies" in flat.unwatched["quality_loss"]


def test_the_cap_of_the_reference_is_that_of_live_days(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy(), cap=40_000.0)
    assert monitor.loss_cap("v1") == 40_000.0
    assert monitor.loss_cap("v0") == 40_000.0  # of a version that was never anchored, as of the one in service
    assert QualityMonitor(catalog, "other", run_length_days=200).loss_cap("v0") == LOSS_CAP
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


def days_of_classes(
    chance: np.random.Generator, first: int, days: int, *, rows: int, moved: float = 0.0
) -> list[DayQuality]:
    """Days of calibrated answers of three classes; `moved` of the first class's rows turn out to be of the third."""
    chances = chance.dirichlet((4.0, 2.0, 1.0), days * rows)
    labels = (chance.random(len(chances))[:, None] > chances.cumsum(axis=1)).sum(axis=1).astype(float)
    labels[(labels == 0) & (chance.random(len(labels)) < moved)] = 2.0
    at_us = (first + np.arange(len(chances)) // rows) * DAY_US
    return day_quality("click", "multi_log_loss", "v1", at_us, chances, labels)


def test_calibrated_answers_of_several_classes_ring_no_oftener_than_stated(tmp_path: Path) -> None:
    """Within h days at most h of the run length ring by chance, both figures together."""
    streams, horizon = 60, 40
    rang = moved = found = 0
    for stream in range(streams):
        chance = np.random.default_rng(stream)
        with store.open(f"sqlite://{tmp_path}/{stream}.db", "catalog") as catalog:
            monitor = anchored(catalog, days_of_classes(chance, 0, 14, rows=60))
            assert set(monitor.watch.figures if monitor.watch else ()) == {"quality_loss", "quality_calibration"}
            rang += bool(monitor.observe(days_of_classes(chance, 14, horizon, rows=60), now_us=60 * DAY_US))
        if stream < 5:
            with store.open(f"sqlite://{tmp_path}/{stream}m.db", "catalog") as catalog:
                monitor = anchored(catalog, days_of_classes(chance, 0, 14, rows=60))
                moved += 1
                drifted = days_of_classes(chance, 14, horizon, rows=60, moved=0.5)
                found += "quality_calibration" in {one.kind for one in monitor.observe(drifted, now_us=60 * DAY_US)}
    promised = horizon / 200
    assert rang / streams <= promised + 2 * (promised * (1 - promised) / streams) ** 0.5
    assert found == moved  # a class that gives way to another is seen


def ranked(number: int, loss: float, *, judged: int = 100, missing: int = 0, lists: int = 100) -> DayQuality:
    """A day of a ranking: sums over lists."""
    return DayQuality(
        model="click",
        version="v1",
        day_us=number * DAY_US,
        predictions=lists,
        labelled=judged,
        missing=missing,
        score_sum=0.0,
        label_sum=0.0,
        loss_sum=loss * judged,
        capped_loss_sum=loss * judged,
    )


def test_of_a_ranking_the_loss_of_its_lists_is_watched_alone_with_the_whole_run_length(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "click", run_length_days=200, calibrated=False)
    watch, puts = monitor.anchor("v1", [ranked(n, loss) for n, loss in enumerate(FLAT)], at_us=0, loss_cap=1.0)
    assert (watch.figures.keys(), watch.unwatched) == ({"quality_loss"}, {})
    assert watch.figures["quality_loss"].spec.run_length == 200
    catalog.write(puts)
    monitor.reload()
    assert monitor.observe([ranked(20, 0.3), ranked(21, 0.31)], now_us=0) == []
    rang = [s for n in range(22, 40) for s in red(monitor.observe([ranked(n, 0.42)], now_us=0))]
    assert [signal.kind for signal in rang] == ["quality_loss"]


def test_lists_that_are_all_alike_say_nothing_for_two_days_and_that_is_red(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "click", run_length_days=200, calibrated=False)
    _, puts = monitor.anchor("v1", [ranked(n, loss) for n, loss in enumerate(FLAT)], at_us=0, loss_cap=1.0)
    catalog.write(puts)
    monitor.reload()
    silent = [ranked(n, 0.0, judged=0, missing=10) for n in (20, 21)]
    (signal,) = monitor.observe(silent, now_us=0)
    assert (signal.kind, signal.severity) == ("no_labels", "red")
    assert signal.message.endswith(
        "first: 90 lists of the newest day have all their labels, but in each of them all labels are equal."
    )


def strange(number: int, unlisted: int, *, labelled: int = 1_000) -> DayQuality:
    return msgspec.structs.replace(day(number, 0.3, labelled=labelled), unlisted=unlisted, missing=0)


@pytest.mark.fast
def test_labels_of_no_declared_class_are_told_once_and_again_once_they_are_many(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    assert monitor.observe([strange(20, 0)], now_us=30 * DAY_US) == []
    (few,) = monitor.observe([strange(21, 5), strange(22, 6)], now_us=30 * DAY_US)
    assert (few.kind, few.severity, few.evidence) == ("unlisted_labels", "info", {"unlisted": 5.0, "labels": 1005.0})
    (many,) = monitor.observe([strange(23, 60), strange(24, 90), strange(25, 1)], now_us=30 * DAY_US)
    assert (many.severity, many.onset_us) == ("red", 21 * DAY_US)
    assert many.message.startswith("60 of 1060 labels of 1970-01-24 are of no class that the version")
    assert monitor.watch is not None
    assert monitor.watch.unlisted == 162
    assert signals(catalog) == [few, many]
    (now,) = standing_signals(catalog)  # it goes on with the newest day
    assert now.message.startswith("1 of 1001 labels of 1970-01-26 are of no class")
    assert (now.id, now.severity, now.onset_us) == (few.id, "red", 21 * DAY_US)


@pytest.mark.fast
def test_a_class_that_was_declared_meanwhile_is_said_to_need_a_training_and_no_declaration(catalog: Catalog) -> None:
    def monitor_of(*classes: str) -> QualityMonitor:
        return QualityMonitor(catalog, "click", run_length_days=200, classes=classes)

    catalog.write(monitor_of("b", "a", "c").anchor("v1", healthy(), at_us=0)[1])
    (red,) = monitor_of("b", "a", "c").observe([strange(20, 60)], now_us=30 * DAY_US)
    assert "Add the new class to tt.label(" in red.message
    monitor_of("b", "a", "c", "security").observe([strange(21, 50)], now_us=31 * DAY_US)
    (now,) = standing_signals(catalog)
    assert now.message.startswith("50 of 1050 labels of 1970-01-22")
    assert "Add the new class" not in now.message
    assert "The label declares security by now" in now.message
    assert now.message.endswith("To train a version with it: trimtab train click")


@pytest.mark.fast
def test_a_signal_about_labels_of_no_declared_class_ends_after_seven_days_without_one(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    (red,) = monitor.observe([strange(n, 60) for n in range(20, 34)], now_us=60 * DAY_US)
    assert monitor.observe([strange(n, 0) for n in range(34, 40)], now_us=60 * DAY_US) == []
    assert [one.id for one in standing_signals(catalog)] == [red.id]
    monitor.observe([strange(40, 0)], now_us=60 * DAY_US)
    assert standing_signals(catalog) == []
    assert len(monitor.observe([strange(41, 60)], now_us=60 * DAY_US)) == 1


@pytest.mark.fast
def test_days_whose_labels_are_all_of_no_declared_class_are_not_called_silent(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    found = monitor.observe([strange(n, 40, labelled=0) for n in (20, 21, 22)], now_us=30 * DAY_US)
    assert [(one.kind, one.severity) for one in found] == [("unlisted_labels", "red")]


def refreshed(catalog: Catalog, monitor: QualityMonitor, version: str, at_day: int, *, continues: bool = True) -> None:
    _, puts = monitor.anchor(version, healthy(), at_us=at_day * DAY_US, continues=continues)
    catalog.write(puts)
    monitor.reload()


def test_days_of_versions_that_a_schedule_replaced_before_they_were_closed_ring_all_the_same(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    refreshed(catalog, monitor, "v2", 40)
    refreshed(catalog, monitor, "v3", 60)  # labels take so long that no day of v1 is closed yet
    assert monitor.observe([day(n, FLAT[n - 20]) for n in range(20, 34)], now_us=1) == []
    assert monitor.observe([day(n, FLAT[n - 34]) for n in range(34, 40)], now_us=1) == []
    rung = monitor.observe([day(n, 0.6, version="v2") for n in range(40, 50)], now_us=2)
    assert ("quality_loss", "v2") in [(signal.kind, signal.version) for signal in rung]
    watch = monitor.watch
    assert watch is not None
    assert watch.onset is not None
    assert (watch.version, watch.alarming, watch.alarming_kinds) == ("v3", True, ["quality_loss"])
    assert watch.onset.at_us == 40 * DAY_US
    repaired, puts = monitor.anchor("v4", healthy(), at_us=80 * DAY_US, now_us=82 * DAY_US, continues=True)
    assert repaired.earlier is None  # after an alarm a new watch begins, whatever the promotion was
    catalog.write(puts)
    monitor.reload()
    assert {one.ended_at_us for one in red(signals(catalog))[-len(red(rung)) :]} == {
        82 * DAY_US
    }  # after a shadow of two days


def unsure(first: int, count: int, away: float, version: str = "v1") -> list[DayQuality]:
    """Return days whose loss is `away` above the loss that is expected if the scores are right."""
    days = [day(n, FLAT[n % 14], version=version) for n in range(first, first + count)]
    return [msgspec.structs.replace(one, expected_loss_sum=(0.3 - away) * 1_000) for one in days]


def test_a_repaired_version_is_not_worse_because_an_earlier_one_was_less_sure(catalog: Catalog) -> None:
    """The earlier one's loss was .1 below the loss expected from its scores, and the repaired one's was equal to it."""
    monitor = anchored(catalog, unsure(0, 28, -0.1))
    monitor.observe(unsure(28, 14, 0.2), now_us=1)
    assert monitor.watch is not None
    assert monitor.watch.alarming
    _, puts = monitor.anchor("v2", unsure(36, 6, 0.0), at_us=42 * DAY_US)
    catalog.write(puts)
    monitor.reload()
    monitor.observe(unsure(42, 60, 0.0, "v2"), now_us=2)
    assert not monitor.watch.alarming
    assert [one.kind for one in signals(catalog) if one.version == "v2"] == []


@pytest.mark.parametrize(("gap", "worse"), [(0.0, False), (-0.03, False), (0.05, True), (-0.15, True)])
def test_a_version_whose_gap_is_closer_to_zero_is_not_worse(catalog: Catalog, gap: float, worse: bool) -> None:
    """The version before it predicted .05 too little."""

    def days(off: float, version: str) -> list[DayQuality]:
        known = [day(n, FLAT[n % 14], version=version) for n in range(28)]
        return [msgspec.structs.replace(one, score_sum=(0.3 + off) * 1_000) for one in known]

    monitor = anchored(catalog, days(-0.05, "v1"))
    watch, _ = monitor.anchor("v2", days(gap, "v2"), at_us=28 * DAY_US)
    assert bool(watch.short_of) == worse


def test_an_earlier_watch_ends_when_seven_days_of_the_new_version_are_closed(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    refreshed(catalog, monitor, "v2", 40)
    monitor.observe([day(n, FLAT[n - 30]) for n in range(30, 40)], now_us=1)
    monitor.observe([day(n, FLAT[n - 40], version="v2") for n in range(40, 47)], now_us=2)
    watch = monitor.watch
    assert watch is not None
    assert watch.earlier is not None
    assert watch.earlier.last_day_us == 39 * DAY_US
    assert watch.first_day_us == 40 * DAY_US  # the days of each version are compared with its own reference
    monitor.observe([day(47, 0.3, version="v2")], now_us=3)
    assert monitor.watch is not None
    assert monitor.watch.earlier is None


def test_other_promotions_end_the_watch_over_what_they_replace(catalog: Catalog) -> None:
    monitor = anchored(catalog, healthy())
    refreshed(catalog, monitor, "v2", 40, continues=False)
    before = monitor.watch
    assert monitor.observe([day(n, 0.6) for n in range(20, 40)], now_us=1) == []
    assert monitor.watch == before


def repaired(catalog: Catalog) -> QualityMonitor:
    """Return a monitor after an alarm on day 24 and a repair on day 30, whose reference has five days."""
    monitor = anchored(catalog, healthy())
    monitor.observe([day(n, 0.3 if n < 24 else 0.6) for n in range(20, 30)], now_us=1)
    assert monitor.watch is not None
    assert monitor.watch.alarming
    few = [day(n, FLAT[n - 24], version="v2") for n in range(24, 29)]
    _, puts = monitor.anchor("v2", few, at_us=30 * DAY_US)
    catalog.write(puts)
    monitor.reload()
    return monitor


@pytest.mark.fast
@pytest.mark.parametrize("later", [1, 4, 8, 9, 10, 16, 40])
def test_a_version_whose_reference_has_few_days_is_always_watched(catalog: Catalog, later: int) -> None:
    monitor = repaired(catalog)
    for n in range(30, 30 + later):
        assert monitor.observe([day(n, FLAT[n % 14], version="v2")], now_us=2) == []
        assert monitor.watch is not None
        assert set(monitor.kinds) <= {*monitor.watch.figures, *monitor.watch.healthy}
        assert bool(monitor.watch.figures) == (n >= 38)  # five days of the reference and nine in service
    rung = red(monitor.observe([day(30 + later + n, 0.6, version="v2") for n in range(14)], now_us=3))
    assert {signal.kind for signal in rung} <= {"quality_loss", "quality_level"}
    assert monitor.watch is not None
    assert monitor.watch.onset is not None
    assert abs(monitor.watch.onset.at_us // DAY_US - (30 + later)) <= 1
    short = monitor.watch.short
    assert short is None or all(one.loss_sum < 500 for one in short.days)  # no day since the alarm is learnt from


@pytest.mark.parametrize("seed", range(3))
def test_a_lucky_fortnight_of_reference_days_does_not_ring_for_ever(catalog: Catalog, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 0.01, 400)
    lucky = noise[:14] - noise[:14].mean() - 0.0075  # three quarters of a standard deviation better than the rest
    monitor = anchored(catalog, [day(n, 0.3 + one) for n, one in enumerate(lucky.tolist())])
    assert monitor.watch is not None
    assert monitor.watch.short is not None
    rung = red(monitor.observe([day(n, 0.3 + float(noise[n])) for n in range(14, 400)], now_us=1))
    assert monitor.watch.short is None
    assert monitor.watch.figures["quality_loss"].spec.reference_blocks == 28
    assert rung == []


@pytest.mark.parametrize("begins", [15, 20, 26, 30])
def test_a_change_while_the_reference_grows_is_not_learnt(catalog: Catalog, begins: int) -> None:
    rng = np.random.default_rng(begins)
    losses = (0.3 + rng.normal(0.0, 0.01, 90) + 0.03 * (np.arange(90) >= begins)).tolist()
    monitor = anchored(catalog, [day(n, one) for n, one in enumerate(losses[:14])])
    rung = monitor.observe([day(n, one) for n, one in enumerate(losses[14:], 14)], now_us=1)
    assert "quality_loss" in {signal.kind for signal in rung}
    assert monitor.watch is not None
    assert monitor.watch.alarming
    assert monitor.watch.figures["quality_loss"].spec.mean < 0.31


@pytest.mark.parametrize("known", [8, 10, 12])
@pytest.mark.parametrize("seed", range(3))
def test_a_fault_since_the_first_day_in_service_is_not_learnt(catalog: Catalog, known: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0.0, 0.01, 90)
    losses = (0.3 + noise + 0.05 * (np.arange(90) >= known)).tolist()
    monitor = anchored(catalog, [day(n, one) for n, one in enumerate(losses[:known])])
    rung = monitor.observe([day(n, one) for n, one in enumerate(losses[known:], known)], now_us=1)
    assert "quality_loss" in {signal.kind for signal in rung}


@pytest.mark.parametrize(("loss", "labelled"), [(0.9, 2), (0.5, 1_000), (0.3, 0)])
def test_one_unusual_day_does_not_make_the_alarm_slow(catalog: Catalog, loss: float, labelled: int) -> None:
    losses = (0.3 + np.random.default_rng(5).normal(0.0, 0.01, 60)).tolist()
    monitor = anchored(catalog, [day(n, one) for n, one in enumerate(losses[:14])])
    monitor.observe([day(14, loss, labelled=labelled)], now_us=1)
    monitor.observe([day(n, losses[n]) for n in range(15, 40)], now_us=1)
    assert monitor.watch is not None
    spec = monitor.watch.figures["quality_loss"].spec
    assert (spec.reference_blocks, monitor.watch.short) == (28, None)
    assert spec.sd < 0.015
    rung = red(monitor.observe([day(n, losses[n] + 0.03) for n in range(40, 60)], now_us=2))
    assert [signal.kind for signal in rung] == ["quality_loss"]


def test_a_grown_reference_is_there_again_after_a_roll_back(catalog: Catalog) -> None:
    monitor = repaired(catalog)
    monitor.observe([day(n, FLAT[n % 14], version="v2") for n in range(30, 45)], now_us=2)
    monitor.follow("v1", now_us=45 * DAY_US)
    monitor.follow("v2", now_us=46 * DAY_US)
    assert monitor.watch is not None
    assert {kind: figure.spec.reference_blocks for kind, figure in monitor.watch.figures.items()} == {
        "quality_loss": 14,
        "quality_calibration": 14,
    }
