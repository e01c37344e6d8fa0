"""A log and a key-value store in memory: real implementations, which pass the tests of all backends."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trimtab.core.clock import Clock, SystemClock
from trimtab.core.columns.packs import unpack
from trimtab.core.errors import Misuse, NotFound
from trimtab.store.ports import LogRecord


class MemoryLog:
    """A `Log` with one partition, which exists only as long as the process.

    >>> log = MemoryLog()
    >>> log.append([b"one"])
    range(1, 2)
    """

    partition = "p0001"

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._mutex = threading.Lock()
        self._records: list[LogRecord] = []
        self._position = 0
        self._at_us = -(2**62)  # earlier than every append time

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        if not all(isinstance(payload, bytes) for payload in payloads):
            raise Misuse("log: a payload is not bytes. Encode it first.")
        if at_us is not None and (len(at_us) != len(payloads) or list(at_us) != sorted(at_us)):
            raise Misuse(
                "log: the append times do not fit the payloads. Give one for each payload, in ascending order."
            )
        if not payloads:
            return range(0)
        with self._mutex:
            first = self._position + 1
            times = at_us if at_us is not None else [self._clock.now_us()] * len(payloads)
            for payload, time_us in zip(payloads, times, strict=True):
                self._position += 1
                self._at_us = max(self._at_us, time_us)
                self._records.append(LogRecord(self.partition, self._position, self._at_us, payload))
            return range(first, self._position + 1)

    def append_packs(self, packs: Sequence[bytes], *, at_us: int | None = None) -> range:
        payloads = [payload for pack in packs for payload in unpack(pack)]
        return self.append(payloads, at_us=None if at_us is None else [at_us] * len(payloads))

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        self._check(partition)
        if after < 0 or limit < 1:
            raise Misuse(f"log: read after {after}, limit {limit}. Give after >= 0 and limit >= 1.")
        with self._mutex:
            skipped = self._position - len(self._records)
            start = max(after - skipped, 0)
            return self._records[start : start + limit]

    def positions(self) -> dict[str, int]:
        return {self.partition: self._position} if self._position else {}

    def truncate(self, partition: str, through: int) -> int:
        self._check(partition)
        with self._mutex:
            before = len(self._records)
            self._records = [record for record in self._records if record.position > through]
            return before - len(self._records)

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        self._check(partition)
        with self._mutex:
            before = self._records
            self._records = [
                LogRecord(r.partition, r.position, r.appended_at_us, instead.get(r.position, r.payload)) for r in before
            ]
            return sum(record.position in instead for record in before)

    def mark(self) -> int:
        return self._position

    def maintenance(self) -> None:
        """Do nothing, because a log in memory needs no maintenance."""

    def close(self) -> None:
        """Do nothing, because nothing is held open."""

    def _check(self, partition: str) -> None:
        if partition != self.partition:
            raise NotFound(f"log: no partition {partition!r}; the only one is {self.partition}.")


class MemoryKeyValue:
    """A `KeyValue` that exists only as long as the process.

    >>> store = MemoryKeyValue()
    >>> store.write({b"a": b"1"})
    >>> store.get(b"a")
    b'1'
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._mutex:
            return [self._values.get(key) for key in keys]

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        removed = list(deletes)
        for key in (*puts, *removed):
            if not 0 < len(key) <= 511 or key[0] == 0:
                raise Misuse(f"key {key!r} has {len(key)} bytes. Give 1 to 511, the first not zero.")
        with self._mutex:
            for key in removed:
                self._values.pop(key, None)
            self._values.update(puts)

    def release_writer(self) -> None:
        """Do nothing, because only this process can write here."""

    def scan(self, prefix: bytes, *, after: bytes = b"", limit: int = 10_000) -> Iterator[tuple[bytes, bytes]]:
        with self._mutex:
            keys = sorted(key for key in self._values if key.startswith(prefix) and key > after)
            return iter([(key, self._values[key]) for key in keys[:limit]])

    def erase(self, keys: Iterable[bytes] = ()) -> None:
        self.write({}, keys)

    def reopen_if_replaced(self, *, make: bool = False) -> bool:
        """Do nothing, because a store in memory is never replaced."""
        return False

    def close(self) -> None:
        """Do nothing, because nothing is held open."""
