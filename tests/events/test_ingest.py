import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import HOUR_US, MINUTE_US, format_time, parse_time_us
from trimtab.events.columns.history import History
from trimtab.events.definitions import Time, source
from trimtab.events.files.files import read_rows
from trimtab.events.ingest import Ingestor, Problem, Pushed
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import Event, decode
from trimtab.events.values.checks import other_unit

NOW = 1_000 * HOUR_US
KEYED = source(
    "keyed", time="at", key="k", delay="1h", columns={"k": str, "x": float, "n": int, "ok": bool, "seen": Time}
)
NUMBERED = source("numbered", time="at", key="n", columns={"n": int})
PLAIN = source("plain", time="at", columns={"who": str, "x": float})
SOURCES = [KEYED, NUMBERED, PLAIN]


class Bench:
    """An ingestor with its logs."""

    def __init__(self, make_log: Any, **more: Any) -> None:
        self.log = make_log("p1", NOW)
        self.quarantine = Quarantine(make_log("q1", NOW))
        self.clock = VirtualClock(NOW)
        self.ingestor = Ingestor(self.log, SOURCES, clock=self.clock, quarantine=self.quarantine, **more)

    def events(self) -> list[Event]:
        return [decode(r.payload) for r in self.log.records.get("p1", [])]

    def problem(self, source_name: str, row: dict[str, Any], **more: Any) -> tuple[str, str] | None:
        """Field and reason for which a row is refused."""
        pushed = self.ingestor.push(source_name, [row], **more)
        return (pushed.problems[0].field, pushed.problems[0].reason) if pushed.problems else None


@pytest.fixture
def bench(make_log: Any) -> Bench:
    return Bench(make_log)


@pytest.mark.fast
def test_a_row_becomes_an_event_in_declared_order(bench: Bench) -> None:
    row = {"at": "1970-01-01T01:00:00+01:00", "n": 3, "k": "a", "x": 2, "seen": dt.datetime(1970, 1, 1, 1), "ok": True}
    assert bench.ingestor.push("keyed", [row]) == Pushed(1, 0, "p1", 1)
    values = ("a", 2.0, 3, True, HOUR_US, 0)
    assert bench.events() == [Event("keyed", "a", 0, 0, "upsert", False, values)]
    assert isinstance(bench.events()[0].values[1], float)


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ({"x": math.nan}, ("x", None)),
        ({"x": np.float64("nan")}, ("x", None)),
        ({"x": None}, ("x", None)),
        ({}, ("x", None)),
        ({"x": 7}, ("x", 7.0)),
        ({"x": np.float32(0.5)}, ("x", 0.5)),
        ({"x": 1e150}, ("x", 1e150)),
        ({"n": 2.0}, ("n", 2)),
        ({"n": math.nan}, ("n", None)),
        ({"n": np.int16(4)}, ("n", 4)),
        ({"n": 2**63 - 1}, ("n", 2**63 - 1)),
        ({"n": -(2**63)}, ("n", -(2**63))),
        ({"ok": np.bool_(True)}, ("ok", True)),
        ({"seen": np.datetime64("1970-01-01T00:00:01", "ns")}, ("seen", 1_000_000)),
        ({"seen": np.datetime64("NaT")}, ("seen", None)),
        ({"seen": dt.date(1970, 1, 2)}, ("seen", 24 * HOUR_US)),
        ({"k": "né"}, ("k", "né")),
    ],
)
def test_values_become_what_the_column_holds(bench: Bench, value: dict[str, Any], becomes: tuple[str, Any]) -> None:
    assert bench.problem("keyed", {"k": "a", "at": 0, **value}) is None
    stored = dict(zip(KEYED.columns, bench.events()[0].values, strict=True))[becomes[0]]
    assert stored == becomes[1]
    assert type(stored) is type(becomes[1])


