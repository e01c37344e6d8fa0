"""Choose the ticks of an axis: round numbers and round times."""

import math
from datetime import UTC, datetime, timedelta

from trimtab.core.errors import Misuse

_SECOND = 1_000_000
_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800]
_STEPS_MONTHS = [1, 2, 3, 6, 12, 24, 60, 120]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def number_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers, the first at or below `low` and the last at or above `high`.

    They are 1, 2 or 5 times a power of ten apart.

    >>> number_ticks(0.37, 0.41)
    [0.37, 0.38, 0.39, 0.4, 0.41]
    """
    if not -1e300 <= low <= high <= 1e300:
        raise Misuse(f"ticks: needs ends in order and within 1e300, found {low} and {high}.")
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-290):
        low, high = (min(low, 0.0), max(high, 0.0)) if abs(low) > 1e-280 else (-1.0, 1.0)
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power, 50 * power):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(k * step, digits) for k in range(first, last + 1)]


def time_ticks(low_us: int, high_us: int, most: int = 8) -> list[tuple[int, str]]:
    """Return round UTC times within [low, high], each with a label.

    Ticks that are less than a day apart have the time of day as label, and the date where it differs from that of the
    previous tick. Ticks that are days or weeks apart have the date, and others the month. Both have the year where it
    differs from that of the previous tick.

    >>> day = 86_400_000_000
    >>> [label for _, label in time_ticks(15_706 * day, 16_070 * day, most=5)]
    ['Jan 2013', 'Apr', 'Jul', 'Oct']
    """
    if low_us > high_us:
        raise Misuse(f"ticks: needs times in order, found {low_us} and {high_us}.")
    for step_s in _STEPS_S:
        step = step_s * _SECOND
        offset = 4 * 86_400 * _SECOND if step_s == 604_800 else 0  # 1970 began on a Thursday, weeks begin on Mondays
        first = low_us + (offset - low_us) % step
        if (high_us - first) // step + 1 <= most:
            times = list(range(first, high_us + 1, step))
            return list(zip(times, _clock_labels(times, step_s), strict=True))
    for months in _STEPS_MONTHS:
        times = _months(low_us, high_us, months)
        if len(times) <= most:
            break
    return list(zip(times, _month_labels(times), strict=True))


def utc(at_us: int) -> datetime:
    """Return a time in microseconds since 1970 as a UTC datetime."""
    return _EPOCH + timedelta(microseconds=at_us)


def _months(low_us: int, high_us: int, step: int) -> list[int]:
    start = utc(low_us)
    number = (start.year * 12 + start.month - 1) // step * step
    found: list[int] = []
    while number < 9999 * 12:
        at = (datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
        if at > high_us:
            break
        if at >= low_us:
            found.append(at)
        number += step
    return found


def _month_labels(times: list[int]) -> list[str]:
    labels: list[str] = []
    year = None
    for at in map(utc, times):
        labels.append(f"{at:%b %Y}" if at.year != year else f"{at:%b}")
        year = at.year
    return labels


def _clock_labels(times: list[int], step_s: int) -> list[str]:
    labels: list[str] = []
    day, year = None, None
    for at in map(utc, times):
        date = f"{at.day} {at:%b}" + ("" if at.year == year else f" {at.year}")
        clock = f"{at:%H:%M:%S}" if step_s < 60 else f"{at:%H:%M}"
        if step_s >= 86_400:
            labels.append(date)
        else:
            labels.append(clock if at.date() == day else f"{at.day} {at:%b} {clock}")
        day, year = at.date(), at.year
    return labels
