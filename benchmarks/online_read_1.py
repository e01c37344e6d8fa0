"""One online read of 1 request, 10 features over 3 views, in process: values and reasons.

The floor gets the same bytes from bare LMDB in one transaction and decodes them (msgpack).

Where the time goes (`python benchmarks/run.py --profile online_read_1` says it function by function; measured piece by
piece, of 15.6 us on a busy machine on which the floor takes 4.6): the look-up 3.1, of which checksums 1; its keys 0.8;
decoding three states 2.1, and their sums beyond 64 bits 0.6; windows 5.9: where each begins, the tiles that left since
the last event 0.9, adding up 0.8, values and reasons 1.4; checking the request, putting the answer together 3.
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
