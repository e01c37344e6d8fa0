"""Detection of small files that would become very large when they are unpacked.  # D0160"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.events.files.opened import open_bytes

_BLOCK = 1 << 20
# Limit for an unpacked text: bytes that are always allowed, and the factor of the file size.
_LEAST_TEXT, _TIMES_TEXT = 4 << 20, 100
# Limit for the memory of a Parquet file: bytes that are always allowed, and the factor of the file size.
_LEAST_TABLE, _TIMES_TABLE = 48 << 20, 400
_VALUE_BYTES: dict[Dtype, int] = {"str": 80}  # bytes of memory for each value; values of other types take 20


def check_gzip(path: Path) -> None:
    """Refuse a packed text that is far longer than its file.

    Raises:
        Misuse: The text is far longer, or the file is not gzip.
    """
    most, found = _LEAST_TEXT + _TIMES_TEXT * path.stat().st_size, 0
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
            found += len(block)
            if found > most:
                raise Misuse(
                    f"file {path}: unpacked it has more than {most} bytes, {_TIMES_TEXT} times its size. Is it what it "
                    "should be? Unpack it yourself, and give the text."
                )


def check_table(path: Path, rows: int, wanted: Mapping[str, Dtype]) -> None:
    """Refuse a file whose rows would take far more memory than the size of the file.

    Args:
        path: The file.
        rows: The number of rows that the file claims to have.
        wanted: The columns that are read from the file.

    Raises:
        Misuse: The rows would take far more memory.
    """
    most = _LEAST_TABLE + _TIMES_TABLE * path.stat().st_size
    needed = rows * sum(_VALUE_BYTES.get(dtype, 20) for dtype in wanted.values())
    if needed > most:
        raise Misuse(
            f"file {path}: its {rows} rows would take about {needed} bytes of memory, {_TIMES_TABLE} times its size. "
            "Is it what it should be? Give it in parts, or its rows as a table."
        )
