import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source, source
from trimtab.events.records import Event, decode, encode, known_at_us
from trimtab.store.ports import LogRecord

KEYED = source("keyed", time="at", key="k", columns={"k": str, "x": float, "n": int, "ok": bool})
PLAIN = source("plain", time="at", columns={"who": str, "x": float})


@pytest.mark.fast
def test_the_least_use_gives_every_event_with_both_clocks(log: Any) -> None:
    log.append([_plain("a", 5, 1.5), _plain("b", 7, None)], at_us=[10, 20])
    history = History(log, [PLAIN])
    assert history.refresh() == 2
    frame = history.frame("plain")
    assert frame.columns.to_rows() == [{"who": "a", "x": 1.5, "at": 5}, {"who": "b", "x": None, "at": 7}]
    assert frame.event_at_us.tolist() == [5, 7]
    assert frame.known_at_us.tolist() == [10, 20]
    assert frame.superseded_at_us.tolist() == [NEVER_US, NEVER_US]
    assert frame.position.tolist() == [1, 2]
    assert history.positions == {"p1": 2}


def test_loaded_history_is_known_when_it_says_and_other_events_never_before_their_append(log: Any) -> None:
    log.append([_plain("a", 5, 1.0, known=7, history=True), _plain("b", 5, 1.0, known=7)], at_us=[10, 10])
    assert _frame(log, PLAIN).known_at_us.tolist() == [7, 10]


def test_a_correction_ends_the_version_before_it(log: Any) -> None:
    log.append([_keyed("a", 5, 1.0), _keyed("a", 5, 2.0)], at_us=[10, 20])
    frame = _frame(log, KEYED)
    assert frame.known_at_us.tolist() == [10, 20]
    assert frame.superseded_at_us.tolist() == [20, NEVER_US]


def test_a_version_known_earlier_is_put_between(log: Any) -> None:
    log.append([_keyed("a", 5, 1.0), _keyed("a", 5, 3.0)], at_us=[10, 30])
    log.append([_keyed("a", 5, 2.0, known=20, history=True)], at_us=[40])
    frame = _frame(log, KEYED)
    assert frame.known_at_us.tolist() == [10, 30, 20]
    assert frame.superseded_at_us.tolist() == [20, NEVER_US, 30]


def test_a_repetition_is_dropped_and_counted(log: Any) -> None:
    log.append([_keyed("a", 5, 1.0), _keyed("a", 5, 1.0), _keyed("b", 5, None), _keyed("b", 5, None)], at_us=[1] * 4)
    history = History(log, [KEYED])
    history.refresh()
    assert history.frame("keyed").columns["k"].to_list() == ["a", "b"]
    assert history.duplicates == {"keyed": 2}


def test_a_correction_back_to_an_earlier_value_counts(log: Any) -> None:
    log.append([_keyed("a", 5, 1.0), _keyed("a", 5, 2.0), _keyed("a", 5, 1.0)], at_us=[10, 20, 30])
    assert _frame(log, KEYED).columns["x"].to_list() == [1.0, 2.0, 1.0]


def test_without_a_key_the_first_content_of_an_id_stays(log: Any) -> None:
    log.append(
        [_plain("a", 5, 1.0, event_id="i"), _plain("a", 5, 2.0, event_id="i"), _plain("a", 5, 1.0, event_id="i")],
        at_us=[1, 2, 3],
    )
    history = History(log, [PLAIN])
    history.refresh()
    assert history.frame("plain").columns["x"].to_list() == [1.0]
    assert history.id_conflicts == {"plain": 1}
    assert history.duplicates == {"plain": 1}


def test_a_tombstone_ends_the_version_and_keeps_the_entity(log: Any) -> None:
    tombstone = Event("keyed", "a", 9, 0, "delete", False, ("a", None, None, None, 9))
    log.append([_keyed("a", 5, 1.0), encode(tombstone)], at_us=[10, 20])
    frame = _frame(log, KEYED)
    assert frame.deleted.tolist() == [False, True]
    assert frame.superseded_at_us.tolist() == [20, NEVER_US]
    assert frame.columns["x"].to_list() == [1.0, 1.0]


def test_a_frame_does_not_change_when_the_history_goes_on(log: Any) -> None:
    log.append([_keyed("a", 5, 1.0), _keyed("b", 5, 1.0)], at_us=[10, 10])
    history = History(log, [KEYED])
    history.refresh()
    before = history.frame("keyed")
    log.append([_keyed("a", 5, 2.0), _keyed("b", 5, 1.0)], at_us=[20, 20])
    history.refresh()
    assert before.superseded_at_us.tolist() == [NEVER_US, NEVER_US]
    assert history.frame("keyed").superseded_at_us.tolist() == [20, NEVER_US, NEVER_US]
    assert history.frame("keyed") is history.frame("keyed")


