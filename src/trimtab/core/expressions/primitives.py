"""Arithmetic for both evaluators of expressions, on Python ints and on int64 arrays."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import zoneinfo
from collections.abc import Callable
from typing import Any

from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

# The first and the last second for which UTC offsets are looked up. They are two days inside of the years 1 to 9999,
# because `datetime` can only hold these years, and the local time must be in them, too.
_FIRST_S = -62_135_596_800 + 2 * 86_400
_LAST_S = 253_402_300_799 - 2 * 86_400


def hour(local_us: Any) -> Any:
    """The hour of the day, 0 to 23."""
    return local_us // HOUR_US % 24


def minute(local_us: Any) -> Any:
    """The minute of the hour, 0 to 59."""
    return local_us // MINUTE_US % 60


def weekday(local_us: Any) -> Any:
    """The day of the week, Monday 0 to Sunday 6."""
    return (local_us // DAY_US + 3) % 7  # 1 January 1970 was a Thursday


def month(local_us: Any) -> Any:
    """The month, 1 to 12."""
    march_month = (5 * _march_day(local_us)[0] + 2) // 153
    return march_month + 3 - 12 * (march_month // 10)


def day_of_year(local_us: Any) -> Any:
    """The day of the year, 1 to 366."""
    day, year = _march_day(local_us)
    # years are counted from March, so January and February belong to the year that began in the previous March
    new_year = (5 * day + 2) // 153 // 10
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return day + 60 + leap * (1 - new_year) - 365 * new_year


def _march_day(local_us: Any) -> tuple[Any, Any]:
    """Return the days since the last 1 March, and the year of that 1 March.

    The method is that of H. Hinnant, "chrono-compatible low-level date algorithms".
    """
    days = local_us // DAY_US + 719_468  # days since 1 March of year 0
    era = days // 146_097
    of_era = days - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    return of_era - (365 * year + year // 4 - year // 100), year + era * 400


TIME_PARTS: dict[str, Callable[[Any], Any]] = {
    "hour": hour,
    "minute": minute,
    "weekday": weekday,
    "day_of_year": day_of_year,
    "month": month,
}


def utc_offset_us(zone: zoneinfo.ZoneInfo, at_us: int) -> int:
    """Return local time minus UTC. For a time before `_FIRST_S` or after `_LAST_S`, this is the offset at that end."""
    seconds = min(max(at_us // SECOND_US, _FIRST_S), _LAST_S)
    offset = dt.datetime.fromtimestamp(seconds, zone).utcoffset()
    assert offset is not None  # a ZoneInfo gives an offset for every time
    return offset // dt.timedelta(microseconds=1)


def hash_bucket(value: Any, n: int) -> int:
    """Return the bucket (0 to n - 1) of a float, an int, a bool or a string."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, float):
        data = struct.pack("<d", value)
    else:
        data = struct.pack("<q", value)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % n


def overflow(op: str, *values: object) -> str:
    """Return the error message for an integer result that does not fit in 64 bits."""
    shown = f"{values[0]} {op} {values[1]}" if len(values) == 2 else f"{op}({values[0]})"
    return (
        f"{shown} does not fit an integer of 64 bits. Multiply a column by 1.0 to compute in floats, or leave such "
        "rows out (where=, tt.when)."
    )
