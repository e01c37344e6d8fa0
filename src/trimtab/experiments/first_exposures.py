"""The first exposure of each unit on a day, found in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.experiments.exposures import ExposureBlock

Array = NDArray[Any]

_BUCKETS = 16  # units are sorted in this many groups, one after another, which takes less memory
_WAITING = 1 << 16  # so many exposures of a group wait before they are sorted
_CHUNK_ROWS = 100_000


class FirstExposures(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The first exposure of each unit, in the order of the units' hashes: arrays of shape (units,)."""

    keys: Array  # uint64: the hashes of the units, as in `ExposureBlock`
    at_us: Array
    places: Array
    variants: Array
    met_another: Array  # uint64, the sorted hashes of units that were exposed to a second variant, also on earlier days

    def __len__(self) -> int:
        return len(self.keys)

    def packed(self) -> bytes:
        """Return the hashes and variants of the units as bytes, nine bytes for each unit."""
        return self.keys.astype("<u8").tobytes() + self.variants.astype(np.uint8).tobytes()

    def rows_of(self, keys: Array) -> tuple[Array, Array]:
        """Return for each hash of a unit its row, and whether the unit is here (otherwise the row means nothing)."""
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        return rows, (self.keys[rows] == keys) if len(self.keys) else np.zeros(len(keys), bool)

    def crossed(self, blocks: Iterable[ExposureBlock]) -> Array:
        """Return which of the units were exposed to another variant later, in any of the given blocks, as booleans."""
        found = np.zeros(len(self), bool)
        for block in blocks if len(self) else ():
            rows, there = self.rows_of(block.keys)
            later = there & (block.at_us > self.at_us[rows])
            found[rows[later & (self.variants[rows] != block.variants)]] = True
        return found

    def chunks(self, blocks: Iterable[ExposureBlock], rows: int = _CHUNK_ROWS) -> Iterator[ExposureBlock]:
        """Yield the first exposures with all their columns, in the order of the log, in chunks of at least `rows`.

        The last chunk may be smaller. `blocks` are the exposures that `first_exposures` was given.
        """
        waiting: list[ExposureBlock] = []
        for block in blocks if len(self) else ():
            at, there = self.rows_of(block.keys)
            there &= self.places[at] == block.places
            if there.any():
                waiting.append(block.take(there))
            if sum(map(len, waiting)) >= rows:
                yield ExposureBlock.concat(waiting)
                waiting = []
        if waiting:
            yield ExposureBlock.concat(waiting)


def first_exposures(
    blocks: Iterable[ExposureBlock],
    earlier: Iterable[tuple[Array, Array]] = (),
    fallbacks: Iterable[ExposureBlock] = (),
) -> FirstExposures:
    """Return the first exposure of each unit, by time and then by place in the log.

    Args:
        blocks: The exposures, in any order. They may be repeated.
        earlier: Sorted hashes, and variants, of units that were first exposed on earlier days. They are left out, but
            count for `met_another`.
        fallbacks: Exposures of units that got the control because they did not take part (for example, they no longer
            fulfilled `where`). They only count for `met_another`, if the unit's first variant is not the control.
    """
    groups = [_Group() for _ in range(_BUCKETS)]
    shift = np.uint64(64 - (_BUCKETS - 1).bit_length())
    for block in blocks:
        group_of = (block.keys >> shift).astype(np.int64)
        order = np.argsort(group_of, kind="stable")
        ends = np.searchsorted(group_of[order], np.arange(_BUCKETS + 1))
        for number, group in enumerate(groups):
            group.add(block, order[ends[number] : ends[number + 1]])
    for group in groups:
        group.settle()
    found = [np.concatenate([group.columns[n] for group in groups]) for n in range(4)]
    first = np.ones(len(found[0]), bool)  # the rows with the first variant of each unit on this day
    first[1:] = found[0][1:] != found[0][:-1]
    crossed = ~first
    fell_us: list[Array] = [np.zeros((2, 0), np.uint64), *(np.array([b.keys, b.at_us], np.uint64) for b in fallbacks)]
    fallen, fallen_us = np.concatenate(fell_us, axis=1)
    met = list[Array]()
    for keys, variants in earlier:
        if len(keys):
            rows = np.minimum(np.searchsorted(keys, found[0]), len(keys) - 1)
            there = keys[rows] == found[0]
            first &= ~there
            crossed[there] = variants[rows[there]] != found[3][there]
            rows = np.minimum(np.searchsorted(keys, fallen), len(keys) - 1)
            met.append(fallen[(keys[rows] == fallen) & (variants[rows] != 0)])
    met.append(found[0][crossed])
    keys, at_us, places, variants = (values[first] for values in found)
    of_day = FirstExposures(keys=keys, at_us=at_us, places=places, variants=variants, met_another=keys[:0])
    rows, there = of_day.rows_of(fallen)
    if len(of_day):
        met.append(fallen[there & (variants[rows] != 0) & (fallen_us > at_us[rows].astype(np.uint64))])
    return msgspec.structs.replace(of_day, met_another=np.unique(np.concatenate(met)))


def not_in(keys: Array, others: Iterable[bytes]) -> Array:
    """Return the sorted hashes of units in `keys` without those in `others`, which are packed (`keys.tobytes()`)."""
    for packed in others:
        keys = np.setdiff1d(keys, np.frombuffer(packed, "<u8"), assume_unique=True)
    return keys


def unpacked_units(packed: bytes) -> tuple[Array, Array]:
    """Return the sorted hashes and the variants of the units in bytes that `FirstExposures.packed` made.

    Raises:
        Corrupt: The number of bytes is impossible.
    """
    if len(packed) % 9:
        raise Corrupt(f"exposed units: found {len(packed)} bytes, needed a multiple of 9. Restore the blob store.")
    count = len(packed) // 9
    return np.frombuffer(packed, "<u8", count=count), np.frombuffer(packed, np.uint8, offset=8 * count)


class _Group:
    """The units whose hashes begin with the same bits.

    `columns` are the first four fields of `FirstExposures`, with a row for each variant that a unit was exposed to,
    sorted by unit and time.
    """

    def __init__(self) -> None:
        kinds = (np.uint64, np.int64, np.int64, np.uint8)
        self.columns: list[Array] = [np.zeros(0, kind) for kind in kinds]
        self._waiting: list[list[Array]] = []
        self._rows = 0

    def add(self, block: ExposureBlock, rows: Array) -> None:
        self._waiting.append([values[rows] for values in (block.keys, block.at_us, block.places, block.variants)])
        self._rows += len(rows)
        if self._rows > _WAITING:
            self.settle()

    def settle(self) -> None:
        """Sort the exposures that wait, and keep the first one of each unit to each variant."""
        parts = [self.columns, *self._waiting]
        keys, at_us, places, variants = (np.concatenate([part[n] for part in parts]) for n in range(4))
        order = np.lexsort((places, at_us, variants, keys))
        first = np.ones(len(order), bool)
        first[1:] = (keys[order][1:] != keys[order][:-1]) | (variants[order][1:] != variants[order][:-1])
        order = order[first]
        order = order[np.lexsort((places[order], at_us[order], keys[order]))]
        self.columns = [keys[order], at_us[order], places[order], variants[order]]
        self._waiting, self._rows = [], 0
