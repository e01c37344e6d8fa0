from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import column
from trimtab.events.columns import frame_index
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.records import Event, encode

KEYED = source("keyed", time="at", key="k", columns={"k": str, "who": str, "x": float})
_steps = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),  # key
        st.sampled_from(["u", "v", "w", None]),
        st.integers(0, 9),  # event time
        st.integers(0, 9),  # known at, of history
        st.sampled_from(["upsert", "upsert", "delete"]),
        st.integers(0, 3),  # 0: refresh after it
    ),
    max_size=30,
)


@pytest.mark.fast
@settings(max_examples=80, deadline=None)
@given(_steps)
def test_a_frame_finds_its_own_entities_and_times_however_the_history_goes_on(make_log: Any, steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_index, "_BLOCK", 3)
        log = make_log("p1", 10)
        history = History(log, [KEYED])
        frames = []
        for key, who, at, known, op, refresh in steps:
            values = (key, who, 1.0 if op == "upsert" else None, at)
            log.append([encode(Event("keyed", key, at, known, op, True, values))])
            if not refresh:
                history.refresh()
                frames.append(history.frame("keyed"))
                _check(frames[-1])
        history.refresh()
        for frame in [history.frame("keyed"), *frames]:
            _check(frame)


def _check(frame: EventFrame) -> None:
    assert frame.index is not None
    found = frame.index.entities(frame, ("who",))
    who = frame.columns["who"].to_list()
    assert found.of_rows.tolist() == found.of([column("str", who)]).tolist()
    assert [(w is None) for w in who] == [n == -1 for n in found.of_rows.tolist()]
    assert found.of([column("str", ["unknown", None])]).tolist() == [-1, -1]
    for name in ("u", "v", "w"):
        rows = [i for i, w in enumerate(who) if w == name]
        number = int(found.of([column("str", [name])])[0])
        assert (number < 0) == (not rows)
        known, event = frame.known_at_us, frame.event_at_us
        rows = [i for i in rows if not frame.deleted[i]]  # a deletion begins no entity
        assert found.known_us[number] == min((int(known[i]) for i in rows), default=NEVER_US)
        for enters, later in zip(found.enters_us, (1, 0), strict=True):
            assert enters[number] == min((max(int(event[i]) + later, int(known[i])) for i in rows), default=NEVER_US)
    for first, last in ((0, 9), (2, 3), (5, 5), (9, 2)):
        inside = np.flatnonzero((frame.event_at_us >= first) & (frame.event_at_us <= last)).tolist()
        assert set(inside) <= set(range(frame.rows)[frame.index.around(frame, first, last)])


def test_an_index_reads_only_the_rows_that_are_new(log: Any) -> None:
    history = History(log, [KEYED])
    log.append([encode(Event("keyed", f"k{i}", i, 0, "upsert", True, (f"k{i}", "u", 1.0, i))) for i in range(3)])
    history.refresh()
    first = history.frame("keyed")
    assert first.index is not None
    before = first.index.entities(first, ("who",))
    log.append([encode(Event("keyed", "k9", 9, 0, "upsert", True, ("k9", "v", 1.0, 9)))])
    history.refresh()
    second = history.frame("keyed")
    assert second.index is first.index
    assert second.index.entities(second, ("who",)).numbers is before.numbers
    assert (before.count, second.index.entities(second, ("who",)).count) == (1, 2)
