"""Predictions joined with what became of them, and the days that can be judged for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Column, Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.records import LOSS_CAP, DayQuality, Outcome, Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.frames import NEVER_US
from trimtab.features.labels import LABEL_STATES, LABELLED, LATE, MISSING, PENDING, UNLISTED, LabelIndex, LabelState
from trimtab.feedback.days import day_quality
from trimtab.serving.answering import PAST
from trimtab.serving.prediction_log import prediction_columns
from trimtab.stats.losses import Loss
from trimtab.stats.multiclass import shared_out

AHEAD_US = 36 * HOUR_US  # how old an answer made ahead may be when it is given, as in `ServedModel`


class KnownLabels(msgspec.Struct, frozen=True, eq=False):
    """Labels of some requests, in their order."""

    values: NDArray[Any]  # float64, NaN where there is none, or one that is no class
    known_at_us: NDArray[Any]  # int64, NEVER_US where there is none


class LabelReader(Protocol):
    """Finds the label of each request: the greatest event of its key at or after its moment, known by its cut."""

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels: ...


class IndexedLabels:
    """A `LabelReader` over a `LabelIndex`, which somebody keeps up to date."""

    def __init__(self, index: LabelIndex) -> None:
        self._index = index

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        found = self._index.join(keys.to_list(), at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)


class OutcomeFrame(msgspec.Struct, frozen=True, eq=False):
    """Predictions with their outcomes: one row a prediction, in the order given, none dropped or merged.

    `predictions` has the columns of `prediction_columns`; a label is NaN, and its known-at `NEVER_US`, where none is
    known by the cut.
    """

    predictions: Columns
    states: NDArray[Any]  # uint8: the index into LABEL_STATES
    labels: NDArray[Any]  # float64
    known_at_us: NDArray[Any]  # int64

    @property
    def rows(self) -> int:
        return len(self.states)

    def counts(self) -> dict[LabelState, int]:
        """How many predictions are in each state."""
        found = np.bincount(self.states, minlength=len(LABEL_STATES)).tolist()
        return dict(zip(LABEL_STATES, found, strict=True))

    def take(self, rows: NDArray[Any] | slice) -> OutcomeFrame:
        """The outcomes at `rows` (positions, a boolean mask or a slice)."""
        return OutcomeFrame(self.predictions.take(rows), self.states[rows], self.labels[rows], self.known_at_us[rows])

    def scores(self, classes: Sequence[str] = ()) -> NDArray[Any]:
        """What was answered, shape (rows,); with `classes` the chance of each, shape (rows, classes).

        What a version gave to classes that are declared no more is shared out among the others.
        """
        if not classes:
            return self.predictions["score"].values
        found = np.stack([self.predictions[f"scores.{name}"].values for name in classes], axis=1)
        return shared_out(found)

    def to_outcomes(self) -> list[Outcome]:
        """One record a prediction."""
        table = self.predictions
        known = self.known_at_us != NEVER_US
        return [
            Outcome(
                prediction_id=prediction_id,
                request_id=request_id,
                version=version,
                at_us=at_us,
                score=score,
                state=LABEL_STATES[state],
                label=label if there and state != UNLISTED else None,
                label_known_at_us=known_at_us if there else None,
            )
            for prediction_id, request_id, version, at_us, score, state, label, known_at_us, there in zip(
                table["id"].values.tolist(),
                table["request_id"].values.tolist(),
                table["version"].values.tolist(),
                table["at"].values.tolist(),
                table["score"].values.tolist(),
                self.states.tolist(),
                self.labels.tolist(),
                self.known_at_us.tolist(),
                known.tolist(),
                strict=True,
            )
        ]


class ListColumn(msgspec.Struct, frozen=True):
    """Where a logged request holds the list that its row belongs to."""

    place: int
    columns: int  # that a request has, as declared

    def of(self, prediction: Prediction) -> str | None:
        """The list of a prediction; None where its request has none, or had other columns than are declared."""
        request = msgspec.msgpack.decode(prediction.request)
        if not isinstance(request, list) or len(request) != self.columns or request[self.place] is None:
            return None
        return str(request[self.place])


class OutcomeJoin:
    """Joins predictions of one model with its labels by request key.

    Args:
        labels: Finds labels.
        wait_us: How long after its moment a request's label is waited for; one known later is late.
        key_dtype: The type of the request's key, "str" or "int".
        classes: What the label may be, where it is one of several classes.
        lists: Of a ranking: where a request names its list.
    """

    def __init__(
        self,
        labels: LabelReader,
        *,
        wait_us: int,
        key_dtype: Literal["str", "int"],
        classes: Sequence[str] = (),
        lists: ListColumn | None = None,
    ) -> None:
        self.wait_us = wait_us
        self.classes = tuple(classes)
        self.lists = lists
        self._labels = labels
        self._key_dtype = key_dtype

    def join(self, predictions: Sequence[Prediction] | Columns, cut_us: int) -> OutcomeFrame:
        """What was known at `cut_us` of each prediction's outcome; of a corrected label the newest version.

        A label counts as late by when this version of it became known.
        """
        table = self.table(predictions)
        due_us = table["at"].values + self.wait_us
        found = self._labels(self._keys(table), table["at"].values, np.full(table.rows, cut_us, np.int64))
        there = found.known_at_us != NEVER_US
        states = np.where(
            there,
            np.where(found.known_at_us <= due_us, LABELLED, LATE),
            np.where(cut_us < due_us, PENDING, MISSING),
        ).astype(np.uint8)
        return OutcomeFrame(table, self._listed(states, found), found.values, found.known_at_us)

    def due(self, predictions: Columns) -> OutcomeFrame:
        """Outcomes as they stood for each prediction when its wait was over, for good: none is pending or late."""
        due_us = predictions["at"].values + self.wait_us
        found = self._labels(self._keys(predictions), predictions["at"].values, due_us)
        states = np.where(found.known_at_us != NEVER_US, LABELLED, MISSING).astype(np.uint8)
        return OutcomeFrame(predictions, self._listed(states, found), found.values, found.known_at_us)

    def table(self, predictions: Sequence[Prediction] | Columns) -> Columns:
        """The columns of predictions, as many as their outcomes are judged by; of a ranking also `list`."""
        if isinstance(predictions, Columns):
            return predictions
        table = prediction_columns(predictions, self.classes)
        if self.lists is None:
            return table
        return Columns({**table.by_name, "list": column("str", [self.lists.of(p) for p in predictions])})

    def _listed(self, states: NDArray[Any], found: KnownLabels) -> NDArray[Any]:
        """The states, those of labels that are none of the classes named so."""
        if self.classes:
            states[(found.known_at_us != NEVER_US) & np.isnan(found.values)] = UNLISTED
        return states

    def _keys(self, table: Columns) -> Column:
        keys = table["request_id"]
        if self._key_dtype == "str":
            return keys
        try:
            return Column("int", keys.values.astype(np.int64))
        except ValueError as error:
            raise Misuse(f"outcomes: a request's key is no integer ({error}). Are these another model's?") from error


_PART_ROWS = 10_000
_NOT_KEPT = frozenset(("id", "model", "arm", "mode", "made_at"))  # of predictions that wait: no day is judged by them


class OpenDays:
    """The days of one model's predictions that wait for their labels; each closes once, at its end plus the wait.

    What a closed day says never changes: a label counts for its prediction when it is known within the wait, a later
    or corrected one does not reopen the day, and a prediction about a closed day that arrives late is counted in
    `too_late` and left out. All of it can be rebuilt from the logs: start from `closed_until_us` and give the
    predictions that were logged since.

    Of a ranking a day judges lists, each by its rows of that day; one that was asked over midnight counts on both.

    Only answers that were made when they were asked for count (`made_for_its_moment`): what a version says afterwards
    about the past tells nothing about its service.

    Args:
        model: The model's name; predictions of other models are passed over.
        metric: The loss that is summed.
        outcomes: Joins predictions with labels.
        closed_until_us: Days before this moment are closed already.
        cap: The loss at which a row of a version is capped.
    """

    def __init__(
        self,
        model: str,
        metric: Loss,
        outcomes: OutcomeJoin,
        *,
        closed_until_us: int = -(2**62),
        cap: Callable[[str], float] = lambda version: LOSS_CAP,
    ) -> None:
        self.model = model
        self.metric: Loss = metric
        self.closed_until_us = closed_until_us
        self.too_late = 0
        self._outcomes = outcomes
        self._cap = cap
        self._parts: list[Columns] = []

    def add(self, predictions: Sequence[Prediction] | Columns) -> None:
        """Take in predictions as they were logged; a table of them must hold no what-if answers, it has no flags."""
        if not isinstance(predictions, Columns):
            classes = self._outcomes.classes
            predictions = [
                p
                for p in predictions
                if p.model == self.model and PAST not in p.flags and not p.is_makeshift and _comparable(p, classes)
            ]
        table = self._outcomes.table(predictions)
        mine = (table["model"].values == self.model) & made_for_its_moment(table)
        late = mine & (table["at"].values < self.closed_until_us)
        self.too_late += int(late.sum())
        kept = mine & ~late
        if kept.any():
            table = table.select([name for name in table.names if name not in _NOT_KEPT])
            self._keep(table if kept.all() else table.take(kept))

    def _keep(self, table: Columns) -> None:
        """Keep a table, with small ones before it in one: a row may come every few seconds, for days."""
        while self._parts and self._parts[-1].rows <= min(table.rows, _PART_ROWS):
            table = Columns.concat([self._parts.pop(), table])
        self._parts.append(table)

    def close(self, now_us: int) -> list[DayQuality]:
        """The days that are over and waited for at `now_us`, oldest first, one summary a version."""
        until_us = (now_us - self._outcomes.wait_us) // DAY_US * DAY_US
        if until_us <= self.closed_until_us:
            return []
        self.closed_until_us = until_us
        if not self._parts:
            return []
        table = Columns.concat(self._parts)
        closing = table["at"].values < until_us
        self._parts = [] if closing.all() else [table.take(~closing)]
        if not closing.any():
            return []
        due = table.take(closing)
        found = self._outcomes.due(due if self._outcomes.lists is None else _newest_of_each(due))
        lists = None if self._outcomes.lists is None else _numbered(found.predictions["list"])
        versions = found.predictions["version"].values
        days: list[DayQuality] = []
        for version in dict.fromkeys(versions.tolist()):
            rows = versions == version
            at_us, scores = found.predictions["at"].values[rows], found.scores(self._outcomes.classes)[rows]
            days += day_quality(
                self.model,
                self.metric,
                version,
                at_us,
                scores,
                found.labels[rows],
                cap=self._cap(version),
                lists=None if lists is None else lists[rows],
                unlisted=found.states[rows] == UNLISTED,
            )
        return sorted(days, key=lambda day: (day.day_us, day.version))


def _newest_of_each(table: Columns) -> Columns:
    """Of a row that was asked more than once on a day, in one list and of one version, what was answered last. # D87"""
    names = ("version", "list", "request_id")
    keys = zip(*(table[name].to_list() for name in names), (table["at"].values // DAY_US).tolist(), strict=True)
    newest = {key: row for row, key in enumerate(keys)}
    return table.take(np.array(sorted(newest.values()), np.int64))


def _numbered(names: Column) -> NDArray[Any]:
    """A number for each list, -1 for none."""
    found = np.full(len(names.values), -1, np.int64)
    there = names.present()
    found[there] = np.unique(names.values[there], return_inverse=True)[1].reshape(-1)
    return found


def _comparable(prediction: Prediction, classes: Sequence[str]) -> bool:
    """Whether an answer can be held against the label: one of before it had classes, or of wholly others, cannot."""
    if prediction.scores is None or not classes:
        return (prediction.scores is None) == (not classes)
    return any(name in prediction.scores for name in classes)


def made_for_its_moment(predictions: Columns) -> NDArray[Any]:
    """Which predictions were made no later than the moment they are about; shape (rows,).

    A row of a batch that is about an earlier moment was not. A stored answer (`precomputed`) is given for a while.
    """
    ahead = predictions["mode"].values == "precomputed"
    found: NDArray[Any] = predictions["at"].values + np.where(ahead, AHEAD_US, 0) >= predictions["made_at"].values
    return found
