"""One online read of 1 request, 10 features over 3 views, in process: values and reasons.

The floor gets the same bytes from bare LMDB in one transaction and decodes them (msgpack).
"""

from __future__ import annotations

from pathlib import Path

from _online import Reads

NAME = "online_read_1"
TARGET = "ratio <= 4"
UNIT = "us"
BETTER = "lower"


def setup(folder: Path) -> Reads:
    return Reads(folder, rows=1)


def ours(reads: Reads) -> float:
    return reads.ours()


def floor(reads: Reads) -> float:
    return reads.floor()
