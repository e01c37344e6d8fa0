"""One online read of 1 request, 10 features over 3 views, in process: values and reasons.

The floor gets the same bytes from bare LMDB in one transaction and decodes them (msgpack).

Where the time goes (`python benchmarks/run.py --profile online_read_1` says it function by function; measured piece by
piece, of 18.7 us on a busy machine on which the floor takes 6.4): the look-up 4.6, of which checksums 2.1; its keys 1;
decoding three states 2.5, and their sums beyond 64 bits 0.5; windows 3.5: the tiles that left since the last event 0.9,
adding up, values and reasons; checking the request and putting the answer together 6.5.
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