def test_records_of_unknown_sources_are_skipped_and_counted(log: Any) -> None:
    log.append([_plain("a", 5, 1.0), _keyed("a", 5, 1.0)], at_us=[1, 2])
    history = History(log, [PLAIN])
    assert history.refresh() == 2
    assert history.frame("plain").rows == 1
    assert history.unknown == 1


def test_a_record_of_before_a_column_was_added_has_null_there(log: Any) -> None:
    log.append([encode(Event("plain", "i", 5, 0, "upsert", False, ("a",)))], at_us=[1])
    assert _frame(log, PLAIN).columns.to_rows() == [{"who": "a", "x": None, "at": None}]


def test_a_damaged_record_is_named_and_not_passed_on(log: Any) -> None:
    log.append([b"\xff\xff"], at_us=[1])
    with pytest.raises(Corrupt, match="not an event"):
        _frame(log, PLAIN)


def test_a_source_that_is_not_kept_is_not_found(log: Any) -> None:
    with pytest.raises(NotFound, match="plain"):
        History(log, [PLAIN]).frame("other")


def test_a_truncated_log_is_refused_rather_than_read_as_all(log: Any) -> None:
    log.append([_plain("a", 5, 1.0), _plain("b", 5, 1.0)], at_us=[1, 2])
    log.truncate("p1", 1)
    with pytest.raises(Misuse, match="needed the records 1 to 2 of partition 'p1', but the log begins with 2"):
        _frame(log, PLAIN)


def test_an_empty_log_gives_an_empty_frame(log: Any) -> None:
    frame = _frame(log, KEYED)
    assert frame.rows == 0
    assert frame.columns.names == ("k", "x", "n", "ok", "at")


def test_many_rows_keep_their_values_while_the_buffers_grow(log: Any) -> None:
    history = History(log, [PLAIN])
    for start in range(0, 5_000, 500):
        log.append([_plain(f"w{i}", i, float(i)) for i in range(start, start + 500)])
        history.refresh()
        assert history.frame("plain").columns["x"].to_list() == [float(i) for i in range(start + 500)]


_values = st.sampled_from([1.0, 2.0, None])
_records = st.lists(
    st.tuples(
        st.sampled_from(["keyed", "plain", "other"]),
        st.sampled_from("ab"),  # id
        st.integers(0, 2),  # event time
        _values,
        st.integers(0, 6),  # declared known at
        st.booleans(),  # history
        st.sampled_from(["upsert", "upsert", "upsert", "delete"]),
        st.sampled_from(["p1", "p2"]),
        st.integers(0, 3),  # time that passed
        st.booleans(),  # refresh after it
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(_records, st.randoms(use_true_random=False))
def test_history_agrees_with_a_naive_reading_however_often_it_is_refreshed(records: list[Any], rng: Any) -> None:
    log = ListLogs()
    history = History(log, [KEYED, PLAIN])
    frames: list[tuple[EventFrame, list[Any]]] = []
    for name, key, at, x, known, is_history, op, partition, passed, refresh in records:
        log.now_us += passed
        values: tuple[Any, ...] = (key, x, None, x == 1.0, at) if name == "keyed" else (key, x, at)
        if op == "delete":
            values = (key, None, None, None, at) if name == "keyed" else (None, None, at)
        log.add(partition, encode(Event(name, key, at, known, op, is_history, values)))
        if refresh:
            history.refresh()
            for kept in (KEYED, PLAIN):
                frame = history.frame(kept.name)
                frames.append((frame, _content(frame)))
    history.refresh()
    for kept in (KEYED, PLAIN):
        expected, conflicts, repeats = _naive(log.all(), kept)
        assert _content(history.frame(kept.name)) == expected
        assert history.id_conflicts[kept.name] == conflicts
        assert history.duplicates[kept.name] == repeats
    for frame, content in frames:
        assert _content(frame) == content
    upto = {name: rng.randint(0, last) for name, last in log.positions().items()}
    pinned = History(log, [KEYED, PLAIN], upto=upto)
    pinned.refresh()
    for kept in (KEYED, PLAIN):
        visible = [r for r in log.all() if r.position <= upto[r.partition]]
        assert _content(pinned.frame(kept.name)) == _naive(visible, kept)[0]


@pytest.mark.parametrize("seed", range(12))
def test_ids_of_many_versions_and_repetitions_agree_with_a_naive_reading(seed: int) -> None:
    rng = random.Random(seed)
    log = ListLogs()
    history = History(log, [KEYED, PLAIN])
    for n in range(400):
        log.now_us += rng.randrange(2)
        key, at, x = rng.choice("aaab"), rng.randrange(3), rng.choice([1.0, 2.0, None, 1.0, float(n)])
        keyed, deleted = rng.random() < 0.7, rng.random() < 0.2
        values: tuple[Any, ...] = (key, x, None, x == 1.0, at) if keyed else (key, x, at)
        if deleted:
            values = (key, None, None, None, at) if keyed else (None, None, at)
        known = log.now_us if rng.random() < 0.7 else rng.randrange(log.now_us + 5)
        name, op = "keyed" if keyed else "plain", "delete" if deleted else "upsert"
        event = Event(name, key, at, known, op, rng.random() < 0.5, values)  # type: ignore[arg-type]  # a literal
        log.add(rng.choice(["p1", "p1", "p2"]), encode(event))
        if rng.random() < 0.3:
            history.refresh()
        if n % 100 == 99:
            history.refresh()
            for kept in (KEYED, PLAIN):
                found = (
                    _content(history.frame(kept.name)),
                    history.id_conflicts[kept.name],
                    history.duplicates[kept.name],
                )
                assert found == _naive(log.all(), kept)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["p1", "p2", "p3"]), st.integers(0, 2), st.booleans()), max_size=30))
