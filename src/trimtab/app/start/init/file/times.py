"""Find the format in which the texts of a column write times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import parse_time_us
from trimtab.events.formats.time_formats import time_format

ISO = ""  # the general grammar of times, which needs no declared format
_DAYS = [
    *("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d"),
    *("%Y.%m.%d", "%Y-%m-%d", "%b %d, %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%B %d, %Y", "%d %B %Y", "%d. %B %Y"),
    *("%a, %d %b %Y",),
]
_CLOCKS = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S %z", ", %H:%M"]
_MONTHS = ["%Y-%m", "%Y/%m", "%m/%Y", "%b %Y", "%B %Y"]
FORMATS = [ISO, *(day + clock for day in _DAYS for clock in _CLOCKS), "%Y%m%d %H:%M", "%Y%m%d %H:%M:%S", *_MONTHS]
UNITS = {"unix_s": 1_000_000, "unix_ms": 1_000, "unix_us": 1}


class Times(msgspec.Struct, frozen=True):
    """The format that fits the most texts of a sample, and what speaks against it."""

    written: str
    fits: int  # how many texts it fits
    doubtful: str | None  # the format with day and month swapped, if it fits as many texts, and gives other times
    others: dict[str, list[str]]  # some of the texts that do not fit, by the format that they fit


def times_in(texts: Sequence[str]) -> Times | None:
    """Return how texts write times; None if no format fits any text.

    >>> times_in(["31.12.2024 14:05", "1.2.2024 00:10"]).written
    '%d.%m.%Y %H:%M'
    >>> times_in(["03/04/2024", "05/06/2024"]).doubtful
    '%m/%d/%Y'
    >>> [times_in([text]).written for text in ("2024-07", "07/2024", "Jul 2024")]
    ['%Y-%m', '%m/%Y', '%b %Y']
    """
    if texts and all(map(reader(ISO), texts)):  # all declared formats accept full ISO 8601 texts, and take long
        return Times(ISO, len(texts), None, {})
    probe = list(texts[:: max(1, len(texts) // 40)])
    counts = {written: sum(map(reader(written), texts)) for written in FORMATS if any(map(reader(written), probe))}
    if not counts:
        return None
    best = max(counts, key=lambda written: counts[written])
    twin = best.translate(str.maketrans("dm", "md"))
    doubtful = twin if twin != best and counts.get(twin) == counts[best] and _differ(texts, best, twin) else None
    return Times(best, counts[best], doubtful, others_in([text for text in texts if not reader(best)(text)]))


def others_in(misfits: Sequence[str]) -> dict[str, list[str]]:
    """Return the texts that fit some known format, by format."""
    found: dict[str, list[str]] = {}
    for text in misfits:
        written = next((written for written in FORMATS if reader(written)(text)), None)
        if written is not None:
            found.setdefault(written, []).append(text)
    return found


@lru_cache(maxsize=1024)
def reader(written: str) -> Callable[[str], bool]:
    """Return a function that tells whether a text is a time, written in the given format."""
    convert = parse_time_us if written == ISO else time_format(written).us
    digits_before = written.startswith("%Y")

    def fits(text: str) -> bool:
        # with any declared format, full ISO 8601 texts are accepted, too, but they do not count as fitting the format
        if written not in (ISO, *UNITS) and text[10:11] == "T" and not digits_before:
            return False
        try:
            convert(text)
        except Misuse:
            return False
        return True

    return fits


def _differ(texts: Sequence[str], one: str, other: str) -> bool:
    """Return whether two formats give different times for a text that both fit."""
    both = [text for text in texts if reader(one)(text) and reader(other)(text)]
    return any(time_format(one).us(text) != time_format(other).us(text) for text in both)
