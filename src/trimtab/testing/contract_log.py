"""Tests that every implementation of `Log` must pass."""

from __future__ import annotations

import threading

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.packs import pack
from trimtab.core.errors import Misuse, NotFound
from trimtab.store.ports import Log, LogRecord, Packing


class LogContract:
    """Tests for a log. To use them, write a subclass named `Test...` with a fixture `log`.

    The fixture returns an empty log that uses the clock of the fixture `clock`.
    """

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock(1_000_000)

    @pytest.fixture
    def log(self, clock: VirtualClock) -> Log:
        raise NotImplementedError("give a fixture `log` with an empty log that uses `clock`")

    def test_positions_count_from_one_and_are_contiguous(self, log: Log) -> None:
        assert log.append([b"a"]) == range(1, 2)
        assert log.append([b"b", b"c"]) == range(2, 4)
        assert [(r.position, r.payload) for r in log.read(log.partition, 0)] == [(1, b"a"), (2, b"b"), (3, b"c")]
        assert log.positions() == {log.partition: 3}

    def test_a_record_says_where_when_and_what(self, log: Log, clock: VirtualClock) -> None:
        clock.advance_to(2_000_000)
        log.append([b"\x00\xffbytes"])
        assert log.read(log.partition, 0) == [LogRecord(log.partition, 1, 2_000_000, b"\x00\xffbytes")]

    def test_an_empty_append_does_nothing(self, log: Log) -> None:
        assert len(log.append([])) == 0
        assert log.append([b"a"]) == range(1, 2)

    def test_an_empty_payload_is_a_record(self, log: Log) -> None:
        log.append([b""])
        assert [r.payload for r in log.read(log.partition, 0)] == [b""]

    def test_a_payload_may_be_large(self, log: Log) -> None:
        log.append([b"x" * 3_000_000, b"y"])
        assert [len(r.payload) for r in log.read(log.partition, 0)] == [3_000_000, 1]

    def test_reading_goes_on_after_a_position_and_stops_at_the_limit(self, log: Log) -> None:
        log.append([b"%d" % i for i in range(25)])
        assert [r.position for r in log.read(log.partition, 10, limit=3)] == [11, 12, 13]
        assert [r.position for r in log.read(log.partition, 23, limit=10)] == [24, 25]
        assert log.read(log.partition, 25) == []

    def test_a_pack_is_read_as_records(self, log: Log) -> None:
        if isinstance(log, Packing):
            log.append([b"a"])
            assert log.append_packs([pack(3, [b"x", [b"", b"1", b"22"]])], at_us=7) == range(2, 5)
            log.append([b"b"])
            assert [r.payload for r in log.read(log.partition, 0)] == [b"a", b"x", b"x1", b"x22", b"b"]
            assert [r.payload for r in log.read(log.partition, 2, limit=1)] == [b"x1"]

    def test_given_times_are_kept(self, log: Log) -> None:
        log.append([b"a", b"b"], at_us=[1_500_000, 1_600_000])
        assert [r.appended_at_us for r in log.read(log.partition, 0)] == [1_500_000, 1_600_000]

    def test_times_before_1970_are_kept(self, log: Log) -> None:
        log.append([b"a", b"b"], at_us=[-2_000_000, -1_000_000])
        log.append([b"c"], at_us=[-1_500_000])
        assert [r.appended_at_us for r in log.read(log.partition, 0)] == [-2_000_000, -1_000_000, -1_000_000]

    def test_append_time_never_decreases(self, log: Log, clock: VirtualClock) -> None:
        log.append([b"a"], at_us=[5_000_000])
        log.append([b"b"])  # the clock of this test shows one second
        log.append([b"c", b"d"], at_us=[2_000_000, 6_000_000])
        assert [r.appended_at_us for r in log.read(log.partition, 0)] == [5_000_000, 5_000_000, 5_000_000, 6_000_000]

    def test_times_that_do_not_fit_are_refused(self, log: Log) -> None:
        with pytest.raises(Misuse):
            log.append([b"a", b"b"], at_us=[1])
        with pytest.raises(Misuse):
            log.append([b"a", b"b"], at_us=[2, 1])
        with pytest.raises(Misuse):
            log.append(["text"])  # type: ignore[list-item]  # the mistake under test
        assert log.append([b"a"]) == range(1, 2)

    def test_truncation_removes_the_oldest_and_never_reuses_positions(self, log: Log) -> None:
        log.append([b"a", b"b", b"c"])
        assert log.truncate(log.partition, 2) == 2
        assert log.truncate(log.partition, 2) == 0
        assert [r.position for r in log.read(log.partition, 0)] == [3]
        assert log.truncate(log.partition, 3) == 1
        assert log.read(log.partition, 0) == []
        assert log.positions() == {log.partition: 3}
        assert log.append([b"d"]) == range(4, 5)
        assert [r.position for r in log.read(log.partition, 0)] == [4]

    def test_what_is_erased_gives_way_in_its_place(self, log: Log, clock: VirtualClock) -> None:
        log.append([b"a", b"secret " * 1_000, b"c"], at_us=[1, 2, 3])
        assert log.erase(log.partition, {2: b"", 9: b"absent"}) == 1
        assert log.erase(log.partition, {}) == 0
        assert [(r.position, r.appended_at_us, r.payload) for r in log.read(log.partition, 0)] == [
            (1, 1, b"a"),
            (2, 2, b""),
            (3, 3, b"c"),
        ]
        assert log.append([b"d"]) == range(4, 5)
        log.truncate(log.partition, 2)
        assert log.erase(log.partition, {1: b"x", 3: b"y"}) == 1
        assert [(r.position, r.payload) for r in log.read(log.partition, 0)] == [(3, b"y"), (4, b"d")]
        with pytest.raises(NotFound):
            log.erase("nowhere", {})

    def test_an_unknown_partition_is_not_found(self, log: Log) -> None:
        with pytest.raises(NotFound):
            log.read("nowhere", 0)

    def test_threads_that_append_together_lose_and_double_nothing(self, log: Log) -> None:
        got: dict[int, bytes] = {}

        def work(number: int) -> None:
            for i in range(20):
                payloads = [b"%d/%d/%d" % (number, i, j) for j in range(1 + i % 3)]
                got.update(zip(log.append(payloads), payloads, strict=True))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {r.position: r.payload for r in log.read(log.partition, 0)} == got
        assert sorted(got) == list(range(1, len(got) + 1))

    def test_a_mark_changes_with_every_append_and_with_nothing_else(self, log: Log) -> None:
        log.append([b"a"])
        mark = log.mark()
        if mark is None:
            return  # this log has no mark, so callers must read it
        log.read(log.partition, 0)
        assert (log.mark(), log.mark()) == (mark, mark)
        seen = {mark}
        for n in range(5):
            log.append([b"%d" % n])
            seen.add(log.mark())
        assert len(seen) == 6