def test_minus_zero_becomes_zero_on_the_quick_and_the_slow_way(bench: Bench) -> None:
    bench.ingestor.push("keyed", [{"k": "a", "at": 0, "x": -0.0}])
    bench.ingestor.push("keyed", [{"k": "a", "at": 0, "x": -0.0}, {"k": "b", "at": 0, "x": "no"}])
    assert [math.copysign(1, e.values[1]) for e in bench.events()] == [1.0, 1.0]  # type: ignore[arg-type]  # floats


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"x": math.inf}, "x", "infinite"),
        ({"x": -math.inf}, "x", "infinite"),
        ({"x": 1.1e150}, "x", "too_large"),
        ({"x": 10**400}, "x", "too_large"),
        ({"x": "1.0"}, "x", "wrong_type"),
        ({"x": True}, "x", "wrong_type"),
        ({"x": [1.0]}, "x", "wrong_type"),
        ({"x": np.array([1.0])}, "x", "wrong_type"),
        ({"n": 1.5}, "n", "wrong_type"),
        ({"n": True}, "n", "wrong_type"),
        ({"n": "1"}, "n", "wrong_type"),
        ({"n": 2**63}, "n", "too_large"),
        ({"n": 1e300}, "n", "too_large"),
        ({"n": math.inf}, "n", "infinite"),
        ({"ok": 1}, "ok", "wrong_type"),
        ({"k": 5}, "k", "wrong_type"),
        ({"k": None}, "k", "missing"),
        ({"k": "\ud800"}, "k", "bad_text"),
        ({"at": None}, "at", "missing"),
        ({"at": math.nan}, "at", "missing"),
        ({"at": "yesterday"}, "at", "bad_time"),
        ({"at": 1e15}, "at", "bad_time"),
        ({"at": 2**62}, "at", "bad_time"),
        ({"at": True}, "at", "bad_time"),
        ({"at": NOW + 5 * MINUTE_US + 1}, "at", "future"),
        ({"seen": "never"}, "seen", "bad_time"),
        ({"_op": "destroy"}, "_op", "wrong_type"),
        ({"_known_at": "soon"}, "_known_at", "bad_time"),
    ],
)
def test_a_row_that_cannot_be_goes_to_quarantine_and_the_rest_goes_on(
    bench: Bench, row: dict[str, Any], field: str, reason: str
) -> None:
    good = {"k": "good", "at": 0}
    pushed = bench.ingestor.push("keyed", [good, {"k": "a", "at": 0, **row}, good | {"k": "other"}])
    assert (pushed.accepted, pushed.quarantined, pushed.position) == (2, 1, 2)
    assert (pushed.problems[0].row, pushed.problems[0].field, pushed.problems[0].reason) == (1, field, reason)
    assert [e.id for e in bench.events()] == ["good", "other"]
    (kept,) = bench.quarantine.read()
    assert (kept.source, kept.field, kept.reason, kept.at_us) == ("keyed", field, reason, NOW)
    assert kept.raw().keys() == {"k", "at"} | row.keys()
    assert bench.quarantine.counts() == {"keyed": {reason: 1}}


def test_the_tolerance_belongs_to_the_source_and_requests_may_lie_ahead(make_log: Any) -> None:
    bench = Bench(make_log, future_ok={"plain"})
    assert bench.problem("keyed", {"k": "a", "at": NOW + 5 * MINUTE_US}) is None
    assert bench.problem("plain", {"who": "a", "at": NOW + 1_000 * HOUR_US}) is None


@pytest.mark.fast
def test_history_is_not_dated_ahead_of_the_clock_either_by_row_or_by_table(make_log: Any) -> None:
    last, typo = NOW + 5 * MINUTE_US, parse_time_us("2124-03-01")
    bench = Bench(make_log, future_ok={"plain"})
    row = {"k": "a", "at": last + 1, "_known_at": 0}
    assert bench.problem("keyed", row, history=True) == ("at", "future")
    assert bench.problem("keyed", row | {"at": last}, history=True) is None
    assert bench.ingestor.fits("keyed", [row, row | {"at": last}], history=True) == [False, True]
    dated = Columns.of({"k": ("str", ["a", "b", "c"]), "at": ("time", [0, typo, last])})
    pushed = bench.ingestor.load("keyed", dated)
    assert (pushed.accepted, pushed.problems) == (2, (Problem(1, "at", "future", "2124-03-01T00:00:00Z"),))
    assert bench.quarantine.counts() == {"keyed": {"future": 2}}
    assert typo not in [event.event_at_us for event in bench.events()]
    wanted = Columns.of({"who": ("str", ["a"]), "at": ("time", [typo])})
    assert bench.ingestor.load("plain", wanted).accepted == 1  # a request


def test_an_unknown_column_is_refused_before_any_work(bench: Bench) -> None:
    with pytest.raises(Misuse, match=r"row 1 has an unknown column 'y'. Declared columns: who, x, at"):
        bench.ingestor.push("plain", [{"who": "a", "at": 0}, {"who": "a", "at": 0, "y": 1}])
    assert bench.log.positions() == {}


