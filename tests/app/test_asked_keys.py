"""Requests are told apart by their keys, whatever stands at the end of them."""

from __future__ import annotations

import numpy as np

import trimtab as tt
from trimtab.app.data.logged_requests import ingested_requests
from trimtab.core.columns.data import Columns
from trimtab.events.columns.frames import NEVER_US, EventFrame


def test_requests_whose_keys_differ_by_a_nul_at_the_end_are_two() -> None:
    visit = tt.request("visit", key="id", time="at", columns={"id": str, "at": tt.Time})
    keys, times = ["a", "a\0", "b"], np.array([1, 2, 3])
    columns = Columns.of({"id": ("str", keys), "at": ("time", times.tolist())})
    replaced = np.array([NEVER_US, NEVER_US, NEVER_US - 1])
    frame = EventFrame(
        "visit", columns, times, times, replaced, np.zeros(3, bool), np.zeros(3, np.int16), np.arange(3), ("p0001",)
    )
    asked, at_us = ingested_requests(visit, frame, NEVER_US - 2)
    assert (asked["id"].values.tolist(), at_us.tolist()) == (keys, [1, 2, 3])
