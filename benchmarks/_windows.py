"""What the window benchmarks share: events, requests, our kernel timed, and a bare one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

EVENTS = 5_000_000
REQUESTS = 500_000
KEYS = 100_000
DAYS = 90
DAY_US = 86_400_000_000


def data(windows: Sequence[str], *, zipf: bool) -> dict[str, Any]:
    from trimtab import features as tt
    from trimtab.core.columns.data import Column, Columns
    from trimtab.core.expressions.nodes import col
    from trimtab.core.time import duration_us
    from trimtab.events.columns.frames import NEVER_US, EventFrame
    from trimtab.events.definitions import source
    from trimtab.features.aggregates import default_hop_us
    from trimtab.features.feature_set import feature_set

    rng = np.random.default_rng(11)
    share = 1.0 / np.arange(1, KEYS + 1) ** 1.1 if zipf else np.ones(KEYS)
    of_key = np.searchsorted(np.cumsum(share) / share.sum(), rng.random(EVENTS + REQUESTS))
    names = rng.permutation(KEYS + 1)[of_key]
    at = np.sort(rng.integers(0, DAYS * DAY_US, EVENTS))
    asked_at = np.sort(rng.integers(DAY_US, DAYS * DAY_US, REQUESTS))
    table = Columns(
        {
            "key": Column("int", names[:EVENTS]),
            "at": Column("time", at),
            "x": Column("float", rng.normal(50.0, 10.0, EVENTS)),
        }
    )
    frame = EventFrame(
        "events", table, at, at, np.full(EVENTS, NEVER_US), np.zeros(EVENTS, bool), np.zeros(EVENTS, np.int16),
        np.arange(EVENTS), ("p0",),
    )  # fmt: skip
    features = {}
    for over in windows:
        features |= {
            f"count_{over}": tt.count(over=over),
            f"sum_{over}": tt.sum("x", over=over),
            f"mean_{over}": tt.mean("x", over=over),
            f"min_{over}": tt.min("x", over=over),
            f"max_{over}": tt.max("x", over=over),
            f"std_{over}": tt.std("x", over=over),
            f"high_{over}": tt.count(over=over, where=col("x") > 60.0),
        }
    events = source("events", time="at", columns={"key": int, "x": float})
    ask = tt.request("ask", key="id", time="asked_at", columns={"id": str, "key": int})
    return {
        "features": feature_set(ask, [tt.view("busy", source=events, by="key", features=features)]),
        "frame": frame,
        "requests": Columns({"key": Column("int", names[EVENTS:])}),
        "asked_at": asked_at,
        "windows": [(duration_us(over), default_hop_us(duration_us(over))) for over in windows],
    }


def timed(state: dict[str, Any]) -> float:
    from trimtab.features.offline.evaluation import evaluate

    start = time.perf_counter()
    found = evaluate(state["features"], state["requests"], state["asked_at"], {"events": state["frame"]})
    seconds = time.perf_counter() - start
    assert found.values.rows == REQUESTS
    return seconds


def bare(state: dict[str, Any]) -> float:
    key, asked_key = state["frame"].columns["key"].values, state["requests"]["key"].values
    at, asked_at = state["frame"].event_at_us, state["asked_at"]
    x = state["frame"].columns["x"].values
    start = time.perf_counter()
    span = DAYS * DAY_US + 1
    place = key * span + at
    order = np.argsort(place)
    place, x = place[order], x[order]
    asked = asked_key * span + asked_at
    asked_order = np.argsort(asked)
    asked = asked[asked_order]
    prefixes = [np.concatenate([[0.0], np.cumsum(v)]) for v in (x, x * x, x > 60.0)]
    high = np.searchsorted(place, asked)
    lows = []
    for over, hop in state["windows"]:
        tail = (asked_at[asked_order] - over) // hop * hop
        lows.append(np.searchsorted(place, asked_key[asked_order] * span + np.maximum(tail, 0)))
    results = []
    for low in lows:
        count = high - low
        total, squares, large = (p[high] - p[low] for p in prefixes)
        mean = total / np.maximum(count, 1)
        spread = np.sqrt(np.maximum(squares - mean * total, 0.0) / np.maximum(count - 1, 1))
        results += [count, total, mean, spread, large]
    low, ends = np.concatenate(lows), np.tile(high, len(lows))
    for op, empty in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        results += np.split(_doubling(op, x, low, ends, empty), len(lows))
    out = []
    for result in results:
        back = np.empty(REQUESTS, result.dtype)
        back[asked_order] = result
        out.append(back)
    return time.perf_counter() - start


def _doubling(op: np.ufunc, table: Any, low: Any, high: Any, empty: float) -> Any:
    out = np.full(len(low), empty)
    level = np.frexp((high - low).astype(np.float64))[1] - 1
    for k in range(int(level.max()) + 1):
        if k:
            table = op(table[: -(2 ** (k - 1))], table[2 ** (k - 1) :])
        rows = np.flatnonzero(level == k)
        out[rows] = op(table[low[rows]], table[high[rows] - 2**k])
    return out