def test_a_row_that_is_no_mapping_is_refused(bench: Bench) -> None:
    with pytest.raises(Misuse, match="row 0 is a list"):
        bench.ingestor.push("plain", [["a", 0]])  # type: ignore[list-item]  # on purpose


def test_an_unknown_source_and_an_unknown_op_are_refused(bench: Bench) -> None:
    with pytest.raises(NotFound, match="'other' among keyed, numbered, plain"):
        bench.ingestor.push("other", [])
    with pytest.raises(Misuse, match="neither 'upsert' nor 'delete'"):
        bench.ingestor.push("plain", [], op="remove")  # type: ignore[arg-type]  # on purpose


def test_nothing_pushed_is_nothing_appended(bench: Bench) -> None:
    assert bench.ingestor.push("plain", []) == Pushed(0, 0, "p1", 0)


def test_an_id_is_the_key_or_the_content_with_the_given_one(bench: Bench) -> None:
    bench.ingestor.push("numbered", [{"n": 12, "at": 0}])
    mine, bare = {"who": "a", "at": 0, "_id": "mine"}, {"who": "a", "at": 0}
    bench.ingestor.push("plain", [mine, bare, bare, mine, mine | {"at": 1}, mine | {"x": 1.0}, mine | {"_id": ""}])
    ids = [e.id for e in bench.events()]
    assert ids[0] == "12"
    assert ids[2] == ids[3]
    assert len(ids[2]) == 32
    assert ids[1] == ids[4] == f"mine@{ids[2]}"
    assert len(set(ids)) == 6  # another time or content under `mine` is another event


@pytest.mark.fast
def test_columns_that_a_row_with_a_key_lacks_are_named_for_it_replaces_the_whole_row(bench: Bench) -> None:
    full = {"k": "a", "at": 0, "x": 1.0, "n": 1, "ok": True, "seen": 0}
    assert bench.ingestor.push("keyed", [full]).absent == ()
    assert bench.ingestor.push("keyed", [full, {"k": "a", "at": 0, "x": 2.0}]).absent == ("n", "ok", "seen")
    assert bench.ingestor.push("keyed", [full | {"n": None}, {"k": "a", "_op": "delete"}]).absent == ()
    assert bench.ingestor.push("keyed", [{"k": "a"}], op="delete").absent == ()
    assert bench.ingestor.push("plain", [{"who": "a", "at": 0}]).absent == ()  # nothing is replaced
    table = Columns.of({"k": ("str", ["a"]), "at": ("time", [0]), "n": ("int", [None])})
    assert bench.ingestor.push("keyed", table).absent == ("x", "ok", "seen")


def test_a_wrong_op_names_those_there_are(bench: Bench) -> None:
    (problem,) = bench.ingestor.push("keyed", [{"k": "a", "at": 0, "_op": "remove"}]).problems
    assert (problem.reason, problem.found) == ("wrong_type", "'remove'; needed 'upsert' or 'delete'")


def test_lines_of_deletions_need_no_more_than_the_key(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"k": "a", "_op": "delete"}\n{"k": "b", "_op": "delete"}\n')
    for history in (False, True):
        rows = read_rows(tmp_path / "a.ndjson", KEYED)
        pushed = bench.ingestor.take("keyed", rows, history=history)
        assert (pushed.accepted, pushed.quarantined, rows.absent) == (2, 0, ())
    assert [(e.op, e.event_at_us) for e in bench.events()] == [("delete", NOW)] * 4
    (tmp_path / "b.ndjson").write_text('{"k": "a", "_op": "delete"}\n{"k": "b"}\n')
    with pytest.raises(Misuse, match="needs column 'at'"):
        read_rows(tmp_path / "b.ndjson", KEYED)


def test_a_declared_known_at_is_kept(bench: Bench) -> None:
    bench.ingestor.push("plain", [{"who": "a", "at": 0, "_known_at": 77}, {"who": "a", "at": 0}])
    assert [e.known_at_us for e in bench.events()] == [77, 0]


