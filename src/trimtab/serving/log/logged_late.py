"""Predictions that were logged long after they were made: where they lie is read once, then known.  # D123"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.serving.failures import Late
from trimtab.serving.log.prediction_ids import id_front, id_time_us
from trimtab.store.log_places import begin_of
from trimtab.store.ports import Log, LogRecord

SOON_US = 1_000_000  # who is logged within this is found where its time says; all others are late
_BLOCK = 2_000
_STRETCHES = 64  # of a partition: searches that ended with their time leave gaps between them
_AT_ONCE = 16  # of those who have a deadline: more are refused at once, so that no service is full of them
_HEAD_BYTES = 8  # an identifier begins within so many bytes of a payload
_PREFIX = b"p_"
_FRONT_BYTES = len(id_front(0))
_NONE_YET = b"~"  # behind every identifier


class _Block(msgspec.Struct, frozen=True, gc=False):
    """Of the late among some thousand positions of a partition the first and the last time."""

    first: bytes = _NONE_YET  # the front of an identifier
    last: bytes = b""


class _Stretch(msgspec.Struct, frozen=True, gc=False):
    """Positions of a partition that were read without a gap."""

    after: int  # where a block begins
    through: int


class _Known:
    """What is known of a partition: how far it was read, and of its blocks those that hold something late.

    Whoever has the turn to read changes it, and all others look at it meanwhile: so a block is there before the stretch
    that says that it was read.
    """

    def __init__(self) -> None:
        self.stretches: tuple[_Stretch, ...] = ()  # by position; never changed, replaced
        self.late: dict[int, _Block] = {}  # by their number
        self._begin = 0  # below it nothing is known of

    def through(self, number: int) -> int:
        """The position up to which a block was read, or one behind it."""
        start = number * _BLOCK
        return max((one.through for one in self.stretches if one.after <= start), default=0)

    def add(self, number: int, records: list[LogRecord], end: int) -> None:
        """Know what was read of a block, up to `end`."""
        before = self.late.get(number, _NOTHING)
        block = _with(before, records)
        if block is not before:
            self.late[number] = block
        start = number * _BLOCK
        at = [one for one in self.stretches if one.after <= end and one.through >= start]  # this one joins them
        grown = _Stretch(min([start, *(one.after for one in at)]), max([end, *(one.through for one in at)]))
        others = [one for one in self.stretches if one not in at]
        if len(others) >= _STRETCHES:  # the shortest is soonest read again
            others.remove(min(others, key=lambda one: one.through - one.after))
        self.stretches = tuple(sorted([*others, grown], key=lambda one: one.after))

    def forget(self, begin: int) -> None:
        """Let go of the blocks below `begin`, up to which the partition was truncated."""
        if begin > self._begin:
            self._begin = begin
            for number in [one for one in list(self.late) if one < begin // _BLOCK]:
                self.late.pop(number, None)


class LoggedLate:
    """Finds what lies far behind its time in a log, and remembers where nothing of a time can be.

    Identifiers say when a prediction was made, and append times when it was logged. Between them lie milliseconds, but
    for the parts of a batch, for what a killed process had noted, and where the disk was full: then nobody can say how
    much. So each block of the log is read once by each process that looks for something late, and after that only
    blocks are that hold something late of the time in question. Of all others nothing is kept but that they were read.

    Args:
        log: The prediction log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: dict[str, _Known] = {}  # by partition
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._reading = threading.Lock()  # several that look for something read no block twice
        self._room = threading.Semaphore(_AT_ONCE)

    def find(
        self, prediction_id: str, needle: bytes, place: tuple[str, int, int], deadline_s: float | None
    ) -> LogRecord | None:
        """The record of a prediction that was logged later than `SOON_US` after it was made.

        Args:
            prediction_id: Its identifier.
            needle: The same as it stands in payloads.
            place: The partition, the position behind which it is looked for, and the last one.
            deadline_s: Until when (`perf_counter`); None: to the end.

        Raises:
            Late: The time is over. What was read is remembered: who asks again comes further.
            Unavailable: There is a deadline, and several others are looking for something.
        """
        partition, after, last = place
        front = id_front(id_time_us(prediction_id)).encode()
        known = self._known.setdefault(partition, _Known())
        begin = begin_of(self._log, partition, last)
        known.forget(begin)
        through = 0
        for number in range(max(after, begin) // _BLOCK, -(-last // _BLOCK)):
            end = min((number + 1) * _BLOCK, last)
            if through < end:
                through = self._read(known, partition, number, end, deadline_s)
            block = known.late.get(number, _NOTHING)
            if block.first <= front <= block.last:
                check_search(deadline_s)
                for record in self._log.read(partition, number * _BLOCK, limit=_BLOCK):
                    if holds_id(record.payload, needle):
                        return record
        return None

    def _read(self, known: _Known, partition: str, number: int, end: int, deadline_s: float | None) -> int:
        """Know a block up to `end`; the position up to which everything from there on is known."""
        through = known.through(number)
        if through >= end:
            return through
        with self._turn(deadline_s):
            after = max(known.through(number), number * _BLOCK)
            if after < end:
                check_search(deadline_s)
                known.add(number, self._log.read(partition, after, limit=end - after), end)
            return known.through(number)

    @contextmanager
    def _turn(self, deadline_s: float | None) -> Iterator[None]:
        """One reads at a time; a few more wait for it, and as many as there are who have no deadline."""
        room = None if deadline_s is None else self._room
        if room is not None and not room.acquire(blocking=False):
            raise Unavailable("the prediction log is being searched through for others. Ask again in a moment.")
        try:
            left_s = -1.0 if deadline_s is None else max(0.0, deadline_s - perf_counter())
            reading = self._reading
            if not reading.acquire(timeout=left_s):
                raise _over()
            try:
                yield
            finally:
                reading.release()
        finally:
            if room is not None:
                room.release()


def check_search(deadline_s: float | None) -> None:
    """Raise `Late` when the moment of `perf_counter` has passed until which somebody looks for a prediction."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise _over()


def holds_id(payload: bytes, needle: bytes) -> bool:
    """Whether a payload, also of an erased prediction, begins with an identifier."""
    return payload.find(needle, 0, len(needle) + _HEAD_BYTES) >= 0


def _over() -> Late:
    return Late(
        "the prediction log is not searched through yet, and the time for it is over. Ask again: the search goes on "
        "where it stopped."
    )


def _with(block: _Block, records: list[LogRecord]) -> _Block:
    """A block with what was read of it; the same where nothing of that is late."""
    first, last = block.first, block.last
    appended_at_us, soon = -1, b""
    for record in records:
        if record.appended_at_us != appended_at_us:
            appended_at_us = record.appended_at_us
            soon = id_front(max(0, appended_at_us - SOON_US + 999)).encode()  # not rounded down: who is before is late
        at = record.payload.find(_PREFIX, 0, _HEAD_BYTES + len(_PREFIX))
        front = record.payload[at : at + _FRONT_BYTES]
        if front < soon and at >= 0:
            first, last = min(first, front), max(last, front)
    return block if (first, last) == (block.first, block.last) else _Block(first, last)


_NOTHING = _Block()
_all: weakref.WeakSet[LoggedLate] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(_all):
        one._begin()  # a thread of the parent may hold the lock, and is not here to let go of it


if hasattr(os, "register_at_fork"):  # where there is none, nobody forks
    os.register_at_fork(after_in_child=_after_fork_in_child)
