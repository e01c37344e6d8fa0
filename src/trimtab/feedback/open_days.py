"""Days of predictions that wait for their labels; each day closes once and does not change afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.records import LOSS_CAP, Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.labels import LATE, UNLISTED
from trimtab.feedback.blocks import DayBlocks, block_days, block_of_lists, merged_days
from trimtab.feedback.days import day_quality
from trimtab.feedback.outcomes import OutcomeFrame, OutcomeJoin
from trimtab.serving.answer.answering import PAST
from trimtab.stats.metrics.losses import Loss

AHEAD_US = 36 * HOUR_US  # the greatest age of an answer that was computed in advance, as in `ServedModel`
MOST_SLICES = 200  # greatest number of values of a column on a day; a column with more values is no slice on that day
_PART_ROWS = 10_000
_NOT_KEPT = frozenset(("id", "model", "mode", "made_at"))  # columns that are not needed to judge a day


class Waiting(Protocol):
    """The predictions that wait until their day closes."""

    def add(self, predictions: Sequence[Prediction], closed_until_us: int) -> int:
        """Keep the predictions about open days; return the number of predictions about closed days."""
        ...

    def about(self, from_us: int, until_us: int) -> Iterator[Columns]:
        """The predictions about an interval of time, in parts; the parts stay the same while predictions are kept."""
        ...

    def drop(self, until_us: int) -> None:
        """Drop the predictions about earlier times."""
        ...

    def first_us(self) -> int | None:
        """The earliest time that a kept prediction may be about; None if no prediction is kept."""
        ...


class InMemory:
    """A `Waiting` in memory, for replays and short waits; `judged` makes the table of the predictions that count."""

    def __init__(self, judged: Callable[[Sequence[Prediction]], Columns]) -> None:
        self.parts: list[Columns] = []
        self._judged = judged

    def add(self, predictions: Sequence[Prediction], closed_until_us: int) -> int:
        table = self._judged(predictions)
        late = table["at"].values < closed_until_us
        if not late.all():
            self._keep(table.take(~late) if late.any() else table)
        return int(late.sum())

    def _keep(self, table: Columns) -> None:
        """Keep a table, merged with smaller tables before it, because rows may come one by one for days."""
        table = table.select([name for name in table.names if name not in _NOT_KEPT])
        while self.parts and self.parts[-1].rows <= min(table.rows, _PART_ROWS):
            table = Columns.concat([self.parts.pop(), table])
        self.parts.append(table)

    def about(self, from_us: int, until_us: int) -> Iterator[Columns]:
        for part in self.parts:
            here = (part["at"].values >= from_us) & (part["at"].values < until_us)
            if here.any():
                yield part if here.all() else part.take(here)

    def drop(self, until_us: int) -> None:
        kept = [(part, part["at"].values >= until_us) for part in self.parts]
        self.parts = [part if here.all() else part.take(here) for part, here in kept if here.any()]

    def first_us(self) -> int | None:
        return min((int(part["at"].values.min()) for part in self.parts), default=None)


class OpenDays:
    """The days of one model's predictions that wait for their labels; each closes once, at its end plus the wait.

    A closed day never changes. A label counts if it is known within the wait; a later label, or a corrected one, does
    not reopen the day. A prediction about a closed day that arrives late is counted in `too_late` and left out. All of
    this can be rebuilt from the logs.

    In a ranking a day judges lists, each by the rows that the list has on that day, so that a list around midnight
    counts on both days.

    Only answers that were made by their as-of time count (`made_in_time`), because an answer about the past says
    nothing about how a version did in service.

    Args:
        model: The model's name; predictions of other models are skipped.
        metric: The loss that is summed.
        outcomes: Joins predictions with labels.
        closed_until_us: Days before this time are closed already.
        cap: The loss at which a row of a version is capped.
        waiting: The predictions that wait. Left out, they are kept in memory.
    """

    def __init__(
        self,
        model: str,
        metric: Loss,
        outcomes: OutcomeJoin,
        *,
        closed_until_us: int = -(2**62),
        cap: Callable[[str], float] = lambda version: LOSS_CAP,
        waiting: Waiting | None = None,
    ) -> None:
        self.model = model
        self.metric: Loss = metric
        self.closed_until_us = closed_until_us
        self.too_late = 0
        self._outcomes = outcomes
        self._cap = cap
        self._waiting = InMemory(partial(judged_table, outcomes, model)) if waiting is None else waiting

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Add predictions that were logged."""
        self.too_late += self._waiting.add(predictions, self.closed_until_us)

    def close(self, now_us: int) -> list[DayBlocks]:
        """Close the days whose wait is over at `now_us`; return blocks by day, version and arm, oldest day first."""
        until_us = self._outcomes.closed_until(now_us)
        if until_us <= self.closed_until_us:
            return []
        self.closed_until_us = until_us
        first_us = self._waiting.first_us()
        days: list[DayBlocks] = []
        if first_us is not None:
            for day_us in range(first_us // DAY_US * DAY_US, until_us, DAY_US):
                days += self._blocks(day_us)
        self._waiting.drop(until_us)
        return days

    def as_known(self, day_us: int, cut_us: int) -> list[DayBlocks]:
        """A day of kept predictions with the labels known at `cut_us`; `late` counts labels known after the wait."""
        return self._blocks(day_us, cut_us)

    def of_batch(self, predictions: Callable[[], Iterable[Sequence[Prediction]]], made_at_us: int) -> DayBlocks | None:
        """The block of a batch on the day it was made, whatever times its rows are about; None for a ranking or no row.

        Args:
            predictions: Gives the predictions of one version and arm, in parts; may be called twice.
            made_at_us: The time at which the batch was begun. The waits for all its labels must be over.
        """
        if self._outcomes.lists is not None:
            return None
        crowded: set[str] = set()
        judged = partial(judged_table, self._outcomes, self.model, made_late=True)
        found_in = self._outcomes.each(lambda: (table for table in map(judged, predictions()) if table.rows))
        parts = [part for one in found_in for part in self._parts(one, crowded)]
        day_us = made_at_us // DAY_US * DAY_US
        found = merged_days(msgspec.structs.replace(part, day_us=day_us, hours={}) for part in parts)
        return _few_slices(found[0], crowded) if found else None

    def _blocks(self, day_us: int, cut_us: int | None = None) -> list[DayBlocks]:
        found = self._outcomes.each(partial(self._tables, day_us), cut_us)
        crowded: set[str] = set()
        days = merged_days(block for one in found for block in self._parts(one, crowded))
        return [_few_slices(day, crowded) for day in days]

    def _tables(self, day_us: int) -> Iterator[Columns]:
        tables = self._waiting.about(day_us, day_us + DAY_US)
        if self._outcomes.lists is None:
            return tables
        parts = list(tables)  # the lists of a ranking are judged as a whole
        return iter([_newest_of_each(Columns.concat(parts))] if parts else [])

    def _parts(self, found: OutcomeFrame, crowded: set[str]) -> Iterator[DayBlocks]:
        """The blocks of predictions of a day by version and arm; adds columns with too many values to `crowded`."""
        table = found.predictions
        pairs = list(zip(table["version"].values.tolist(), table["arm"].values.tolist(), strict=True))
        codes = {pair: code for code, pair in enumerate(dict.fromkeys(pairs))}
        code = np.array([codes[pair] for pair in pairs], np.int64)
        lists = None if self._outcomes.lists is None else _numbered(table["list"])
        scores = found.scores(self._outcomes.classes)
        slices = {name.removeprefix("slice."): table[name] for name in table.names if name.startswith("slice.")}
        crowded |= {name for name, column in slices.items() if len(set(column.values.tolist())) > MOST_SLICES}
        for (version, arm), number in codes.items():
            rows = code == number
            at_us, cap = table["at"].values[rows], self._cap(version)
            about = (self.model, self.metric, version)
            if lists is not None:
                whole = day_quality(*about, at_us, scores[rows], found.labels[rows], cap=cap, lists=lists[rows])
                yield block_of_lists(whole[0], arm, cap)
                continue
            yield block_days(
                *about,
                arm,
                at_us,
                scores[rows],
                found.labels[rows],
                cap=cap,
                unlisted=found.states[rows] == UNLISTED,
                late=found.states[rows] == LATE,
                slices={name: _kinds(column)[rows] for name, column in slices.items() if name not in crowded},
            )


def _kinds(column: Column) -> NDArray[Any]:
    """The slice of each row, in the form that `block_days` takes."""
    found: NDArray[Any] = column.values
    if column.dtype == "bool":
        found = np.array([None, True], object)[(column.present() & column.values).astype(np.int64)]
    return found


def judged_table(
    outcomes: OutcomeJoin, model: str, predictions: Sequence[Prediction], *, made_late: bool = False
) -> Columns:
    """The predictions that a model's days are judged by; with `made_late`, also predictions about earlier times."""
    classes = outcomes.classes
    table = outcomes.table([p for p in predictions if counts(p, model) and _fits(p, classes)])
    mine = made_in_time(table)
    return table if made_late or mine.all() else table.take(mine)


def counts(prediction: Prediction, model: str) -> bool:
    """Return whether an answer counts for its version: not if it is about the past, or came from a fallback."""
    return prediction.model == model and not (prediction.flags and (PAST in prediction.flags or prediction.is_degraded))


def made_in_time(predictions: Columns) -> NDArray[Any]:
    """A mask of the predictions that were made no later than their as-of time, shape (rows,).

    A row of a batch that is about an earlier time was not made in time. A stored answer (`precomputed`) may be given
    for a while after it was made.
    """
    ahead = predictions["mode"].values == "precomputed"
    found: NDArray[Any] = predictions["at"].values + np.where(ahead, AHEAD_US, 0) >= predictions["made_at"].values
    return found


def _few_slices(day: DayBlocks, crowded: set[str]) -> DayBlocks:
    """The day without the slices of columns that have too many values in a part of the day or in the whole day."""
    count = Counter(name.partition("=")[0] for name in day.slices)
    few = {name for name, values in count.items() if values <= MOST_SLICES} - crowded
    kept = {name: sums for name, sums in day.slices.items() if name.partition("=")[0] in few}
    return day if len(kept) == len(day.slices) else msgspec.structs.replace(day, slices=kept)


def _newest_of_each(table: Columns) -> Columns:
    """The last answer to each row of a list on a day, by version, as rows may be requested repeatedly. # D0086"""
    names = ("version", "arm", "list", "request_id")
    keys = zip(*(table[name].to_list() for name in names), (table["at"].values // DAY_US).tolist(), strict=True)
    newest = {key: row for row, key in enumerate(keys)}
    return table.take(np.array(sorted(newest.values()), np.int64))


def _numbered(names: Column) -> NDArray[Any]:
    """A number for each list, -1 for rows without a list."""
    found = np.full(len(names.values), -1, np.int64)
    there = names.present()
    found[there] = np.unique(names.values[there], return_inverse=True)[1].reshape(-1)
    return found


def _fits(prediction: Prediction, classes: Sequence[str]) -> bool:
    """Return whether an answer can be compared with the label: if there are classes, it needs at least one of them."""
    if prediction.scores is None or not classes:
        return (prediction.scores is None) == (not classes)
    return any(name in prediction.scores for name in classes)