def test_a_deletion_needs_no_more_than_what_it_deletes(bench: Bench) -> None:
    bench.ingestor.push("keyed", [{"k": "a", "at": 0, "x": 1.0}])
    assert bench.problem("keyed", {"k": "a"}, op="delete") is None
    assert bench.problem("keyed", {"x": 1.0, "at": 0}, op="delete") == ("k", "missing")
    assert [(e.op, e.event_at_us) for e in bench.events()] == [("upsert", 0), ("delete", NOW)]
    bench.ingestor.push("keyed", [{"k": "a", "at": 0, "x": 5.0, "ok": True}], op="delete")
    assert bench.events()[-1].values == ("a", None, None, None, None, 0)
    history = History(bench.log, SOURCES)
    history.refresh()
    assert history.frame("keyed").columns["x"].to_list() == [1.0, 1.0]


@pytest.mark.parametrize("row", [{}, {"who": "a", "at": 0, "x": 1.0}, {"_id": "i"}, {"at": "no time"}], ids=str)
def test_a_deletion_in_a_source_without_a_key_is_quarantined(bench: Bench, row: dict[str, Any]) -> None:
    assert bench.problem("plain", row, op="delete") == ("_op", "no_key")
    assert bench.problem("plain", row | {"_op": "delete"}) == ("_op", "no_key")
    columns = {"who": ("str", ["a", "b"]), "at": ("time", [0, 0]), "_op": ("str", ["delete", None])}
    loaded = bench.ingestor.load("plain", Columns.of(columns))  # type: ignore[arg-type]  # literals in a dict
    assert (loaded.accepted, [(p.field, p.reason) for p in loaded.problems]) == (1, [("_op", "no_key")])
    assert bench.ingestor.push("plain", [row | {"_op": "delete"}], op="upsert").quarantined == 1
    assert [e.op for e in bench.events()] == ["upsert"]


def test_loaded_history_is_known_after_the_sources_delay(bench: Bench) -> None:
    table = Columns.of({"k": ("str", ["a", "b"]), "at": ("time", [0, 5]), "x": ("int", [1, None])})
    assert bench.ingestor.load("keyed", table) == Pushed(2, 0, "p1", 2, absent=("n", "ok", "seen"))
    assert [(e.known_at_us, e.history, e.values[1]) for e in bench.events()] == [
        (HOUR_US, True, 1.0),
        (HOUR_US + 5, True, None),
    ]


def test_a_replay_appends_at_the_given_times_and_judges_the_future_by_them(bench: Bench) -> None:
    ahead = 6 * MINUTE_US
    table = Columns.of({"who": ("str", ["a", "b", "c"]), "at": ("time", [0, ahead, ahead])})
    pushed = bench.ingestor.load("plain", table, at_us=np.array([0, 0, ahead]))
    assert pushed.problems == (Problem(1, "at", "future", format_time(ahead)),)
    assert [r.appended_at_us for r in bench.log.records["p1"]] == [0, ahead]
    assert not any(e.history for e in bench.events())


