"""The input profile of a version: for each input, the distribution of its training values and how much it varies."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from functools import cached_property
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.core.time import DAY_US
from trimtab.features.frames import NO_VIEW, REASONS

FORMAT: Literal[1] = 1
BINS = 64  # the number of bins of a column; their edges are quantiles
# the lengths of windows, in hours, over which statistics are compared with the training rows
WINDOWS_H = (1, 3, 6, 12, 24)
REFERENCE_H = 28 * 24  # these windows are taken from this many hours at the end of the training rows
VALUE_BYTES = 50_000  # the largest size of the stored known values of a column
# one for each reason why a value of a view is null, and one for values that do not come from a view
NULL_CODES = len(REASONS) + 1
NO_REASON = len(REASONS)

Kind: TypeAlias = Literal["number", "code", "category", "bool", "time", "text"]
Place: TypeAlias = Literal["input", "request"]
Statistic: TypeAlias = Literal["null", "strange", "distance"]
Floats: TypeAlias = NDArray[np.float64]


def null_code(reasons: NDArray[Any]) -> NDArray[Any]:
    """Return for each null the index of its count in `ColumnProfile.nulls`.

    `reasons` has the code of each null: an index of `REASONS`, or `NO_VIEW`.
    """
    return np.where(reasons == NO_VIEW, NO_REASON, np.minimum(reasons, NO_REASON)).astype(np.int64)


class Spread(msgspec.Struct, frozen=True, dict=True):
    """A statistic's median and high end over windows of the training rows, by the windows' length and hour of the day.

    The high end is the largest value after the highest fourteenth of the windows was left out, so that a short fault in
    the training rows does not hide later faults.
    """

    # float32, shape (len(WINDOWS_H), 24); the second index is the hour of the day in which the window ends
    middle: bytes
    high: bytes

    def high_at(self, hours: int, hour: int) -> float:
        """Return the high end for a window of `hours` that ends in the hour `hour` (counted since 1970)."""
        return float(self._highs[_place(hours), hour % 24])

    def highs_of_hour(self, hours: NDArray[np.int64]) -> Floats:
        """Return the high ends for windows of one hour, for several hours (counted since 1970)."""
        found: Floats = self._highs[_place(1), hours % 24].astype(np.float64)
        return found

    def most(self, hours: int) -> float:
        """Return the largest high end for windows of `hours`, over all hours of the day."""
        return self._mosts[_place(hours)]

    @cached_property
    def _highs(self) -> NDArray[np.float32]:
        return np.frombuffer(self.high, "<f4").reshape(len(WINDOWS_H), 24)

    @cached_property
    def _mosts(self) -> list[float]:
        found: list[float] = self._highs.max(axis=1).tolist()
        return found


def _place(hours: int) -> int:
    """Return the index of the longest length in `WINDOWS_H` that is not longer than `hours`."""
    return bisect_right(WINDOWS_H, hours) - 1


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The profile of one input of the model, or of a request column that is not an input."""

    name: str
    place: Place
    kind: Kind
    of: str | None  # the request column, if the input is that column unchanged or as a category; otherwise None
    source: str | None  # the event source from which an input is computed; None: there is none, or there are several
    rows: int
    nulls: tuple[int, ...]  # the number of nulls for each of the `NULL_CODES` reasons
    distinct: int  # the number of distinct values
    top_share: float  # the share of the most frequent value, among the rows without a null
    lowest: float | None  # the smallest value; None: a column of texts, or without values
    highest: float | None
    least: float | None  # values below this are extreme; None: no limit
    most: float | None
    # float64: the BINS + 1 quantiles from the smallest to the largest value; empty: not a column of numbers
    quantiles: bytes
    counts: bytes  # int64: the number of rows in each bin
    known: bytes  # float64, sorted: the values (or hashes of texts) that occurred; empty: not checked for new values
    # the share of the rows without a null whose value is in `known`; below 1 if not all values fit into `VALUE_BYTES`
    covered: float
    # the longest time in hours for which the column had only one value, including hours without values in between
    constant_h: int
    spreads: dict[Statistic, Spread]
    # up to this length, a run of hours with too many nulls is normal; 0: no run is; see `null_runs.py`
    null_h: float = 0.0

    @property
    def edges(self) -> Floats:
        """The edges between bins, shape (bins - 1,). A value equal to an edge is in the lower bin."""
        found = np.unique(np.frombuffer(self.quantiles, "<f8")[1:-1])
        return found if found.size else np.zeros(0)

    @property
    def is_number(self) -> bool:
        return self.kind in ("number", "code", "bool")

    @property
    def null_share(self) -> float:
        return sum(self.nulls) / max(self.rows, 1)

    @property
    def subject(self) -> str:
        return f"column {self.name}"


