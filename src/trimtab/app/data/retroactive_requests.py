"""Requests as they were asked beside what their history says of them at the cut: what leaks are told by."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trimtab.core.columns.data import Columns
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Request
from trimtab.training.data.retroactive_changes import Hindsight, hindsight


def request_hindsight(
    request: Request, names: Iterable[str], frame: EventFrame, asked: Columns, learnt: Columns, cut_us: int
) -> dict[str, Hindsight]:
    """What columns held when requests were asked, and what they hold now.

    A request is known as it was asked by its prediction, or by a version of its event that was there at its moment and
    was replaced later. Others are known from history alone.

    Args:
        request: The request.
        names: The columns that features read; its key and its time are passed over.
        frame: The requests' history.
        asked: Requests of the prediction log, as asked.
        learnt: Requests that are learnt from as their history has them.
        cut_us: What became known later does not count.
    """
    names = [name for name in sorted(names) if name not in (request.key, request.time)]
    if not names:
        return {}
    keys = frame.columns[request.key].values
    known = (frame.known_at_us <= cut_us) & ~frame.deleted
    newest = known & (frame.superseded_at_us > cut_us)
    at_us = frame.event_at_us - request.lead_us
    there = known & (frame.known_at_us <= at_us) & (frame.superseded_at_us > at_us) & (frame.superseded_at_us <= cut_us)
    then = np.flatnonzero(there)
    columns = [*names, request.key]
    as_asked = Columns.concat([asked.select(columns), frame.columns.take(then).select(columns)])
    place: dict[object, int] = {}
    kept: list[int] = []
    for row, key in enumerate(as_asked[request.key].values.tolist()):
        if key not in place:  # what was answered counts before what was ingested
            place[key] = len(kept)
            kept.append(row)
    rows = np.flatnonzero(newest)
    pairs = [(place[key], row) for row, key in zip(rows.tolist(), keys[rows].tolist(), strict=True) if key in place]
    alone = np.array([key not in place for key in learnt[request.key].values.tolist()], bool)
    return hindsight(
        names,
        as_asked.take(np.array(kept, np.int64)),
        np.array([again for again, _ in pairs], np.int64),
        frame.columns.take(np.array([row for _, row in pairs], np.int64)),
        learnt.take(alone),
    )
