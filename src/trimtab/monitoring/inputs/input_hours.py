"""Hourly summaries of logged predictions: counts over the bins of a profile, which can be added in any order."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import HOUR_US
from trimtab.monitoring.profiles.input_rows import Rows
from trimtab.monitoring.profiles.profile_records import NULL_CODES, Floats, InputProfile, null_code

SAMPLED = 128  # this many rows of an hour are kept whole, for checks that compare distributions
_QUICKLY = 1  # level of zlib: compared with the default 6, a twelfth more bytes in a fifth of the time
Counts = NDArray[np.int64]


class Layout:
    """The positions of each column's counts in one array; made once from a profile."""

    def __init__(self, profile: InputProfile) -> None:
        self.profile = profile
        self.edges = [column.edges for column in profile.columns]
        widths = [edges.size + 1 for edges in self.edges]
        self.offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
        bounds = [(column.least, column.most) for column in profile.columns]
        # For each column, `_counted` counts the values up to each of these: the edges, the upper limit, and the largest
        # number below the lower limit.
        self.counted_upto = [
            np.array(
                [*edges, np.inf if most is None else most, -np.inf if least is None else np.nextafter(least, -np.inf)]
            )
            for edges, (least, most) in zip(self.edges, bounds, strict=True)
        ]
        self.has_least = [least is not None for least, _ in bounds]
        self.known = [np.frombuffer(column.known, "<f8") for column in profile.columns]
        self._places = np.full((len(widths), max(widths, default=1)), int(self.offsets[-1]))
        self.usual = np.zeros(self._places.shape, np.int64)  # counts of the training rows, as `by_bin` gives them
        for place, (width, column) in enumerate(zip(widths, profile.columns, strict=True)):
            self._places[place, :width] = np.arange(self.offsets[place], self.offsets[place + 1])
            counts = np.frombuffer(column.counts, "<i8")
            self.usual[place, : counts.size] = counts
        self.usual_shares = np.cumsum(self.usual / np.maximum(self.usual.sum(axis=1), 1)[:, None], axis=1)
        # columns of times: all their values count as 0, because only nulls matter
        self.whole = np.array([column.kind == "time" for column in profile.columns])
        self.firsts = np.array([pair.first for pair in profile.pairs], np.int64)
        self.seconds = np.array([pair.second for pair in profile.pairs], np.int64)

    @property
    def width(self) -> int:
        return len(self.edges)

    def by_bin(self, bins: Counts) -> Counts:
        """The counts of each column by bin, shape (columns, bins); 0 beyond the bins of a column."""
        found: Counts = np.append(bins, 0)[self._places]
        return found


