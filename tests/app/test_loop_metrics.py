"""Metrics of the loop: what a scrape says is what the records say, read again only when they changed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import block_process
import msgspec
import pytest
import shop
from test_block_kills import prepared

import trimtab as tt
from processes import eventually
from trimtab.app.metrics.loop_metrics import GAUGES, UNREADABLE, LoopMetrics
from trimtab.core.clock import VirtualClock
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.monitoring.inputs.input_state import InputWatch
from trimtab.monitoring.inputs.profile_distances import ColumnDistance
from trimtab.monitoring.quality.loss_estimates import EstimatedDays, EstimatedSums, with_hours
from trimtab.monitoring.quality.watches import LOSS, Watch
from trimtab.monitoring.signals import settle_signals
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.scrape import Scrape, read_scrape
from trimtab.stats.inference.edetector import AlarmState, update_alarm
from trimtab.store.ports import Put
from trimtab.testing.builders import a_signal

pytestmark = pytest.mark.slow
NOW_US, STEP_US, A_DAY = block_process.NOW_US, block_process.STEP_US, block_process.A_DAY
DAYS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has answered for forty days; a seventh of its labels comes two days late."""
    made = prepared(tmp_path_factory.mktemp("metrics") / "p")
    block_process.lived(made, DAYS, daily=9)
    return made


@pytest.fixture
def project(folder: Path) -> Iterator[tt.Project]:
    with tt.open(folder, clock=VirtualClock(NOW_US + DAYS * DAY_US), environment={}) as opened:
        yield opened


def scraped(project: tt.Project) -> Scrape:
    metrics = Metrics()
    LoopMetrics(project).show(metrics)
    return read_scrape(metrics.text(), 0.0)


