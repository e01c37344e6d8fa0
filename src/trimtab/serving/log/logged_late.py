"""Search for predictions that were logged long after they were made.  # D123"""

from __future__ import annotations

import threading
from time import perf_counter

import msgspec

from trimtab.serving.failures import Late
from trimtab.serving.log.prediction_ids import id_front, id_time_us
from trimtab.store.log_places import begin_of
from trimtab.store.ports import Log, LogRecord

# a record appended within this time of its identifier is found by bisection; all other records are late
SOON_US = 1_000_000
_BLOCK = 2_000  # positions
_HEAD_BYTES = 8  # an identifier begins within this many bytes of a payload
_PREFIX = b"p_"
_FRONT_BYTES = len(id_front(0))


class _Block(msgspec.Struct, frozen=True, gc=False):
    """The first and last time of the late records in a range of positions of a partition, as fronts of identifiers."""

    through: int  # the position up to which the block was read
    first: bytes = b"~"  # greater than every identifier
    last: bytes = b""


class LoggedLate:
    """Finds records that were logged long after their time, and reads each block of the log only once.

    A block is a range of positions. Only the first and the last time of its late records is kept, as long as the
    process lives. So a second search reads just the blocks that may hold the wanted record, and what was appended
    since.

    Args:
        log: The prediction log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._blocks: dict[str, dict[int, _Block]] = {}  # blocks by partition and number
        self._reading = threading.Lock()  # prevents two searches from reading the same block

    def find(
        self, prediction_id: str, needle: bytes, place: tuple[str, int, int], deadline_s: float | None
    ) -> LogRecord | None:
        """Find the record of a prediction that was logged more than `SOON_US` after it was made.

        Args:
            prediction_id: The identifier of the prediction.
            needle: The bytes of the identifier as they stand in payloads.
            place: The partition, the position after which to search, and the last position to search.
            deadline_s: The time (`perf_counter`) at which to give up. None: never.

        Raises:
            Late: The deadline passed. The next search skips the blocks that were read, and so gets further.
        """
        partition, after, last = place
        front = id_front(id_time_us(prediction_id)).encode()
        begin = begin_of(self._log, partition, last)
        blocks = self._blocks.setdefault(partition, {})
        for number in [one for one in list(blocks) if (one + 1) * _BLOCK <= begin]:
            blocks.pop(number, None)  # the block was truncated
        for number in range(max(after, begin) // _BLOCK, -(-last // _BLOCK)):
            block = self._block(partition, number, min((number + 1) * _BLOCK, last), deadline_s)
            if block.first <= front <= block.last:
                check_search(deadline_s)
                for record in self._log.read(partition, number * _BLOCK, limit=_BLOCK):
                    if holds_id(record.payload, needle):
                        return record
        return None

    def _block(self, partition: str, number: int, end: int, deadline_s: float | None) -> _Block:
        """Return a block, read up to `end`."""
        blocks = self._blocks[partition]
        with self._reading:
            block = blocks.get(number) or _Block(number * _BLOCK)
            if block.through < end:
                check_search(deadline_s)
                records = self._log.read(partition, block.through, limit=end - block.through)
                block = blocks[number] = _extended(block, records, end)
        return block


def check_search(deadline_s: float | None) -> None:
    """Raise `Late` once a search for a prediction has passed its deadline (`perf_counter`)."""
    if deadline_s is not None and perf_counter() > deadline_s:
        raise Late("prediction log: the deadline passed during the search. Ask again: it continues where it stopped.")


def holds_id(payload: bytes, needle: bytes) -> bool:
    """Return whether a payload begins with an identifier, even if its prediction was erased."""
    return payload.find(needle, 0, len(needle) + _HEAD_BYTES) >= 0


def _extended(block: _Block, records: list[LogRecord], end: int) -> _Block:
    """Return a block, extended by what was read up to `end`."""
    first, last = block.first, block.last
    appended_at_us, soon = -1, b""
    for record in records:
        if record.appended_at_us != appended_at_us:
            appended_at_us = record.appended_at_us
            soon = id_front(
                max(0, appended_at_us - SOON_US + 999)
            ).encode()  # rounded up, because records with earlier fronts are late
        at = record.payload.find(_PREFIX, 0, _HEAD_BYTES + len(_PREFIX))
        front = record.payload[at : at + _FRONT_BYTES]
        if front < soon and at >= 0:
            first, last = min(first, front), max(last, front)
    return _Block(end, first, last)
