"""A fast path for views that only have latest values: it does not decode the whole state."""

from __future__ import annotations

import msgspec

from trimtab.features.online.packed.keys import EVENT_AT, KNOWN_AT, Row
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import FORMAT, unpack

_encode = msgspec.msgpack.Encoder().encode


def latest_state(plan: ViewPlan, packed: bytes | None, rows: list[Row], s_us: int) -> bytes | None:
    """Return the new encoded state of an entity in a view that only has latest values, if all its rows are sealed.

    A row is sealed when S has passed its event time and its known-at time, so it counts in every read (see `state.py`).

    Args:
        plan: The compiled view. Its source has no key.
        packed: The previous state; None: there was none.
        rows: The new rows, at least one.
        s_us: The latest append time of the log records up to the last of `rows`; called S in `state.py`.

    Returns:
        The bytes that `EntityState` would pack. None if the fast path is not enough, so that `EntityState` and `Ties`
        are needed: the previous state has unsealed rows, a new row cannot be sealed yet, or two rows have the same
        event time, so that one may repeat the other.
    """
    last_us = s_us if plan.inclusive else s_us - 1
    times = [row[EVENT_AT] for row in rows]
    newest_us = max(times)
    if newest_us > last_us:
        return None
    for row in rows:
        if row[KNOWN_AT] > s_us:
            return None
    known, latest_rows = len(rows), []
    if packed is not None:
        _, _, _, _, before, unsealed, latest_rows, *_ = unpack(plan, packed)
        if unsealed or len(latest_rows) > 1:
            return None
        known += before
        if latest_rows:
            times.append(latest_rows[-1][EVENT_AT])
    if len(times) > 1 and len(set(times)) < len(times):
        return None
    if max(times) == newest_us:
        latest_rows = [rows[times.index(newest_us)]]
    return _encode([FORMAT, plan.tag, False, s_us, known, [], latest_rows, [], [], []])
