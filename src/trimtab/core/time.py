"""Durations and moments as people write them, in microseconds as we keep them."""

import datetime as dt
import re

from trimtab.core.errors import Misuse

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND_US,
    "m": MINUTE_US,
    "min": MINUTE_US,
    "h": HOUR_US,
    "d": DAY_US,
    "w": 7 * DAY_US,
}
_DURATION = re.compile(r"\s*(\d+)\s*(us|ms|s|min|m|h|d|w)\s*")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MIN_US = -62_135_596_800_000_000  # year 1
_MAX_US = 253_402_300_799_999_999  # the end of year 9999


def duration_us(text: str | int) -> int:
    """Microseconds of a duration such as "90s", "15min", "7d"; an int is taken as microseconds.

    Raises:
        Misuse: It is no duration, or a negative one.

    >>> duration_us("1h")
    3600000000
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise Misuse(f"duration: {text} us is negative. Give zero or more.")
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Misuse(f'duration: {text!r} is not one. Write a number and a unit of us, ms, s, min, h, d, w: "7d".')
    return int(match[1]) * _UNITS_US[match[2]]


def format_duration(us: int) -> str:
    """The shortest exact way to write a duration.

    >>> format_duration(5_400_000_000)
    '90min'
    """
    for unit in ("d", "h", "min", "s", "ms"):
        if us and us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"


def moment_us(value: str | int | dt.datetime | dt.date) -> int:
    """UTC microseconds of an ISO 8601 text, a datetime, a date or an int; naive means UTC.

    Raises:
        Misuse: It is no moment, or lies outside the years 1 to 9999.

    >>> moment_us("2013-03-01T05:00:00+01:00") == moment_us("2013-03-01 04:00")
    True
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if not _MIN_US <= value <= _MAX_US:
            raise Misuse(f"time: {value} us lies outside the years 1 to 9999. Are these nanoseconds?")
        return value
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise Misuse(f"time: {value!r} is not ISO 8601. Write 2013-03-01T05:00:00Z or microseconds.") from None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise Misuse(f"time: {value!r} is a {type(value).__name__}. Give ISO 8601 text, a datetime or microseconds.")
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    return (value - _EPOCH) // dt.timedelta(microseconds=1)


def format_moment(us: int) -> str:
    """ISO 8601 in UTC, with as many digits as are needed.

    >>> format_moment(1_362_096_000_000_000)
    '2013-03-01T00:00:00Z'
    """
    return (_EPOCH + dt.timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
