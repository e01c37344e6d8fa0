"""The options of `trimtab init`, and the assumptions that replace options that are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.app.start.init.file.kinds import Choices
from trimtab.core.errors import Misuse
from trimtab.events.formats.number_formats import number_format
from trimtab.events.formats.reading import null_form
from trimtab.events.formats.time_formats import time_format

Estimator = Literal["auto", "linear", "trees"]
ROW = "row"  # as the value of --key: a row is identified by all its columns
NONE = "none"  # as the value of --known-at or --entity: there is no such column


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the caller. An option that is None is guessed."""

    time: str | None = None
    key: str | None = None  # a column, or several with commas in between
    label: str | None = None
    entity: Sequence[str] = ()  # columns besides the key that say whom or what a row is about, such as its customer
    positive: str | None = None  # the value of the label that counts as 1
    known_at: str | None = None  # the column that says when a label became known
    wait: str | None = None  # how long after a row its label is known
    time_format: str | Sequence[str] | None = None  # the format of the time, or COLUMN=FORMAT
    number: Sequence[str] = ()  # how columns write the number 1234.56, as COLUMN=EXAMPLE
    nulls: str | None = None  # words for null, with commas between them
    category: Sequence[str] = ()  # columns that are categories, although they look like numbers
    merge: Sequence[str] = ()  # columns of texts in which spellings that differ only in case or spaces become one
    horizon: str | None = None  # how long before its time a row of a panel (see `panels.py`) is predicted
    known_ahead: Sequence[str] = ()  # columns of a panel whose values are known when a row is predicted
    omit: Sequence[str] = ()  # columns that are no features
    allow_leakage: Sequence[str] = ()  # features that nearly determine the label, and are known in time
    estimator: Estimator = "auto"

    def choices(self) -> Choices:
        """Return the formats that the caller gave.

        Raises:
            Misuse: A format is given without the column that it is for, or is invalid.
        """
        given = [self.time_format] if isinstance(self.time_format, str) else list(self.time_format or ())
        times = _by_column(given, "--time-format", self.time)
        for text in times.values():
            time_format(text)
        numbers = _by_column(self.number, "--number", None)
        for text in numbers.values():
            number_format(text)
        words = None if self.nulls is None else tuple(null_form(word) for word in self.nulls.split(",") if word.strip())
        return Choices(times=times, numbers=numbers, nulls=words, categories=tuple(self.category))


class Assumption(msgspec.Struct, frozen=True):
    """A choice that was made for the caller: what was assumed and why, and the option that changes it."""

    role: str
    said: str
    option: str

    @property
    def text(self) -> str:
        """The assumption in one line."""
        return f"{self.role}: {self.said} ({self.option})"


def _by_column(given: Sequence[str], option: str, usual: str | None) -> dict[str, str]:
    """Return formats by column, given as COLUMN=FORMAT, or as a format alone for the default column."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, written = text.partition("=")
        if not equals or "%" in name:
            name, written = usual or "", text
        if not name:
            raise Misuse(f"{option} {text!r}: name the column as well: {option} COLUMN={text}")
        found[name.strip()] = written.strip()
    return found
