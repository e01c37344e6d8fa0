"""The log of exposures: which unit was exposed to which variant, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Dtype, column
from trimtab.core.errors import Corrupt
from trimtab.experiments.assignment import whole
from trimtab.experiments.days import EARLY_US, LATE_US
from trimtab.experiments.records import Exposure
from trimtab.store.log_places import position_before, records_between
from trimtab.store.ports import Log, LogRecord

FORMAT = b"\x01"  # the first byte of a payload; then the exposure as a msgpack array
ERASED = b"\x00"  # the payload of an erased exposure
_POSITION_BITS = 44
# added to the numbers of this log's partitions, so that they differ from those of the prediction log, where the
# exposures of experiments over versions are
_OF_THIS_LOG = 1 << 18
_BLOCK = 10_000

Array = NDArray[Any]


class ExposureBlock(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Some exposures as columns: arrays of shape (rows,)."""

    units: Array  # object: the unit as text
    keys: Array  # uint64: a hash of the unit; for a switchback, of the unit and the time block
    at_us: Array  # int64
    places: Array  # int64: the partition and the position in the log, as one number
    variants: Array  # uint8: the number of the assigned variant among the declared ones
    reasons: Array  # object: why the variant was not shown; "": it was shown
    overrides: Array  # bool
    attributes: Array  # object: the values of attributes, as a msgpack map

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Array | slice) -> ExposureBlock:
        """Return the exposures at `rows`: positions, a boolean mask or a slice."""
        return ExposureBlock(**{name: getattr(self, name)[rows] for name in self.__struct_fields__})

    @staticmethod
    def concat(blocks: Sequence[ExposureBlock]) -> ExposureBlock:
        """Return the exposures of several blocks as one."""
        names = ExposureBlock.__struct_fields__
        return ExposureBlock(**{name: np.concatenate([getattr(one, name) for one in blocks]) for name in names})


class Intake(msgspec.Struct, frozen=True):
    """The times of exposures that may be the first of their unit on a day: `from_us` to `until_us` (exclusive)."""

    from_us: int
    until_us: int
    known_by_us: int  # exposures that were logged later do not count
    late_us: int = LATE_US  # exposures that were logged longer than this after their own time do not count, either

    def records(self, log: Log) -> Iterator[tuple[int, list[LogRecord]]]:
        """Yield the records of a log that may be about this time, in blocks, each with the number of its partition."""
        end_us = min(self.until_us + self.late_us, self.known_by_us + 1)
        for number, (partition, last) in enumerate(sorted(log.positions().items())):
            after = position_before(log, partition, last, self.from_us - EARLY_US)
            through = position_before(log, partition, last, end_us)
            for records in records_between(log, partition, after, through, batch=_BLOCK):
                yield number, records

    def holds(self, at_us: int, appended_at_us: int) -> bool:
        """Return whether an exposure at `at_us` that was logged at `appended_at_us` counts."""
        in_time = self.from_us <= at_us < self.until_us and appended_at_us <= self.known_by_us
        return in_time and -EARLY_US <= appended_at_us - at_us <= self.late_us

    def block(self, number: int, rows: Sequence[tuple[int, Exposure]], variants: Mapping[str, int]) -> ExposureBlock:
        """Return exposures as columns.

        Args:
            number: The number of the partition.
            rows: The position in the log of each exposure, and the exposure.
            variants: The numbers of the variants. An exposure to an unknown variant is left out.
        """
        rows = [(place, one) for place, one in rows if one.variant in variants]
        found = [one for _, one in rows]
        named = [f"{one.unit}@{one.block}" if one.block else one.unit for one in found]
        return ExposureBlock(
            units=_objects([one.unit for one in found]),
            keys=unit_keys(named),
            at_us=np.array([one.at_us for one in found], np.int64),
            places=np.array([place for place, _ in rows], np.int64) | number << _POSITION_BITS,
            variants=np.array([variants[one.variant] for one in found], np.uint8),
            reasons=_objects([one.reason for one in found]),
            overrides=np.array([one.override for one in found], bool),
            attributes=_objects([one.attributes for one in found]),
        )


