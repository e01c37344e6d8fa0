"""Predictions that wait for their labels, kept in the prediction log instead of in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US
from trimtab.feedback.open_days import KEPT_US, counts, is_in_time
from trimtab.serving.log.prediction_log import PredictionLog

_CHUNK_ROWS = 20_000


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive records in a partition of the log: after the position `after`, up to and including `through`."""

    partition: str
    after: int
    through: int


class LoggedWaiting:
    """A `Waiting` (see open_days.py) that only keeps where in the prediction log each day's predictions are.

    So even a wait of months takes little memory. After a crash nothing is read again, because these few positions are
    stored together with the position up to which the log was read.

    Args:
        judged: Returns the table of the predictions that count towards quality.
        extents: Where each day's predictions are in the log, by the day (counted since 1970).
    """

    def __init__(
        self,
        predictions: PredictionLog,
        model: str,
        judged: Callable[[Sequence[Prediction]], Columns],
        *,
        extents: Mapping[int, Sequence[Extent]] | None = None,
    ) -> None:
        self._predictions = predictions
        self._model = model
        self._judged = judged
        self._extents = {day: list(found) for day, found in (extents or {}).items()}
        self._reading: list[Extent] = []

    @property
    def extents(self) -> dict[int, tuple[Extent, ...]]:
        """Return where each day's predictions are in the log, by the day (counted since 1970)."""
        return {day: tuple(found) for day, found in sorted(self._extents.items())}

    def reads(self, before: Mapping[str, int], reached: Mapping[str, int]) -> None:
        """Set where the predictions of the next `add` are in the log: after the positions `before`, up to `reached`."""
        self._reading = [
            Extent(name, before.get(name, 0), through)
            for name, through in reached.items()
            if through > before.get(name, 0)
        ]

    def add(self, predictions: Sequence[Prediction], closed_until_us: int) -> int:
        times = [p.at_us for p in predictions if is_in_time(p) and counts(p, self._model)]
        late = sum(at_us < closed_until_us for at_us in times)
        for day in {at_us // DAY_US for at_us in times if at_us >= closed_until_us}:
            known = self._extents.setdefault(day, [])
            for one in self._reading:
                _extend(known, one)
        return late

    def about(self, from_us: int, until_us: int) -> Iterator[Columns]:
        for day in range(from_us // DAY_US, -(-until_us // DAY_US)):
            for table in self._chunks(self._extents.get(day, ())):
                at_us = table["at"].values
                here = (at_us >= from_us) & (at_us < until_us)
                if here.any():
                    yield table if here.all() else table.take(here)

    def drop(self, until_us: int) -> None:
        self._extents = {day: found for day, found in self._extents.items() if (day + 1) * DAY_US > until_us - KEPT_US}

    def first_us(self) -> int | None:
        return min((day * DAY_US for day in self._extents), default=None)

    def _chunks(self, extents: Iterable[Extent]) -> Iterator[Columns]:
        held: list[Prediction] = []
        for one in extents:
            for block in self._predictions.between(one.partition, one.after, one.through, model=self._model):
                held += block
                if len(held) >= _CHUNK_ROWS:
                    yield self._judged(held)
                    held = []
        if held:
            yield self._judged(held)


def _extend(known: list[Extent], more: Extent) -> None:
    """Add an extent to those of a day. If it continues or overlaps one of them, the two are joined."""
    for place, one in enumerate(known):
        if one.partition == more.partition and one.after <= more.after <= one.through:
            known[place] = Extent(one.partition, one.after, max(one.through, more.through))
            return
    known.append(more)
