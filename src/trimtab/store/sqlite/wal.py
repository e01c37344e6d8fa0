"""Find the part of a write-ahead log that was certainly acknowledged. If SQLite reads less, the log is damaged."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = 32  # the header of the file: magic number, version, page size, checkpoint number, two salts, two checksums
_FRAME = 24  # before each page: page number, size after the commit (0: no commit), two salts, two checksums


def acknowledged_frames(database: Path) -> int:
    """Return the number of the last frame that ends a commit and is followed by frames with the log's salts; 0: none.

    To SQLite, the first frame with a wrong checksum is the end of the log. With `synchronous = FULL`, a transaction
    only starts after the previous commit was synced. So a commit with later frames was acknowledged, and must be
    readable. (Frames with other salts are left from before a checkpoint.) After a power cut, the last transaction may
    be incomplete, which is not damage.

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
