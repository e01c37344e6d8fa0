"""Days of predictions that wait for their labels. When the wait is over, a day is closed and its sums are final."""

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
from trimtab.stats.metrics.loss_names import PROBABILITIES
from trimtab.stats.metrics.losses import Loss

AHEAD_US = 36 * HOUR_US  # the largest age of a prediction that was computed in advance, as in `ServedModel`
# for late labels, a day's predictions (or their positions in the log) are kept for this long after the wait
KEPT_US = 35 * DAY_US
MOST_SLICES = 200  # a column with more values on a day has no slices on that day
_PART_ROWS = 10_000
# columns of predictions that are not needed to compute quality
_NOT_KEPT = frozenset(("id", "model", "mode", "made_at"))


class Waiting(Protocol):
    """The predictions that are kept until their day is closed."""

    def add(self, predictions: Sequence[Prediction], closed_until_us: int) -> int:
        """Keep predictions of open days, and return how many are of closed days. Skip those that do not count."""
        ...

    def about(self, from_us: int, until_us: int) -> Iterator[Columns]:
        """Yield the predictions in a time interval, in parts that do not change while predictions are added."""
        ...

    def drop(self, until_us: int) -> None:
        """Drop the predictions of days that ended `KEPT_US` before a time or earlier."""
        ...

    def first_us(self) -> int | None:
        """Return a time at or before all predictions that were not dropped; None if there are none."""
        ...


class InMemory:
    """A `Waiting` in memory, for replays and short waits. `judged` returns the table of predictions that count."""

    def __init__(self, judged: Callable[[Sequence[Prediction]], Columns]) -> None:
        self.parts: list[Columns] = []
        self._kept_from_us = -(2**62)
        self._judged = judged

    def add(self, predictions: Sequence[Prediction], closed_until_us: int) -> int:
        table = self._judged(predictions)
        late = table["at"].values < closed_until_us
        if not late.all():
            self._keep(table.take(~late) if late.any() else table)
        return int(late.sum())

    def _keep(self, table: Columns) -> None:
        """Keep a table. It is merged with smaller ones before it, because predictions may be added one at a time."""
        table = table.select([name for name in table.names if name not in _NOT_KEPT])
        while self.parts and self.parts[-1].rows <= min(table.rows, _PART_ROWS):
            table = Columns.concat([self.parts.pop(), table])
        self.parts.append(table)

    def about(self, from_us: int, until_us: int) -> Iterator[Columns]:
        for part in self.parts:
            here = (part["at"].values >= max(from_us, self._kept_from_us)) & (part["at"].values < until_us)
            if here.any():
                yield part if here.all() else part.take(here)

    def drop(self, until_us: int) -> None:
        # a part goes as a whole, with its last prediction: to cut it each day would copy it each day
        self._kept_from_us = until_us - KEPT_US
        self.parts = [part for part in self.parts if (part["at"].values >= self._kept_from_us).any()]

    def first_us(self) -> int | None:
        return min((int(part["at"].values.min()) for part in self.parts), default=None)


