"""The function that is written for a view gives what the general read gives: the same bits, the same reasons."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BASE_US, KEYED, KEYLESS, UNIT_US, aggregates, floats
from test_online import feeds

from trimtab.events.definitions import Source
from trimtab.events.records import Event, encode
from trimtab.features import aggregates as d
from trimtab.features.definitions import View, view
from trimtab.features.frames import FAILED
from trimtab.features.online.packed.plan import ViewPlan, name_bytes
from trimtab.features.online.read.read import read_state
from trimtab.features.online.read.read_code import reader
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

USUAL = ["latest", "count", "sum", "mean", "min", "max", "var", "std"]
usual = aggregates(USUAL).filter(lambda a: not getattr(a, "until_us", 0))
ENTITIES = ["a", "b", "c", "nobody"]


@st.composite
def usual_views(draw: st.DrawFn, of: Source) -> View:
    declared = {f"f{i}": draw(usual) for i in range(draw(st.integers(1, 6)))}
    return view("v", source=of, by="key", features=declared, boundary=draw(st.sampled_from(["before", "inclusive"])))


def bits(values: list[Any]) -> list[Any]:
    return [struct.pack("<d", v) if isinstance(v, float) else (type(v), v) for v in values]


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from([KEYED, KEYLESS]), st.integers(0, 3), st.integers(1, 5))
def test_a_view_is_read_as_its_function_says_or_as_any_view_is(
    data: st.DataObject, of: Source, at: int, batch: int
) -> None:
    v = data.draw(usual_views(of))
    _, log = data.draw(feeds(of))
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    online = OnlineStore(kv, [v])
    for start in range(0, len(log), batch):
        online.apply(log[start : start + batch], reached={})
    read = reader(plan, at)
    s_us = max(online.s_us, BASE_US)
    for t_us in sorted({s_us + data.draw(st.integers(0, 80)) * UNIT_US for _ in range(4)} | {s_us}, reverse=True):
        for entity in ENTITIES:
            packed = kv.get(plan.state_prefix + name_bytes(entity))
            written = [None] * (at + len(plan.features) + 1), [0] * (at + len(plan.features) + 1)
            meant = [None] * len(written[0]), [0] * len(written[0])
            read(packed, t_us, *written)
            read_state(plan, packed, t_us, *meant, at)
            assert bits(written[0]) == bits(meant[0])
            assert written[1] == meant[1]


@settings(deadline=None, max_examples=200)
@given(
    st.data(),
    usual_views(KEYLESS),
    st.lists(st.tuples(st.integers(1, 3 * UNIT_US), st.integers(-(2**40), 2**40), floats), min_size=2, max_size=40),
)
def test_tiles_leave_the_windows_of_both_alike(data: st.DataObject, v: View, steps: list[tuple[int, int, Any]]) -> None:
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    at_us, records = BASE_US, []
    for position, (step_us, n, x) in enumerate(steps, 1):
        at_us += step_us
        records.append(event(position, at_us, n, x))
    OnlineStore(kv, [v]).apply(records)
    packed = kv.get(plan.state_prefix + name_bytes("a"))
    read = reader(plan, 0)
    read.__globals__["read_decoded"] = None  # not to be called
    for t_us in range(at_us + 1, at_us + 45 * UNIT_US, data.draw(st.integers(3, 15))):
        written: Any = ([None] * len(plan.features), [0] * len(plan.features))
        meant: Any = ([None] * len(plan.features), [0] * len(plan.features))
        read(packed, t_us, *written)
        read_state(plan, packed, t_us, *meant, 0)
        assert bits(written[0]) == bits(meant[0])
        assert written[1] == meant[1]


TEN: dict[str, Any] = {
    "newest": d.latest("x", max_age="1d"), "n_1h": d.count(over="1h"), "n_1d": d.count("x", over="1d"),
    "sum_1d": d.sum("x", over="1d"), "mean_7d": d.mean("x", over="7d"), "most_7d": d.max("x", over="7d"),
    "whole": d.sum("n", over="1d"), "half": d.mean("n"), "spread": d.std("x", over="7d"), "least": d.min("x"),
}  # fmt: skip


def event(position: int, at_us: int, n: int, x: float | None = 0.1) -> LogRecord:
    values = (f"r{position}", "a", at_us, x, n, True, "u")
    payload = encode(Event("readings", f"r{position}", at_us, 0, "upsert", False, values))
    return LogRecord("p0", position, at_us + 1, payload)


def test_usual_features_of_sealed_rows_need_no_general_read() -> None:
    v = view("v", source=KEYLESS, by="key", features=TEN)
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    hour_us = 3_600_000_000
    OnlineStore(kv, [v]).apply([event(i, BASE_US + i * hour_us // 2, i, 1e-300 * i) for i in range(1, 400)])
    packed = kv.get(plan.state_prefix + name_bytes("a"))
    read = reader(plan, 0)
    read.__globals__["read_decoded"] = None  # not to be called
    for hours in (200, 201, 210, 300, 400):
        written: Any = ([None] * 10, [0] * 10)
        meant: Any = ([None] * 10, [0] * 10)
        read(packed, BASE_US + hours * hour_us, *written)
        read_state(plan, packed, BASE_US + hours * hour_us, *meant, 0)
        assert bits(written[0]) == bits(meant[0])
        assert written[1] == meant[1]


def test_a_sum_beyond_64_bits_fails_alone_in_both() -> None:
    v = view("v", source=KEYLESS, by="key", features={"whole": d.sum("n", over="1d"), "n": d.count()})
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    OnlineStore(kv, [v]).apply([event(i, BASE_US + i, 2**62) for i in range(1, 4)])
    packed = kv.get(plan.state_prefix + name_bytes("a"))
    written: Any = ([None] * 2, [0] * 2)
    meant: Any = ([None] * 2, [0] * 2)
    reader(plan, 0)(packed, BASE_US + 10, *written)
    read_state(plan, packed, BASE_US + 10, *meant, 0)
    assert written == meant == ([None, 3], [FAILED, 0])


def test_one_function_serves_many_moments_in_any_order() -> None:
    v = view("v", source=KEYLESS, by="key", features={"n_1h": d.count(over="1h"), "n_7d": d.count(over="7d")})
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    OnlineStore(kv, [v]).apply([event(i, BASE_US + i * 60_000_000, 1) for i in range(1, 90)])
    packed = kv.get(plan.state_prefix + name_bytes("a"))
    read, found = reader(plan, 0), {}
    moments = [BASE_US + 90 * 60_000_000 + k * 7_000_000 for k in range(0, 600, 7)]
    for t_us in [*moments, *reversed(moments)]:
        written: Any = ([None] * 2, [0] * 2)
        read(packed, t_us, *written)
        assert found.setdefault(t_us, written) == written
    assert len({values[0] for values, _ in found.values()}) > 20
