"""Predictions joined with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.definitions import LabelWait
from trimtab.features.labels import LABELLED, LATE, MISSING, PENDING, UNLISTED, LabelIndex
from trimtab.feedback.slices import RequestSlices
from trimtab.serving.log.prediction_record import prediction_columns
from trimtab.stats.metrics.multiclass import normalized


class KnownLabels(msgspec.Struct, frozen=True, eq=False):
    """Labels of some requests, in their order."""

    values: NDArray[Any]  # float64, NaN where there is none, or one that is none of the classes
    known_at_us: NDArray[Any]  # int64, NEVER_US where there is none


class LabelReader(Protocol):
    """Finds the label of each request: the greatest event of its key at or after its time, known by its cut."""

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels: ...


class IndexedLabels:
    """A `LabelReader` over a `LabelIndex`, which the caller keeps up to date."""

    def __init__(self, index: LabelIndex) -> None:
        self._index = index

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        found = self._index.join(keys.to_list(), at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)


class OutcomeFrame(msgspec.Struct, frozen=True, eq=False):
    """Predictions with their outcomes, one row for each prediction, in the given order.

    `predictions` has the columns of `prediction_columns`; a label is NaN, and its known-at `NEVER_US`, where none is
    known by the cut.
    """

    predictions: Columns
    states: NDArray[Any]  # uint8: the index into LABEL_STATES
    labels: NDArray[Any]  # float64
    known_at_us: NDArray[Any]  # int64

    def scores(self, classes: Sequence[str] = ()) -> NDArray[Any]:
        """The scores, shape (rows,); with `classes` the probability of each, shape (rows, classes).

        The probability of classes that are not declared any more is distributed among the others.
        """
        if not classes:
            return self.predictions["score"].values
        found = np.stack([self.predictions[f"scores.{name}"].values for name in classes], axis=1)
        return normalized(found)


class ListColumn(msgspec.Struct, frozen=True):
    """The place in a logged request of the list that its row belongs to."""

    place: int
    columns: int  # number of columns of a request, as declared

    def of(self, prediction: Prediction) -> str | None:
        """The list of a prediction; None where its request has none, or has other columns than declared."""
        request = msgspec.msgpack.decode(prediction.request)
        if not isinstance(request, list) or len(request) != self.columns or request[self.place] is None:
            return None
        return str(request[self.place])


class OutcomeJoin(LabelWait):
    """Joins predictions of one model with its labels by request key.

    Args:
        labels: Finds labels.
        wait_us: How long after its time a request's label is waited for; one known later is late.
        key_dtype: The type of the request's key, "str" or "int".
        classes: What the label may be, where it is one of several classes.
        lists: Of a ranking: where a request names its list.
        slices: By which columns of requests, and expressions over them, days are taken apart; not of a ranking.
    """

    def __init__(
        self,
        labels: LabelReader,
        *,
        wait_us: int,
        key_dtype: Literal["str", "int"],
        classes: Sequence[str] = (),
        lists: ListColumn | None = None,
        slices: RequestSlices | None = None,
    ) -> None:
        self.wait_us = wait_us
        self.classes = tuple(classes)
        self.lists = lists
        self.slices = slices
        self._labels = labels
        self._key_dtype = key_dtype

    def join(self, predictions: Sequence[Prediction] | Columns, cut_us: int) -> OutcomeFrame:
        """The outcome of each prediction as known at `cut_us`, with the newest version of a corrected label.

        A label counts as late by when this version of it became known.
        """
        table = self.table(predictions)
        due_us = self.final_at(table["at"].values)
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
        due_us = self.final_at(predictions["at"].values)
        found = self._labels(self._keys(predictions), predictions["at"].values, due_us)
        states = np.where(found.known_at_us != NEVER_US, LABELLED, MISSING).astype(np.uint8)
        return OutcomeFrame(predictions, self._listed(states, found), found.values, found.known_at_us)

    def table(self, predictions: Sequence[Prediction] | Columns) -> Columns:
        """The columns of predictions, as many as their outcomes are judged by.

        Of a ranking there is also `list`, with slices `slice.NAME` for each column and
        expression.
        """
        if isinstance(predictions, Columns):
            return predictions
        table = prediction_columns(predictions, self.classes)
        if self.lists is not None:
            return Columns({**table.by_name, "list": column("str", [self.lists.of(p) for p in predictions])})
        if self.slices is not None:
            found = {f"slice.{name}": values for name, values in self.slices.of(predictions).items()}
            return Columns({**table.by_name, **found})
        return table

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
