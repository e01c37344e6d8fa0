"""Convert durations and times from text to microseconds and back."""

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
_MICROSECOND = dt.timedelta(microseconds=1)
EARLIEST_US = -62_135_596_800_000_000  # the beginning of year 1
LATEST_US = 253_402_300_799_999_999  # the end of year 9999
_LONGEST_US = LATEST_US - EARLIEST_US + 1  # a time plus a duration up to this fits in 64 bits
_SHOWN = 100  # the number of characters of a value that a message shows
_HOUR, _DD, _FRACTION = "(?:[01][0-9]|2[0-3])", "[0-9]{2}", "(?:[.,][0-9]+)?"
_ZONE = f"(?: ?(?:[Zz]|UTC|[+-]{_HOUR}(?::?[0-5][0-9](?::[0-5][0-9])?)?))?"
_EXTENDED = f"[0-9]{{4}}-{_DD}-{_DD}(?:[Tt ]{_HOUR}:{_DD}(?::{_DD}{_FRACTION})?{_ZONE})?"
_BASIC = f"[0-9]{{8}}(?:[Tt]{_HOUR}{_DD}(?:{_DD}{_FRACTION})?{_ZONE})?"
ISO_8601 = f"{_EXTENDED}|{_BASIC}"  # a regular expression for texts that are times
_ISO = re.compile(ISO_8601)
_TAIL = re.compile(f"(?:[.][0-9]+)?(?:[+-]{_HOUR}:[0-5][0-9]|Z)?")  # the usual text after the seconds


def duration_us(text: str | int) -> int:
    """Return the microseconds of a duration such as "90s", "15min" or "7d". An int already counts microseconds.

    Raises:
        Misuse: The text is not a duration, is negative, or is longer than the years 1 to 9999.

    >>> duration_us("1h")
    3600000000
    """
    if isinstance(text, int) and not isinstance(text, bool):
        us = text
    else:
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise Misuse(
                f"duration: {shown(text)[:_SHOWN]} is not a duration. Write a number and one of the units us, ms, s, "
                'min, h, d, w: "7d".'
            )
        digits = match[1].lstrip("0")
        # a number of twenty digits is too large in every unit
        us = int(digits[:20] or "0") * _UNITS_US[match[2]]
    if us < 0:
        raise Misuse(f"duration: {shown(us)[:_SHOWN]} us is negative. Give zero or more.")
    if us > _LONGEST_US:
        raise Misuse(
            f"duration: {shown(text)[:_SHOWN]} is longer than the years 1 to 9999. "
            "Give at most 521722w. To have no limit, leave the duration out."
        )
    return us


def format_duration(us: int) -> str:
    """Return a duration as text in the largest unit, up to days, of which it is a whole multiple.

    >>> format_duration(5_400_000_000)
    '90min'
    """
    for unit in ("d", "h", "min", "s", "ms"):
        if us and us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"


def format_age(us: int) -> str:
    """Return roughly how long ago a time was; if `us` is negative, how far ahead it is.

    >>> format_age(10_800_000_000), format_age(-172_800_000_000), format_age(300_000)
    ('3 h ago', 'in 2 d', 'just now')
    """
    size = abs(us)
    unit = next((name for name in ("d", "h", "min") if size >= 2 * _UNITS_US[name]), "s")
    count = round(size / _UNITS_US[unit])
    if count == 0:
        return "just now"
    return f"{count:,} {unit} ago" if us > 0 else f"in {count:,} {unit}"


def parse_time_us(value: str | int | dt.datetime | dt.date) -> int:
    """Return the UTC microseconds of an ISO 8601 text, a datetime, a date or an int.

    A time without a time zone is in UTC.

    Raises:
        Misuse: The value is not a time, or lies outside the years 1 to 9999.

    >>> parse_time_us("2013-03-01T05:00:00+01:00") == parse_time_us("2013-03-01 04:00")
    True
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _in_range(value, value)
    given: object = value
    if isinstance(value, str):
        value = _datetime(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime) or value != value:  # pandas' NaT is a datetime that is not equal to itself
        raise Misuse(
            f"time: {shown(given)[:_SHOWN]} is a {type(given).__name__}. "
            "Give ISO 8601 text, a datetime or microseconds."
        )
    if value.utcoffset() is None:
        value = value.replace(tzinfo=dt.UTC)
    try:
        us = (value - _EPOCH) // _MICROSECOND
    except (OverflowError, ValueError):  # a pandas timestamp that is too early or too late
        us = LATEST_US + 1
    return _in_range(us, given)


def _datetime(text: str) -> dt.datetime:
    """Return the datetime that a text stands for, in the form of RFC 3339 or in the basic form of ISO 8601."""
    usual = len(text) > 18 and text[4] == text[7] == "-" and text[13] == text[16] == ":" and text[10] in "T "
    try:
        if usual and text[11:13] != "24" and ((tail := text[19:]) in ("", "Z") or _TAIL.fullmatch(tail)):
            # the form is checked before, because Python's own parser accepts other forms, in newer versions even 24:00
            return dt.datetime.fromisoformat(text)
        iso = text.strip()
        if _ISO.fullmatch(iso):
            at = iso[11:].upper().replace("UTC", "Z").replace(" ", "")
            return dt.datetime.fromisoformat(iso[:11].upper() + at)
    except ValueError:
        if _ISO.fullmatch(text.strip()):
            raise Misuse(f"time: {shown(text)[:_SHOWN]}: there is no such day or time of day.") from None
    raise Misuse(
        f"time: {shown(text)[:_SHOWN]} is not ISO 8601. Write 2013-03-01, 2013-03-01T05:00:00Z or "
        "2013-03-01T06:00:00+01:00; give the zone as a difference to UTC."
    )


def format_time(us: int) -> str:
    """Return a time as ISO 8601 text in UTC. A fraction of a second has six digits; whole seconds have no fraction.

    >>> format_time(1_362_096_000_000_000)
    '2013-03-01T00:00:00Z'
    """
    return (_EPOCH + dt.timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def _in_range(us: int, given: object) -> int:
    if not EARLIEST_US <= us <= LATEST_US:
        unit, hint = (" us", ". Are these nanoseconds?") if isinstance(given, int) else ("", " in UTC.")
        raise Misuse(f"time: {shown(given)[:_SHOWN]}{unit} lies outside the years 1 to 9999{hint}")
    return us
