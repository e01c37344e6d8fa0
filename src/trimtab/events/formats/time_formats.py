"""Time formats that a source can declare, such as `%d.%m.%Y %H:%M` or `unix_s`.  # D0178

In each format, a text stands for exactly one time, or for none. Therefore formats are stricter than those of
`strptime`: a number next to other digits has a fixed length, time zones are offsets from UTC, and names are in English.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from typing import Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, EARLIEST_US, LATEST_US, SECOND_US, parse_time_us

# the decimal places by which to shift a number to get microseconds
_UNITS = {"unix_s": 6, "unix_ms": 3, "unix_us": 0, "unix_ns": -3}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_EXACT = Context(prec=60)
_LARGEST_EXPONENT = 30  # numbers with a larger exponent are outside of the years 1 to 9999 in every unit
# The form in which Python, pandas, msgspec and trimtab write times as text. Every format also accepts this form.
_FULL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d(?::\d\d)?)?", re.ASCII)

_MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
_MONTHS += ["August", "September", "October", "November", "December"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_WORDS = {
    "b": [month[:3] for month in _MONTHS],
    "B": _MONTHS,
    "a": [day[:3] for day in _DAYS],
    "A": _DAYS,
    "p": ["AM", "PM"],
}
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2, "j": 3}  # the largest number of digits
_CLOCK = {"H", "I", "M", "S", "f", "p", "z"}  # the directives of a time of day
_EPOCH = dt.date(1970, 1, 1)
_FIXED = {"Y", "y"}  # directives that always need exactly as many digits as `_DIGITS` says
_ZONE = r"Z|UTC|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?"
_SHORT = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "D": "%m/%d/%y", "R": "%H:%M"}
_PART = re.compile(r"%(.)|([^%])", re.DOTALL)
_KNOWN = f"%{', %'.join([*_DIGITS, *_WORDS, 'f', 'z', *_SHORT, '%'])}"
_EXAMPLES = 'Write one such as "%d.%m.%Y %H:%M", or name a unit: "unix_s", "unix_ms", "unix_us", "unix_ns".'


class TimeFormat:
    """A declared time format. `time_format` makes one."""

    def __init__(self, text: str, of_text: Callable[[str], int | None], of_number: Callable[[Any], int]) -> None:
        self.text = text
        self._of_text = of_text
        self._of_number = of_number

    def us(self, value: str | int | float | Decimal) -> int:
        """Return the time that a text or number stands for, in UTC microseconds, rounded down.

        Raises:
            Misuse: The value does not fit the format, or is outside of the years 1 to 9999.
        """
        if not isinstance(value, str):
            return parse_time_us(self._of_number(value))
        bare = value.strip()
        found = self._of_text(bare)
        if found is not None:
            return found if EARLIEST_US <= found <= LATEST_US else parse_time_us(found)  # raises the error
        if _FULL.fullmatch(bare):
            return parse_time_us(bare)
        raise _misfit(self.text, value)


@lru_cache(maxsize=256)
def time_format(text: str) -> TimeFormat:
    """Return the time format that a text declares.

    The text is `unix_s`, `unix_ms`, `unix_us`, `unix_ns`, or consists of directives of `strptime`.

    Raises:
        Misuse: The text is not a format, or a time written in it could be read in two ways.

    >>> time_format("%d.%m.%Y %H:%M").us("31.12.2024 14:05") == parse_time_us("2024-12-31T14:05:00Z")
    True
    >>> time_format("unix_s").us("1735653900.25") == parse_time_us("2024-12-31T14:05:00.25Z")
    True
    """
    if text in _UNITS:
        return _counted(text, _UNITS[text])
    return _written(text)


def checked_formats(given: str | Mapping[str, str] | None, columns: Mapping[str, str], what: str) -> dict[str, str]:
    """Return the declared format of each time column that has one. `what` names the definition in errors.

    Raises:
        Misuse: A format is not valid, or is declared for a column that does not hold times.
    """
    if given is None:
        return {}
    times = [name for name, dtype in columns.items() if dtype == "time"]
    if not isinstance(given, str | Mapping):
        raise Misuse(
            f"{what}: time_format={shown(given)[:100]} is neither a text nor a mapping of columns. {_EXAMPLES}"
        )
    by_column = dict.fromkeys(times, given) if isinstance(given, str) else dict(given)
    for name, text in by_column.items():
        if name not in times:
            raise Misuse(
                f"{what}: time_format names {shown(name)[:100]}, which is not a time column. Time columns: "
                f"{', '.join(times)}."
            )
        try:
            time_format(text)
        except (Misuse, TypeError) as error:  # TypeError: the format is not a text, and cannot be hashed
            said = error if isinstance(error, Misuse) else f"{shown(text)[:100]} is not a text. {_EXAMPLES}"
            raise Misuse(f"{what}: time_format of column {name!r}: {said}") from None
    return by_column


def _misfit(text: str, value: object) -> Misuse:
    return Misuse(f"time: {shown(value)[:100]} does not fit the format {text}.")


def _counted(text: str, places: int) -> TimeFormat:
    """Return the format for numbers that count a unit since 1970."""
    quantum = Decimal(1).scaleb(-places)  # one microsecond in this unit

    def of_number(value: int | float | Decimal) -> int:
        # the `repr` of a float is the number as it was written in JSON or CSV
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if not number.is_finite() or number.adjusted() > _LARGEST_EXPONENT:
            raise _misfit(text, value)
        return int(number.quantize(quantum, ROUND_FLOOR, _EXACT).scaleb(places, _EXACT))

    def of_text(value: str) -> int | None:
        return of_number(Decimal(value)) if _NUMBER.fullmatch(value) else None

    return TimeFormat(text, of_text, of_number)


class _Parts(msgspec.Struct):
    """A format of directives as a regular expression, with the directive for each group."""

    pattern: str = ""
    groups: list[str] = []
    digits_alone: bool = True  # whether texts consist of digits only (as for "%Y%m%d"), so that numbers fit, too


def _written(text: str) -> TimeFormat:
    parts = _parts(text)
    match = re.compile(parts.pattern, re.IGNORECASE | re.ASCII).fullmatch

    at = next((place for place, part in enumerate(parts.groups) if part in _CLOCK), len(parts.groups))
    days, clocks = tuple(parts.groups[:at]), tuple(parts.groups[at:])
    if not _CLOCK.issuperset(clocks) or not _CLOCK.isdisjoint(days):
        days, clocks = tuple(parts.groups), ()  # day and time of day are not separate in this format
    # A file has few distinct days and times of day, so each is computed once.
    day_us = lru_cache(maxsize=1 << 14)(lambda values: _us(dict(zip(days, values, strict=True))))
    clock_us = lru_cache(maxsize=1 << 14)(lambda values: _clock_us(dict(zip(clocks, values, strict=True))))

    def of_text(value: str) -> int | None:
        if parts.digits_alone:
            # a column of integers with nulls is often written as floats ("5.0"), so remove the ".0"
            value = _WHOLE.sub("", value)
        found = match(value)
        if found is None:
            return None
        groups = found.groups()
        try:
            return day_us(groups) if not clocks else day_us(groups[:at]) + clock_us(groups[at:])
        except ValueError:
            raise _misfit(text, value) from None

    def of_number(value: int | float | Decimal) -> int:
        us = None
        if parts.digits_alone and _is_whole(value):
            us = of_text(str(int(value)))
        if us is None:
            raise _misfit(text, value)
        return us

    return TimeFormat(text, of_text, of_number)


_WHOLE = re.compile(r"\.0+$")


def _is_whole(value: int | float | Decimal) -> bool:
    """Return whether a value is a whole number of at most twenty digits."""
    return -(10**20) < value < 10**20 and value == int(value)


def _parts(text: object) -> _Parts:
    if not isinstance(text, str) or text != text.strip() or "%" not in text:
        raise Misuse(f"{shown(text)[:100]} is not a time format. {_EXAMPLES}")
    if _PART.sub("", text):
        raise Misuse(f"{text!r} ends in the middle of a directive. {_EXAMPLES}")
    pieces = list(_pieces(text))
    parts = _Parts()
    for at, (directive, letter) in enumerate(pieces):
        parts.digits_alone &= directive in _DIGITS or directive == "f"
        if not directive:
            parts.pattern += re.escape(letter)
            continue
        near = pieces[max(0, at - 1) : at] + pieces[at + 1 : at + 2]
        parts.pattern += f"({_pattern(text, directive, any(_is_digits(*one) for one in near), pieces[at + 1 :])})"
        parts.groups.append(directive)
    _check_meaning(text, parts.groups)
    return parts


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Split a format into directives and the text between them. Combined directives are replaced by their parts."""
    for found in _PART.finditer(text):
        directive, letter = found[1] or "", found[2] or ""
        if directive in _SHORT:
            yield from _pieces(_SHORT[directive])
        else:
            yield ("", "%") if directive == "%" else (directive, letter)


