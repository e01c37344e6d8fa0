"""Timeline: the events of the requested entities in order, next to the times of the requests.

Every live event counts from when it enters (it has happened and is known) until it is superseded or leaves a window.
Most events become known in the order in which they happened: for those, what counts at a time is one range of the
order, for any window. The few others - known after a later event of their entity, or corrected - are counted one by
one into the requests that they cover.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.events.columns.frames import NEVER_US, EventFrame

Array = NDArray[Any]

_FAR_US = 2**61  # longer than any window


class Places(msgspec.Struct, frozen=True, eq=False):
    """Times of entities as integers of one order, entity by entity: number * span + place of the time."""

    first_us: int
    span: int
    times: Array | None  # sorted; None: a place is the distance from `first_us`

    @staticmethod
    def of(entities: int, *times: Array) -> Places:
        """An order in which these times differ."""
        first = min(int(m.min(initial=NEVER_US)) for m in times) - 1
        last = max(int(m.max(initial=-NEVER_US)) for m in times) + 1
        if (last - first + 1) * max(entities, 1) < 2**63:
            return Places(first, last - first + 1, None)
        distinct = np.unique(np.concatenate(times))
        return Places(first, len(distinct) + 1, distinct)

    def of_times(self, entity: Array, at_us: Array) -> Array:
        """The places of times, of entities by number."""
        if self.times is None:
            place = np.clip(at_us, self.first_us, self.first_us + self.span - 1)
            place -= self.first_us
        else:
            place = np.searchsorted(self.times, at_us)
        place += entity * self.span
        return place


class RequestPlaces(msgspec.Struct, frozen=True, eq=False):
    """Requests of known entities, in the order of their places."""

    rows: Array  # their rows among all requests
    entity: Array
    at_us: Array
    place: Array


class Timeline(msgspec.Struct, frozen=True, eq=False):
    """Live events in the order of (entity, event time, known at, partition, position)."""

    places: Places
    requests: RequestPlaces
    rows: Array  # in the frame
    row_place: Array  # place of each row
    orderly: Array | slice  # those that became known in order
    other: Array  # those that did not, or were superseded
    other_entity: Array
    other_superseded_at_us: Array
    event_place: Array  # places of the orderly events
    first: Array  # the range [first, entered) of the orderly of each request's entity that had entered
    entered: Array
    other_from: Array  # the first request that each of the others counts for

    def since(self, start_us: Array) -> Array:
        """For each request the first orderly event that is not dated before `start_us`."""
        return np.searchsorted(self.event_place, self.places.of_times(self.requests.entity, start_us))

    def from_(self, enters_us: Array) -> Array:
        """For each of the others the first request that it counts for, if it enters a window at `enters_us`."""
        reached = np.searchsorted(self.requests.place, self.places.of_times(self.other_entity, enters_us))
        return np.maximum(reached, self.other_from)

    def until(self, leaves_us: Array | int) -> Array:
        """For each of the others the first request that it no longer counts for, if it leaves at `leaves_us`."""
        gone = np.minimum(leaves_us, self.other_superseded_at_us)
        return np.searchsorted(self.requests.place, self.places.of_times(self.other_entity, gone))


def timeline(
    frame: EventFrame, rows: Array, entity: Array, enters_us: Array, given: tuple[Array, Array, Array], entities: int
) -> Timeline:
    """Order events for requests.

    Args:
        frame: Where the events are.
        rows: Which of them are live and of a requested entity.
        entity: The entity's number of each of `rows`.
        enters_us: When each of `rows` has both happened and become known.
        given: Of requests: their rows, their entities' numbers, their times.
        entities: How many entities there are.
    """
    event_at = frame.event_at_us[rows]
    places = Places.of(entities, event_at, enters_us, given[2])
    requests = _in_order(given, places)
    place, enters = places.of_times(entity, event_at), places.of_times(entity, enters_us)
    delay = enters - place
    order, place = _total_order(place, frame, rows)
    constant = len(delay) > 0 and bool((delay == delay[0]).all())
    enters = place + delay[0] if constant else enters[order]
    stays = frame.superseded_at_us[rows] == NEVER_US
    stays = stays if stays.all() else stays[order]
    rows = rows[order]
    orderly = _orderly(enters, stays)
    everyone = bool(orderly.all())
    chosen = slice(None) if everyone else np.flatnonzero(orderly)
    other = np.flatnonzero(~orderly)
    everywhere, place = place, place[chosen]
    starts = np.searchsorted(place, np.arange(entities) * places.span)
    return Timeline(
        places=places,
        requests=requests,
        rows=rows,
        row_place=everywhere,
        orderly=chosen,
        other=other,
        other_entity=entity[order[other]],
        other_superseded_at_us=frame.superseded_at_us[rows[other]],
        event_place=place,
        first=starts[requests.entity],
        entered=np.searchsorted(enters[chosen], requests.place, "right"),
        other_from=np.searchsorted(requests.place, enters[other]),
    )


def leaves_us(event_at_us: Array, over_us: int, hop_us: int) -> Array:
    """The first time whose window of `over_us`, its tail rounded down to a hop, does not hold the event."""
    hop = hop_us or 1
    out: Array = event_at_us // hop * hop + (hop + min(over_us, _FAR_US))
    return out


def starts_us(at_us: Array, over_us: int, hop_us: int) -> Array:
    """The start of the window of `over_us` at `at_us`, rounded down to a hop."""
    hop = hop_us or 1
    out: Array = (at_us - min(over_us, _FAR_US)) // hop * hop
    return out


def _in_order(given: tuple[Array, Array, Array], places: Places) -> RequestPlaces:
    rows, entity, at_us = given
    place = places.of_times(entity, at_us)
    if (place[1:] >= place[:-1]).all():
        return RequestPlaces(rows, entity, at_us, place)
    order = np.argsort(place)
    return RequestPlaces(rows[order], entity[order], at_us[order], place[order])


def _total_order(place: Array, frame: EventFrame, rows: Array) -> tuple[Array, Array]:
    """The order of events, and their places in it."""
    order = np.argsort(place)
    ordered = place[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.zeros(len(order), bool)
        tied[1:] = same
        tied[:-1] |= same
        among = np.flatnonzero(tied)
        chosen = order[among]
        of = rows[chosen]
        finer = np.lexsort((frame.position[of], frame.partition[of], frame.known_at_us[of], ordered[among]))
        order[among] = chosen[finer]
    return order, ordered


def _orderly(enters: Array, stays: Array) -> Array:
    """Events that no later event of their entity preceded in becoming known, and that no version replaced."""
    bound = enters if stays.all() else np.where(stays, enters, NEVER_US)
    least = np.minimum.accumulate(bound[::-1])[::-1]  # an entity's places all lie below those of the next
    out: Array = stays & (enters <= least)
    return out
