"""The function that is written for a view; `test_online.py` holds it against the oracle."""

from __future__ import annotations

from typing import Any

from strategies import BASE_US, KEYLESS

from trimtab.events.records import Event, encode
from trimtab.features import aggregates as d
from trimtab.features.definitions import view
from trimtab.features.frames import FAILED
from trimtab.features.online.packed.keys import name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.read.reader import reader
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue


def event(position: int, at_us: int, n: int, x: float | None = 0.1) -> LogRecord:
    values = (f"r{position}", "a", at_us, x, n, True, "u")
    payload = encode(Event("readings", f"r{position}", at_us, 0, "upsert", False, values))
    return LogRecord("p0", position, at_us + 1, payload)


def test_a_sum_beyond_64_bits_fails_alone() -> None:
    v = view("v", source=KEYLESS, by="key", features={"whole": d.sum("n", over="1d"), "n": d.count()})
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    OnlineStore(kv, [v]).apply([event(i, BASE_US + i, 2**62) for i in range(1, 4)])
    packed = kv.get(plan.keys.states + name_bytes("a"))
    written: Any = ([None] * 2, [0] * 2)
    reader(plan, 0)(packed, BASE_US + 10, *written)
    assert written == ([None, 3], [FAILED, 0])


def test_one_function_serves_many_instants_in_any_order() -> None:
    v = view("v", source=KEYLESS, by="key", features={"n_1h": d.count(over="1h"), "n_7d": d.count(over="7d")})
    kv, plan = MemoryKeyValue(), ViewPlan(v)
    OnlineStore(kv, [v]).apply([event(i, BASE_US + i * 60_000_000, 1) for i in range(1, 90)])
    packed = kv.get(plan.keys.states + name_bytes("a"))
    read, found = reader(plan, 0), {}
    instants = [BASE_US + 90 * 60_000_000 + k * 7_000_000 for k in range(0, 600, 7)]
    for t_us in [*instants, *reversed(instants)]:
        written: Any = ([None] * 2, [0] * 2)
        read(packed, t_us, *written)
        assert found.setdefault(t_us, written) == written
    assert len({values[0] for values, _ in found.values()}) > 20
