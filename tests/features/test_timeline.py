"""The order of a timeline, for few and for very many entities."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.features.offline.timeline import _by_entity_and_time

MANY = 200_000  # more than 16 bits

pairs = st.lists(st.tuples(st.integers(0, MANY - 1), st.integers(-(2**62), 2**62)))


@given(pairs, st.booleans())
def test_events_are_in_the_order_of_entity_and_time(found: list[tuple[int, int]], sorted_by_time: bool) -> None:
    if sorted_by_time:
        found.sort(key=lambda pair: pair[1])
    entity, at_us = np.array(found, np.int64).reshape(-1, 2).T
    order = _by_entity_and_time(entity, at_us, MANY)
    assert sorted(order.tolist()) == list(range(len(found)))
    assert [found[n] for n in order] == sorted(found)
