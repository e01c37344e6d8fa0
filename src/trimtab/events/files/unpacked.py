"""Files that are small and would become large: found before anything is built of them.  # D0160"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.events.files.opened import open_bytes

_BLOCK = 1 << 20
_LEAST_TEXT, _TIMES_TEXT = 4 << 20, 100  # bytes that a packed text may have, and times its size
_LEAST_TABLE, _TIMES_TABLE = 48 << 20, 400  # bytes of memory that a Parquet file may take, and times its size
_VALUE_BYTES: dict[Dtype, int] = {"str": 80}  # bytes of memory a value; other types take 20


def check_gzip(path: Path) -> None:
    """Refuse a packed text that is far longer than its file.

    Raises:
        Misuse: It is, or is no gzip.
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
    """Refuse a file whose rows would take far more memory than it is large.

    Args:
        path: The file.
        rows: How many it says that it has.
        wanted: The columns that are read of it.

    Raises:
        Misuse: They would.
    """
    most = _LEAST_TABLE + _TIMES_TABLE * path.stat().st_size
    needed = rows * sum(_VALUE_BYTES.get(dtype, 20) for dtype in wanted.values())
    if needed > most:
        raise Misuse(
            f"file {path}: its {rows} rows would take about {needed} bytes of memory, {_TIMES_TABLE} times its size. "
            "Is it what it should be? Give it in parts, or its rows as a table."
        )
