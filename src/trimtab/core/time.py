"""Durations and moments as people write them, in microseconds as we keep them."""

import datetime as dt
import re

from trimtab.core.errors import Misuse
from trimtab.core.shown import shown

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
_LONGEST_US = _MAX_US - _MIN_US + 1  # so that a moment and a duration always add up within 64 bits
_SHOWN = 100  # characters of a value in a message


def duration_us(text: str | int) -> int:
    """Microseconds of a duration such as "90s", "15min", "7d"; an int is taken as microseconds.

    Raises:
        Misuse: It is no duration, a negative one, or longer than the years 1 to 9999.

    >>> duration_us("1h")
    3600000000
    """
    if isinstance(text, int) and not isinstance(text, bool):
        us = text
    else:
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise Misuse(
                f"duration: {shown(text)[:_SHOWN]} is not one. "
                'Write a number and a unit of us, ms, s, min, h, d, w: "7d".'
            )
        digits = match[1].lstrip("0")
        us = int(digits[:20] or "0") * _UNITS_US[match[2]]  # twenty digits are too long in any unit
    if us < 0:
        raise Misuse(f"duration: {shown(us)[:_SHOWN]} us is negative. Give zero or more.")
    if us > _LONGEST_US:
        raise Misuse(
            f"duration: {shown(text)[:_SHOWN]} is longer than the years 1 to 9999. "
            "Give at most 521722w; for all of the past leave the limit out."
        )
    return us


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
        return _in_range(value, value)
    given: object = value
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise Misuse(
                f"time: {shown(given)[:_SHOWN]} is not ISO 8601. Write 2013-03-01T05:00:00Z or microseconds."
            ) from None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime) or value != value:  # pandas' NaT is a datetime that is not itself
        raise Misuse(
            f"time: {shown(given)[:_SHOWN]} is a {type(given).__name__}. "
            "Give ISO 8601 text, a datetime or microseconds."
        )
    if value.utcoffset() is None:
        value = value.replace(tzinfo=dt.UTC)
    return _in_range((value - _EPOCH) // dt.timedelta(microseconds=1), given)


def format_moment(us: int) -> str:
    """ISO 8601 in UTC, with as many digits as are needed.

    >>> format_moment(1_362_096_000_000_000)
    '2013-03-01T00:00:00Z'
    """
    return (_EPOCH + dt.timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def _in_range(us: int, given: object) -> int:
    if not _MIN_US <= us <= _MAX_US:
        hint = " Are these nanoseconds?" if isinstance(given, int) else " That is so in UTC."
        unit = " us" if isinstance(given, int) else ""
        raise Misuse(f"time: {shown(given)[:_SHOWN]}{unit} lies outside the years 1 to 9999.{hint}")
    return us
