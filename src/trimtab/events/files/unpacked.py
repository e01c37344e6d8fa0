"""Refuse small files that would become very large when they are decompressed.  # D0160"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.events.files.opened import open_bytes

_BLOCK = 1 << 20
# a decompressed text may have this many bytes plus this many times the file's size
_LEAST_TEXT, _TIMES_TEXT = 4 << 20, 100
# the rows of a Parquet file may take this many bytes of memory plus this many times the file's size
_LEAST_TABLE, _TIMES_TABLE = 48 << 20, 400
_VALUE_BYTES: dict[Dtype, int] = {"str": 80}  # memory per value in bytes; other types than text take 20


def check_gzip(path: Path) -> None:
    """Refuse a compressed text that is far longer than its file.

    Raises:
        Misuse: The text is too long, or the file is not gzip.
    """
    most, found = _LEAST_TEXT + _TIMES_TEXT * path.stat().st_size, 0
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
            found += len(block)
            if found > most:
                raise Misuse(
                    f"file {path}: unpacked, it has more than {most} bytes ({_TIMES_TEXT} times its size plus 4 MiB). "
                    "Check that it is the right file; if it is, unpack it yourself and give the result."
                )


def check_table(path: Path, rows: int, wanted: Mapping[str, Dtype]) -> None:
    """Refuse a file whose rows would take far more memory than the file has bytes.

    Args:
        rows: The number of rows, as stated in the file.
        wanted: The columns that are read, with their types.

    Raises:
        Misuse: The rows would take too much memory.
    """
    most = _LEAST_TABLE + _TIMES_TABLE * path.stat().st_size
    needed = rows * sum(_VALUE_BYTES.get(dtype, 20) for dtype in wanted.values())
    if needed > most:
        raise Misuse(
            f"file {path}: its {rows} rows would take about {needed} bytes of memory, more than {_TIMES_TABLE} times "
            "its size plus 48 MiB. Check that it is the right file; if it is, give it in parts, or give its rows as a "
            "table."
        )
