"""One online read of 100 requests, 10 features over 3 views, in process: values and reasons.

The floor gets the same bytes from bare LMDB in one transaction and decodes them (msgpack).
"""

from __future__ import annotations

from pathlib import Path

from _online import Reads

NAME = "online_read_100"
TARGET = "ratio <= 4"
UNIT = "us"
BETTER = "lower"


def setup(folder: Path) -> Reads:
    return Reads(folder, rows=100)


def ours(reads: Reads) -> float:
    return reads.ours()


def floor(reads: Reads) -> float:
    return reads.floor()
