"""Features as if everything known now had always been known, to measure how much of the history was changed later."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.frames import FeatureFrame

_ALWAYS_US = -(2**62)  # before all requests


def as_known_now(frame: EventFrame, known_by_us: int = NEVER_US) -> EventFrame:
    """Return a source's events as if each had been known from its event time on.

    Of the versions of an event that were known by `known_by_us`, only the newest counts. All known-at times become the
    same, but the order of events with equal times, which depends on known-at times, stays: the new position of an event
    is its index in the old order by (event time, known at, partition, position).
    """
    if known_by_us != NEVER_US:
        frame = frame.take(frame.known_at_us <= known_by_us)
    newest = (frame.superseded_at_us == NEVER_US) | (frame.superseded_at_us > known_by_us)
    order = np.lexsort((frame.position, frame.partition, frame.known_at_us, frame.event_at_us))
    position = np.empty(frame.rows, np.int64)
    position[order] = np.arange(frame.rows)
    return EventFrame(
        source=frame.source,
        columns=frame.columns,
        event_at_us=frame.event_at_us,
        known_at_us=np.full(frame.rows, _ALWAYS_US),
        superseded_at_us=np.where(newest, NEVER_US, _ALWAYS_US),
        deleted=frame.deleted,
        partition=np.zeros(frame.rows, np.int16),
        position=position,
        partitions=("",),
    )


def differing_values(then: FeatureFrame, final: FeatureFrame) -> dict[str, int]:
    """Return for each feature how many values differ between `then` and `final` in bits, nulls or reasons."""
    return {name: _differing(name, then, final) for name in final.values.names}


def _differing(name: str, then: FeatureFrame, final: FeatureFrame) -> int:
    differ = _unequal(then.values[name], final.values[name])
    if name in final.reasons:
        differ |= then.reasons[name] != final.reasons[name]
    return int(differ.sum())


def _unequal(one: Column, other: Column) -> NDArray[np.bool_]:
    there = one.present()
    values: NDArray[Any] = one.values != other.values
    if one.dtype == "float":
        values = one.values.view(np.int64) != other.values.view(np.int64)
    out: NDArray[np.bool_] = (there != other.present()) | (there & values.astype(bool))
    return out