def one(scrape: Scrape, name: str, **labels: str) -> float:
    """The only sample of a metric with these labels."""
    found = [value for key, value in scrape.samples.get(name, {}).items() if labels.items() <= dict(key).items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def days_of(project: tt.Project, **how: Any) -> dict[tuple[int, str], dict[str, Any]]:
    return {(row["block"], row["arm"]): row for row in project.quality(**how).to_rows()}


def test_the_newest_closed_day_is_told_as_quality_tells_it(project: tt.Project) -> None:
    scrape, rows = scraped(project), days_of(project)
    newest_us = max(day for day, _ in rows)
    assert one(scrape, "trimtab_quality_newest_day_timestamp_seconds") == newest_us / 1e6
    for arm in ("champion", "canary"):
        row = rows[newest_us, arm]
        labels = {"model": "one", "version": row["version"], "arm": arm}
        for name in ("predictions", "loss", "excess_loss", "gap"):
            assert one(scrape, f"trimtab_quality_day_{name}", **labels) == pytest.approx(row[name], rel=1e-12)


def test_shares_of_labels_are_those_of_the_blocks_at_each_age(project: tt.Project) -> None:
    scrape = scraped(project)
    whole, amended = days_of(project), days_of(project, amended=True)
    newest_us = max(day for day, _ in whole)

    def share(rows: dict[tuple[int, str], dict[str, Any]], first: int, last: int) -> float:
        some = [row for (day, _), row in rows.items() if first <= (newest_us - day) // DAY_US <= last]
        assert len(some) == 2 * (last - first + 1)
        return sum(row["labelled"] for row in some) / sum(row["predictions"] for row in some)

    name = "trimtab_quality_labelled_share"
    assert one(scrape, name, days="1") == pytest.approx(share(whole, 0, 0))
    assert one(scrape, name, days="7") == pytest.approx(share(whole, 0, 6))
    name = "trimtab_quality_label_completeness"
    by_age = {age: one(scrape, name, age_days=str(age)) for age in (0, 1, 7, 28)}
    assert by_age[0] == pytest.approx(share(whole, 0, 6))
    for age, first, last in ((1, 1, 6), (7, 7, 13), (28, 28, 34)):
        assert by_age[age] == pytest.approx(share(amended, first, last))
    assert by_age[0] < by_age[7]  # the late seventh has come by then


def test_what_is_watched_and_how_far_its_evidence_came(project: tt.Project) -> None:
    scrape, watch = scraped(project), project.loop("one").monitor.watch
    assert watch is not None
    assert watch.figures
    assert scrape.total("trimtab_quality_watched", ("kind",)) == {
        (kind,): 1.0 for kind in (LOSS, "quality_calibration")
    }
    days = min(figure.spec.reference_blocks for figure in watch.figures.values())
    assert one(scrape, "trimtab_quality_reference_days") == days
    assert one(scrape, "trimtab_quality_provisional") == (days < 28)
    for kind, figure in watch.figures.items():
        rings = math.log(figure.spec.run_length) - math.log(0.75)
        told = one(scrape, "trimtab_quality_evidence_ratio", kind=kind, anchor="own")
        assert told == pytest.approx(figure.state.log_evidence / rings)
        assert told < 1 or figure.alarming


def test_evidence_is_at_least_one_on_the_day_that_rings_little_by_little(project: tt.Project) -> None:
    monitor = project.loop("one").monitor
    watch = monitor.watch
    assert watch is not None
    figure = watch.figures[LOSS]
    state = AlarmState()
    away = itertools.cycle((6.0, 0.0))  # no two days in a row are gross
    for _ in range(200):
        if state.alarm_day is None:
            state = update_alarm(figure.spec, state, figure.spec.mean + next(away) * figure.spec.sd)
    assert state.alarm_day is not None
    put_watch(project, msgspec.structs.replace(watch, figures={LOSS: msgspec.structs.replace(figure, state=state)}))
    try:
        scrape = scraped(project)
        assert one(scrape, "trimtab_quality_evidence_ratio", kind=LOSS, anchor="own") >= 1.0
        assert one(scrape, "trimtab_quality_watched", kind="quality_calibration") == 0.0
    finally:
        put_watch(project, watch)


def put_watch(project: tt.Project, watch: Watch) -> None:
    project.state.catalog.write([Put("quality_watch", "one", msgspec.json.encode(watch))])


def red(kind: str, at_us: int) -> Signal:
    return a_signal(at_us, id=f"{kind}/{at_us}", kind=kind, model="one", evidence={}, message="A test.")


def test_signals_are_told_while_they_stand(project: tt.Project) -> None:
    catalog, kinds = project.state.catalog, ("no_labels", "made_up")
    before = scraped(project)
    assert one(before, "trimtab_signal_standing", kind="no_labels", severity="red") == 0.0
    stood = one(before, "trimtab_standing_signals", severity="red")
    found = [
        red("no_labels", parse_time_us("2024-01-02T00:00:00Z")),
        red("made_up", parse_time_us("2024-01-03T00:00:00Z")),
    ]
    catalog.write(settle_signals(catalog, "one", kinds, found, now_us=project.clock.now_us())[1])
    during = scraped(project)
    assert one(during, "trimtab_signal_standing", kind="no_labels", severity="red") == 1.0
    assert one(during, "trimtab_signal_standing", kind="no_labels", severity="info") == 0.0
    assert one(during, "trimtab_signal_standing", kind="made_up", severity="red") == 1.0
    assert one(during, "trimtab_standing_signals", severity="red") == stood + 2
    began = parse_time_us("2024-01-02T00:00:00Z") / 1e6
    assert one(during, "trimtab_oldest_red_signal_timestamp_seconds") == began
    catalog.write(settle_signals(catalog, "one", kinds, [], now_us=project.clock.now_us())[1])
    assert scraped(project).samples["trimtab_signal_standing"] == before.samples["trimtab_signal_standing"]


def test_ticks_phases_and_the_freeze_are_told(project: tt.Project) -> None:
    before = scraped(project)
    assert one(before, "trimtab_loop_tick_failed") == 0.0
    assert one(before, "trimtab_loop_last_tick_timestamp_seconds") < project.clock.now_us() / 1e6
    assert sum(before.samples["trimtab_loop_phase"].values()) == 1.0
    assert one(before, "trimtab_loop_frozen") == 0.0
    project.freeze("A test.")
    project.tick()
    after = scraped(project)
    assert one(after, "trimtab_loop_frozen") == 1.0
    assert one(after, "trimtab_loop_last_tick_timestamp_seconds") == project.clock.now_us() / 1e6
    project.unfreeze("It is over.")


def test_every_gauge_of_the_loop_has_samples_and_no_other_has(project: tt.Project) -> None:
    catalog = project.state.catalog
    catalog.write(settle_signals(catalog, "one", ("x",), [red("x", 1)], now_us=project.clock.now_us())[1])
    found = catalog.get("input_watch", "one")
    assert found is not None
    watch = msgspec.json.decode(found.body, type=InputWatch)  # what is logged here has no inputs
    champion = project.registry.alias("one", "champion")
    assert champion is not None
    newest_us = project.clock.now_us() // DAY_US * DAY_US - DAY_US
    usual = Watch(model="one", version=champion.id, anchored_at_us=0, figures={}, loss_cap=1.0, reference_loss=0.2)
    hours = [(newest_us // HOUR_US, EstimatedSums(rows=40, estimated=40, loss=12.0))]
    watch = msgspec.structs.replace(
        watch,
        columns={"x": ColumnDistance(distance=0.25, null_share=0.5)},
        estimated=with_hours(
            EstimatedDays(watch=msgspec.structs.replace(usual, last_day_us=newest_us - DAY_US)),
            hours,
            newest_us + DAY_US,
        ),
    )
    catalog.write([Put("input_watch", "one", msgspec.json.encode(watch))])
    scrape = scraped(project)
    assert set(scrape.samples) == {*GAUGES, UNREADABLE}
    assert one(scrape, "trimtab_input_distance", column="x") == 0.25
    assert one(scrape, "trimtab_input_null_share", column="x") == 0.5
    assert one(scrape, "trimtab_estimated_loss") == pytest.approx(0.3)
    assert one(scrape, "trimtab_estimated_loss_usual") == 0.2
    catalog.write(settle_signals(catalog, "one", ("x",), [], now_us=project.clock.now_us())[1])


class Reads:
    """A catalogue that counts what is read of it."""

    def __init__(self, catalog: Any) -> None:
        self._catalog = catalog
        self.count = 0
        self.days: list[str] = []

    def get(self, kind: str, key: str) -> Any:
        self.count += 1
        return self._catalog.get(kind, key)

    def find(self, kind: str, prefix: str = "") -> Any:
        self.count += 1
        if kind == "quality_day":
            self.days.append(prefix)
        return self._catalog.find(kind, prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)


def test_a_scrape_reads_what_was_written_since_the_one_before(
    project: tt.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(project.state.catalog)
    monkeypatch.setattr(project.state, "catalog", reads)
    metrics = Metrics()
    LoopMetrics(project).show(metrics)
    metrics.text()
    few = len(reads.days)
    assert few <= 6  # tens of days, not the history
    assert all(re.fullmatch(r"one/\d{4}-\d\d-\d", prefix) for prefix in reads.days)
    read = reads.count
    metrics.text()
    assert reads.count == read  # nobody wrote
    project.freeze("A test.")
    assert "trimtab_loop_frozen 1" in metrics.text()
    assert read < reads.count < 2 * read
    assert len(reads.days) == few  # no day was closed
    project.unfreeze("It is over.")


def test_where_the_records_cannot_be_read_it_is_said_and_no_old_value_is_told(project: tt.Project) -> None:
    metrics = Metrics()
    loop = LoopMetrics(project)
    loop.show(metrics)
    assert f"{UNREADABLE} 0" in metrics.text()
    watch = project.state.catalog.get("quality_watch", "one")
    assert watch is not None
    project.state.catalog.write([Put("quality_watch", "one", b'{"model": 1}')])
    try:
        scrape = read_scrape(metrics.text(), 0.0)
        assert one(scrape, UNREADABLE) == 1.0
        assert set(scrape.samples) == {UNREADABLE}
    finally:
        project.state.catalog.write([Put("quality_watch", "one", watch.body)])
    text = eventually(lambda: text if f"{UNREADABLE} 0" in (text := metrics.text()) else None)
    assert "trimtab_loop_frozen 0" in text


def test_a_project_without_a_closed_day_tells_what_there_is(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "new")) as project:
        scrape = scraped(project)
        assert scrape.total("trimtab_quality_watched", ("kind",)) == {(LOSS,): 0.0, ("quality_calibration",): 0.0}
        assert one(scrape, "trimtab_loop_last_tick_timestamp_seconds") == 0.0
        assert one(scrape, "trimtab_loop_phase", phase="idle") == 1.0
        assert "trimtab_quality_newest_day_timestamp_seconds" not in scrape.samples