class Pair(msgspec.Struct, frozen=True):
    """Two columns that were usually null in the same rows of the training data."""

    first: int  # the index of one column
    second: int
    either: int  # the number of rows in which at least one of the two is null
    both: int


class LabelDays(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of rows and labels on each training day. Only days whose labels are final are included."""

    first_day: int  # the first day, counted since 1970
    rows: bytes  # uint32: for each day, the number of rows
    labelled: bytes  # uint32: the number of rows with a label
    sums: bytes  # float64: the sum of the labels
    classes: dict[str, bytes] = {}  # for several classes: for each class, the number of its labels on each day; uint32

    @property
    def columns(self) -> tuple[Floats, Floats, Floats]:
        """Return rows, labelled rows and sums of labels as arrays with one value per day."""
        rows, labelled = (np.frombuffer(one, "<u4").astype(np.float64) for one in (self.rows, self.labelled))
        return rows, labelled, np.frombuffer(self.sums, "<f8")

    @property
    def end_us(self) -> int | None:
        """The end of the newest day that has a label; None if no day has one."""
        days = np.flatnonzero(self.columns[1])
        return (self.first_day + int(days[-1]) + 1) * DAY_US if days.size else None


class InputProfile(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The profile of the rows of a training set. It contains only numbers and hashes, and no texts of the rows."""

    format: Literal[1] = FORMAT
    rows: int
    from_us: int
    until_us: int
    # the model's inputs in the order of the matrix, then the other columns of the request
    columns: tuple[ColumnProfile, ...]
    pairs: tuple[Pair, ...]
    request: tuple[str, ...]  # all columns of the request, in declared order
    first_hour: int  # the first hour of `hour_rows`, counted since 1970
    hour_rows: bytes  # uint32: the number of training rows in each hour of the newest four weeks
    labels: LabelDays

    @cached_property
    def week(self) -> Floats:
        """The mean number of rows for each hour of the week (hours since 1970 modulo 168); NaN: no such hour."""
        rows = np.frombuffer(self.hour_rows, "<u4").astype(np.float64)
        phase = (self.first_hour + np.arange(rows.size)) % 168
        sums, hours = np.bincount(phase, rows, 168), np.bincount(phase, minlength=168)
        return np.where(hours, sums / np.maximum(hours, 1), np.nan)


def encode_profile(profile: InputProfile) -> bytes:
    """Return the profile as bytes: the format as a number, followed by the encoded content."""
    return bytes([FORMAT]) + zlib.compress(msgspec.msgpack.encode(profile), 6)


def decode_profile(data: bytes) -> InputProfile:
    """Return the profile in some bytes.

    Raises:
        Corrupt: The bytes are damaged, or have a format that this version of trimtab does not know.
    """
    if data[:1] != bytes([FORMAT]):
        raise Corrupt(
            f"input profile: format {data[:1].hex() or 'empty'}, this trimtab reads {FORMAT:02x}. Upgrade trimtab."
        )
    try:
        return msgspec.msgpack.decode(zlib.decompress(data[1:]), type=InputProfile)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise Corrupt(f"input profile: damaged ({error}). The profile is made again from the training set.") from error