class OpenDays:
    """The days of one model's predictions that wait for labels. Each is closed once, a fixed wait after its end.

    A closed day never changes. Only labels that become known within the wait count. A prediction that is logged after
    its day was closed is only counted in `too_late`. Closed days can be computed again from the logs.

    For a ranking, lists are judged in place of rows. If a list has rows on two days (around midnight), the rows of each
    day are judged as a list of their own.

    Predictions about the past do not count (`made_in_time`), because they do not show how good a version is in service.

    Args:
        model: The name of the model. Predictions of other models are skipped.
        closed_until_us: Days before this time are already closed.
        cap: Returns, for a version, the cap of `capped_loss`: larger losses of rows count as this.
        waiting: Where predictions are kept; by default in memory.
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
        """Close the days whose wait is over at `now_us`. Return a block for each day, version and arm, oldest first."""
        until_us = self._outcomes.closed_until(now_us)
        if until_us <= self.closed_until_us:
            return []
        since_us, self.closed_until_us = self.closed_until_us, until_us
        first_us = self._waiting.first_us()
        days: list[DayBlocks] = []
        if first_us is not None:
            for day_us in range(max(first_us, since_us) // DAY_US * DAY_US, until_us, DAY_US):
                days += self._blocks(day_us)
        self._waiting.drop(until_us)
        return days

    def as_known(self, day_us: int, cut_us: int) -> list[DayBlocks]:
        """Return the blocks of a day whose predictions are still kept, with the labels known at `cut_us`."""
        return self._blocks(day_us, cut_us)

    def of_batch(self, predictions: Iterable[Sequence[Prediction]], made_at_us: int) -> DayBlocks | None:
        """Return a batch as a block of the day on which it was made; None for a ranking, or without rows.

        Args:
            predictions: The predictions of one version and arm, in parts.
            made_at_us: When the batch was begun. The waits for all its labels must be over.
        """
        if self._outcomes.lists is not None:
            return None
        crowded: set[str] = set()
        judged = partial(judged_table, self._outcomes, self.model, made_late=True)
        found_in = self._outcomes.each(table for table in map(judged, predictions) if table.rows)
        parts = [part for one in found_in for part in self._parts(one, crowded)]
        day_us = made_at_us // DAY_US * DAY_US
        found = merged_days(msgspec.structs.replace(part, day_us=day_us, hours={}) for part in parts)
        return _few_slices(found[0], crowded) if found else None

    def _blocks(self, day_us: int, cut_us: int | None = None) -> list[DayBlocks]:
        found = self._outcomes.each(self._tables(day_us), cut_us)
        crowded: set[str] = set()
        days = merged_days(block for one in found for block in self._parts(one, crowded))
        return [_few_slices(day, crowded) for day in days]

    def _tables(self, day_us: int) -> Iterator[Columns]:
        tables = self._waiting.about(day_us, day_us + DAY_US)
        if self._outcomes.lists is None:
            return tables
        parts = list(tables)  # lists of a ranking are judged as a whole
        return iter([_newest_of_each(Columns.concat(parts))] if parts else [])

    def _parts(self, found: OutcomeFrame, crowded: set[str]) -> Iterator[DayBlocks]:
        """Yield the blocks of some predictions by version and arm. Add columns with too many values to `crowded`."""
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
            if self.metric in PROBABILITIES and ((scores[rows] < 0.0) | (scores[rows] > 1.0)).any():
                continue  # the version was fitted for another kind of label
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
                classes=self._outcomes.classes,
            )


def _kinds(column: Column) -> NDArray[Any]:
    """Return the slice of each row, in the form for `block_days`."""
    found: NDArray[Any] = column.values
    if column.dtype == "bool":
        found = np.array([None, True], object)[(column.present() & column.values).astype(np.int64)]
    return found


def judged_table(
    outcomes: OutcomeJoin, model: str, predictions: Sequence[Prediction], *, made_late: bool = False
) -> Columns:
    """Return the table of predictions that count towards a model's quality.

    With `made_late`, predictions that were made after the time that they are about are included.
    """
    classes = outcomes.classes
    table = outcomes.table([p for p in predictions if counts(p, model) and _fits(p, classes)])
    mine = made_in_time(table)
    return table if made_late or mine.all() else table.take(mine)


def counts(prediction: Prediction, model: str) -> bool:
    """Return whether a prediction of the model counts for its version: it is neither about the past nor degraded."""
    return prediction.model == model and not (prediction.flags and (PAST in prediction.flags or prediction.is_degraded))


def is_in_time(prediction: Prediction) -> bool:
    """Return for one prediction what `made_in_time` returns for several."""
    ahead_us = AHEAD_US if prediction.mode == "precomputed" else 0
    return prediction.at_us + ahead_us >= prediction.made_at_us


def made_in_time(predictions: Columns) -> NDArray[Any]:
    """Return a mask of the predictions that were made at or before the time that they are about, shape (rows,).

    It is False for rows of a batch about an earlier time. A prediction that was computed in advance (`precomputed`) is
    about the time at which it was computed, and counts as made in time up to `AHEAD_US` later.
    """
    ahead = predictions["mode"].values == "precomputed"
    found: NDArray[Any] = predictions["at"].values + np.where(ahead, AHEAD_US, 0) >= predictions["made_at"].values
    return found


def _few_slices(day: DayBlocks, crowded: set[str]) -> DayBlocks:
    """Return the day without slices of columns that have too many values, in one part or in the whole day."""
    count = Counter(name.partition("=")[0] for name in day.slices)
    few = {name for name, values in count.items() if values <= MOST_SLICES} - crowded
    kept = {name: sums for name, sums in day.slices.items() if name.partition("=")[0] in few}
    return day if len(kept) == len(day.slices) else msgspec.structs.replace(day, slices=kept)


def _newest_of_each(table: Columns) -> Columns:
    """Keep each version's last prediction for each row of a list on a day, as rows may be requested again. # D0086"""
    names = ("version", "arm", "list", "request_id")
    keys = zip(*(table[name].to_list() for name in names), (table["at"].values // DAY_US).tolist(), strict=True)
    newest = {key: row for row, key in enumerate(keys)}
    return table.take(np.array(sorted(newest.values()), np.int64))


def _numbered(names: Column) -> NDArray[Any]:
    """Return the index of each row's list; -1: the row has no list."""
    found = np.full(len(names.values), -1, np.int64)
    there = names.present()
    found[there] = np.unique(names.values[there], return_inverse=True)[1].reshape(-1)
    return found


def _fits(prediction: Prediction, classes: Sequence[str]) -> bool:
    """Return whether a prediction can be compared with labels. With several classes, it must score one of these."""
    if prediction.scores is None or not classes:
        return (prediction.scores is None) == (not classes)
    return any(name in prediction.scores for name in classes)
