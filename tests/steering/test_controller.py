from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.expressions import col
from trimtab.core.records import DayQuality, GateRecord
from trimtab.core.time import DAY_US
from trimtab.events import Time, source
from trimtab.features.definitions import label, request
from trimtab.monitoring import QualityMonitor
from trimtab.steering import Controller, Deployment, Ledger, Repair, deployment, every, on_quality_drop
from trimtab.store import Catalog, Put
from trimtab.training import model

clicks = source("clicks", time="at", key="id", columns={"id": str, "clicked": bool})
visit = request("visit", key="id", time="at", columns={"id": str, "at": Time, "x": float})
target = model(
    "click",
    request=visit,
    features=[{"x": col("x")}],
    label=label(clicks, key="id", value="clicked", wait="2d"),
    estimator=dict,
    metric="log_loss",
)


def day(number: int, version: str, loss: float) -> DayQuality:
    return DayQuality(
        model="click",
        version=version,
        day_us=number * DAY_US,
        predictions=1_000,
        labelled=1_000,
        missing=0,
        score_sum=300.0,
        label_sum=300.0 + 10 * (number % 3 - 1),
        loss_sum=1_000 * loss,
        capped_loss_sum=1_000 * (loss + 0.01 * (number % 4 - 1.5)),
    )


class Bench:
    """A workshop whose candidates pass or fail as told; versions are called v1, v2, ..."""

    def __init__(self, verdicts: list[bool]) -> None:
        self.verdicts = verdicts
        self.made = 0
        self.in_service: str | None = None
        self.lack: str | None = None

    def champion(self) -> str | None:
        return self.in_service

    def blocked(self, cut_us: int) -> str | None:
        return self.lack

    def repair(self, cut_us: int) -> Repair:
        self.made += 1
        passed = self.verdicts.pop(0) if self.verdicts else False
        name = f"v{self.made}"
        gate = GateRecord(
            id=f"g{self.made}", model="click", candidate=name, champion=self.in_service, judged_at_us=cut_us,
            window_start_us=0, window_end_us=cut_us, rows=10, metric="log_loss", candidate_metric=0.3,
            champion_metric=0.4, difference=-0.1, bound=-0.05, margin=0.0, passed=passed, checks={}, reason="r",
        )  # fmt: skip
        end = cut_us // DAY_US
        reference = tuple(day(n, name, 0.3) for n in range(end - 14, end))
        return Repair(
            candidate=name, gate=gate, successor=name if passed else None, reason="r", reference=reference,
            cut_us=cut_us, rows=10, data_hash="d",
        )  # fmt: skip

    def promote(self, repair: Repair, why: str) -> str | None:
        replaced, self.in_service = self.in_service, repair.successor
        return replaced


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


class Rig:
    def __init__(self, catalog: Catalog, bench: Bench, rules: Deployment) -> None:
        self.clock = VirtualClock(100 * DAY_US)
        self.catalog = catalog
        self.bench = bench
        self.rules = rules
        self.open()

    def open(self) -> None:
        """As after a restart: everything is read again from the catalogue."""
        self.monitor = QualityMonitor(self.catalog, "click", run_length_days=200)
        self.ledger = Ledger(self.catalog)
        self.controller = Controller(
            self.rules, monitor=self.monitor, workshop=self.bench, ledger=self.ledger, catalog=self.catalog,
            clock=self.clock,
        )  # fmt: skip

    def days(self, count: int, loss: float) -> list[str]:
        """Let days pass: close one, look, tick; the acts taken."""
        acts = []
        for _ in range(count):
            number = self.clock.now_us() // DAY_US
            self.clock.advance_to((number + 1) * DAY_US)
            assert self.bench.in_service is not None
            self.monitor.observe(day(number, self.bench.in_service, loss), now_us=self.clock.now_us())
            acts += [d.act for d in self.controller.tick()]
        return acts


