"""The records of all partitions as one sequence, whatever is read at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.store.log_order import Gap, append_order, in_order, intervals
from trimtab.store.log_places import begin_of
from trimtab.store.ports import LogRecord


class Partitions:
    """The reading half of a log, and which records were read."""

    def __init__(self, times: dict[str, list[int]], truncated: dict[str, int] | None = None) -> None:
        self.records = {
            name: [LogRecord(name, n, at_us, b"") for n, at_us in enumerate(sorted(of_name), 1)]
            for name, of_name in times.items()
        }
        self.ends = {name: len(records) for name, records in self.records.items()}
        for name, through in (truncated or {}).items():
            self.records[name] = self.records[name][through:]
        self.read_count = 0

    partition = "a"

    def positions(self) -> dict[str, int]:
        return dict(self.ends)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        found = [r for r in self.records[partition] if r.position > after][:limit]
        self.read_count += len(found)
        return found

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        raise NotImplementedError

    def truncate(self, partition: str, through: int) -> int:
        raise NotImplementedError

    def erase(self, partition: str, instead: object) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing to close."""


TIMES = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 8), max_size=12), max_size=4)


@pytest.mark.fast
@given(TIMES, st.integers(1, 6), st.data())
def test_stretches_in_order_are_all_records_sorted_and_each_is_read_once(
    times: dict[str, list[int]], batch: int, data: st.DataObject
) -> None:
    log = Partitions(times)
    upto = {name: data.draw(st.integers(0, last), name) for name, last in log.ends.items()}
    after = {name: data.draw(st.integers(0, last), name) for name, last in upto.items()}
    expected = sorted(
        (r for name, records in log.records.items() for r in records[after[name] : upto[name]]), key=append_order
    )
    found = [in_order(parts) for parts in intervals(log, after, upto, batch=batch)]
    assert [record for stretch in found for record in stretch] == expected
    assert all(found)
    assert log.read_count == len(expected)


@given(TIMES.filter(bool), st.integers(1, 6), st.data())
def test_what_was_truncated_is_a_gap_or_passed_over(
    times: dict[str, list[int]], batch: int, data: st.DataObject
) -> None:
    ends = {name: len(of_name) for name, of_name in times.items()}
    truncated = {name: data.draw(st.integers(0, last), name) for name, last in ends.items()}
    log = Partitions(times, truncated)
    assert {name: begin_of(log, name, last) for name, last in ends.items()} == truncated
    upto = {name: data.draw(st.integers(0, last), name) for name, last in ends.items()}
    left = [r for name, records in log.records.items() for r in records if r.position <= upto[name]]
    found = [in_order(parts) for parts in intervals(log, {}, upto, batch=batch, gaps=True)]
    assert [record for stretch in found for record in stretch] == sorted(left, key=append_order)
    if len(left) < sum(upto.values()):
        with pytest.raises(Gap, match=r"needed the records .* of partition"):
            list(intervals(log, {}, upto, batch=batch))
    else:
        assert [in_order(parts) for parts in intervals(log, {}, upto, batch=batch)] == found