def test_rows_of_several_partitions_come_by_append_time_partition_and_position(appends: list[Any]) -> None:
    log = ListLogs()
    for i, (partition, passed, other) in enumerate(appends):
        log.now_us += passed
        log.add(partition, _keyed(f"k{i}", 5, 1.0) if other else _plain(f"w{i}", 5, 1.0))
    history = History(log, [PLAIN])
    assert history.refresh() == len(appends)
    frame = history.frame("plain")
    found = zip([frame.partitions[i] for i in frame.partition.tolist()], frame.position.tolist(), strict=True)
    records = sorted(log.all(), key=lambda r: (r.appended_at_us, r.partition, r.position))
    assert list(found) == [(r.partition, r.position) for r in records if decode(r.payload).source == "plain"]
    assert history.positions == log.positions()


class ListLogs:
    """Partitions of two writers in one list each."""

    def __init__(self) -> None:
        self.now_us = 0
        self.records: dict[str, list[LogRecord]] = defaultdict(list)

    @property
    def partition(self) -> str:
        return "p1"

    def add(self, partition: str, payload: bytes) -> None:
        records = self.records[partition]
        records.append(LogRecord(partition, len(records) + 1, self.now_us, payload))

    def all(self) -> list[LogRecord]:
        return [r for records in self.records.values() for r in records]

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        raise NotImplementedError

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return self.records[partition][after : after + min(limit, 3)]

    def positions(self) -> dict[str, int]:
        return {name: len(records) for name, records in self.records.items()}

    def truncate(self, partition: str, through: int) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _naive(records: list[LogRecord], kept: Source) -> tuple[list[Any], int, int]:
    by_id = defaultdict(list)
    for record in records:
        event = decode(record.payload)
        if event.source == kept.name:
            by_id[event.id].append(((known_at_us(event, record), record.partition, record.position), event))
    out: list[Any] = []
    conflicts = repeats = 0
    for versions in by_id.values():
        versions.sort(key=lambda v: v[0])
        upserts = [e for _, e in versions if e.op == "upsert"]
        chain: list[Any] = []
        for order, event in versions:
            if kept.key is None and event.op == "upsert" and _said(event) != _said(upserts[0]):
                conflicts += 1
            elif chain and _said(chain[-1][1]) == _said(event):
                repeats += 1
            else:
                chain.append((order, event))
        for i, (order, event) in enumerate(chain):
            until = chain[i + 1][0][0] if i + 1 < len(chain) else NEVER_US
            values = list(event.values)
            if event.op == "delete" and i:
                values = [b if v is None else v for v, b in zip(values, chain[i - 1][1].values, strict=True)]
            out.append((order[1], order[2], event.event_at_us, order[0], until, event.op == "delete", values))
    return sorted(out, key=lambda row: row[:2]), conflicts, repeats


def _said(event: Event) -> Any:
    return "delete" if event.op == "delete" else (event.event_at_us, event.values)


def _content(frame: EventFrame) -> list[Any]:
    rows = zip(
        [frame.partitions[i] for i in frame.partition.tolist()],
        frame.position.tolist(),
        frame.event_at_us.tolist(),
        frame.known_at_us.tolist(),
        frame.superseded_at_us.tolist(),
        frame.deleted.tolist(),
        [list(row.values()) for row in frame.columns.to_rows()],
        strict=True,
    )
    return sorted(rows, key=lambda row: row[:2])


def _frame(log: Any, kept: Source) -> EventFrame:
    history = History(log, [kept])
    history.refresh()
    return history.frame(kept.name)


def _plain(who: str, at: int, x: float | None, *, known: int = 0, history: bool = False, event_id: str = "") -> bytes:
    return encode(Event("plain", event_id or f"{who}{at}", at, known, "upsert", history, (who, x, at)))


def _keyed(key: str, at: int, x: float | None, *, known: int = 0, history: bool = False) -> bytes:
    return encode(Event("keyed", key, at, known, "upsert", history, (key, x, 1, True, at)))
