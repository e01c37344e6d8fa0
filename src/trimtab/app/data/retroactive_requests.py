"""Detect leakage: find columns of requests whose values were changed after the request was made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trimtab.app.data.logged_requests import are_among
from trimtab.core.columns.data import Columns
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Request
from trimtab.training.data.retroactive_changes import RetroactiveChange, retroactive_changes


def retroactive_changes_of(
    request: Request, names: Iterable[str], frame: EventFrame, logged: Columns, learnt: Columns, cut_us: int
) -> dict[str, RetroactiveChange]:
    """Return for each column how often its value changed between the time of the request and `cut_us`.

    The original values of a request come from its logged prediction. If there is no prediction, but the event was
    corrected after the request, they come from the event as it was before the correction. Of other requests, only the
    current values are known.

    Args:
        names: The columns that features read. The key and the time of the request are skipped.
        frame: The history of the requests.
        logged: The requests of the prediction log.
        learnt: The requests that are only in the history, with their current values.
        cut_us: What became known after this time is ignored.
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
    as_logged = Columns.concat([logged.select(columns), frame.columns.take(then).select(columns)])
    of_logged = as_logged[request.key].values
    backwards = range(len(of_logged) - 1, -1, -1)  # so a key ends with its first row: a logged one, if any
    row_of = dict(zip(of_logged[::-1].tolist(), backwards, strict=True))
    kept = np.array(sorted(row_of.values()), np.int64)
    rows = np.flatnonzero(newest)
    rows = rows[are_among(keys[rows], of_logged)]
    again = np.array([row_of[key] for key in keys[rows].tolist()], np.int64)
    return retroactive_changes(
        names,
        as_logged.take(kept),
        np.searchsorted(kept, again),
        frame.columns.take(rows),
        learnt.take(~are_among(learnt[request.key].values, of_logged)),
    )