@pytest.mark.fast
def test_the_first_tick_trains_and_promotes_when_nothing_is_in_service(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    assert [d.act for d in rig.controller.tick()] == ["trigger", "train", "gate", "promote"]
    assert rig.controller.tick() == []


def test_a_healthy_month_changes_nothing(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target, retrain=on_quality_drop()))
    rig.controller.tick()
    assert rig.days(30, 0.3) == []


def test_a_quality_drop_waits_for_labels_from_after_it_began_and_then_repairs(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=on_quality_drop(), settle="10d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    assert rig.days(30, 0.4)[:5] == ["trigger", "wait", "train", "gate", "promote"]
    wait, train = (next(d for d in rig.ledger.rows()[4:] if d.act == act) for act in ("wait", "train"))
    onset_us = next(d for d in rig.ledger.rows()[4:] if d.act == "trigger").evidence["onset_us"]
    assert isinstance(onset_us, int)
    assert train.at_us >= onset_us + 12 * DAY_US > wait.at_us


def test_a_refused_candidate_doubles_the_quiet_time(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, False, False, False]), deployment(target, retrain=on_quality_drop(), settle="1d"))
    rig.controller.tick()
    rig.days(10, 0.3)
    rig.days(80, 0.4)
    refused = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "refuse"]
    assert refused[1] - refused[0] == 7
    assert refused[2] - refused[1] == 14
    assert refused[3] - refused[2] == 28


def test_a_schedule_counts_from_the_training_in_service_and_a_refusal_is_tried_again_after_the_quiet_time(
    catalog: Catalog,
) -> None:
    rig = Rig(catalog, Bench([True, False, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.days(25, 0.3)
    trained = [d.at_us // DAY_US for d in rig.ledger.rows() if d.act == "train"]
    assert trained == [100, 110, 117]


def test_a_repair_waits_while_it_cannot_be_judged(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True, True]), deployment(target, retrain=every("10d")))
    rig.controller.tick()
    rig.bench.lack = "only 3 unseen days"
    assert rig.days(15, 0.3) == ["trigger"]
    rig.bench.lack = None
    assert rig.days(1, 0.3) == ["train", "gate", "promote"]


def test_a_restart_between_any_two_ticks_changes_no_decision(catalog: Catalog, tmp_path: Path) -> None:
    rules = deployment(target, retrain=on_quality_drop() | every("30d"), settle="3d")
    steady = Rig(catalog, Bench([True, False, True, True]), rules)
    steady.controller.tick()
    steady.days(10, 0.3)
    steady.days(40, 0.4)
    with store.open(f"sqlite://{tmp_path}/other.db", "catalog") as other:
        shaky = Rig(other, Bench([True, False, True, True]), rules)
        shaky.controller.tick()
        for loss, count in ((0.3, 10), (0.4, 40)):
            for _ in range(count):
                shaky.open()
                shaky.days(1, loss)
        assert shaky.ledger.rows() == steady.ledger.rows()


def test_freeze_stops_all_automation(catalog: Catalog) -> None:
    rig = Rig(catalog, Bench([True]), deployment(target))
    catalog.write([Put("freeze", "all", b"{}")])
    assert rig.controller.tick() == []


def test_a_bad_promotion_cannot_reset_the_alarm_that_catches_it(catalog: Catalog) -> None:
    """The new version is held to its gate evidence (0.3), so what it really does (0.4) rings."""
    rig = Rig(
        catalog, Bench([True, True, True]), deployment(target, retrain=on_quality_drop() | every("10d"), settle="1d")
    )
    rig.controller.tick()
    rig.days(10, 0.3)  # the second version is promoted by schedule at the end of this
    assert rig.bench.in_service == "v2"
    rig.days(30, 0.4)
    causes = [d.cause for d in rig.ledger.rows() if d.act == "trigger"]
    assert any(cause.startswith("Quality alarm") for cause in causes)