def log_exposures(log: Log, exposures: Sequence[Exposure]) -> None:
    """Append exposures to their log, all or none. When this returns, they are safe.

    An exposure may be logged again, for example after an error: only the first one of each unit counts.
    """
    log.append([encode(one) for one in exposures])


def newest_at_us(log: Log) -> int:
    """Return the newest time at which an exposure was logged; 0 if there is none."""
    newest = (log.read(partition, last - 1, limit=1) for partition, last in log.positions().items() if last)
    return max((record.appended_at_us for record in chain.from_iterable(newest)), default=0)


def read_exposures(
    log: Log, intake: Intake, experiment: str, generation: int, variants: Mapping[str, int]
) -> Iterator[ExposureBlock]:
    """Yield the exposures of one generation of an experiment that count for an intake, in blocks.

    Raises:
        Corrupt: A record is not an exposure.
    """
    name = _encode(experiment)
    for number, records in intake.records(log):
        rows = []
        for record in records:
            if name in record.payload and record.payload[:1] != ERASED:
                one = decode(record)
                mine = one.experiment == experiment and one.generation == generation
                if mine and intake.holds(one.at_us, record.appended_at_us):
                    rows.append((record.position, one))
        if rows:
            yield intake.block(number | _OF_THIS_LOG, rows, variants)


def find_exposures(log: Log, wanted: Callable[[Exposure], bool]) -> dict[str, dict[int, bytes]]:
    """Find all exposures for which `wanted` is true, and return the replacements with which to erase them.

    The result is by partition and position, as needed by `Log.erase`.
    """
    found: dict[str, dict[int, bytes]] = {}
    for partition, last in log.positions().items():
        for record in chain.from_iterable(records_between(log, partition, 0, last)):
            if record.payload[:1] != ERASED and wanted(decode(record)):
                found.setdefault(partition, {})[record.position] = ERASED
    return found


def encode(exposure: Exposure) -> bytes:
    """Return the payload of an exposure."""
    return FORMAT + _encode(exposure)


def decode(record: LogRecord) -> Exposure:
    """Return the exposure in a record.

    Raises:
        Corrupt: The record is not an exposure, or has a format that this version does not know.
    """
    where = f"exposure log, {record.partition} at {record.position}"
    if record.payload[:1] != FORMAT:
        found = record.payload[:1].hex() or "empty"
        raise Corrupt(f"{where}: found format {found}, but this trimtab reads {FORMAT.hex()}. Upgrade trimtab.")
    try:
        return _decoder.decode(memoryview(record.payload)[1:])
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{where}: not an exposure ({error}). Restore the partition from a copy.") from error


def unit_values(unit: str, columns: int) -> list[str]:
    """Return a unit's value in each of its columns, as text. `unit` is the unit as text.

    >>> unit_values("ann", 1), unit_values('["ann","7"]', 2)
    (['ann'], ['ann', '7'])
    """
    return [unit] if columns == 1 else msgspec.json.decode(unit, type=list[str])


def unit_columns(units: Sequence[str], dtypes: Sequence[Dtype]) -> list[Column]:
    """Return the columns of units that are given as text, each with a type: "str" or "int".

    A unit of several columns is the JSON array of their values. A value that does not have the type is null. Of
    integers only the canonical digits match: "071" and " 71" are other units than 71.

    >>> [c.to_list() for c in unit_columns(['["ann","7"]'], ["str", "int"])], unit_columns(["x"], ["int"])[0].to_list()
    ([['ann'], [7]], [None])
    """
    rows = [unit_values(unit, len(dtypes)) for unit in units]
    lists = zip(*rows, strict=True) if rows else [()] * len(dtypes)
    return [
        column(dtype, values if dtype == "str" else [whole(value) for value in values])
        for dtype, values in zip(dtypes, lists, strict=True)
    ]


def unit_keys(units: Sequence[str]) -> Array:
    """Return a 64-bit hash of each unit: the first eight bytes of its BLAKE2b, as a little-endian number.

    >>> unit_keys(["ann"]).tolist() == unit_keys(["bob", "ann"]).tolist()[1:]
    True
    """
    return np.frombuffer(b"".join([blake2b(one.encode(), digest_size=8).digest() for one in units]), "<u8")


def _objects(values: Sequence[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = list(values)
    return found


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Exposure)
