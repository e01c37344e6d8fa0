"""The short way of an entity's latest values gives the bytes that the long way gives, or leaves it to that."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import KEYLESS, floats

from trimtab.events.columns.frames import NEVER_US
from trimtab.features import aggregates as d
from trimtab.features.definitions import Boundary, view
from trimtab.features.online.packed.keys import GIVES, Row
from trimtab.features.online.packed.latest import latest_state
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import EntityState
from trimtab.features.online.store import _repeated

LATEST = {"x": d.latest("x"), "n": d.latest("n")}


@st.composite
def arriving(draw: st.DrawFn) -> list[tuple[list[Row], int]]:
    """Rows of one entity by batches, each with the append time at which it is applied."""
    s_us, position, batches = 100, 0, []
    for _ in range(draw(st.integers(1, 6))):
        s_us += draw(st.integers(0, 5))
        rows: list[Row] = []
        for _ in range(draw(st.integers(1, 4))):
            position += 1
            at_us = s_us + draw(st.sampled_from([-40, -9, -5, -3, -2, -1, -1, 0, 2]))
            known_us = s_us + draw(st.sampled_from([0, 0, 0, 0, 4]))
            event_id = draw(st.sampled_from(["i", f"r{position}", f"r{position}"]))
            rows.append([at_us, known_us, "p0", position, NEVER_US, event_id, [draw(floats), position]])
        batches.append((rows, s_us))
    return batches


@settings(deadline=None, max_examples=80)
@given(arriving(), st.sampled_from(["before", "inclusive"]))
def test_the_short_way_gives_the_bytes_of_the_long_way(batches: list[tuple[list[Row], int]], at: Boundary) -> None:
    plan = ViewPlan(view("v", source=KEYLESS, by="key", features=LATEST, boundary=at))
    packed: bytes | None = None
    for rows, s_us in batches:
        short = latest_state(plan, packed, [[*row[:GIVES], row[GIVES][:]] for row in rows], s_us)
        state = EntityState(plan, packed)
        again = _repeated(state, rows, Counter())
        for row in rows:
            if ("p0", row[3]) in again:
                state.repeat(row)
            else:
                state.unsealed.append(row)
        state.seal(s_us)
        packed = state.pack()
        assert short in (None, packed)


def test_one_sealed_row_after_another_goes_the_short_way() -> None:
    plan, packed = ViewPlan(view("v", source=KEYLESS, by="key", features=LATEST)), None
    for n in range(1, 9):
        row = [100 * n, 100 * n + 1, "p0", n, NEVER_US, f"r{n}", [0.5, n]]
        late = [100 * n - 50, 100 * n + 2, "p0", 100 + n, NEVER_US, f"l{n}", [0.25, -n]]
        packed = latest_state(plan, packed, [row, late], 100 * n + 2)
        assert packed is not None
    assert EntityState(plan, packed).latest_rows == [row]
    assert EntityState(plan, packed).known == 16
