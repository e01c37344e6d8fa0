"""A spool: predictions that were answered but not logged yet, in a memory-mapped file that survives its process."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from trimtab.core.closing import Closing
from trimtab.core.errors import Conflict, Misuse, Unavailable
from trimtab.serving.log.locked_mmap import LockedMmap, lock_of
from trimtab.serving.log.prediction_ids import id_time_us
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import decode, payload_id
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock

# room for the answers of a third of a second, because maintenance of the log may take that long; do not change this
# number: a spool of another size is emptied when it is opened, and its payloads are lost
SIZE_BYTES = 4 << 20
_MAGIC = b"trSp\x01\0\0\0"  # the last byte before the zeros is the version of the format
_USED = struct.Struct("<q")
_HEAD = struct.Struct("<II")  # the header of each payload: its size and its CRC-32
_HEAD_BYTES = _HEAD.size
_pack_used, _pack_head, _crc32 = _USED.pack, _HEAD.pack, zlib.crc32
_FILES = "spool-" + "[0-9]" * 4
_BEGIN = 16  # payloads begin here, after the magic number and the number of used bytes


class Spool(Closing):
    """Payloads of predictions that were answered but are not in the log yet.

    Adding a payload means copying it into memory that the operating system keeps even if the process is killed. The
    next process that opens a spool appends the payloads to the log, unless they are in it already. A power cut may lose
    a spool.

    Args:
        directory: The folder of the spools. Each process that serves at the same time has its own spool.
    """

    def __init__(self, directory: Path, log: PredictionLog) -> None:
        try:
            make_folder(directory)
            self.recovered = recover_spools(directory, log)  # the number of predictions moved from spools to the log
            self._file = LockedMmap.first_free(directory, "spool", SIZE_BYTES)
            try:
                # the process that used this spool may have died after `recover_spools` had looked at it
                self.recovered += _emptied(self._file.memory, log)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise Unavailable(f"{directory}: a spool cannot be made ({error}). Check space and access.") from error
        self._map = self._file.memory
        self._map[:8] = _MAGIC
        self._used = 0

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Add all payloads or none. Return False if there is no room for them."""
        framed = _framed(payloads[0]) if len(payloads) == 1 else b"".join(map(_framed, payloads))
        at = _BEGIN + self._used
        end = at + len(framed)
        if end > SIZE_BYTES:
            return False
        view = self._map
        view[at:end] = framed
        self._used = used = end - _BEGIN
        # this number makes the payloads valid, so it is written last; `pack_into` would first write zeros in its place
        view[8:_BEGIN] = _pack_used(used)
        return True

    def clear(self) -> None:
        """Empty the spool, because all of its payloads are in the log."""
        self._used = 0
        self._map[8:_BEGIN] = _pack_used(0)

    def close(self) -> None:
        self._file.close()


def _framed(payload: bytes) -> bytes:
    return _pack_head(len(payload), _crc32(payload)) + payload


def recover_spools(directory: Path, log: PredictionLog) -> int:
    """Append those payloads in spools of dead processes that the log lacks, and return their number.

    Raises:
        Unavailable: The spools cannot be read, or the log cannot be written.
    """
    try:
        return sum(_recovered(path, log) for path in sorted(directory.glob(_FILES)))
    except OSError as error:
        raise Unavailable(f"{directory}: spools cannot be read ({error}). Check access.") from error


def remove_spools(directory: Path, log: PredictionLog) -> None:
    """Append the payloads in all spools to the log, and delete the spools, so that no copy of the data is left.

    Raises:
        Conflict: A living process uses a spool. Some spools of dead processes may already be deleted.
        Unavailable: The spools cannot be read or deleted, or the log cannot be written.
    """
    try:
        for path in sorted(directory.glob(_FILES)):
            held = LockedMmap.take(path, SIZE_BYTES)
            if held is None:
                holder = FileLock.holder(lock_of(path))
                raise Conflict(
                    f"{path}: process {holder} uses this spool. End it, or close its project, and try again."
                )
            with held:
                _emptied(held.memory, log)
                path.unlink()
    except OSError as error:
        raise Unavailable(f"{directory}: spools cannot be removed ({error}). Check access.") from error


def _recovered(path: Path, log: PredictionLog) -> int:
    held = LockedMmap.take(path, SIZE_BYTES)
    if held is None:
        return 0
    with held:
        return _emptied(held.memory, log)


def _emptied(mapped: mmap.mmap, log: PredictionLog) -> int:
    """Append those payloads of a spool that the log lacks, and return their number."""
    lost = [p for p in _payloads(mapped) if log.locate(payload_id(p)) is None]
    # Append them with the times of the answers: if the clock was set back since, the present time would be before the
    # times in the ids, and such records cannot be found. # D170
    if lost:
        log.append_payloads(lost, at_us=list(accumulate(map(_answered_at_us, lost), max)))
    mapped[8:_BEGIN] = _pack_used(0)
    return len(lost)


def _answered_at_us(payload: bytes) -> int:
    prediction = decode(payload, "a spool", 0)
    try:
        return max(prediction.made_at_us, id_time_us(prediction.id))
    except Misuse:  # the id contains no time
        return prediction.made_at_us


def _payloads(mapped: mmap.mmap) -> list[bytes]:
    """Return the payloads of a spool, up to the first damaged one. Only a power cut causes damage."""
    (used,) = _USED.unpack(mapped[8:_BEGIN]) if mapped[:8] == _MAGIC else (0,)
    end = min(_BEGIN + max(used, 0), len(mapped))
    at, found = _BEGIN, []
    while at + _HEAD_BYTES <= end:
        size, crc = _HEAD.unpack(mapped[at : at + _HEAD_BYTES])
        at += _HEAD_BYTES
        payload = mapped[at : at + size]
        if at + size > end or _crc32(payload) != crc:
            break
        found.append(payload)
        at += size
    return found
