"""Stored closed days (days whose wait for labels is over), and stored batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from trimtab.core.time import DAY_US, format_time
from trimtab.feedback.blocks import BlockSums, DayBlocks
from trimtab.store.ports import Catalog, Put

KIND, SLICES, BATCH = "quality_day", "quality_slices", "quality_batch"


class DaySums(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one closed day of a version in one arm (the alias that answered), without those of its hours."""

    version: str
    arm: str
    day_us: int
    cap: float  # larger losses of a row count as this; it is also the unit of `BlockSums.capped_loss`
    whole: BlockSums
    amended: BlockSums | None = None  # as in `DayBlocks`


class BatchBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one batch. It is closed together with the day on which it was made."""

    batch: str
    made_at_us: int
    blocks: DayBlocks  # the sums of the batch, without those of its hours


def store_batch(batch: BatchBlocks) -> Put:
    """Return the change that stores a batch."""
    return Put(BATCH, f"{batch.blocks.model}/{batch.batch}", msgspec.json.encode(batch))


def stored_batches(catalog: Catalog, model: str) -> list[BatchBlocks]:
    """Return the closed batches of a model, oldest first."""
    found = [msgspec.json.decode(one.body, type=BatchBlocks) for one in catalog.find(BATCH, f"{model}/")]
    return sorted(found, key=lambda one: (one.made_at_us, one.batch))


def store_days(days: Sequence[DayBlocks]) -> list[Put]:
    """Return the changes that store days. If a day is stored again, its record is replaced."""
    puts: list[Put] = []
    for day in days:
        whole = msgspec.structs.replace(day, slices={})
        puts.append(Put(KIND, _key(day), msgspec.json.encode(whole)))
        if day.slices:
            puts.append(Put(SLICES, _key(day), msgspec.json.encode(day.slices)))
    return puts


def stored_days(
    catalog: Catalog, model: str, *, from_us: int | None = None, until_us: int | None = None, slices: bool = False
) -> list[DayBlocks]:
    """Return the closed days of a model, oldest first.

    Args:
        from_us: Leave out days that begin before this time.
        until_us: Leave out days that begin at this time or later.
        slices: Whether to read the slices of the days, too.
    """
    found: list[DayBlocks] = []
    for prefix in _prefixes(model, from_us, until_us):
        parts = {one.key: one.body for one in catalog.find(SLICES, prefix)} if slices else {}
        for record in catalog.find(KIND, prefix):
            day = msgspec.json.decode(record.body, type=DayBlocks)
            if (from_us is not None and day.day_us < from_us) or (until_us is not None and day.day_us >= until_us):
                continue
            if record.key in parts:
                taken = msgspec.json.decode(parts[record.key], type=dict[str, BlockSums])
                day = msgspec.structs.replace(day, slices=taken)
            found.append(day)
    return found


def stored_sums(catalog: Catalog, model: str, days_us: Iterable[int]) -> list[DaySums]:
    """Return the sums of the given closed days of a model, oldest first.

    One query reads the days whose dates begin alike, such as 2024-03-1 (at most ten), so few other days are read.
    """
    wanted = {f"{model}/{format_time(day_us)[:10]}" for day_us in days_us}
    return [
        msgspec.json.decode(record.body, type=DaySums)
        for tens in sorted({day[:-1] for day in wanted})
        for record in catalog.find(KIND, tens)
        if record.key[: len(tens) + 1] in wanted
    ]


def _prefixes(model: str, from_us: int | None, until_us: int | None) -> Iterator[str]:
    """Yield prefixes of the days' keys: one for each month if both ends of the time are given."""
    if from_us is None or until_us is None:
        yield f"{model}/"
        return
    months = dict.fromkeys(format_time(day_us)[:7] for day_us in range(from_us // DAY_US * DAY_US, until_us, DAY_US))
    for month in months:
        yield f"{model}/{month}"


def _key(day: DayBlocks) -> str:
    return f"{day.model}/{format_time(day.day_us)[:10]}/{day.version}/{day.arm}"
