"""The declared format of one column: how texts write its values, and which texts mean null."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from trimtab.events.formats.number_formats import NumberFormat
from trimtab.events.formats.time_formats import TimeFormat


class ColumnFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for the texts of a column, in addition to those in `values/conversions.py`."""

    is_null: Callable[[str], object]  # whether a text is a declared word for null
    times: TimeFormat | None = None
    numbers: NumberFormat | None = None

    @property
    def text(self) -> str:
        """The declared format of times or numbers, or "" if only words for null are declared."""
        return self.times.text if self.times else self.numbers.text if self.numbers else ""


@lru_cache(maxsize=256)
def null_test(words: Sequence[str]) -> Callable[[str], object]:
    """Return a function that tests whether a text is one of some words. Case and surrounding spaces do not matter.

    >>> is_null = null_test(("-", "unknown"))
    >>> bool(is_null(" Unknown")), bool(is_null("--"))
    (True, False)
    """
    if not words:
        return lambda text: False
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, words))})\s*", re.IGNORECASE).fullmatch
