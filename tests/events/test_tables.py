from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import store
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.records import Event, encode
from trimtab.events.tables import materialise

KEYED = source("keyed", time="at", key="k", columns={"k": str, "x": float, "id": int})
PLAIN = source("plain", time="at", columns={"who": str, "ok": bool})
BOTH = [KEYED, PLAIN]


class ListTable:
    """A table of record in memory, the smallest one that does what the port says."""

    def __init__(self) -> None:
        self.parts: list[Columns] = []
        self.positions: dict[str, int] = {}

    def append(self, rows: Columns, *, writer: str, position: int) -> bool:
        if self.positions.get(writer, 0) >= position:
            return False
        self.parts.append(rows)
        self.positions[writer] = position
        return True

    def position(self, writer: str) -> int:
        return self.positions.get(writer, 0)

    def scan(self, names: Any = None, *, version: int | None = None) -> Columns:
        return Columns.concat(self.parts) if self.parts else Columns({})

    def delete(self, column: str, value: str) -> int:
        raise NotImplementedError

    def compact(self) -> None:
        raise NotImplementedError

    def version(self) -> int:
        return len(self.parts) - 1

    def close(self) -> None:
        pass


def test_the_log_moves_into_delta_tables_and_the_history_goes_on_from_there(make_log: Any, tmp_path: Path) -> None:
    log = make_log()
    log.append(
        [_keyed("a", 1.0), _plain("i"), _keyed("a", 2.0), encode(_event("other", "z", (), 0))], at_us=[1, 2, 3, 4]
    )
    log.append([_keyed("a", None, op="delete")], at_us=[5])
    tables = {s.name: store.open(f"delta://{tmp_path / s.name}", "table") for s in BOTH}
    moved = materialise(log, BOTH, tables)
    assert (moved.rows, moved.positions, moved.unknown) == ({"keyed": 3, "plain": 1}, {"p1": 5}, 1)
    rows = tables["keyed"].scan().to_rows()
    assert rows[2] == {
        "_event_at": 5,
        "_known_at": 5,
        "_append_at": 5,
        "_partition": "p1",
        "_position": 5,
        "_id": "a",
        "_op": "delete",
        "_history": False,
        "k": "a",
        "x": None,
        "id": 7,
        "at": 5,
    }
    assert materialise(log, BOTH, tables).rows == {"keyed": 0, "plain": 0}
    log.truncate("p1", 5)
    log.append([_keyed("b", 3.0)], at_us=[6])
    history = History(log, BOTH, tables=tables)
    assert history.refresh() == 5
    assert history.frame("keyed").columns["x"].to_list() == [1.0, 2.0, 2.0, 3.0]
    assert history.frame("keyed").superseded_at_us.tolist()[:2] == [3, 5]
    assert history.positions == {"p1": 6}
    assert materialise(log, BOTH, tables).rows == {"keyed": 1, "plain": 0}
    for table in tables.values():
        table.close()


def test_a_commit_takes_no_more_than_some_megabytes_of_records(make_log: Any) -> None:
    log, wide = make_log(), "y" * 2_000
    for n in range(3):
        payloads = [encode(_event("plain", f"{n}-{i}", (wide, True, n), n)) for i in range(10_000)]
        log.append(payloads, at_us=[n + 1] * len(payloads))
    table = ListTable()
    assert materialise(log, [PLAIN], {"plain": table}).rows == {"plain": 30_000}
    assert [part.rows for part in table.parts] == [10_000] * 3


def test_a_source_without_a_table_is_refused(make_log: Any) -> None:
    with pytest.raises(Misuse, match="source 'plain' has no table"):
        materialise(make_log(), BOTH, {"keyed": ListTable()})


def test_a_table_that_begins_behind_a_truncated_log_is_refused(make_log: Any) -> None:
    log = make_log()
    log.append([_plain("i"), _plain("j")], at_us=[1, 2])
    log.truncate("p1", 1)
    with pytest.raises(Misuse, match="from 1 to 2, found 2 as the first"):
        materialise(log, [PLAIN], {"plain": ListTable()})


def test_a_crash_between_two_tables_neither_loses_nor_doubles_a_row(make_log: Any) -> None:
    log = make_log()
    log.append([_keyed("a", 1.0), _plain("i"), _keyed("b", 2.0)], at_us=[1, 2, 3])
    tables = {"keyed": ListTable(), "plain": ListTable()}

    class Crash(Exception):
        pass

    class Crashing(ListTable):
        def append(self, rows: Columns, *, writer: str, position: int) -> bool:
            raise Crash

    with pytest.raises(Crash):
        materialise(log, BOTH, {"keyed": tables["keyed"], "plain": Crashing()})
    log.append([_keyed("c", 3.0)], at_us=[4])
    assert materialise(log, BOTH, tables).rows == {"keyed": 1, "plain": 1}
    assert tables["keyed"].scan()["k"].to_list() == ["a", "b", "c"]


