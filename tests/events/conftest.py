"""An event log in memory, and this folder on the path, for `kinds`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from trimtab.store.ports import LogRecord

sys.path.insert(0, str(Path(__file__).parent))  # kinds


class ListLog:
    """The smallest log of several partitions that does what the port `Log` requires."""

    def __init__(self, partition: str = "p1", now_us: int = 0) -> None:
        self.partition = partition
        self.now_us = now_us
        self.records: dict[str, list[LogRecord]] = {}
        self.last: dict[str, int] = {}

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        records = self.records.setdefault(self.partition, [])
        start = self.last.get(self.partition, 0) + 1
        least = records[-1].appended_at_us if records else -(2**63)
        for position, payload in enumerate(payloads, start):
            least = max(least, self.now_us if at_us is None else at_us[position - start])
            records.append(LogRecord(self.partition, position, least, payload))
        self.last[self.partition] = start + len(payloads) - 1
        return range(start, start + len(payloads))

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        records = self.records.get(partition, [])
        if not records:
            return []
        first = max(0, after + 1 - records[0].position)
        return records[first : first + limit]

    def positions(self) -> dict[str, int]:
        return dict(self.last)

    def truncate(self, partition: str, through: int) -> int:
        before = self.records.get(partition, [])
        self.records[partition] = [r for r in before if r.position > through]
        return len(before) - len(self.records[partition])

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        before = self.records.get(partition, [])
        self.records[partition] = [replace(r, payload=instead.get(r.position, r.payload)) for r in before]
        return sum(r.position in instead for r in before)

    def close(self) -> None:
        pass


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture(scope="session")
def make_log() -> type[ListLog]:
    return ListLog
