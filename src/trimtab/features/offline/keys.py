"""Match events and requests that belong to the same entity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column

Array = NDArray[Any]


def match_keys(events: Sequence[Column], requests: Sequence[Column]) -> tuple[Array, Array, int]:
    """Give each entity of the requests an index, and find the index of each event's and each request's entity.

    Returns:
        The index of each event's entity, that of each request's entity, and the number of entities. Indexes are int64;
        -1: a null, or an entity that no request asks for.

    >>> from trimtab.core.columns.data import column
    >>> match_keys([column("int", [5, 9, 5])], [column("int", [9, None, 7])])
    (array([-1,  1, -1]), array([ 1, -1,  0]), 2)
    """
    of_events, of_requests, count = _match(events[0], requests[0])
    for of_event, of_request in zip(events[1:], requests[1:], strict=True):
        more_events, more_requests, more = _match(of_event, of_request)
        pairs = (_paired(of_events, more_events, more), _paired(of_requests, more_requests, more))
        of_events, of_requests, count = _match_ints(*pairs)
    return of_events, of_requests, count


def _match(events: Column, requests: Column) -> tuple[Array, Array, int]:
    return (_match_strings if requests.dtype == "str" else _match_ints)(events, requests)


def _paired(first: Array, second: Array, width: int) -> Column:
    """Return one number for each pair of indexes; null if either is -1."""
    there = (first >= 0) & (second >= 0)
    return Column("int", np.where(there, first * max(width, 1) + second, 0), there)


def _match_strings(events: Column, requests: Column) -> tuple[Array, Array, int]:
    wanted = requests.values.tolist()
    numbers = dict.fromkeys(wanted)
    numbers.pop(None, None)
    for number, key in enumerate(numbers):
        numbers[key] = number
    of_requests = np.fromiter(map(numbers.get, wanted, repeat(-1)), np.int64, len(wanted))
    of_events = np.fromiter(map(numbers.get, events.values.tolist(), repeat(-1)), np.int64, len(events))
    return of_events, of_requests, len(numbers)


def _match_ints(events: Column, requests: Column) -> tuple[Array, Array, int]:
    wanted = requests.values[requests.present()]
    of_requests = np.full(len(requests), -1, np.int64)
    if len(wanted) == 0:
        return np.full(len(events), -1, np.int64), of_requests, 0
    low, high = int(wanted.min()), int(wanted.max())
    if high - low <= 4 * (len(events) + len(requests)) and low > -(2**63) and high < 2**63 - 1:
        # one more, unused element at each end, for keys that are out of range
        numbers = np.full(high - low + 3, -1, np.int64)
        numbers[wanted - low + 1] = 0
        there = np.flatnonzero(numbers == 0)
        numbers[there] = np.arange(len(there))
        of_requests[requests.present()] = numbers[wanted - low + 1]
        of_events = numbers[np.clip(events.values, low - 1, high + 1) - (low - 1)]
        count = len(there)
    else:
        distinct, inverse = np.unique(wanted, return_inverse=True)
        of_requests[requests.present()] = inverse
        place = np.minimum(np.searchsorted(distinct, events.values), len(distinct) - 1)
        of_events = np.where(distinct[place] == events.values, place, -1)
        count = len(distinct)
    return np.where(events.present(), of_events, -1) if events.valid is not None else of_events, of_requests, count