@pytest.mark.parametrize(
    ("columns", "at_us", "message"),
    [
        ({"who": ("str", ["a"]), "at": ("time", [0]), "y": ("int", [1])}, None, "unknown column 'y'"),
        ({"who": ("str", ["a"]), "at": ("int", [0])}, None, "column 'at' is int, needed time"),
        ({"who": ("str", ["a"])}, None, "needs column 'at', found who"),
        ({"at": ("time", [0])}, [0, 1], "2 append times for 1 rows"),
        ({"at": ("time", [0, 0])}, [1, 0], "never decrease"),
        ({"at": ("time", [0])}, [1.5], "integers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_any_work(
    bench: Bench, columns: Any, at_us: list[Any] | None, message: str
) -> None:
    with pytest.raises(Misuse, match=message):
        bench.ingestor.load("plain", Columns.of(columns), at_us=None if at_us is None else np.array(at_us))
    assert bench.log.positions() == {}


def test_a_long_load_names_rows_by_their_place_in_the_table(bench: Bench) -> None:
    x = np.arange(25_000) * 1.0
    x[24_000] = np.inf
    table = Columns.of({"who": ("str", ["a"] * 25_000), "at": ("time", list(range(25_000))), "x": ("float", x)})
    pushed = bench.ingestor.load("plain", table)
    assert (pushed.accepted, pushed.quarantined, pushed.position) == (24_999, 1, 24_999)
    assert pushed.problems == (Problem(24_000, "x", "infinite", "inf"),)


def test_loading_twice_adds_nothing_that_counts(bench: Bench) -> None:
    table = Columns.of({"who": ("str", ["a", "b"]), "at": ("time", [0, 5])})
    history = History(bench.log, SOURCES)
    for _ in range(2):
        bench.ingestor.load("plain", table)
        history.refresh()
        assert history.frame("plain").rows == 2


def test_a_file_is_loaded_as_history_and_its_bad_rows_are_kept(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,at,x,more\na,1970-01-01,1.5,z\nb,1970-01-01,no,z\nc,1970-01-01,inf,z\nd\n")
    with pytest.raises(Misuse, match="line 3, column 'x'"):
        read_rows(path, KEYED)
    rows = read_rows(path, KEYED, on_error="quarantine")
    pushed = bench.ingestor.take("keyed", rows, history=True)
    assert (pushed.accepted, pushed.quarantined) == (1, 3)
    assert (rows.ignored, rows.absent) == (("more",), ("n", "ok", "seen"))
    assert [(e.id, e.known_at_us) for e in bench.events()] == [("a", HOUR_US)]
    assert bench.quarantine.counts() == {"keyed": {"wrong_type": 1, "bad_line": 1, "infinite": 1}}
    bench.quarantine.replay(bench.ingestor, fix=lambda row: row | {"x": 2.0})
    assert [(e.id, e.known_at_us, e.values[1]) for e in bench.events()[1:]] == [
        ("b", HOUR_US, 2.0),
        ("c", HOUR_US, 2.0),
    ]
    assert bench.quarantine.counts() == {"keyed": {"bad_line": 1}}  # its fields are unknown


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("value", [10**5_000, -(10**5_000), Odd(), [Odd()], {1: Odd()}], ids=list("abcde"))
def test_values_that_cannot_be_written_out_go_to_quarantine_too(bench: Bench, value: object) -> None:
    for column in ("k", "x", "n", "ok", "seen", "at", "_id", "_known_at", "_op"):
        kept = bench.problem("keyed", {"k": "a", "at": 0, column: value})
        assert (kept is None) == (column == "_id")  # a keyed source needs none
    assert len(bench.quarantine.read()) == 8


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())  # lone surrogates too
    | st.binary()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.decimals()
    | st.sampled_from([np.float32(1.5), np.datetime64("NaT"), np.array([1, 2]), np.array(5), object]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from([*KEYED.columns, "_id", "_known_at", "_op"]), _anything)))
def test_anything_at_all_is_either_an_event_or_in_quarantine(make_log: Any, rows: list[dict[str, Any]]) -> None:
    bench = Bench(make_log)
    for source_name in ("keyed", "plain"):
        kept = [row if source_name == "keyed" else {"who": row.get("k"), "at": row.get("at")} for row in rows]
        pushed = bench.ingestor.push(source_name, kept)
        assert pushed.accepted + pushed.quarantined == len(rows)
    assert len(bench.events()) + len(bench.quarantine.read()) == 2 * len(rows)
    assert all(
        row.raw().keys() <= KEYED.columns.keys() | {"_id", "_known_at", "_op"} for row in bench.quarantine.read("keyed")
    )
    history = History(bench.log, SOURCES)
    history.refresh()
    assert len({e.id for e in bench.events() if e.source == "keyed"}) <= history.frame("keyed").rows


def _micros(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, most).filter(lambda us: other_unit(us) is None)


_cells = {
    "k": st.sampled_from(["a", "b", "é", None]),
    "x": st.floats() | st.none(),
    "n": st.integers(-(2**63), 2**63 - 1) | st.none(),
    "ok": st.booleans() | st.none(),
    # A table's times are microseconds by declaration, whatever they look like.
    "seen": _micros(10**12) | st.none(),
    "at": _micros(NOW + HOUR_US) | st.none(),
    "_known_at": _micros(10**12) | st.none(),
}


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(_cells), max_size=8), history=st.booleans())
def test_rows_and_tables_give_the_same_events_and_quarantine(
    make_log: Any, rows: list[dict[str, Any]], history: bool
) -> None:
    dtypes = KEYED.columns | {"_known_at": "time"}
    by_row, by_table = Bench(make_log), Bench(make_log)
    pushed = by_row.ingestor.push("keyed", rows, history=history)
    table = Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in dtypes.items()})
    loaded = by_table.ingestor.load("keyed", table, history=history)
    assert by_row.events() == by_table.events()
    assert (pushed.accepted, pushed.quarantined) == (loaded.accepted, loaded.quarantined)
    assert by_row.quarantine.counts() == by_table.quarantine.counts()
    one_by_one = Bench(make_log)
    for row in rows:
        one_by_one.ingestor.push("keyed", [row], history=history)
    assert one_by_one.events() == by_row.events()