def _is_digits(directive: str, letter: str) -> bool:
    return directive in _DIGITS or directive == "f" or letter.isdecimal()


def _pattern(text: str, directive: str, packed: bool, behind: list[tuple[str, str]]) -> str:
    if directive in _DIGITS:
        most = _DIGITS[directive]
        return f"[0-9]{{{most}}}" if packed or directive in _FIXED else f"[0-9]{{1,{most}}}"
    if directive == "f":
        if behind and _is_digits(*behind[0]):
            raise Misuse(f"{text!r}: digits follow %f, which reads any number of digits. {_EXAMPLES}")
        return "[0-9]+"
    if directive == "z":
        return _ZONE
    if directive in _WORDS:
        return "|".join(_WORDS[directive])
    hint = " The names of time zones are ambiguous: use %z, the difference to UTC." if directive == "Z" else ""
    raise Misuse(f"{text!r}: %{directive} is not a directive that can be used here. Known directives: {_KNOWN}.{hint}")


def _check_meaning(text: str, groups: list[str]) -> None:
    """Refuse a format whose directives give a part of the time twice, or leave out a part that is needed."""
    there = set(groups)
    month, hour = there & {"m", "b", "B"}, there & {"H", "I"}
    wrong = None
    if len(there) < len(groups) or any(len(there & set(same)) > 1 for same in ("Yy", "mbBj", "jd", "HI", "aA")):
        wrong = "gives a part of the time twice"
    elif not there & {"Y", "y"}:
        wrong = "has no year (%Y)"
    elif "d" in there and not month:
        wrong = "has a day without a month (%m)"
    elif ("I" in there) != ("p" in there):
        wrong = "has only one of %I and %p, which give the hour together"
    elif ("M" in there and not hour) or ("S" in there and "M" not in there) or ("f" in there and "S" not in there):
        wrong = "has minutes, seconds or fractions without the larger unit"
    elif hour and not ("d" in there or "j" in there):
        wrong = "has an hour without a day (%d)"
    if wrong:
        raise Misuse(f"{text!r} {wrong}. {_EXAMPLES}")


