"""Extreme numbers in events are found where they measure something, and not where they name something."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import count_distinct, mean
from trimtab.features.definitions import label, request, view
from trimtab.monitoring.inputs.source_checks import SourceChecks
from trimtab.training import model

DAYS, NEWEST = 28, 20
IDS = ("order", "item", "visit", "clerk")


def test_ids_are_no_extreme_numbers_but_amounts_are() -> None:
    columns = {"customer": int, "at": Time, **dict.fromkeys(IDS, int), "amount": float, "pieces": int}
    orders = source("orders", time="at", key="order", columns=columns)
    bought = {"items_7d": count_distinct("item", over="7d"), "spent_7d": mean("amount", over="7d"), "n": mean("pieces")}
    asked = request("asked", key="visit", time="at", columns={"visit": int, "at": Time, "customer": int})
    shop = model(
        "shop",
        request=asked,
        features=[view("bought", source=orders, by="customer", features=bought)],
        label=label(source("paid", time="at", key="visit", columns={"visit": int, "at": Time, "paid": bool}),
                    key="visit", value=col("paid"), wait="1d"),
        estimator=LogisticRegression,
        metric="log_loss",
    )  # fmt: skip
    count = DAYS * 24
    known_us = np.arange(count) * HOUR_US
    values = {name: np.arange(count) % 50 for name in ("customer", *IDS, "amount", "pieces")}
    for name in values:
        values[name][-NEWEST:] = 7_000_000  # a new range of numbers, or another unit
    table = {"at": ("time", known_us.tolist()), "amount": ("float", values.pop("amount").astype(float).tolist())}
    table |= {name: ("int", of.tolist()) for name, of in values.items()}
    there = [np.full(count, NEVER_US), np.zeros(count, bool), np.zeros(count, np.int16), np.arange(1, count + 1)]
    frame = EventFrame("orders", Columns.of(table), known_us, known_us, *there, ("p0",))
    paid = EventFrame(
        "paid", Columns.of({"paid": ("bool", [])}), *(one[:0] for one in (known_us, known_us, *there)), ()
    )
    checks = SourceChecks(shop, {"orders": frame, "paid": paid}.__getitem__, None)
    found = checks.findings(DAYS * DAY_US, (DAYS - 1) * DAY_US, stopped=False)
    assert {one.subject for one in found if one.kind == "range"} == {"column orders.amount", "column orders.pieces"}
