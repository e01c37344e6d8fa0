"""Join predictions with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.definitions import LabelWait
from trimtab.features.labels import LABELLED, LATE, MISSING, PENDING, UNLISTED
from trimtab.feedback.slices import RequestSlices
from trimtab.serving.log.prediction_record import prediction_columns
from trimtab.stats.metrics.multiclass import normalized


class KnownLabels(msgspec.Struct, frozen=True, eq=False):
    """The labels of requests, in their order."""

    values: NDArray[Any]  # float64; NaN: there is no label, or it is not one of the classes
    known_at_us: NDArray[Any]  # int64; `NEVER_US`: there is no label


class LabelReader(Protocol):
    """A function that finds each request's label: of the events known at a cut, the last one with the request's key.

    Events that are dated before the request do not count.
    """

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels: ...


@runtime_checkable
class LoadedLabels(Protocol):
    """A `LabelReader` whose labels may be loaded from files now and then."""

    def complete_until(self, now_us: int) -> int:
        """Return the time until which labels are complete: the last load or, if the next one is overdue, `now_us`."""
        ...


class OutcomeFrame(msgspec.Struct, frozen=True, eq=False):
    """Predictions with their labels, one row for each prediction, in the order of the predictions.

    `predictions` has the columns of `prediction_columns`. If no label is known at the cut, `labels` has NaN, and
    `known_at_us` has `NEVER_US`.
    """

    predictions: Columns
    states: NDArray[Any]  # uint8: index of the row's state in LABEL_STATES
    labels: NDArray[Any]  # float64
    known_at_us: NDArray[Any]  # int64

    def scores(self, classes: Sequence[str] = ()) -> NDArray[Any]:
        """Return the scores, shape (rows,). With `classes`, return class probabilities, shape (rows, classes).

        Probabilities of classes that are no longer declared are dropped, and the others are divided by their sum. A
        class that the version did not know gets 0.
        """
        if not classes:
            return self.predictions["score"].values
        found = np.stack([self.predictions[f"scores.{name}"].values for name in classes], axis=1)
        return normalized(np.nan_to_num(found))


class ListColumn(msgspec.Struct, frozen=True):
    """The column of a logged request that names the row's list."""

    place: int
    columns: int  # the number of columns that a request must have

    def of(self, prediction: Prediction) -> str | None:
        """Return the list of a prediction; None if its request names none, or does not have `columns` columns."""
        request = msgspec.msgpack.decode(prediction.request)
        if not isinstance(request, list) or len(request) != self.columns or request[self.place] is None:
            return None
        return str(request[self.place])


class OutcomeJoin(LabelWait):
    """Joins the predictions of one model with labels that have the same request key.

    Args:
        wait_us: How long after a request its label is waited for. A label that becomes known later is late.
        key_dtype: The type of the request's key: "str" or "int".
        classes: The declared classes, if the model has several.
        lists: For a ranking: the column of a request that names its list.
        slices: Columns of requests, and expressions over columns, whose values are slices. Not for rankings.
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

    def closed_until(self, now_us: int) -> int:
        """As in `LabelWait`, but labels from files are waited for until the next file, unless it is overdue."""
        known = self._labels
        return super().closed_until(known.complete_until(now_us) if isinstance(known, LoadedLabels) else now_us)

    def join(self, predictions: Sequence[Prediction] | Columns, cut_us: int) -> OutcomeFrame:
        """Return predictions with their labels as known at `cut_us`.

        Of a corrected label, the newest value counts, and the label is late if this value became known after the wait.
        """
        return self._outcomes(self.table(predictions), cut_us)

    def each(self, tables: Iterable[Columns], cut_us: int | None = None) -> Iterator[OutcomeFrame]:
        """Yield the outcomes of tables of predictions, as `join` does.

        Without `cut_us`, they are those at the end of each prediction's wait: final, neither pending nor late.
        """
        for table in tables:
            yield self._outcomes(table, cut_us)

    def table(self, predictions: Sequence[Prediction] | Columns) -> Columns:
        """Return the columns of predictions that are needed to join them and to sum up quality.

        For a ranking, there is also a column `list`; with slices, a column `slice.NAME` for each column and expression.
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

    def _outcomes(self, table: Columns, cut_us: int | None) -> OutcomeFrame:
        at_us = table["at"].values
        due_us = self.final_at(at_us)
        cuts_us = due_us if cut_us is None else np.full(table.rows, cut_us, np.int64)
        found = self._labels(self._keys(table), at_us, cuts_us)
        states = np.where(
            found.known_at_us != NEVER_US,
            np.where(found.known_at_us <= due_us, LABELLED, LATE),
            np.where(cuts_us < due_us, PENDING, MISSING),
        ).astype(np.uint8)
        values = found.values
        if self.classes:
            values = self._listed(table, values)
            states[(found.known_at_us != NEVER_US) & np.isnan(values)] = UNLISTED
        return OutcomeFrame(table, states, values, found.known_at_us)

    def _listed(self, table: Columns, values: NDArray[Any]) -> NDArray[Any]:
        """Return the labels without those of classes that the version which answered did not know."""
        for place, name in enumerate(self.classes):
            unknown = np.isnan(table[f"scores.{name}"].values)
            values = np.where(unknown & (values == place), np.nan, values)
        return values

    def _keys(self, table: Columns) -> Column:
        keys = table["request_id"]
        if self._key_dtype == "str":
            return keys
        try:
            return Column("int", keys.values.astype(np.int64))
        except ValueError as error:
            raise Misuse(f"outcomes: a request's key is no integer ({error}). Is it another model's log?") from error