def test_two_passes_at_once_double_no_row(make_log: Any) -> None:
    log = make_log()
    tables = {"keyed": ListTable(), "plain": ListTable()}

    class Overtaken:
        """The log as a pass reads it that another one overtakes, which saw fewer records."""

        def positions(self) -> dict[str, int]:
            found: dict[str, int] = log.positions()
            return found

        def read(self, partition: str, after: int, limit: int = 10_000) -> Any:
            found = log.read(partition, after, limit=limit)
            materialise(Shorter(), BOTH, tables)  # type: ignore[arg-type]  # all that a pass asks of a log
            return found

    class Shorter(Overtaken):
        def positions(self) -> dict[str, int]:
            return {"p1": 2}

        def read(self, partition: str, after: int, limit: int = 10_000) -> Any:
            return log.read(partition, after, limit=limit)

    log.append([_keyed("a", 1.0), _plain("i"), _keyed("b", 2.0)], at_us=[1, 2, 3])
    moved = materialise(Overtaken(), BOTH, tables)  # type: ignore[arg-type]  # as above
    assert tables["keyed"].scan()["k"].to_list() == ["a", "b"]
    assert tables["plain"].scan()["_id"].to_list() == ["i"]
    assert moved.rows == {"keyed": 1, "plain": 0}


_steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["keyed", "plain"]),
            st.sampled_from("ab"),
            st.sampled_from([1.0, 2.0, None]),
            st.integers(0, 5),  # declared known at
            st.booleans(),  # history
            st.sampled_from(["upsert", "upsert", "delete"]),
            st.sampled_from(["p1", "p2"]),
        ),
        st.just("materialise"),
        st.just("truncate"),
        st.just("restart"),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(_steps, st.booleans())
def test_a_history_from_tables_and_the_rest_of_the_log_is_the_history_of_the_whole_log(
    make_log: Any, steps: list[Any], pin: bool
) -> None:
    log, whole, now = make_log(), make_log(), 0
    tables = {"keyed": ListTable(), "plain": ListTable()}
    safe: dict[str, int] = {}
    for step in steps:
        if step == "materialise":
            safe = materialise(log, BOTH, tables).positions
        elif step == "truncate":
            for partition, through in safe.items():
                log.truncate(partition, through)
        elif step == "restart":
            _check(log, whole, tables, None)
        else:
            name, key, x, known, is_history, op, partition = step
            now += 1
            values = (key, x, 7, now // 3) if name == "keyed" else (key, x == 1.0, now // 3)
            if op == "delete":
                values = (key, None, None, None) if name == "keyed" else (None, None, None)
            event = Event(name, key, now // 3, known, op, is_history, values)
            for each in (log, whole):
                each.partition = partition
                each.append([encode(event)], at_us=[now])
    upto = {name: last // 2 + 1 for name, last in whole.positions().items()} if pin else None
    _check(log, whole, tables, upto)


def _check(log: Any, whole: Any, tables: dict[str, ListTable], upto: dict[str, int] | None) -> None:
    expected = History(whole, BOTH, upto=upto)
    expected.refresh()
    found = History(log, BOTH, upto=upto, tables=tables)
    found.refresh()
    assert found.refresh() == 0
    assert found.positions == expected.positions
    for name in ("keyed", "plain"):
        assert _content(found.frame(name)) == _content(expected.frame(name))
    assert found.duplicates == expected.duplicates
    assert found.id_conflicts == expected.id_conflicts


def _content(frame: EventFrame) -> list[Any]:
    order = np.lexsort((frame.position, frame.partition))
    f = frame.take(order)
    names = [f.partitions[i] for i in f.partition.tolist()]
    fields = (f.position, f.event_at_us, f.known_at_us, f.superseded_at_us, f.deleted)
    return [f.columns.to_rows(), names, *(values.tolist() for values in fields)]


def _event(name: str, event_id: str, values: tuple[Any, ...], at: int, op: Any = "upsert") -> Event:
    return Event(name, event_id, at, 0, op, False, values)


def _keyed(key: str, x: float | None, op: str = "upsert") -> bytes:
    return encode(_event("keyed", key, (key, x, 7, 5), 5, op))


def _plain(event_id: str) -> bytes:
    return encode(_event("plain", event_id, ("w", True, 5), 5))
