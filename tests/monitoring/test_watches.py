"""Watches: alarms end, rise further, name slices, survive promotions, roll backs and moves by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trimtab import store
from trimtab.core.records import LOSS_CAP, DayQuality
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import BlockSums, DayBlocks
from trimtab.monitoring.quality.detectable_rises import detectable_in_words, detectable_rises
from trimtab.monitoring.quality.earlier_levels import EarlierLevel, added, begun, loss_level
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.monitoring.quality.watches import advanced_slice, learnt_slices
from trimtab.monitoring.signals import every_signal, listed_signals, standing_signals
from trimtab.stats.exact_sums import exact_sum
from trimtab.store import Catalog

ROWS = 1_000


def day(number: int, loss: float, *, version: str = "v1", gap: float = 0.0, rows: int = ROWS) -> DayQuality:
    return DayQuality(
        model="m",
        version=version,
        day_us=number * DAY_US,
        predictions=rows,
        labelled=rows,
        missing=0,
        score_sum=(0.3 + gap) * rows,
        label_sum=0.3 * rows,
        loss_sum=loss * rows,
        capped_loss_sum=loss * rows,
        expected_loss_sum=0.2 * rows,
    )


def stream(seed: int, first: int, days: int, *, level: float = 0.2, version: str = "v1") -> list[DayQuality]:
    chance = np.random.default_rng(seed)
    noise, gaps = chance.normal(0, 0.01, days), chance.normal(0, 0.01, days)
    return [day(first + n, level + float(noise[n]), version=version, gap=float(gaps[n])) for n in range(days)]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def anchor(monitor: QualityMonitor, catalog: Catalog, version: str, days: Sequence[DayQuality], at: int) -> None:
    _, changes = monitor.anchor(version, days, at_us=at * DAY_US, name=f"m@{version}")
    catalog.write(changes)
    monitor.reload()


@pytest.fixture
def monitor(catalog: Catalog) -> QualityMonitor:
    made = QualityMonitor(catalog, "m", run_length_days=500)
    anchor(made, catalog, "v1", stream(1, 0, 28), 28)
    return made


def standing(catalog: Catalog) -> list[tuple[str, str]]:
    return [(one.kind, one.subject) for one in standing_signals(catalog, "m")]


def test_an_alarm_ends_when_seven_days_are_back_at_the_reference(catalog: Catalog, monitor: QualityMonitor) -> None:
    monitor.observe(stream(2, 28, 10, level=0.26), now_us=38 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]
    monitor.observe(stream(3, 38, 5, level=0.19), now_us=43 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]
    monitor.observe(stream(4, 43, 5, level=0.19), now_us=48 * DAY_US)
    assert standing(catalog) == []
    (ended,) = listed_signals(catalog, "m")
    assert ended.ended_at_us == 48 * DAY_US
    assert monitor.watch is not None
    assert not monitor.watch.alarming
    monitor.observe(stream(5, 48, 10, level=0.26), now_us=58 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]  # a new alarm, of its own onset
    assert 46 <= standing_signals(catalog, "m")[0].onset_us / DAY_US <= 50


@pytest.mark.parametrize("seed", [2, 4])
def test_a_lucky_fortnight_is_no_reference_that_later_days_must_reach(catalog: Catalog, seed: int) -> None:
    """The scores expect a loss of .2; see `_up_to_zero`."""
    monitor = QualityMonitor(catalog, "m", run_length_days=500)
    lucky = stream(seed, 0, 14)
    above = float(np.mean([one.capped_loss_sum / ROWS for one in lucky])) - 0.19  # a standard deviation below .2
    anchor(monitor, catalog, "v1", [day(n, one.capped_loss_sum / ROWS - above) for n, one in enumerate(lucky)], 14)
    monitor.observe(stream(10 + seed, 14, 200), now_us=214 * DAY_US)
    assert "quality_loss" not in dict(standing(catalog))
    monitor.observe(stream(20 + seed, 214, 21, level=0.225), now_us=235 * DAY_US)
    assert "quality_loss" in dict(standing(catalog))


def test_a_day_far_from_the_reference_is_told_before_there_is_an_alarm(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    monitor.observe(stream(2, 28, 3), now_us=31 * DAY_US)
    assert monitor.watch is not None
    assert not monitor.watch.far
    monitor.observe([day(31, 0.3)], now_us=32 * DAY_US)
    (found,) = standing_signals(catalog, "m")
    assert (found.kind, found.severity, found.onset_us) == ("quality_day", "info", 31 * DAY_US)
    assert "On 1970-02-01, the daily loss beyond the loss that is expected from the scores was 0.208" in found.message
    assert found.evidence == {"quality_loss": pytest.approx(0.1 * LOSS_CAP)}
    assert monitor.watch.far
    monitor.observe([day(32, 0.3, rows=0)], now_us=33 * DAY_US)  # a day without labels is not far
    assert standing(catalog) == []
    monitor.observe([day(33, 0.3)], now_us=34 * DAY_US)
    assert standing(catalog) == [("quality_day", "")]
    monitor.observe([day(n, 0.3) for n in range(34, 42)], now_us=42 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]  # the alarm takes its place
    assert not monitor.watch.far


def moved(days: Sequence[DayQuality], gap: float) -> list[DayQuality]:
    """The days, with mean scores that are higher by `gap`."""
    return [msgspec.structs.replace(one, score_sum=one.score_sum + gap * one.labelled) for one in days]


def test_a_gap_closer_to_0_than_the_reference_is_no_evidence(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500)
    anchor(monitor, catalog, "v1", moved(stream(1, 0, 28), -0.1), 28)
    monitor.observe(stream(2, 28, 100), now_us=128 * DAY_US)  # scores and labels have the same mean now
    assert standing(catalog) == []
    monitor.observe(moved(stream(3, 128, 20), 0.1), now_us=148 * DAY_US)
    assert standing(catalog) == [("quality_calibration", "")]
    monitor.observe(stream(4, 148, 20), now_us=168 * DAY_US)
    assert standing(catalog) == []
    monitor.observe(moved(stream(5, 168, 20), -0.2), now_us=188 * DAY_US)
    assert standing(catalog) == [("quality_calibration", "")]


def test_scores_that_were_much_too_unsure_are_a_reference(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500)
    anchor(monitor, catalog, "v1", stream(1, 0, 28, level=0.17), 28)
    monitor.observe(stream(2, 28, 21), now_us=49 * DAY_US)
    assert "quality_loss" in dict(standing(catalog))


def test_an_error_that_triples_during_an_alarm_is_a_signal_of_its_own(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    monitor.observe(stream(2, 28, 12, level=0.25), now_us=40 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]
    monitor.observe(stream(3, 40, 20, level=0.25), now_us=60 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]  # the same level is no rise
    monitor.observe(stream(4, 60, 3, level=0.75), now_us=63 * DAY_US)
    assert ("quality_worse", "quality_loss, rise 1") in standing(catalog)
    watch = monitor.watch
    assert watch is not None
    assert watch.onset is not None
    assert 59 <= watch.onset.at_us / DAY_US <= 61  # the newest change is what a repair is for


def test_a_promotion_that_stays_worse_than_the_last_healthy_version_stays_red(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", stream(3, 24, 14, level=0.25, version="v2"), 38)  # better, but not healthy
    (red,) = standing_signals(catalog, "m")
    assert (red.kind, red.version) == ("quality_level", "v2")
    assert red.evidence["worse_by"] == pytest.approx(0.05 * LOSS_CAP, abs=0.02)
    ended = [one for one in listed_signals(catalog, "m") if one.ended_at_us is not None and one.severity == "red"]
    assert [one.ended_because for one in ended] == ["m@v2 was put in service"]
    monitor.observe(stream(4, 38, 20, level=0.25, version="v2"), now_us=58 * DAY_US)
    assert [kind for kind, _ in standing(catalog)] == ["quality_level"]  # steady on its own reference
    anchor(
        monitor, catalog, "v3", stream(5, 44, 14, level=0.25, version="v3"), 58
    )  # nor does the next one turn it green
    assert [kind for kind, _ in standing(catalog)] == ["quality_level"]
    assert monitor.watch is not None
    assert monitor.watch.healthy_version == "v1"
    monitor.observe(stream(6, 58, 9, level=0.195, version="v3"), now_us=67 * DAY_US)
    assert standing(catalog) == []
    assert monitor.watch.healthy == {}


def test_a_promotion_in_a_healthy_world_is_seldom_called_worse(catalog: Catalog, monitor: QualityMonitor) -> None:
    worse = 0
    for seed in range(200):
        watch, _ = monitor.anchor("v2", stream(100 + seed, 28, 28, version="v2"), at_us=56 * DAY_US)
        worse += bool(watch.short_of)
    assert worse <= 1
    watch, _ = monitor.anchor("v2", stream(2, 28, 28, level=0.24, version="v2"), at_us=56 * DAY_US)
    assert set(watch.short_of) == {"quality_loss"}  # 20 % worse is seen without any alarm


def test_a_repair_that_meets_the_level_ends_the_alarm_and_is_named(catalog: Catalog, monitor: QualityMonitor) -> None:
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", stream(3, 24, 14, level=0.199, version="v2"), 38)
    assert standing(catalog) == []
    (ended,) = [one for one in listed_signals(catalog, "m") if one.severity == "red"]
    assert ended.ended_because == "m@v2 was put in service"
    monitor.observe(stream(4, 38, 9, level=0.24, version="v2"), now_us=47 * DAY_US)  # the gate was too kind
    assert {kind for kind, _ in standing(catalog)} >= {"quality_level"}


def test_levels_of_versions_with_other_caps_are_held_against_each_other_in_one_unit(catalog: Catalog) -> None:
    """A cap follows the losses of its version: twice the cap must not look like half the loss."""
    monitor = QualityMonitor(catalog, "m", run_length_days=500)
    first = [msgspec.structs.replace(one, expected_loss_sum=None) for one in stream(1, 0, 28)]
    _, changes = monitor.anchor("v1", first, at_us=28 * DAY_US, loss_cap=10.0)
    catalog.write(changes)
    monitor.reload()

    def halved(days: list[DayQuality]) -> list[DayQuality]:
        return [
            msgspec.structs.replace(one, capped_loss_sum=one.capped_loss_sum / 2, expected_loss_sum=None)
            for one in days
        ]

    worse = halved(stream(3, 28, 14, level=0.26, version="v2"))  # of the metric 2.6, where it was 2.0
    watch, changes = monitor.anchor("v2", worse, at_us=42 * DAY_US, loss_cap=20.0)
    catalog.write(changes)
    monitor.reload()
    (red,) = standing_signals(catalog, "m")
    assert red.kind == "quality_level"
    assert red.evidence["worse_by"] == pytest.approx(0.6, abs=0.1)
    assert (watch.healthy_cap, watch.loss_cap) == (10.0, 20.0)
    monitor.observe(halved(stream(4, 42, 10, level=0.195, version="v2")), now_us=52 * DAY_US)
    assert standing(catalog) == []


def test_a_version_of_another_metric_is_held_against_its_own_level_alone(catalog: Catalog) -> None:
    anchor(QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss"), catalog, "v1", stream(1, 0, 28), 28)
    other = QualityMonitor(catalog, "m", run_length_days=500, metric="brier")
    anchor(other, catalog, "v2", stream(3, 14, 28, level=0.9, version="v2"), 42)
    assert other.watch is not None
    assert (other.watch.healthy, other.watch.metric) == ({}, "brier")


def test_a_level_that_a_person_accepts_is_red_no_more(catalog: Catalog, monitor: QualityMonitor) -> None:
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", stream(3, 24, 14, level=0.25, version="v2"), 38)
    accepted = monitor.accept(now_us=39 * DAY_US)
    assert accepted is not None
    catalog.write(accepted[1])
    monitor.reload()
    assert standing(catalog) == []
    assert monitor.accept(now_us=39 * DAY_US) is None


def test_a_version_that_answers_again_is_watched_against_the_level_that_it_had(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    assert monitor.watch is not None
    first = monitor.watch.figures
    anchor(monitor, catalog, "v2", stream(3, 14, 28, level=0.18, version="v2"), 42)
    assert monitor.follow("v1", now_us=50 * DAY_US)
    assert not monitor.follow("v1", now_us=50 * DAY_US)
    watch = monitor.watch
    assert watch is not None
    assert (watch.version, watch.anchored_at_us) == ("v1", 50 * DAY_US)
    assert {kind: one.spec for kind, one in watch.figures.items()} == {kind: one.spec for kind, one in first.items()}
    monitor.observe(stream(4, 50, 10, level=0.27), now_us=60 * DAY_US)
    assert ("quality_loss", "") in standing(catalog)


def test_a_version_put_in_by_hand_is_held_against_the_last_healthy_level(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    monitor.follow("other", now_us=30 * DAY_US)
    watch = monitor.watch
    assert watch is not None
    assert (watch.figures, watch.healthy_version) == ({}, "v1")
    assert set(watch.unwatched) == {"quality_loss", "quality_calibration"}
    monitor.observe(stream(4, 30, 10, level=0.26, version="other"), now_us=40 * DAY_US)
    assert [kind for kind, _ in standing(catalog)] == ["quality_level"]


def slices_of(days: Sequence[DayQuality], losses: dict[str, Sequence[float]]) -> dict[tuple[int, str], DayBlocks]:
    found = {}
    for place, one in enumerate(days):
        slices = {
            name: BlockSums(
                predictions=100,
                labelled=100,
                capped_loss=exact_sum([100 * values[place]]),
                expected_loss=exact_sum([20.0]),
            )
            for name, values in losses.items()
        }
        found[one.day_us, one.version] = DayBlocks(
            model="m", version=one.version, arm="champion", day_us=one.day_us, cap=1.0, whole=BlockSums(), slices=slices
        )
    return found


def usual(
    chance: np.random.Generator, names: Sequence[str], days: Sequence[DayQuality]
) -> dict[str, Sequence[DayQuality]]:
    """Reference days of slices, with a mean loss of .2."""
    return {
        name: [
            DayQuality(
                model="m", version="v1", day_us=one.day_us, predictions=100, labelled=100, missing=0, score_sum=30.0,
                label_sum=30.0, loss_sum=0.0, capped_loss_sum=100 * float(chance.normal(0.2, 0.03)),
                expected_loss_sum=20.0,
            )
            for one in days
        ]
        for name in names
    }  # fmt: skip


def test_a_slice_with_a_day_far_from_its_reference_is_named(catalog: Catalog) -> None:
    names, reference, live = ["r=a", "r=b"], stream(1, 0, 28), stream(2, 28, 1)
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    before = usual(np.random.default_rng(7), names, reference)
    catalog.write(monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=before)[1])
    monitor.reload()
    monitor.observe(live, now_us=29 * DAY_US, slices=slices_of(live, {"r=a": [0.21], "r=b": [0.6]}))
    (found,) = standing_signals(catalog, "m")
    assert (found.kind, list(found.evidence)) == ("quality_day", ["r=b"])
    assert "scores of r=b was 0.832 (reference: -0.00" in found.message


def test_slices_that_get_worse_together_keep_their_signals(catalog: Catalog) -> None:
    """Five slices get worse on one day, and another three of them are the worst each day."""
    rng, names = np.random.default_rng(7), [f"state=S{n}" for n in range(5)]
    reference, live = stream(1, 0, 28), stream(2, 28, 14)
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    before = usual(rng, names, reference)
    catalog.write(monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=before)[1])
    monitor.reload()
    losses = {name: rng.normal(0.45, 0.1, 14).tolist() for name in names}
    given = slices_of(live, losses)
    for number, one in enumerate(live):
        monitor.observe([one], now_us=(29 + number) * DAY_US, slices=given)
    found = [one for one in listed_signals(catalog, "m") if one.kind == "quality_slice"]
    assert len(found) == 3
    assert all(one.ended_at_us is None for one in found)


def test_one_slice_of_fifty_one_that_gets_worse_is_named_with_its_interval(catalog: Catalog) -> None:
    chance = np.random.default_rng(7)
    names = [f"state=S{n:02}" for n in range(51)]
    reference, live = stream(1, 0, 28), stream(2, 28, 14)
    before = usual(chance, names, reference)
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    watch, changes = monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=before)
    catalog.write(changes)
    monitor.reload()
    assert len(watch.slices) == 51
    assert watch.slices["state=S07"].spec.run_length == 3 * 2 * 51 * 1_000  # loss and gap of each
    losses = {name: chance.normal(0.2, 0.03, 14).tolist() for name in names}
    losses["state=S07"] = chance.normal(0.35, 0.03, 14).tolist()
    monitor.observe(live, now_us=42 * DAY_US, slices=slices_of(live, losses))
    (signal,) = standing_signals(catalog, "m")
    assert (signal.kind, signal.subject) == ("quality_slice", "slice state=S07")
    assert signal.evidence["low"] < 0.15 * LOSS_CAP < signal.evidence["high"]
    assert signal.evidence["high"] - signal.evidence["low"] < 0.16
    assert monitor.watch is not None
    assert not monitor.watch.alarming  # the whole is steady


def test_days_of_an_alarm_about_a_slice_are_not_added_to_its_short_reference(catalog: Catalog) -> None:
    chance = np.random.default_rng(8)
    reference, live = stream(1, 0, 14), stream(2, 14, 30)
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    before = usual(chance, ["a", "b"], reference)
    catalog.write(monitor.anchor("v1", reference, at_us=14 * DAY_US, slices=before)[1])
    monitor.reload()
    losses = {name: chance.normal(0.2, 0.03, 30).tolist() for name in ("a", "b")}
    losses["a"][:4] = [0.6] * 4  # then well again, so its alarm ends before the reference is full
    blocks = slices_of(live, losses)
    monitor.observe(live[:13], now_us=27 * DAY_US, slices=blocks)
    assert monitor.watch is not None
    short = monitor.watch.short
    assert short is not None
    assert max(one.capped_loss_sum for one in short.slices["a"]) < 40
    assert len(short.slices["b"]) == 27
    monitor.observe(live[13:], now_us=44 * DAY_US, slices=blocks)
    assert monitor.watch.slices["a"].spec.sd < 0.05


def test_signals_about_slices_last_and_keep_their_beginning_for_as_long_as_the_slices_are_worse(
    catalog: Catalog,
) -> None:
    """Six slices get worse at once, and no version repairs them: which of them is the worst differs by day.

    A fault of another slice 60 days later is not hidden by them.
    """
    chance, names = np.random.default_rng(3), [f"state=S{n}" for n in range(7)]
    reference, live = stream(1, 0, 28), stream(2, 28, 160)
    before = usual(chance, names, reference)
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    catalog.write(monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=before)[1])
    monitor.reload()
    losses = {name: [*chance.normal(0.2, 0.03, 10), *chance.normal(0.35, 0.03, 150)] for name in names}
    losses["state=S6"] = [*chance.normal(0.2, 0.03, 70), *chance.normal(0.35, 0.03, 90)]
    blocks = slices_of(live, losses)
    begun = []
    for one in live:
        begun += monitor.observe([one], now_us=one.day_us + DAY_US, slices=blocks)
        monitor.reload()
    assert [signal.kind for signal in begun] == ["quality_slice"] * 4
    assert begun[-1].subject == "slice state=S6"
    assert monitor.watch is not None
    onsets = [onset.at_us / DAY_US for name, onset in monitor.watch.slice_onsets.items() if name != "state=S6"]
    assert len(onsets) == 6
    assert 29 < min(onsets) <= max(onsets) < 41  # the change began on day 38
    assert "Other slices that are worse than their reference: state=S" in begun[-1].message


def gap_blocks(days: Sequence[DayQuality], gaps: Sequence[float]) -> dict[tuple[int, str], DayBlocks]:
    """One row a day in one slice, with a known gap and a loss that says nothing."""
    found = {}
    for one, gap in zip(days, gaps, strict=True):
        sums = BlockSums(
            predictions=1,
            labelled=1,
            score=exact_sum([gap]),
            capped_loss=exact_sum([0.2]),
            expected_loss=exact_sum([0.2]),
        )
        blocks = DayBlocks(
            model="m", version=one.version, arm="champion", day_us=one.day_us, cap=1.0, whole=BlockSums(),
            slices={"state=DC": sums},
        )  # fmt: skip
        found[one.day_us, one.version] = blocks
    return found


@pytest.mark.parametrize(("healthy_gap", "now", "rings"), [(0.0, 1.5, True), (1.5, 0.0, False), (1.5, 3.5, True)])
def test_a_slice_whose_gap_opens_is_named_but_not_one_whose_gap_closes(
    catalog: Catalog, healthy_gap: float, now: float, rings: bool
) -> None:
    chance = np.random.default_rng(3)
    reference, live = stream(1, 0, 84), stream(2, 84, 40)
    before = [
        msgspec.structs.replace(
            one, predictions=1, labelled=1, label_sum=0.0, score_sum=healthy_gap + float(chance.normal()),
            capped_loss_sum=0.2, expected_loss_sum=None,
        )
        for one in reference
    ]  # fmt: skip
    monitor = QualityMonitor(catalog, "m", run_length_days=1_000)
    watch, changes = monitor.anchor("v1", reference, at_us=84 * DAY_US, slices={"state=DC": before})
    catalog.write(changes)
    monitor.reload()
    assert (list(watch.slices), list(watch.slice_gaps)) == ([], ["state=DC"])  # a loss that never varies has no spread
    gaps = (now + chance.normal(size=40)).tolist()
    monitor.observe(live, now_us=130 * DAY_US, slices=gap_blocks(live, gaps))
    found = [one.message for one in standing_signals(catalog, "m")]
    assert [one.startswith("state=DC: the gap between predicted and true mean is") for one in found] == [True] * rings


def one_flight(number: int, score: float, late: bool) -> DayQuality:
    """A day with one flight of a slice: its score, and whether it was late."""
    loss = -np.log(score if late else 1.0 - score)
    return DayQuality(
        model="m", version="v1", day_us=number * DAY_US, predictions=1, labelled=1, missing=0, score_sum=score,
        label_sum=float(late), loss_sum=loss, capped_loss_sum=min(loss, LOSS_CAP),
        expected_loss_sum=-score * np.log(score) - (1.0 - score) * np.log(1.0 - score),
    )  # fmt: skip


@pytest.mark.parametrize(("late_days", "watched"), [(0, False), (3, False), (12, True)])
def test_a_slice_whose_reference_holds_few_events_is_not_watched(late_days: int, watched: bool) -> None:
    """Three late flights in a row are no proof of a change where two months had none, as one in twelve may be late."""
    scores = np.random.default_rng(4).uniform(0.078, 0.082, 90)
    days = [one_flight(n, float(scores[n]), n % 5 == 1 and n < 5 * late_days) for n in range(60)]
    live = [one_flight(n, float(scores[n]), n in (70, 71, 72)) for n in range(60, 90)]
    found = learnt_slices("quality_loss", {"carrier=HA": days}, 6_000.0, {})
    assert bool(found) == watched
    for one in live:
        found = {name: advanced_slice(figure, "quality_loss", one, 0) for name, figure in found.items()}
    assert not any(figure.alarming for figure in found.values())


def test_a_slice_whose_loss_rises_by_four_standard_deviations_rings_within_ten_days() -> None:
    chance = np.random.default_rng(11)

    def day(number: int, loss: float) -> DayQuality:
        return DayQuality(
            model="m", version="v1", day_us=number * DAY_US, predictions=80, labelled=80, missing=0, score_sum=40.0,
            label_sum=40.0, loss_sum=80.0 * loss, capped_loss_sum=80.0 * loss, expected_loss_sum=80.0 * 0.3,
        )  # fmt: skip

    days = [day(n, 0.3 + 0.03 * float(chance.normal())) for n in range(28)]
    found = learnt_slices("quality_loss", {"product=drive": days}, 72_000.0, {})
    for number in range(28, 38):
        later = day(number, 0.42 + 0.03 * float(chance.normal()))
        found = {name: advanced_slice(figure, "quality_loss", later, 0) for name, figure in found.items()}
    assert found["product=drive"].alarming


def test_a_canary_that_is_worse_rings_under_its_own_name_until_it_is_gone(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    live, worse = stream(3, 28, 20), stream(4, 28, 20, level=0.26, version="other")
    monitor.follow_arms({"canary": "other"}, now_us=48 * DAY_US, closed_us=48 * DAY_US)
    for number, (one, two) in enumerate(zip(live, worse, strict=True)):
        monitor.observe([one], now_us=(30 + number) * DAY_US, arms=[("canary", two)])
        monitor.reload()
    (signal,) = standing_signals(catalog, "m")
    assert (signal.kind, signal.version, signal.subject) == ("quality_level", "other", "canary, quality_loss")
    assert signal.message.startswith(
        "For the canary: The daily loss beyond the loss that is expected from the scores is 0.126 above"
    )
    assert "the level of the version in service" in signal.message
    assert monitor.watch is not None
    assert not monitor.watch.alarming
    monitor.observe(stream(5, 48, 1), now_us=50 * DAY_US)
    assert len(standing_signals(catalog, "m")) == 1  # a look without its days leaves it alone
    # labels take 30 days, so that its newest closed day is long ago
    monitor.follow_arms({"canary": "other"}, now_us=80 * DAY_US, closed_us=49 * DAY_US)
    assert len(standing_signals(catalog, "m")) == 1
    monitor.follow_arms({"canary": "third"}, now_us=51 * DAY_US, closed_us=51 * DAY_US)
    assert standing_signals(catalog, "m") == []
    (ended,) = listed_signals(catalog, "m")
    assert ended.ended_because == "other no longer answers as canary"


def test_a_canary_that_is_as_good_is_quiet_and_a_shadow_is_never_red(catalog: Catalog, monitor: QualityMonitor) -> None:
    arms = [("canary", one) for one in stream(4, 28, 20, version="other")]
    arms += [("shadow", one) for one in stream(5, 28, 20, level=0.26, version="third")]
    monitor.observe(stream(3, 28, 20), now_us=48 * DAY_US, arms=arms)
    (signal,) = standing_signals(catalog, "m")
    assert (signal.version, signal.severity) == ("third", "info")
    monitor.follow_arms(
        {"canary": "other", "shadow": "third"}, now_us=70 * DAY_US, closed_us=70 * DAY_US
    )  # silent for weeks
    assert standing_signals(catalog, "m") == []


def test_the_days_that_a_rise_is_said_to_take_are_those_that_it_takes(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    assert monitor.watch is not None
    stated = detectable_rises(monitor.watch)
    assert list(stated) == [0.1, 0.2, 0.5, 1.0]
    for rise in (0.1, 0.2):
        taken = []
        for seed in range(12):
            made = QualityMonitor(catalog, "m", run_length_days=500)
            anchor(made, catalog, "v1", stream(1, 0, 28), 28)
            for one in stream(100 + seed, 28, 60, level=0.2 * (1 + rise)):
                if any(found.severity == "red" for found in made.observe([one], now_us=one.day_us + DAY_US)):
                    taken.append(one.day_us // DAY_US - 27)
                    break
        assert stated[rise] == pytest.approx(np.median(taken), rel=0.35, abs=2)


def test_a_rise_that_is_too_small_for_the_days_is_said_to_be_so(catalog: Catalog) -> None:
    made = QualityMonitor(catalog, "m", run_length_days=500)
    assert made.watch is None
    noise = np.random.default_rng(4).normal(0, 1, 28)
    anchor(made, catalog, "v1", [day(n, 0.2 + 0.04 * float(noise[n])) for n in range(28)], 28)
    assert made.watch is not None
    text = detectable_in_words(made.watch)
    assert text == (
        "; days until a higher loss would be detected: more than 60 for a rise of 10 %, 33 for a rise of 20 %"
    )
    anchor(made, catalog, "v2", [day(n, 0.2 + float(noise[n])) for n in range(28)], 28)
    assert detectable_in_words(made.watch) == "; not even twice the loss would be detected within 60 closed days"
    old = msgspec.structs.replace(made.watch, reference_loss=None)  # a watch that was stored before this was known
    assert detectable_in_words(old) == ""


def test_a_rise_takes_more_days_where_traffic_has_fallen(catalog: Catalog, monitor: QualityMonitor) -> None:
    assert monitor.watch is not None
    before = detectable_rises(monitor.watch)
    few = [day(n, 0.2, rows=ROWS // 10) for n in range(28, 68)]  # five days make one step
    monitor.observe(few, now_us=68 * DAY_US)
    after = detectable_rises(monitor.watch)
    assert after[1.0] == pytest.approx(5.0 * before[1.0], rel=0.3)
    assert math.isinf(after[0.1])


def unsure(seed: int, first: int, days: int, loss: float, version: str, *, positive: float = 0.3) -> list[DayQuality]:
    """Days whose scores expect just the loss that they have."""
    noise = np.random.default_rng(seed).normal(0, 0.01, days)
    found = [day(first + n, loss, version=version) for n in range(days)]
    return [
        msgspec.structs.replace(
            one,
            capped_loss_sum=(loss + float(move)) * ROWS,
            expected_loss_sum=loss * ROWS,
            score_sum=positive * ROWS,
            label_sum=positive * ROWS,
        )
        for one, move in zip(found, noise, strict=True)
    ]


def test_a_repair_that_is_only_less_sure_stays_red_until_the_loss_before_the_change_is_met(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss")
    anchor(monitor, catalog, "v1", unsure(1, 0, 28, 0.2, "v1"), 28)
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    assert ("quality_loss", "") in standing(catalog)
    anchor(monitor, catalog, "v2", unsure(3, 31, 7, 0.24, "v2"), 38)
    (red,) = standing_signals(catalog, "m")
    assert (red.kind, red.subject, red.severity) == ("quality_level", "loss", "red")
    assert red.evidence["above"] == pytest.approx(0.2, abs=0.05)
    assert abs(red.onset_us / DAY_US - 28) <= 2
    assert "trainings may follow" not in red.message
    monitor.outlook = lambda watch: f"{watch.version} is repaired on Monday."
    anchor(monitor, catalog, "v3", unsure(4, 38, 7, 0.24, "v3"), 46)  # nor does the next one turn it green
    monitor.observe(unsure(5, 46, 4, 0.2, "v3"), now_us=50 * DAY_US)
    assert standing(catalog) == [("quality_level", "loss")]
    assert standing_signals(catalog, "m")[0].message.endswith(" v3 is repaired on Monday.")
    monitor.observe(unsure(6, 50, 3, 0.2, "v3"), now_us=53 * DAY_US)
    assert standing(catalog) == []


def test_a_level_that_a_replaced_version_did_not_reach_is_red_once(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss")
    anchor(monitor, catalog, "v1", unsure(1, 0, 28, 0.2, "v1"), 28)
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", unsure(3, 31, 7, 0.24, "v2"), 38)
    refresh, changes = monitor.anchor("v3", unsure(4, 38, 7, 0.24, "v3"), at_us=46 * DAY_US, continues=True)
    catalog.write(changes)
    monitor.reload()
    monitor.observe(unsure(5, 46, 1, 0.24, "v3"), now_us=47 * DAY_US)
    assert refresh.earlier is not None  # its last days are still watched
    assert [(one.version, one.kind) for one in standing_signals(catalog, "m")] == [("v3", "quality_level")]


def test_an_open_signal_tells_the_newest_numbers_and_when_it_ends(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss")
    anchor(monitor, catalog, "v1", stream(1, 0, 28), 28)
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", stream(3, 31, 14, level=0.3, version="v2"), 38)
    (first,) = standing_signals(catalog, "m")
    assert "is 0.205 above" in first.message
    assert "within 0.00576 of that level" in first.message  # of the reference days
    monitor.observe(stream(4, 39, 20, level=0.25, version="v2"), now_us=59 * DAY_US)
    (now,) = standing_signals(catalog, "m")
    assert "is 0.103 above" in now.message
    assert "until the mean of seven days is at that level" in now.message
    assert (now.id, now.raised_at_us) == (first.id, first.raised_at_us)
    assert len([one for one in every_signal(catalog) if one.kind == "quality_level"]) == 1


def test_a_level_of_a_slice_that_the_version_before_missed_is_not_said_of_the_new_one(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, calibrated=False, metric="squared_error")
    reference, live = stream(1, 0, 28), stream(2, 28, 10, level=0.30)
    before = usual(np.random.default_rng(7), ["r=a"], reference)
    catalog.write(monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=before)[1])
    monitor.reload()
    monitor.observe(live, now_us=38 * DAY_US, slices=slices_of(live, {"r=a": [0.6] * 10}))
    anchor(monitor, catalog, "v2", stream(3, 31, 7, level=0.3, version="v2"), 38)
    days = stream(4, 38, 9, level=0.3, version="v2")
    monitor.observe(days, now_us=47 * DAY_US, slices=slices_of(days, {"r=a": [0.6] * 9}))
    (red,) = [one for one in standing_signals(catalog, "m") if one.subject == "slice r=a"]
    assert red.message.startswith("r=a: The loss is 2")
    anchor(monitor, catalog, "v3", stream(5, 40, 7, level=0.2, version="v3"), 47)  # its reference has no slices
    (red,) = [one for one in standing_signals(catalog, "m") if one.subject == "slice r=a"]
    assert red.message.startswith("r=a: The loss of the version before was 2")
    assert "Whether v3 is better is known after 5 closed days with labels." in red.message
    days = stream(6, 47, 9, version="v3")
    monitor.observe(days, now_us=56 * DAY_US, slices=slices_of(days, {"r=a": [0.18] * 9}))
    assert standing(catalog) == []


def test_of_many_slices_above_their_earlier_loss_three_have_a_signal_and_keep_it(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, calibrated=False, metric="squared_error")
    names, chance = [f"r={letter}" for letter in "abcdef"], np.random.default_rng(7)
    reference, live = stream(1, 0, 28), stream(2, 28, 14)
    catalog.write(monitor.anchor("v1", reference, at_us=28 * DAY_US, slices=usual(chance, names, reference))[1])
    monitor.reload()
    monitor.observe(live, now_us=42 * DAY_US, slices=slices_of(live, dict.fromkeys(names, [0.6] * 14)))
    anchor(monitor, catalog, "v2", stream(3, 28, 14, version="v2"), 42)
    found = set()
    for number in range(42, 56):
        days = stream(number, number, 1, version="v2")
        losses = {name: [float(chance.normal(0.6, 0.05))] for name in names}
        monitor.observe(days, now_us=(number + 1) * DAY_US, slices=slices_of(days, losses))
        levels = [one for one in standing_signals(catalog, "m") if one.kind == "quality_level"]
        if number < 47:  # seven days are needed, or five that prove it
            continue
        found |= {one.subject for one in levels}
        assert len(levels) == 3
        assert sum("The same holds for 3 more slices." in one.message for one in levels) == 1
    assert len(found) == 3


def test_the_loss_before_a_change_can_be_accepted(catalog: Catalog) -> None:
    monitor = QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss")
    anchor(monitor, catalog, "v1", unsure(1, 0, 28, 0.2, "v1"), 28)
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", unsure(3, 31, 7, 0.24, "v2"), 38)
    accepted = monitor.accept(now_us=39 * DAY_US)
    assert accepted is not None
    catalog.write(accepted[1])
    monitor.reload()
    monitor.observe(unsure(4, 39, 10, 0.24, "v2"), now_us=49 * DAY_US)
    assert standing(catalog) == []


def test_days_that_are_harder_for_any_model_are_no_lower_level(catalog: Catalog) -> None:
    """The share of positive labels rises from .1 to .3, and with it the loss of a constant, from .325 to .611."""
    monitor = QualityMonitor(catalog, "m", run_length_days=500, metric="log_loss")
    anchor(monitor, catalog, "v1", unsure(1, 0, 28, 0.2, "v1", positive=0.1), 28)
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    anchor(monitor, catalog, "v2", unsure(3, 31, 7, 0.37, "v2"), 38)
    assert standing(catalog) == []
    assert monitor.watch is not None
    assert monitor.watch.earlier_levels == {}


def test_a_version_that_was_replaced_during_an_alarm_is_red_again_after_a_roll_back(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    monitor.observe(stream(2, 28, 10, level=0.30), now_us=38 * DAY_US)
    assert monitor.watch is not None
    onset = monitor.watch.onset
    anchor(monitor, catalog, "v2", stream(3, 24, 14, level=0.199, version="v2"), 38)
    assert standing(catalog) == []
    monitor.follow("v1", now_us=41 * DAY_US)
    assert ("quality_loss", "") in standing(catalog)
    assert monitor.watch.onset == onset
    monitor.observe(stream(4, 41, 8, level=0.19), now_us=49 * DAY_US)  # the world is as before
    assert standing(catalog) == []


def test_days_with_few_rows_do_not_prove_that_a_version_is_worse(catalog: Catalog, monitor: QualityMonitor) -> None:
    """With a twentieth of the rows, the mean of a day varies 4.5 times as much."""
    chance, worse = np.random.default_rng(7), 0
    for _ in range(200):
        days = [day(n, 0.2 + float(chance.normal(0, 0.045)), version="v2", rows=ROWS // 20) for n in range(14)]
        watch, _ = monitor.anchor("v2", days, at_us=56 * DAY_US)
        worse += bool(watch.short_of)
    assert worse <= 2


def test_a_refit_without_an_alarm_that_is_worse_than_the_last_healthy_version_counts_as_an_alarm(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    anchor(monitor, catalog, "v2", stream(3, 28, 28, level=0.24, version="v2"), 56)
    assert monitor.watch is not None
    assert monitor.watch.alarming_kinds == ["quality_loss"]
    assert monitor.watch.onset is not None
    assert monitor.watch.onset.at_us == 42 * DAY_US  # of the newest 14 reference days
    monitor.observe(stream(4, 56, 9, level=0.195, version="v2"), now_us=65 * DAY_US)
    assert (monitor.watch.onset, monitor.watch.alarming_kinds) == (None, [])


def test_days_before_the_loss_became_lower_are_no_reference(catalog: Catalog) -> None:
    """A rise back by a third of the drop is found; the reference of all days would include it."""
    monitor = QualityMonitor(catalog, "m", run_length_days=500, calibrated=False)
    anchor(monitor, catalog, "v1", [*stream(1, 0, 11, level=0.3), *stream(2, 11, 17, level=0.2)], 28)
    assert monitor.watch is not None
    assert monitor.watch.figures["quality_loss"].spec.reference_blocks == 14
    assert monitor.watch.short is not None  # days in service are added until there are 28
    monitor.observe(stream(3, 28, 10), now_us=38 * DAY_US)
    assert standing(catalog) == []
    monitor.observe(stream(4, 38, 11), now_us=49 * DAY_US)
    assert monitor.watch.figures["quality_loss"].spec.reference_blocks == 28
    monitor.observe(stream(5, 49, 8, level=0.235), now_us=57 * DAY_US)
    assert standing(catalog) == [("quality_loss", "")]


def moved_back(catalog: Catalog, monitor: QualityMonitor, changed: int) -> list[str]:
    """v2 takes over on day 30 and is worse from day `changed` on; a person moves back to v1 on day 60."""
    anchor(monitor, catalog, "v2", stream(3, 2, 28, version="v2"), 30)
    monitor.observe(stream(4, 30, changed - 30, version="v2"), now_us=changed * DAY_US)
    monitor.observe(stream(5, changed, 20, level=0.3, version="v2"), now_us=(changed + 20) * DAY_US)
    assert monitor.watch is not None
    assert monitor.watch.alarming
    monitor.follow("v1", now_us=60 * DAY_US)
    return [one.message for one in standing_signals(catalog, "m")]


def test_a_move_by_hand_during_an_alarm_about_a_change_does_not_turn_green(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    (message,) = moved_back(catalog, monitor, 40)
    assert "v1 was put in service by hand during an alarm about the quality, since about 1970-02-10" in message
    monitor.observe(stream(6, 60, 7), now_us=67 * DAY_US)
    assert standing(catalog) == [("quality_level", "moved by hand")]
    monitor.observe(stream(7, 67, 1), now_us=68 * DAY_US)
    assert standing(catalog) == []


def test_a_move_by_hand_during_an_alarm_can_be_accepted_and_is_handed_on(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    moved_back(catalog, monitor, 40)
    monitor.follow("v2", now_us=61 * DAY_US)
    monitor.follow("v1", now_us=62 * DAY_US)
    assert [one.subject for one in standing_signals(catalog, "m")] == ["moved by hand"]
    accepted = monitor.accept(now_us=63 * DAY_US)
    assert accepted is not None
    catalog.write(accepted[1])
    monitor.reload()
    monitor.observe(stream(6, 63, 2), now_us=65 * DAY_US)
    assert standing(catalog) == []


def test_a_move_back_from_a_version_that_was_bad_from_its_first_day_is_green(
    catalog: Catalog, monitor: QualityMonitor
) -> None:
    assert moved_back(catalog, monitor, 30) == []


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_refits_on_a_schedule_do_not_hide_a_change_that_takes_weeks_to_be_proved(catalog: Catalog, seed: int) -> None:
    """Each refit has a reference that holds days since the change. The evidence against the level before it goes on."""
    values = [*stream(seed, 0, 90), *stream(seed + 1000, 90, 75, level=0.21)]
    monitor = QualityMonitor(catalog, "m", run_length_days=500)
    onsets: list[int] = []
    for number in range(84, 165):
        version = f"v{(number - 84) // 20}"
        if (number - 84) % 20 == 0 and not onsets:
            reference = [msgspec.structs.replace(one, version=version) for one in values[number - 84 : number]]
            anchor(monitor, catalog, version, reference, number)
        monitor.observe([msgspec.structs.replace(values[number], version=version)], now_us=(number + 1) * DAY_US)
        assert monitor.watch is not None
        onset = monitor.watch.onset
        onsets += [] if onset is None else [onset.at_us // DAY_US]
        assert number > 90 or not onsets
    assert onsets
    assert 85 <= onsets[0] <= 120


@pytest.mark.parametrize(("rise", "least", "most"), [(1.0, 0, 2), (2.0, 58, 60)])
def test_a_slice_with_few_rows_is_seldom_said_to_be_above_its_earlier_loss_unless_it_is(
    rise: float, least: int, most: int
) -> None:
    """In 30 days after a change, of 60 slices with squared errors of 45 rows a day."""
    said = 0
    for seed in range(60):
        losses = np.random.default_rng(seed).chisquare(45, 58) / 45 * np.where(np.arange(58) < 28, 1.0, rise)
        days = [day(number, float(loss), rows=45) for number, loss in enumerate(losses)]
        level = loss_level(days[:28], 1.0)
        assert level is not None
        found: EarlierLevel | None = begun({"site=a": level}, ["site=a"], "v1", 0)["site=a"]
        above = False
        for one in days[28:]:
            found = None if found is None else added(found, [one], 1.0, "squared_error", of_slice=True)
            above = above or (found is not None and found.above is not None)
        said += above
    assert least <= said <= most