def _us(found: Mapping[str, str]) -> int:
    """Return the time in UTC microseconds, given the text of each directive."""
    year = int(found["Y"]) if "Y" in found else _century(int(found["y"]))
    day = dt.date(year, _month(found), int(found.get("d", 1)))
    if "j" in found:
        day = dt.date(year, 1, 1) + dt.timedelta(days=int(found["j"]) - 1)
        if day.year != year:
            raise ValueError("no such day of the year")
    weekday = found.get("a", found.get("A"))
    if weekday is not None and weekday[:3].title() != _DAYS[day.weekday()][:3]:
        raise ValueError("another day of the week")
    return (day - _EPOCH).days * DAY_US + _clock_us(found)


def _clock_us(found: Mapping[str, str]) -> int:
    """Return the microseconds of a time of day since midnight in UTC.

    Raises:
        ValueError: There is no such time of day.
    """
    fraction = int(found.get("f", "0").ljust(6, "0")[:6])
    at = dt.time(_hour(found), int(found.get("M", 0)), int(found.get("S", 0)), fraction)
    seconds = (at.hour * 60 + at.minute) * 60 + at.second
    return seconds * SECOND_US + fraction - _offset_us(found.get("z", "Z"))


def _century(year: int) -> int:
    return year + (1900 if year > 68 else 2000)  # years of two digits, as POSIX defines them


def _month(found: Mapping[str, str]) -> int:
    word = found.get("b", found.get("B"))
    if word is None:
        return int(found.get("m", 1))
    return 1 + _WORDS["b"].index(word[:3].title())


def _hour(found: Mapping[str, str]) -> int:
    if "I" not in found:
        return int(found.get("H", 0))
    hour = int(found["I"])
    if not 1 <= hour <= 12:
        raise ValueError("no such hour of half a day")
    return hour % 12 + 12 * (found["p"].upper() == "PM")


def _offset_us(zone: str) -> int:
    if zone.upper() in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    us = (int(digits[:2]) * 60 + int(digits[2:])) * 60_000_000
    return -us if zone[0] == "-" else us
