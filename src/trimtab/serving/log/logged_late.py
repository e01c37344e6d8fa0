"""Find predictions that were logged long after they were made (after a failure).  # D123"""

from __future__ import annotations

import threading
from time import perf_counter

import msgspec

from trimtab.serving.failures import Late
from trimtab.serving.log.prediction_ids import id_front, id_time_us
from trimtab.store.log_places import begin_of
from trimtab.store.ports import Log, LogRecord

# records appended within this time after they were made are found by bisection; all others are "late"
SOON_US = 1_000_000
_BLOCK = 2_000  # the number of positions in a block
_HEAD_BYTES = 8  # the id of a record begins at byte 8 of the payload at the latest
_PREFIX = b"p_"
_FRONT_BYTES = len(id_front(0))


class _Block(msgspec.Struct, frozen=True, gc=False):
    """The earliest and the latest time at which late records in a block (a range of log positions) were made.

    The times are the beginnings of ids, which sort by time. As long as no late record was read, `first` > `last`.
    """

    through: int  # the last position that was read
    first: bytes = b"~"  # greater than every id
    last: bytes = b""


class LoggedLate:
    """Finds late records.

    Each block of the log is read once, and the span of time of its late records is kept in memory. Later searches read
    records that were appended since then, and blocks whose span contains the time in the id.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._blocks: dict[str, dict[int, _Block]] = {}  # the blocks by partition and number
        self._reading = threading.Lock()  # prevents two searches from reading the same block at once

    def find(
        self, prediction_id: str, needle: bytes, place: tuple[str, int, int], deadline_s: float | None
    ) -> LogRecord | None:
        """Return the record of a prediction that was logged more than `SOON_US` after it was made, or None.

        Args:
            needle: The bytes of the id as they occur in payloads.
            place: Where to search: a partition, the position after which to begin, and the last position.
            deadline_s: The time (`perf_counter`) at which to give up, or None for never.

        Raises:
            Late: The deadline has passed. Another search skips the blocks that were read, so it gets further.
        """
        partition, after, last = place
        front = id_front(id_time_us(prediction_id)).encode()
        begin = begin_of(self._log, partition, last)
        blocks = self._blocks.setdefault(partition, {})
        for number in [one for one in list(blocks) if (one + 1) * _BLOCK <= begin]:
            blocks.pop(number, None)  # the block was removed from the log
        for number in range(max(after, begin) // _BLOCK, -(-last // _BLOCK)):
            block = self._block(partition, number, min((number + 1) * _BLOCK, last), deadline_s)
            if block.first <= front <= block.last:
                check_search(deadline_s)
                for record in self._log.read(partition, number * _BLOCK, limit=_BLOCK):
                    if holds_id(record.payload, needle):
                        return record
        return None

    def _block(self, partition: str, number: int, end: int, deadline_s: float | None) -> _Block:
        """Return a block, after reading it up to the position `end`."""
        blocks = self._blocks[partition]
        with self._reading:
            block = blocks.get(number) or _Block(number * _BLOCK)
            if block.through < end:
                check_search(deadline_s)
                records = self._log.read(partition, block.through, limit=end - block.through)
                block = blocks[number] = _extended(block, records, end)
        return block


def check_search(deadline_s: float | None) -> None:
    """Raise `Late` if a search for a prediction has passed its deadline (a time of `perf_counter`)."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise Late(
            "prediction log: the deadline passed during the search. Send the request again: then the search continues "
            "where it stopped."
        )


def holds_id(payload: bytes, needle: bytes) -> bool:
    """Return whether a payload has this id (`needle`). This also works for a prediction that was erased."""
    return payload.find(needle, 0, len(needle) + _HEAD_BYTES) >= 0


def _extended(block: _Block, records: list[LogRecord], end: int) -> _Block:
    """Return a block that includes the records read up to `end`."""
    first, last = block.first, block.last
    appended_at_us, soon = -1, b""
    for record in records:
        if record.appended_at_us != appended_at_us:
            appended_at_us = record.appended_at_us
            # ids that sort before `soon` are late: made over `SOON_US` before the append (rounded up to milliseconds)
            soon = id_front(max(0, appended_at_us - SOON_US + 999)).encode()
        at = record.payload.find(_PREFIX, 0, _HEAD_BYTES + len(_PREFIX))
        front = record.payload[at : at + _FRONT_BYTES]
        if front < soon and at >= 0:
            first, last = min(first, front), max(last, front)
    return _Block(end, first, last)