class HourCounts(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A summary of the rows of one version in some hours; the same rows give the same summary."""

    rows: int
    bins: Counts  # number of rows by bin, the columns one after the other; nulls are in no bin
    nulls: Counts  # shape (columns, NULL_CODES): number of nulls by reason (see `null_code`)
    strange: Counts  # shape (columns,): number of values that did not occur in training
    outside: Counts  # shape (columns,): number of extreme numbers
    low: Floats  # shape (columns,): the least value, infinity if there are no values
    high: Floats
    pairs: Counts  # shape (pairs, 2): number of rows in which either column is null, and in which both are
    marks: NDArray[np.uint64]  # hashes of the sampled rows' prediction ids, ascending; all other ids have larger hashes
    sample: Floats  # shape (sampled rows, columns): the values of these rows

    @cached_property
    def null_rows(self) -> list[int]:
        """The number of nulls of each column, for all reasons together."""
        found: list[int] = self.nulls.sum(axis=1).tolist()
        return found

    @cached_property
    def without_sample(self) -> HourCounts:
        """The summary without the rows that are kept whole."""
        return msgspec.structs.replace(self, marks=self.marks[:0], sample=self.sample[:0])

    @cached_property
    def encoded(self) -> bytes:
        """The bytes that are stored. They include the sampled rows."""
        packed = b"".join(np.ascontiguousarray(getattr(self, name)).tobytes() for name in _FIELDS)
        return zlib.compress(msgspec.msgpack.encode((self.rows, len(self.marks), packed)), _QUICKLY)

    @staticmethod
    def decode(data: bytes, layout: Layout) -> HourCounts | None:
        """Return the summary that some bytes contain; None if it was made with another profile."""
        rows, sampled, packed = msgspec.msgpack.decode(zlib.decompress(data), type=tuple[int, int, bytes])
        shapes = [field.shape(layout, sampled) for field in _FIELDS.values()]
        sizes = [math.prod(shape) for shape in shapes]
        if len(packed) != 8 * sum(sizes):
            return None
        found: dict[str, Any] = {}
        begin = 0
        for (name, field), shape, size in zip(_FIELDS.items(), shapes, sizes, strict=True):
            found[name] = np.frombuffer(packed, field.dtype, size, begin).reshape(shape)
            begin += 8 * size
        return HourCounts(rows, **found)


class _Field(msgspec.Struct, frozen=True):
    """How one array of `HourCounts` is stored, and how the arrays of several hours are merged."""

    dtype: str
    shape: Callable[[Layout, int], tuple[int, ...]]  # the shape, from a layout and a number of sampled rows
    merge: np.ufunc | None = np.add  # None: the sampled rows with the smallest marks are kept


_FIELDS: dict[str, _Field] = {  # in the order of the fields of the struct and of the stored bytes
    "bins": _Field("<i8", lambda layout, sampled: (int(layout.offsets[-1]),)),
    "nulls": _Field("<i8", lambda layout, sampled: (layout.width, NULL_CODES)),
    "strange": _Field("<i8", lambda layout, sampled: (layout.width,)),
    "outside": _Field("<i8", lambda layout, sampled: (layout.width,)),
    "low": _Field("<f8", lambda layout, sampled: (layout.width,), np.minimum),
    "high": _Field("<f8", lambda layout, sampled: (layout.width,), np.maximum),
    "pairs": _Field("<i8", lambda layout, sampled: (layout.firsts.size, 2)),
    "marks": _Field("<u8", lambda layout, sampled: (sampled,), None),
    "sample": _Field("<f8", lambda layout, sampled: (sampled, layout.width), None),
}


class SummedCounts:
    """The counts of one or more `HourCounts` together. Each of its fields is only added up when it is read."""

    def __init__(self, parts: Sequence[HourCounts]) -> None:
        self.rows = sum(one.rows for one in parts)
        self._parts = parts

    def __getattr__(self, name: str) -> Any:  # called once for each name
        found = np.add.reduce([getattr(one, name) for one in self._parts])
        setattr(self, name, found)
        return found


def merged(parts: Sequence[HourCounts]) -> HourCounts:
    """Merge one or more summaries, in any order."""
    if len(parts) == 1:
        return parts[0]
    whole: dict[str, Any] = {
        name: field.merge.reduce([getattr(one, name) for one in parts])
        for name, field in _FIELDS.items()
        if field.merge is not None
    }
    marks = np.concatenate([one.marks for one in parts])
    order = np.argsort(marks, kind="stable")[:SAMPLED]
    sample = np.concatenate([one.sample for one in parts])[order]
    return HourCounts(sum(one.rows for one in parts), **whole, marks=marks[order], sample=sample)


def outside(layout: Layout, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have an input that did not occur in training, or an extreme number; shape (rows,)."""
    found = np.zeros(len(rows.values), np.bool_)
    for place, column in enumerate(layout.profile.columns):
        if column.place != "input":
            continue
        values = rows.values[:, place]
        found |= rows.strange[:, place]
        if column.least is not None:
            found |= values < column.least
        if column.most is not None:
            found |= values > column.most
        if layout.known[place].size and column.covered >= 1.0:
            found |= ~np.isnan(values) & ~np.isin(values, layout.known[place])
    return found


def summarise_rows(
    layout: Layout, rows: Rows, made_at_us: NDArray[np.int64], ids: Sequence[str]
) -> dict[int, HourCounts]:
    """Summarise the predictions of one version, by the hour (since 1970) in which they were made.

    Args:
        ids: The ids of the predictions, whose hashes decide which rows are kept whole.
    """
    hours = made_at_us // HOUR_US
    found: dict[int, HourCounts] = {}
    for hour in np.unique(hours).tolist():
        mine = np.flatnonzero(hours == hour)
        if mine.size == len(hours):
            found[hour] = _counted(layout, rows, ids)
        else:
            part = Rows(rows.values[mine], rows.reasons[mine], rows.strange[mine])
            found[hour] = _counted(layout, part, [ids[row] for row in mine.tolist()])
    return found


def sampled(ids: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return the indices of the rows to keep whole (the ids with the smallest hashes), and their hashes."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in ids]
    first = np.fromiter(map(zlib.crc32, encoded), np.uint64, len(encoded))
    rows = np.arange(len(encoded))
    if rows.size > SAMPLED:  # only rows that may be kept need the second half of their hash
        rows = np.flatnonzero(first <= np.partition(first, SAMPLED - 1)[SAMPLED - 1])
    second = np.array([zlib.crc32(encoded[row][::-1], 77) for row in rows.tolist()], np.uint64)
    marks = (first[rows] << np.uint64(32)) | second
    order = np.argsort(marks, kind="stable")[:SAMPLED]
    return rows[order], marks[order]


def text_hashes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return a hash of 64 bits for each text. Only compare hashes within one process."""
    return np.fromiter(map(hash, texts), np.int64, len(texts))


def _counted(layout: Layout, rows: Rows, ids: Sequence[str]) -> HourCounts:
    values, strange = rows.values, rows.strange
    if layout.whole.any():
        values = np.where(layout.whole & ~np.isnan(values), 0.0, values)
    missing = np.asarray(np.isnan(values), np.bool_)
    upto = np.zeros(int(layout.offsets[-1]), np.int64)
    new = strange.sum(axis=0) if strange.any() else np.zeros(layout.width, np.int64)
    outside = np.zeros(layout.width, np.int64)
    low, high = np.full(layout.width, np.inf), np.full(layout.width, -np.inf)
    # nulls are sorted last; searching the few edges among the sorted values is faster than placing each value
    in_order = np.sort(values.T, axis=1)
    present = len(values) - missing.sum(axis=0)
    for column, limits in enumerate(layout.counted_upto):
        there = in_order[column, : present[column]]
        counts = np.searchsorted(there, limits, side="right")
        upto[layout.offsets[column] : layout.offsets[column + 1] - 1] = counts[:-2]
        outside[column] = there.size - counts[-2] + (counts[-1] if layout.has_least[column] else 0)
        known = layout.known[column]
        if known.size:
            equal = np.searchsorted(there, known, side="right") - np.searchsorted(there, known)
            new[column] += there.size - int(equal.sum())
        if there.size:
            low[column], high[column] = there[0], there[-1]
    upto[layout.offsets[1:] - 1] = present
    bins = np.diff(upto, prepend=0)
    bins[layout.offsets[1:-1]] = upto[layout.offsets[1:-1]]
    null: NDArray[np.bool_] = missing & ~strange
    row, of = np.nonzero(null) if missing.any() else (np.zeros(0, np.intp), np.zeros(0, np.intp))
    codes = of * NULL_CODES + null_code(rows.reasons[row, of])
    pairs = np.zeros((layout.firsts.size, 2), np.int64)
    if layout.firsts.size:
        first, second = null[:, layout.firsts], null[:, layout.seconds]
        pairs = np.stack([(first | second).sum(axis=0), (first & second).sum(axis=0)], axis=1)
    whole, marks = sampled(ids)
    return HourCounts(
        len(values),
        bins,
        np.bincount(codes, minlength=layout.width * NULL_CODES).reshape(layout.width, NULL_CODES),
        new.astype(np.int64),
        outside,
        low,
        high,
        pairs,
        marks,
        values[whole],
    )
