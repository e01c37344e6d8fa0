"""The part of a write-ahead log that was certainly acknowledged, which tells damage from the log's end."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = 32  # bytes of the file's header: magic, version, page size, checkpoint, two salts, two checksums
_FRAME = 24  # bytes before each page: page number, size after commit (0: not a commit), two salts, two checksums


def acknowledged_frames(database: Path) -> int:
    """Return the number of the last commit frame that is followed by frames of the same generation, or 0.

    SQLite silently takes the first frame with a wrong checksum for the end of the log. With synchronous FULL the next
    transaction starts only after a commit was synced. So a commit with frames after it had been acknowledged and must
    still be readable. (A power cut may leave the last transaction incomplete, which is not damage.)

    Source: sqlite.org/fileformat2.html#walformat.
    """
    try:
        with open(f"{database}-wal", "rb") as file:
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                return 0
            page_bytes, salts = struct.unpack(">I", header[8:12])[0], header[16:24]
            if page_bytes < 512:
                return 0
            number = last_commit = acknowledged = 0
            while len(frame := file.read(_FRAME)) == _FRAME:
                number += 1
                if frame[8:16] == salts:
                    acknowledged = last_commit
                    if frame[4:8] != b"\0\0\0\0":
                        last_commit = number
                file.seek(page_bytes, 1)
            return acknowledged
    except FileNotFoundError:
        return 0
