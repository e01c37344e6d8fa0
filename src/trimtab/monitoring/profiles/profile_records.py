"""The input profile of a version: its training rows by column, and their spread over windows of hours."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.features.frames import NO_VIEW, REASONS

FORMAT: Literal[1] = 1
BINS = 64  # number of quantile bins of a column
WINDOWS_H = (1, 3, 6, 12, 24)  # lengths of the reference windows, in hours
REFERENCE_H = 28 * 24  # number of hours at the end of the training rows that reference windows are made from
VALUE_BYTES = 50_000  # size limit of the known values of one column
NULL_CODES = len(REASONS) + 1  # the reasons of features, and one more for values that come from no view
NO_REASON = len(REASONS)

Kind: TypeAlias = Literal["number", "code", "category", "bool", "time", "text"]
Place: TypeAlias = Literal["input", "request"]
Statistic: TypeAlias = Literal["null", "strange", "distance"]
Floats: TypeAlias = NDArray[np.float64]


def null_code(reasons: NDArray[Any]) -> NDArray[Any]:
    """The index of each null in a table of `NULL_CODES` counts, from its code in `REASONS` or `NO_VIEW`."""
    return np.where(reasons == NO_VIEW, NO_REASON, np.minimum(reasons, NO_REASON)).astype(np.int64)


class Spread(msgspec.Struct, frozen=True, dict=True):
    """A statistic over reference windows: its median and its high end, by window length and hour of day.

    The high end leaves out one window in fourteen, so that a short fault in the training rows does not hide later
    faults.
    """

    middle: bytes  # float32, shape (len(WINDOWS_H), 24), by the hour of day in which a window ends
    high: bytes

    def high_at(self, hours: int, hour: int) -> float:
        """The high end for a window of the given number of hours that ends in a given hour (since 1970)."""
        return float(self._highs[_place(hours), hour % 24])

    def most(self, hours: int) -> float:
        """The high end for a window of the given number of hours, whenever it ends."""
        return float(self._highs[_place(hours)].max())

    @cached_property
    def _highs(self) -> NDArray[np.float32]:
        return np.frombuffer(self.high, "<f4").reshape(len(WINDOWS_H), 24)


def _place(hours: int) -> int:
    """The row of a table of windows that holds windows of the given number of hours."""
    return sum(1 for length in WINDOWS_H if length <= hours) - 1


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One model input, or a column of the request that is not an input."""

    name: str
    place: Place
    kind: Kind
    of: str | None  # the request column that an input is, or of which it is the category
    source: str | None  # the source from whose events an input is computed
    rows: int
    nulls: tuple[int, ...]  # number of nulls by reason, `NULL_CODES` of them
    distinct: int  # number of distinct values
    top_share: float  # share of the most common value among all values
    lowest: float | None
    highest: float | None
    least: float | None  # a value below this is extreme; None: no limit
    most: float | None
    quantiles: bytes  # float64: BINS + 1 of them, the smallest and the largest value among them; empty: no numbers
    counts: bytes  # int64, rows by bin
    known: bytes  # float64, sorted: the known values of codes and texts (as hashes); empty: any value is allowed
    covered: float  # share of the rows whose value is in `known`: below 1 if not all values fit into `VALUE_BYTES`
    constant_h: int  # length of the longest run of reference hours with a single value
    spreads: dict[Statistic, Spread]

    @property
    def edges(self) -> Floats:
        """The inner edges of the bins, shape (bins - 1,); each edge belongs to the bin that ends there."""
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
    """Two columns that were missing together in training."""

    first: int  # indices of the two columns
    second: int
    either: int  # number of rows in which at least one of them was null
    both: int


class LabelDays(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of rows and labels by training day, for days whose labels are final."""

    first_day: int  # number of the day since 1970
    rows: bytes  # uint32
    labelled: bytes  # uint32: number of rows with a label
    sums: bytes  # float64: sums of the labels

    @property
    def columns(self) -> tuple[Floats, Floats, Floats]:
        """Rows, labelled rows and sums of the days."""
        rows, labelled = (np.frombuffer(one, "<u4").astype(np.float64) for one in (self.rows, self.labelled))
        return rows, labelled, np.frombuffer(self.sums, "<f8")


class InputProfile(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The profile of the rows of a training set. It contains no texts of these rows, only numbers and hashes."""

    format: Literal[1] = FORMAT
    rows: int
    from_us: int
    until_us: int
    columns: tuple[ColumnProfile, ...]  # the inputs in the order of the matrix, then columns of the request
    pairs: tuple[Pair, ...]
    request: tuple[str, ...]  # the request's columns in declared order
    first_hour: int  # hours since 1970 that `hour_rows` is about
    hour_rows: bytes  # uint32: number of rows of each reference hour
    labels: LabelDays

    @cached_property
    def week(self) -> Floats:
        """Mean rows by hour of the week (hours since 1970 modulo 168), NaN for an hour without a reference hour."""
        rows = np.frombuffer(self.hour_rows, "<u4").astype(np.float64)
        phase = (self.first_hour + np.arange(rows.size)) % 168
        sums, hours = np.bincount(phase, rows, 168), np.bincount(phase, minlength=168)
        return np.where(hours, sums / np.maximum(hours, 1), np.nan)


def encode_profile(profile: InputProfile) -> bytes:
    """The bytes of a profile: its format, then its packed content."""
    return bytes([FORMAT]) + zlib.compress(msgspec.msgpack.encode(profile), 6)


def decode_profile(data: bytes) -> InputProfile:
    """The profile that some bytes contain.

    Raises:
        Corrupt: The bytes are damaged, or in a format that this version of trimtab does not know.
    """
    if data[:1] != bytes([FORMAT]):
        raise Corrupt(
            f"input profile: format {data[:1].hex() or 'empty'}, this trimtab reads {FORMAT:02x}. Upgrade it."
        )
    try:
        return msgspec.msgpack.decode(zlib.decompress(data[1:]), type=InputProfile)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise Corrupt(f"input profile: damaged ({error}). It is made again from the training set.") from error
