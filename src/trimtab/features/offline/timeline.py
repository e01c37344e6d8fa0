"""Timeline: requests and the events of their entities, both sorted by entity and time.

An event counts from the time when it has both happened and become known, until it is replaced or leaves the window.
Most events become known in the order in which they happened; these are called orderly. For any request, the orderly
events that count are next to each other in the timeline. The few other events became known after a later event of their
entity, or were corrected. These are added one by one to the requests that see them.
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
    """Turns pairs of an entity and a time into integers (places) that sort by entity and then by time.

    A place is (index of the entity) * span + (place of the time).
    """

    first_us: int
    span: int
    times: Array | None  # the distinct times, sorted; None: the place of a time is its distance from `first_us`

    @staticmethod
    def of(entities: int, *times: Array) -> Places:
        """Choose places for times, so that they fit in 64 bits and differ for different times."""
        first = min(int(m.min(initial=NEVER_US)) for m in times) - 1
        last = max(int(m.max(initial=-NEVER_US)) for m in times) + 1
        if (last - first + 1) * max(entities, 1) < 2**63:
            return Places(first, last - first + 1, None)
        distinct = np.unique(np.concatenate(times))
        return Places(first, len(distinct) + 1, distinct)

    def of_times(self, entity: Array, at_us: Array) -> Array:
        """Return the places of times. `entity` has the index of the entity for each time."""
        if self.times is None:
            place = np.clip(at_us, self.first_us, self.first_us + self.span - 1)
            place -= self.first_us
        else:
            place = np.searchsorted(self.times, at_us)
        place += entity * self.span
        return place


class RequestPlaces(msgspec.Struct, frozen=True, eq=False):
    """The requests whose entity has an event that counts, sorted by their places."""

    rows: Array  # the index of each request among all requests
    entity: Array
    at_us: Array
    place: Array


class Timeline(msgspec.Struct, frozen=True, eq=False):
    """The events that count for any request, sorted by (entity, event time, known at, partition, position)."""

    places: Places
    requests: RequestPlaces
    rows: Array  # the row of each event in the source's history
    row_place: Array  # the place of each event
    orderly: Array | slice  # indexes of the orderly events: those that became known in the order in which they happened
    other: Array  # indexes of all other events, which became known late or were replaced
    other_entity: Array
    other_superseded_at_us: Array
    event_place: Array  # the places of the orderly events
    first: Array  # for each request, the first orderly event of its entity
    entered: Array  # for each request, the first orderly event of its entity that does not count yet at its time
    other_from: Array  # for each event that is not orderly, the first request that counts it

    def since(self, start_us: Array) -> Array:
        """Return for each request the first orderly event of its entity that is not before `start_us`."""
        return np.searchsorted(self.event_place, self.places.of_times(self.requests.entity, start_us))

    def from_(self, enters_us: Array) -> Array:
        """Return for each event that is not orderly the first request that counts it.

        `enters_us` is the time from which the event is in the window.
        """
        reached = np.searchsorted(self.requests.place, self.places.of_times(self.other_entity, enters_us))
        return np.maximum(reached, self.other_from)

    def until(self, leaves_us: Array | int) -> Array:
        """Return for each event that is not orderly the first request that no longer counts it.

        `leaves_us` is the time from which the event is no longer in the window.
        """
        gone = np.minimum(leaves_us, self.other_superseded_at_us)
        return np.searchsorted(self.requests.place, self.places.of_times(self.other_entity, gone))


def timeline(
    frame: EventFrame, rows: Array, entity: Array, enters_us: Array, given: tuple[Array, Array, Array], entities: int
) -> Timeline:
    """Build the timeline of some events and requests.

    Args:
        frame: The history that holds the events.
        rows: The rows of the history whose events count, and whose entity has a request.
        entity: The index of the entity of each of `rows`.
        enters_us: For each of `rows`, the time at which it has both happened and become known.
        given: The indexes of the requests, the indexes of their entities, and the times of the requests.
    """
    event_at = frame.event_at_us.take(rows)
    places = Places.of(entities, event_at, enters_us, given[2])
    requests = _in_order(given, places, entities)
    place, enters = places.of_times(entity, event_at), places.of_times(entity, enters_us)
    delay = enters - place
    order = _by_entity_and_time(entity, event_at, entities)
    place = place.take(order)
    _sort_ties(order, place, frame, rows)
    constant = len(delay) > 0 and bool((delay == delay[0]).all())  # then the sorted places give `enters`
    enters = place + delay[0] if constant else enters.take(order)
    stays = frame.superseded_at_us.take(rows) == NEVER_US
    stays = stays if stays.all() else stays[order]
    rows = rows.take(order)
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
        first=starts.take(requests.entity),
        entered=np.searchsorted(enters[chosen], requests.place, "right"),
        other_from=np.searchsorted(requests.place, enters[other]),
    )


def leaves_us(event_at_us: Array, over_us: int, hop_us: int) -> Array:
    """Return the first time at which an event is no longer in a window of length `over_us`.

    The beginning of the window is rounded down to a hop (step).
    """
    hop = hop_us or 1
    out: Array = event_at_us // hop * hop + (hop + min(over_us, _FAR_US))
    return out


def starts_us(at_us: Array, over_us: int, hop_us: int) -> Array:
    """Return the beginning of a window of length `over_us` that ends at `at_us`, rounded down to a hop (step)."""
    hop = hop_us or 1
    out: Array = (at_us - min(over_us, _FAR_US)) // hop * hop
    return out


def _in_order(given: tuple[Array, Array, Array], places: Places, entities: int) -> RequestPlaces:
    rows, entity, at_us = given
    place = places.of_times(entity, at_us)
    if (place[1:] >= place[:-1]).all():
        return RequestPlaces(rows, entity, at_us, place)
    order = _by_entity_and_time(entity, at_us, entities)
    return RequestPlaces(*(values.take(order) for values in (rows, entity, at_us, place)))


def _by_entity_and_time(entity: Array, at_us: Array, entities: int) -> Array:
    """Return the order by entity and then by time.

    This takes an eighth of the time of sorting places, because NumPy's stable sort is fast for times that are nearly in
    order, and is a radix sort for integers of 16 bits.
    """
    order = np.argsort(at_us, kind="stable")
    for shift in range(0, max(1, (entities - 1).bit_length()), 16):
        digit = (entity >> shift).astype(np.uint16)
        order = order.take(np.argsort(digit.take(order), kind="stable"))
    return order


def _sort_ties(order: Array, place: Array, frame: EventFrame, rows: Array) -> None:
    """Sort events with the same place by when they became known, partition and position. `order` is changed.

    `place` is in this order already.
    """
    same = place[1:] == place[:-1]
    if same.any():
        tied = np.zeros(len(order), bool)
        tied[1:] = same
        tied[:-1] |= same
        among = np.flatnonzero(tied)
        chosen = order[among]
        of = rows[chosen]
        finer = np.lexsort((frame.position[of], frame.partition[of], frame.known_at_us[of], place[among]))
        order[among] = chosen[finer]


def _orderly(enters: Array, stays: Array) -> Array:
    """Return a boolean array: which events are orderly.

    An event is orderly if no later event of its entity became known before it, and no version replaced it.
    """
    bound = enters if stays.all() else np.where(stays, enters, NEVER_US)
    # one minimum over all later events will do, because all places of an entity are smaller than those of the next one
    least = np.minimum.accumulate(bound[::-1])[::-1]
    out: Array = stays & (enters <= least)
    return out
