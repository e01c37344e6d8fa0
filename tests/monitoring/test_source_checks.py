"""Extreme numbers in events are found where they measure something, and not where they name something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import count_distinct, mean
from trimtab.features.definitions import label, request, view
from trimtab.monitoring.inputs.red_windows import Reach, RedWindow
from trimtab.monitoring.inputs.source_checks import SourceChecks
from trimtab.training import Model, model

Times = NDArray[np.int64]

DAYS, NEWEST = 28, 20
IDS = ("order", "item", "visit", "clerk")


def shop(only_final: bool = False) -> Model:
    columns = {"customer": int, "at": Time, **dict.fromkeys(IDS, int), "amount": float, "pieces": int}
    orders = source("orders", time="at", key="order", columns=columns)
    paid = {"visit": int, "at": Time, "paid": bool}
    bought = {"items_7d": count_distinct("item", over="7d"), "spent_7d": mean("amount", over="7d"), "n": mean("pieces")}
    return model(
        "shop",
        request=request("asked", key="visit", time="at", columns={"visit": int, "at": Time, "customer": int}),
        features=[view("bought", source=orders, by="customer", features=bought)],
        label=label(
            source("paid", time="at", key="visit", columns=paid, only_final=only_final),
            key="visit",
            value=col("paid"),
            wait="1d",
        ),
        estimator=LogisticRegression,
        metric="log_loss",
    )


def frame(name: str, columns: Columns, event_us: Times, known_us: Times) -> EventFrame:
    count = len(known_us)
    never, places = np.full(count, NEVER_US), np.arange(1, count + 1)
    zeros = np.zeros(count, bool), np.zeros(count, np.int16)
    return EventFrame(name, columns, event_us, known_us, never, *zeros, places, ("p0",))


def found(one: Model, *frames: EventFrame, windows: Sequence[RedWindow] = ()) -> set[tuple[str, str]]:
    known = {one.source: one for one in frames}
    checks = SourceChecks(one, known.__getitem__, None)
    findings = checks.findings(DAYS * DAY_US, (DAYS - 1) * DAY_US, stopped=False, windows=windows)
    return {(one.kind, one.subject) for one in findings}


NONE = np.zeros(0, np.int64)
HOURS = np.arange(DAYS * 24) * HOUR_US
NO_ORDERS = frame("orders", Columns.of({"amount": ("float", [])}), NONE, NONE)
NOT_PAID = frame("paid", Columns.of({"paid": ("bool", [])}), NONE, NONE)


def test_ids_are_no_extreme_numbers_but_amounts_are() -> None:
    values = {name: np.arange(HOURS.size) % 50 for name in ("customer", *IDS, "amount", "pieces")}
    for name in values:
        values[name][-NEWEST:] = 7_000_000  # a new range of numbers, or another unit
    table: dict[str, Any] = {"amount": ("float", values.pop("amount").astype(float).tolist())}
    table |= {name: ("int", of.tolist()) for name, of in values.items()}
    seen = found(shop(), frame("orders", Columns.of(table), HOURS, HOURS), NOT_PAID)
    assert {what for kind, what in seen if kind == "range"} == {"column orders.amount", "column orders.pieces"}


@pytest.mark.parametrize("ended", [False, True])
def test_values_of_red_windows_are_not_taken_as_normal(ended: bool) -> None:
    values = np.arange(HOURS.size) % 50 + 1.0
    start_us, end_us = (DAYS - 6) * DAY_US, (DAYS - 3) * DAY_US
    values[start_us <= HOURS] *= 1_000.0  # for some days in another unit
    if ended:
        values[end_us <= HOURS] /= 1_000.0
        values[-NEWEST:] *= 1_000.0  # and once more
    rest: dict[str, Any] = {name: ("int", list(range(HOURS.size))) for name in ("customer", *IDS, "pieces")}
    orders = frame("orders", Columns.of({"amount": ("float", values.tolist()), **rest}), HOURS, HOURS)
    window = RedWindow(
        id="1", model="shop", kind="range", subject="column orders.amount", start_us=start_us,
        end_us=end_us if ended else None,
    )  # fmt: skip
    other = msgspec.structs.replace(window, subject="column orders.pieces")
    assert ("range", "column orders.amount") not in found(shop(), orders, NOT_PAID, windows=[other])
    assert ("range", "column orders.amount") in found(shop(), orders, NOT_PAID, windows=[other, window])


def test_extreme_labels_are_found_in_a_source_that_no_feature_reads() -> None:
    meter = source("meter", time="at", key="visit", columns={"visit": int, "at": Time, "kw": float, "volts": float})
    reads = label(meter, key="visit", value=col("kw") * 2.0, wait="1d")
    one = msgspec.structs.replace(shop(), label=reads, metric="squared_error")
    values = np.arange(HOURS.size) % 50 + 1.0
    values[-NEWEST:] *= 1_000.0
    columns = Columns.of({name: ("float", values.tolist()) for name in ("kw", "volts")})
    seen = found(one, NO_ORDERS, frame("meter", columns, HOURS, HOURS))
    assert {what for kind, what in seen if kind == "range"} == {"column meter.kw"}
    signal = Signal(
        id="1", kind="range", model="shop", version="v", raised_at_us=9 * DAY_US, onset_us=9 * DAY_US, severity="red",
        evidence={}, message="", subject="column meter.kw",
    )  # fmt: skip
    reach = Reach.of(one)
    assert reach.excludes(signal)
    assert reach.span(signal) == (9 * DAY_US - reach.back_us, None)  # labels belong to requests of the days before


def payments(factor: float, *, hours: int, daily: float = 1.0, seed: int = 1) -> EventFrame:
    """Payments with a long tail, forty an hour; at night, they are `daily` times as large. The newest are converted."""
    rng = np.random.default_rng(seed)
    at_us = np.arange(DAYS * 24 * 40) * (HOUR_US // 40)
    amounts = rng.lognormal(3.5, 1.2, at_us.size) * np.where(at_us // HOUR_US % 24 >= 22, daily, 1.0)
    amounts[at_us >= (DAYS * 24 - hours) * HOUR_US] *= factor
    rest: dict[str, Any] = {name: ("int", list(range(at_us.size))) for name in ("customer", *IDS, "pieces")}
    return frame("orders", Columns.of({"amount": ("float", amounts.tolist()), **rest}), at_us, at_us)


@pytest.mark.parametrize("factor", [100.0, 0.01, 8.0])
def test_amounts_in_another_unit_are_found_within_two_hours_although_none_is_extreme(factor: float) -> None:
    known = {"orders": payments(factor, hours=2), "paid": NOT_PAID}
    checks = SourceChecks(shop(), known.__getitem__, None)
    now_us = DAYS * DAY_US
    (one,) = checks.findings(now_us, now_us - HOUR_US, stopped=False, windows=())
    assert (one.kind, one.subject, one.severity) == ("range", "column orders.amount", "red")
    assert one.evidence["median"] / one.evidence["usual"] == pytest.approx(factor, rel=0.4)


@pytest.mark.parametrize("seed", range(5))
def test_values_that_follow_the_time_of_day_or_double_are_in_their_unit(seed: int) -> None:
    checked = [payments(1.0, hours=2, daily=20.0, seed=seed), payments(2.0, hours=2, seed=seed)]
    for orders in checked:
        known = {"orders": orders, "paid": NOT_PAID}
        checks = SourceChecks(shop(), known.__getitem__, None)
        findings = checks.findings(DAYS * DAY_US, DAYS * DAY_US - HOUR_US, stopped=False, windows=())
        assert not [one for one in findings if one.severity == "red"]


@pytest.mark.parametrize("only_final", [False, True])
def test_labels_of_files_that_leave_out_the_newest_rows_are_not_late_at_their_end(only_final: bool) -> None:
    dated = np.minimum(HOURS - HOUR_US, (DAYS - 3) * DAY_US)  # in the last three days only labels of older rows come
    paid = frame("paid", Columns.of({"paid": ("bool", [True] * HOURS.size)}), dated, HOURS)
    assert (("feed_late", "source paid") in found(shop(only_final), NO_ORDERS, paid)) == (not only_final)


def measured(stuck_h: int, *, changes: float = 1.0, sites: int = 6) -> EventFrame:
    """A value an hour of each of some sites, of which only a share changes; in the newest hours none does."""
    rng, hours = np.random.default_rng(3), DAYS * 24
    values = np.zeros((hours, sites))
    for hour in range(1, hours):
        new = rng.random(sites) < (changes if hour < hours - stuck_h else 0.0)
        values[hour] = np.where(new, rng.normal(size=sites), values[hour - 1])
    at_us = np.repeat(np.arange(hours) * HOUR_US, sites)
    columns = Columns.of(
        {
            "order": ("int", list(range(hours * sites))),
            "customer": ("int", list(range(sites)) * hours),
            "at": ("time", at_us.tolist()),
            **{name: ("int", [1] * (hours * sites)) for name in ("item", "visit", "clerk")},
            "amount": ("float", values.ravel().tolist()),
            "pieces": ("int", [2] * (hours * sites)),
        }
    )
    return frame("orders", columns, at_us, at_us + 1)


@pytest.mark.parametrize(
    ("stuck_h", "changes", "red"),
    [(0, 1.0, False), (24, 1.0, True), (5 * 24, 1.0, True), (6, 1.0, False), (24, 0.5, True), (24, 0.1, False)],
)
def test_a_source_that_repeats_its_last_values_is_found(stuck_h: int, changes: float, red: bool) -> None:
    nothing = Columns.of({"visit": ("int", []), "at": ("time", []), "paid": ("bool", [])})
    empty = frame("paid", nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))
    stuck = {one for one in found(shop(), measured(stuck_h, changes=changes), empty) if one[0] == "feed_stuck"}
    assert stuck == ({("feed_stuck", "source orders")} if red else set())


def test_days_on_which_values_always_repeat_are_normal() -> None:
    """Nothing changes at weekends, and the newest day is one."""
    orders = measured(0)
    hour = np.asarray(orders.columns["at"].values) // HOUR_US
    values = np.asarray(orders.columns["amount"].values).copy()
    quiet = (hour // 24) % 7 == (DAYS - 1) % 7
    values[quiet] = np.asarray(orders.columns["customer"].values)[quiet]
    columns = orders.columns.replace({"amount": Column("float", values)})
    nothing = Columns.of({"visit": ("int", []), "at": ("time", []), "paid": ("bool", [])})
    empty = frame("paid", nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))
    weekly = frame("orders", columns, orders.event_at_us, orders.known_at_us)
    assert "feed_stuck" not in {kind for kind, _ in found(shop(), weekly, empty)}
