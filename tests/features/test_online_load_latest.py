"""States put together from columns are those that one would make row by row, whatever the texts and values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Unavailable
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import latest
from trimtab.features.definitions import view
from trimtab.features.online.failures import Counts
from trimtab.features.online.fill.load import _entity_states, _Part, _written_in_thread, load
from trimtab.features.online.fill.load_latest import LatestLoad, _as_bytes, _by_name, loads_columns
from trimtab.features.online.packed.keys import name_bytes
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.testing import MemoryKeyValue

COLUMNS: dict[str, Any] = {"who": str, "number": int, "x": float, "n": int, "ok": bool, "kind": str, "at": Time}
EVENTS = source("events", time="at", columns=COLUMNS)
FEATURES = {name: latest(name) for name in ("x", "n", "ok", "kind", "at")}
texts = st.one_of(
    st.sampled_from(["a", "b", "a\0", "\0", "", "ä", "日本", "x" * 31, "x" * 32, "y" * 161, "z" * 200]),
    st.text(max_size=6),
)
rows = st.tuples(
    st.one_of(st.none(), texts), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from([1e150, -1e151])),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), st.one_of(st.none(), st.booleans()),
    st.one_of(st.none(), texts), st.integers(0, 12),  # event at
    st.integers(0, 12),  # known at
    st.sampled_from(["p0", "p1"]), texts, st.sampled_from(["upsert"] * 9 + ["delete"]),
)  # fmt: skip


class Given:
    def __init__(self, chunks: list[Columns]) -> None:
        self.chunks = chunks
        self.most = sum(chunk.rows for chunk in chunks)

    def __iter__(self) -> Any:
        return iter(self.chunks)


def table(given_rows: list[tuple[Any, ...]], first: int) -> Columns:
    who, number, x, n, ok, kind, event_at, known_at, partition, ids, op = zip(*given_rows, strict=True)
    position = range(first, first + len(given_rows))
    fields: list[tuple[str, Any, Any]] = [
        ("who", "str", who), ("number", "int", number), ("x", "float", x), ("n", "int", n), ("ok", "bool", ok),
        ("kind", "str", kind), ("at", "time", event_at), ("_event_at", "time", event_at),
        ("_known_at", "time", known_at),
        ("_partition", "str", partition), ("_position", "int", position), ("_id", "str", ids), ("_op", "str", op),
        ("_s_at", "time", known_at),
    ]  # fmt: skip
    return Columns({name: column(dtype, values) for name, dtype, values in fields})


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(rows, min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from(["who", "number"]),
    st.sampled_from(["before", "inclusive"]),
    st.sampled_from([1, 100]),
    st.sets(st.sampled_from(sorted(FEATURES)), min_size=1),
)
@example(  # told twice at one instant, by two processes, with other contents
    [
        [("a", 1, None, None, None, None, 0, 0, "p1", "a", "upsert")],
        [("a", 1, None, None, None, "a", 0, 0, "p0", "a", "upsert")],
    ],
    "who",
    "before",
    1,
    {"kind"},
)
def test_states_from_columns_are_those_made_row_by_row(
    chunks: list[list[tuple[Any, ...]]], by: str, boundary: Any, most_rows: int, chosen: set[str]
) -> None:
    v = view("v", source=EVENTS, by=by, features={n: FEATURES[n] for n in sorted(chosen)}, boundary=boundary)
    plan, s_us = ViewPlan(v), 10
    assert loads_columns(plan)
    tables = [table(chunk, 1 + 10 * i) for i, chunk in enumerate(chunks)]
    kv = MemoryKeyValue()
    for _ in load(kv, plan, Given(tables), s_us, Counts(), most_rows=most_rows):
        pass
    groups: dict[bytes, list[Any]] = {}
    for chunk, of_chunk in enumerate(chunks):
        for i, row in enumerate(of_chunk):
            who, number, x, n, ok, kind, event_at, known_at, partition, event_id, op = row
            entity = who if by == "who" else number
            if entity is not None and op == "upsert":
                gives, _ = plan.values.of((who, number, x, n, ok, kind, event_at))
                placed = [event_at, known_at, partition, 1 + 10 * chunk + i, 2**63 - 1, event_id, gives]
                groups.setdefault(name_bytes(entity), []).append(placed)
    expected = dict(_entity_states(plan, groups, s_us))
    found = dict(kv.scan(b"v"))
    assert found.keys() == expected.keys()
    for name, packed in found.items():
        one, other = msgspec.msgpack.decode(packed), msgspec.msgpack.decode(expected[name])
        for state in (one, other):  # a matrix does not count rows that lost
            state[4] = state[4] > 0
            state[5].sort(key=lambda row: row[:4])
        assert repr(one) == repr(other)


@pytest.mark.fast
def test_most_states_come_from_one_matrix() -> None:
    v = view("v", source=EVENTS, by="who", features={"x": latest("x"), "kind": latest("kind")})
    row = ("a", 1, 0.5, 2, True, "k", 1, 1, "p0", "id", "upsert")
    given_rows = [(f"w{i}", *row[1:]) for i in range(9)]

    def never(*_: Any) -> Any:
        raise AssertionError("no row is odd")

    loading = LatestLoad(ViewPlan(v), 10, Counter(), never)
    loading.take(table([*given_rows, ("w3", 1, None, 2, True, None, 2, 2, "p1", "other", "upsert")], 1), _Part(0, 1))
    (states,) = loading.states()
    assert len(states) == 9
    (newest,) = msgspec.msgpack.decode(states[ViewPlan(v).keys.states + b"sw3"])[6]
    assert newest[:4] + newest[5:] == [2, 2, "p1", 10, "other", [None, None]]


names = st.one_of(
    st.text("ab\u00e9", max_size=3), st.from_regex(r"user[0-9]{1,40}", fullmatch=True), st.text(max_size=50)
)


@settings(max_examples=100)
@given(st.lists(names, min_size=1, max_size=40), st.sampled_from(["", "the same beginning, "]))
def test_names_are_put_in_the_order_of_their_bytes(texts: list[str], begin: str) -> None:
    column = np.empty(len(texts), object)
    column[:] = [begin + text for text in texts]
    found = _as_bytes(Column("str", column)).values
    in_order = [bytes(found[i]) for i in _by_name(found)]
    assert in_order == sorted(in_order)
    assert sorted(in_order) == sorted(bytes(value) for value in found)


class Failing(MemoryKeyValue):
    """It has room for two pieces."""

    def write(self, puts: Any, deletes: Any = ()) -> None:
        if len(list(self.scan(b"k"))) == 2:
            raise Unavailable("full. Make room.")
        super().write(puts, deletes)


def test_a_piece_is_written_before_the_next_step_and_what_fails_is_raised() -> None:
    kv, made = Failing(), []

    def pieces() -> Any:
        for n in range(5):
            made.append(n)
            yield {b"k%d" % n: b"v"}

    steps = _written_in_thread(kv, pieces())
    for n in range(2):
        next(steps)
        assert [key for key, _ in kv.scan(b"k")] == [b"k%d" % i for i in range(n + 1)]
    with pytest.raises(Unavailable, match="full"):
        next(steps)
    assert made == [0, 1, 2, 3]
