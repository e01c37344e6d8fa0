"""What the online store does by hand-made cases: counts, positions, definitions, refusals."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from trimtab import features as d
from trimtab.core.columns.data import Columns, Dtype, column
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import Source, source
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.failures import Counts
from trimtab.features.online.fill.load import load
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.read.entity_read import read_entity
from trimtab.features.online.read.request_plan import OnlineRows, RequestPlan
from trimtab.features.online.store import POSITIONS_KEY, OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

KEYED = source("keyed", time="at", key="id", columns={"id": str, "who": str, "x": float, "n": int})
PLAIN = source("plain", time="at", columns={"id": str, "who": str, "x": float, "n": int})
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str, "size": float})
LATEST = view("latest_x", source=PLAIN, by="who", features={"x": d.latest("x")})
WINDOW = view("window_x", source=PLAIN, by="who", features={"n": d.count(over=100, hop=10), "s": d.sum("x", over=100)})
FIXED = view(
    "fixed",
    source=KEYED,
    by="who",
    features={"s": d.sum("x", over=100), "lo": d.min("x", over=100), "x": d.latest("x")},
)


def event(
    of: Source, position: int, at: int, *, eid: str = "", who: Any = "a", x: Any = 1.0, n: Any = 1, op: Any = "upsert",
    appended: int | None = None, known: int = 0, partition: str = "p",
) -> LogRecord:  # fmt: skip
    payload = encode(Event(of.name, eid or f"{at}{x}", at, known, op, False, (eid, who, x, n, at)))
    return LogRecord(partition, position, at if appended is None else appended, payload)


class Chunks(list[Columns]):
    """A history in memory."""

    @property
    def most(self) -> int:
        return sum(chunk.rows for chunk in self)


def read(kv: MemoryKeyValue, v: View, now: int, who: Any = "a") -> OnlineRows:
    return RequestPlan(feature_set(ASK, [v]), kv).read([{"who": who}], now)


def values(kv: MemoryKeyValue, v: View, now: int, who: Any = "a") -> list[Any]:
    return read(kv, v, now, who).values[0]


@pytest.mark.fast
def test_the_least_use_gives_values_reasons_and_the_as_of() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [LATEST, WINDOW])
    store.apply([event(PLAIN, 1, 10, x=2.0), event(PLAIN, 2, 20, x=0.5)])
    plan = RequestPlan(feature_set(ASK, [WINDOW, {"log": col("size").log1p()}, LATEST]), kv)
    got = plan.read([{"who": "a", "size": 0.0}, {"who": "b", "size": None}], 30)
    assert got.names == ("window_x.n", "window_x.s", "log", "latest_x.x")
    assert got.values == [[2, 2.5, 0.0, 0.5], [0, 0.0, None, None]]
    assert got.reason(0, "window_x.n") == "found"
    assert got.reason(1, "latest_x.x") == "no_entity"
    assert got.reason(1, "log") == "null"
    assert (got.at_us, got.positions) == (30, {"p": 2})
    assert (store.positions(), store.s_us) == ({"p": 2}, 20)


def test_a_read_is_never_before_what_was_applied() -> None:
    kv = MemoryKeyValue()
    OnlineStore(kv, [LATEST]).apply([event(PLAIN, 1, 10, appended=50)])
    got = read(kv, LATEST, 20)
    assert (got.at_us, got.values) == (50, [[1.0]])


def test_nothing_applied_means_that_no_entity_is_known() -> None:
    got = read(MemoryKeyValue(), LATEST, 20)
    assert (got.values, got.reason(0, "latest_x.x"), got.positions) == ([[None]], "no_entity", {})


def test_records_given_again_are_skipped() -> None:
    kv = MemoryKeyValue()
    records = [event(PLAIN, 1, 10), event(PLAIN, 2, 20)]
    assert OnlineStore(kv, [WINDOW]).apply(records).skipped == 0
    again = OnlineStore(kv, [WINDOW]).apply([*records, event(PLAIN, 3, 30)])
    assert (again.records, again.skipped, again.total("applied")) == (3, 2, 1)
    assert values(kv, WINDOW, 40)[0] == 3


def test_missing_records_are_refused() -> None:
    with pytest.raises(Misuse, match="needs record 1 of partition 'p', found 2"):
        OnlineStore(MemoryKeyValue(), [LATEST]).apply([event(PLAIN, 2, 10)])


def test_a_repetition_from_another_partition_counts_once() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW])
    applied = store.apply([event(PLAIN, 1, 10, eid="i"), event(PLAIN, 1, 10, eid="i", appended=12, partition="q")])
    assert applied.views["window_x"].duplicates == 1
    assert store.apply([event(PLAIN, 2, 10, eid="i", appended=15)]).total("duplicates") == 1
    assert values(kv, WINDOW, 20) == [1, 1.0]


def test_of_a_repeated_event_the_first_known_record_decides_ties() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [LATEST])
    store.apply([event(PLAIN, 1, 10, eid="b", x=2.0, appended=11)])
    store.apply([event(PLAIN, 1, 10, eid="a", x=1.0, appended=12, partition="q")])
    assert values(kv, LATEST, 20) == [1.0]
    loaded = encode(Event("plain", "a", 10, 10, "upsert", True, ("a", "a", 1.0, 1, 10)))
    assert store.apply([LogRecord("q", 2, 13, loaded)]).total("duplicates") == 1
    assert values(kv, LATEST, 20) == [2.0]


def test_another_content_under_an_id_of_a_source_without_a_key_is_a_conflict() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW])
    store.apply([event(PLAIN, 1, 10, eid="i", x=1.0)])
    assert store.apply([event(PLAIN, 2, 10, eid="i", x=7.0, appended=12)]).total("id_conflicts") == 1
    assert values(kv, WINDOW, 20) == [1, 1.0]


def test_a_deletion_in_a_source_without_a_key_is_refused_and_counted() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [LATEST])
    applied = store.apply([event(PLAIN, 1, 10, eid="i"), event(PLAIN, 2, 10, eid="i", op="delete", appended=12)])
    assert applied.total("refused_deletes") == 1


@pytest.mark.parametrize("of", [PLAIN, KEYED])
def test_history_that_is_older_than_the_windows_was_known_in_time(of: Source) -> None:
    """The same rows applied one by one and loaded at once: event at, known at."""
    kv, window = MemoryKeyValue(), view("window", source=of, by="who", features={"n": d.count(over=100, hop=10)})
    loaded = [(10, 15), (20, 900), (10_995, 10_995)]  # the second became known long after its windows
    records = [
        LogRecord("p", n, 11_000, encode(Event(of.name, f"i{n}", at, known, "upsert", True, ("i", "a", 1.0, n, at))))
        for n, (at, known) in enumerate(loaded)
    ]
    pushed = event(of, 3, 10_000, eid="late", appended=11_000)
    assert OnlineStore(kv, [window]).apply([*records, pushed]).views["window"].too_late == 2
    assert read(kv, window, 11_000).values[0] == [1]
    count = Counts()
    one = {"id": "i", "who": "a", "x": 1.0, "n": 1, "_partition": "p", "_op": "upsert", "_s_at": 11_000}
    rows = [
        {**one, "at": at, "_event_at": at, "_known_at": known, "_position": n, "_id": f"i{n}"}
        for n, (at, known) in enumerate([*loaded, (10_000, 11_000)])
    ]
    types: dict[str, Dtype] = {**of.columns, **dict.fromkeys(("_event_at", "_known_at", "_s_at"), "time")}
    types |= {"_partition": "str", "_position": "int", "_id": "str", "_op": "str"}
    table = Columns({name: column(dtype, [row[name] for row in rows]) for name, dtype in types.items()})
    assert sum(load(MemoryKeyValue(), ViewPlan(window), Chunks([table]), 11_000, count)) >= len(rows)
    assert count["too_late"] == 2


def test_an_event_that_no_window_can_see_is_too_late_but_makes_the_entity_known() -> None:
    kv = MemoryKeyValue()
    applied = OnlineStore(kv, [WINDOW, LATEST]).apply([event(PLAIN, 1, 10, appended=1_000)])
    assert {name: v.too_late for name, v in applied.views.items()} == {"window_x": 1, "latest_x": 0}
    assert read(kv, WINDOW, 1_000).reason(0, "window_x.n") == "outside_window"
    assert values(kv, LATEST, 1_000) == [1.0]


def test_corrections_and_deletions_restore_what_the_old_version_held_up() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [FIXED])
    store.apply([event(KEYED, i, i * 10, eid=f"e{i}", x=float(i)) for i in range(1, 6)])
    assert values(kv, FIXED, 60) == [15.0, 1.0, 5.0]
    applied = store.apply([event(KEYED, 6, 10, eid="e1", x=9.0, appended=61)])
    assert values(kv, FIXED, 62) == [23.0, 2.0, 5.0]
    assert (applied.total("corrections"), applied.total("raw_rows_read")) == (1, 1)
    store.apply([event(KEYED, 7, 63, eid="e5", who=None, op="delete", appended=63)])
    assert values(kv, FIXED, 64) == [18.0, 2.0, 4.0]


def test_a_correction_that_moves_an_event_takes_it_from_its_old_entity() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [FIXED])
    store.apply([event(KEYED, 1, 10, eid="e", who="a"), event(KEYED, 2, 10, eid="e", who="b", appended=20)])
    assert values(kv, FIXED, 30, "a") == [0.0, None, None]
    assert values(kv, FIXED, 30, "b") == [1.0, 1.0, 1.0]
    assert read(kv, FIXED, 30, "a").reason(0, "fixed.s") == "outside_window"


def test_a_correction_acts_from_its_own_known_at() -> None:
    kv = MemoryKeyValue()
    OnlineStore(kv, [FIXED]).apply(
        [event(KEYED, 1, 10, eid="e"), event(KEYED, 2, 10, eid="e", x=5.0, appended=20, known=50)]
    )
    assert [values(kv, FIXED, t)[0] for t in (20, 49, 50, 51)] == [1.0, 1.0, 5.0, 5.0]


def test_an_integer_sum_that_overflows_fails_alone() -> None:
    v = view("big", source=PLAIN, by="who", features={"s": d.sum("n"), "mean": d.mean("n")})
    kv = MemoryKeyValue()
    OnlineStore(kv, [v]).apply([event(PLAIN, i, i, n=2**62) for i in (1, 2)])
    found = read(kv, v, 10)
    assert found.values == [[None, 2.0**62]]
    assert [found.reason(0, f"big.{name}") for name in ("s", "mean")] == ["failed", "found"]


@pytest.mark.parametrize("of", [PLAIN, KEYED])
def test_an_event_that_fails_is_counted_once_and_named(of: Source) -> None:
    times_4 = col("n") * 4
    v = view("big", source=of, by="who", features={"x": d.latest(times_4), "s": d.sum(times_4), "n": d.count()})
    kv = MemoryKeyValue()
    records = [event(of, 1, 1, eid="a"), event(of, 2, 2, eid="b", n=2**62), event(of, 3, 3, who=None, n=2**62)]
    for _ in range(2):  # the second time after a restart, from where it was
        OnlineStore(kv, [v]).apply(records)
        found = read(kv, v, 10)
        assert found.values == [[None, 4, 2]]
        assert [found.reason(0, f"big.{name}") for name in ("x", "s", "n")] == ["failed", "found", "found"]
        failures = OnlineStore(kv, [v]).failures()["big"]
        assert sorted(failures) == ["s", "x"]
        assert (failures["x"].count, failures["x"].event_id, failures["x"].position) == (1, "b", 2)
        assert failures["x"].error.startswith("4611686018427387904 * 4 does not fit")
        assert OnlineStore(kv, [v]).counts()["big"].failed == 1
    OnlineStore(kv, [v]).apply([event(of, 4, 4, eid="b" if of is KEYED else "c", n=5)])
    assert read(kv, v, 10).values == [[20, 24, 2 if of is KEYED else 3]]
    assert OnlineStore(kv, [v]).failures()["big"] == failures


def test_a_value_of_another_type_than_its_column_fails_alone() -> None:
    v = view("odd", source=PLAIN, by="who", features={"x": d.latest("x"), "s": d.sum("x"), "n": d.sum("n")})
    kv = MemoryKeyValue()
    OnlineStore(kv, [v]).apply([event(PLAIN, 1, 1), event(PLAIN, 2, 2, x="text")])
    assert read(kv, v, 10).values == [[None, 1.0, 2]]
    assert "TypeError" in OnlineStore(kv, [v]).failures()["odd"]["x"].error


def test_positions_that_were_written_before_failures_were_counted_are_read() -> None:
    kv = MemoryKeyValue()
    OnlineStore(kv, [LATEST]).apply([event(PLAIN, 1, 1)])
    packed = kv.get(POSITIONS_KEY)
    assert packed is not None
    cursors = msgspec.msgpack.decode(packed)
    kv.write(
        {
            POSITIONS_KEY: msgspec.msgpack.encode(
                {name: [*cursor[:3], cursor[3][:8]] for name, cursor in cursors.items()}
            )
        }
    )
    store = OnlineStore(kv, [LATEST])
    assert (store.failures(), store.counts()["latest_x"].applied) == ({}, 1)
    store.apply([event(PLAIN, 2, 2)])
    assert store.counts()["latest_x"].applied == 2


def test_a_changed_definition_lives_next_to_the_old_one_and_fills_from_the_start_of_the_log() -> None:
    kv = MemoryKeyValue()
    log = [event(PLAIN, 1, 10), event(PLAIN, 2, 20)]
    OnlineStore(kv, [LATEST, WINDOW]).apply(log)
    wider = view("window_x", source=PLAIN, by="who", features={"n": d.count(over=1_000)})
    store = OnlineStore(kv, [LATEST, wider])
    assert store.positions() == {}
    with pytest.raises(Unavailable, match="views window_x are not filled yet"):
        RequestPlan(feature_set(ASK, [LATEST, wider]), kv).read([{"who": "a"}], 30)
    store.apply(log)
    assert values(kv, wider, 30) == [2]
    assert values(kv, WINDOW, 30)[0] == 2
    assert store.drop_others() == 3
    assert values(kv, wider, 30) == [2]
    with pytest.raises(Unavailable, match="views window_x are not filled yet"):
        read(kv, WINDOW, 30)


def test_rows_that_no_window_can_see_are_deleted() -> None:
    v = view("short", source=KEYED, by="who", features={"lo": d.min("x", over=100, hop=10)})
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    for i in range(1, 60):
        store.apply([event(KEYED, i, i * 10, eid=f"e{i}")])
    kept = [len(list(kv.scan(prefix + store.plans["short"].id))) for prefix in (b"i", b"r", b"v")]
    assert kept == [11, 11, 1]


def test_the_ids_of_events_that_no_window_can_see_are_deleted() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW])
    for i in range(1, 60):
        store.apply([event(PLAIN, i, i * 10)])
    assert len(list(kv.scan(b"i" + store.plans["window_x"].id))) <= 12


def test_what_was_applied_lies_in_the_order_of_event_times() -> None:
    plan = ViewPlan(view("v", source=PLAIN, by="who", features={"n": d.count(over="1h")}))
    instants = [-(2**63), -1_000_000, -1, 0, 1, 255, 256, 2**40, 2**63 - 1]
    keys = [plan.keys.applied(at_us, event_id) for at_us in instants for event_id in ("a", "b")]
    assert keys == sorted(keys)
    for at_us in instants:
        assert [key < plan.keys.applied_from(at_us) for key in keys] == [m < at_us for m in instants for _ in "ab"]


def test_entities_may_be_integers_and_texts_of_any_length() -> None:
    numbers = source("numbers", time="at", columns={"who": int, "x": float})
    v = view("by_number", source=numbers, by="who", features={"x": d.latest("x")})
    ask = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": int})
    kv = MemoryKeyValue()
    payload = encode(Event("numbers", "i", 5, 0, "upsert", False, (-(2**63), 2.5, 5)))
    OnlineStore(kv, [v]).apply([LogRecord("p", 1, 5, payload)])
    assert RequestPlan(feature_set(ask, [v]), kv).read([{"who": -(2**63)}], 9).values == [[2.5]]
    long = "ä" * 5_000
    kv = MemoryKeyValue()
    OnlineStore(kv, [FIXED]).apply([event(KEYED, 1, 10, eid=long, who=long)])
    assert values(kv, FIXED, 20, long) == [1.0, 1.0, 1.0]


def test_records_from_before_a_column_was_added_have_null_there() -> None:
    kv = MemoryKeyValue()
    payload = encode(Event("plain", "i", 5, 0, "upsert", False, ("i", "a")))
    OnlineStore(kv, [WINDOW]).apply([LogRecord("p", 1, 5, payload)])
    got = read(kv, WINDOW, 10)
    assert (got.values, got.reason(0, "window_x.s")) == ([[1, 0.0]], "null")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'who' \\(str\\) is missing"),
        ({"who": 3}, "'who' must be str; found 3, a int"),
        ({"who": "a", "size": "big"}, "'size' must be float; found 'big', a str"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_before_any_work(row: dict[str, Any], message: str) -> None:
    plan = RequestPlan(feature_set(ASK, [LATEST, {"log": col("size").log1p()}]), MemoryKeyValue())
    with pytest.raises(Misuse, match=message):
        plan.read([row], 5)


def test_a_failure_that_a_default_replaces_does_not_mark_the_next_transform() -> None:
    huge = 2**62
    ask = request("ask", key="who", time="t", columns={"who": str, "n": int, "size": float})
    blocks = {
        "kept": (col("n") * 4).fill_null(-1),
        "log": col("size").log1p(),
        "lost": col("n") * 4,
        "size": col("size"),
    }
    plan = RequestPlan(feature_set(ask, [blocks]), MemoryKeyValue())
    got = plan.read([{"who": "a", "n": huge, "size": None, "t": 1}, {"who": "b", "n": 1, "size": -0.0, "t": 1}], 5)
    assert got.values == [[-1, None, None, None], [4, 0.0, 4, 0.0]]
    assert math.copysign(1.0, got.values[1][3]) == 1.0
    assert [got.reason(0, name) for name in got.names] == ["found", "null", "failed", "null"]
    assert {got.reason(1, name) for name in got.names} == {"found"}


def test_a_state_of_another_format_is_corrupt() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [LATEST])
    store.apply([event(PLAIN, 1, 10)])
    key = store.plans["latest_x"].keys.states + b"sa"
    packed = kv.get(key)
    assert packed is not None
    kv.write({key: packed[:1] + b"\x63" + packed[2:]})
    with pytest.raises(Corrupt, match="format 99"):
        values(kv, LATEST, 20)


def test_an_integer_entity_beyond_64_bits_is_refused() -> None:
    numbers = source("numbers", time="at", columns={"who": int})
    v = view("by_number", source=numbers, by="who", features={"n": d.count()})
    ask = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": int})
    with pytest.raises(Misuse, match="64 bits"):
        RequestPlan(feature_set(ask, [v]), MemoryKeyValue()).read([{"who": 2**63}], 5)


def test_a_store_that_is_reset_is_filled_again_from_the_log() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW, FIXED])
    log = [event(PLAIN, 1, 10), event(KEYED, 2, 10, eid="e"), event(KEYED, 3, 10, eid="e", x=4.0, appended=12)]
    store.apply(log)
    before = list(kv.scan(b""))
    assert store.reset() == len(before) - 1
    assert store.positions() == {}
    assert read(kv, FIXED, 20).reason(0, "fixed.s") == "no_entity"
    store.apply(log)
    assert list(kv.scan(b"")) == before


def test_a_reset_that_was_cut_short_is_finished_before_anything_is_applied() -> None:
    class Failing(MemoryKeyValue):
        left = 10**9

        def write(self, puts: Any, deletes: Any = ()) -> None:
            self.left -= 1
            if self.left < 0:
                raise Unavailable("disk")
            super().write(puts, deletes)

    for writes in range(5):
        kv = Failing()
        log = [event(PLAIN, 1, 10), event(KEYED, 2, 10, eid="e"), event(KEYED, 3, 10, eid="e", x=4.0, appended=12)]
        OnlineStore(kv, [WINDOW, FIXED]).apply(log)
        before = list(kv.scan(b""))
        kv.left = writes
        with pytest.raises(Unavailable):
            OnlineStore(kv, [WINDOW, FIXED]).reset()
        if writes:
            with pytest.raises(Unavailable, match="being filled again"):
                read(kv, FIXED, 20)
        kv.left = 10**9
        OnlineStore(kv, [WINDOW, FIXED]).apply(log)
        assert list(kv.scan(b"")) == before


def test_two_definitions_of_one_view_are_kept_side_by_side() -> None:
    kv = MemoryKeyValue()
    other = view("latest_x", source=PLAIN, by="who", features={"n": d.count()})
    store = OnlineStore(kv, [LATEST, other, LATEST])
    applied = store.apply([event(PLAIN, 1, 10, x=3.0)])
    assert [view.applied for view in applied.views.values()] == [1, 1]
    assert (values(kv, LATEST, 20), values(kv, other, 20)) == ([3.0], [1])


def test_a_batch_is_one_transaction_with_its_positions() -> None:
    writes: list[set[bytes]] = []

    class Watched(MemoryKeyValue):
        def write(self, puts: Any, deletes: Any = ()) -> None:
            writes.append(set(puts))
            super().write(puts, deletes)

    OnlineStore(Watched(), [LATEST, WINDOW, FIXED]).apply([event(PLAIN, 1, 10), event(KEYED, 2, 10, eid="e")])
    assert len(writes) == 1
    assert POSITIONS_KEY in writes[0]


def test_a_mean_that_underflows_is_zero_without_a_sign() -> None:
    kv = MemoryKeyValue()
    v = view("tiny", source=PLAIN, by="who", features={"m": d.mean("x", over=100), "ever": d.mean("x")})
    OnlineStore(kv, [v]).apply([event(PLAIN, 1, 10, x=-5e-324), event(PLAIN, 2, 11, x=0.0)])
    assert list(map(str, values(kv, v, 20))) == ["0.0", "0.0"]


def test_an_entity_whose_only_record_repeats_a_deletion_is_unknown() -> None:
    kv = MemoryKeyValue()
    later = encode(Event("keyed", "e", 10, 50, "delete", False, ("e", "a", None, None, 10)))
    sooner = encode(Event("keyed", "e", 10, 0, "delete", False, ("e", None, None, None, 10)))
    OnlineStore(kv, [FIXED]).apply([LogRecord("p", 1, 10, later), LogRecord("p", 2, 10, sooner)])
    assert read(kv, FIXED, 60).reason(0, "fixed.x") == "no_entity"


def test_times_may_lie_before_1970() -> None:
    kv = MemoryKeyValue()
    OnlineStore(kv, [WINDOW]).apply([event(PLAIN, i, i * 7 - 50) for i in range(1, 5)])
    assert values(kv, WINDOW, 0)[0] == 4
    assert values(kv, WINDOW, 75)[0] == 2


def test_the_time_of_a_source_is_a_value_like_any_other() -> None:
    v = view("when", source=PLAIN, by="who", features={"at": d.latest("at")})
    kv = MemoryKeyValue()
    OnlineStore(kv, [v]).apply([event(PLAIN, 1, 10)])
    assert values(kv, v, 20) == [10]


def test_the_newest_time_of_an_entity_is_that_of_an_event_that_counts() -> None:
    kv, v = MemoryKeyValue(), msgspec.structs.replace(FIXED, boundary="inclusive")
    OnlineStore(kv, [v]).apply(
        [
            event(KEYED, 1, 150, eid="e", x=1.0, appended=110, known=110),  # it happens later, and is replaced before
            event(KEYED, 2, 130, eid="e", x=2.0, appended=130, known=130),
        ]
    )
    at_its_time, later = (read_entity(kv, [v], ["a"], now_us).views[0] for now_us in (130, 160))
    assert (at_its_time.features["fixed.x"].value, at_its_time.newest_at_us, at_its_time.age_us) == (2.0, 130, 0)
    assert (later.features["fixed.x"].value, later.newest_at_us, later.age_us) == (2.0, 130, 30)
    before = msgspec.structs.replace(FIXED, boundary="before")
    kv = MemoryKeyValue()
    OnlineStore(kv, [before]).apply([event(KEYED, 1, 130, eid="e", appended=130, known=130)])
    assert read_entity(kv, [before], ["a"], 130).views[0].newest_at_us is None
    assert read_entity(kv, [before], ["a"], 131).views[0].newest_at_us == 130
