"""Rows in the form from which input profiles are made: a matrix of inputs and request columns, and null reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import repeat

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import Expression
from trimtab.core.records import Prediction
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import NO_VIEW, FeatureFrame
from trimtab.monitoring.profiles.profile_records import Floats, Kind, Place

_FOUND = 0  # the code that stands for "not null"
_KINDS: dict[str, Kind] = {"float": "number", "int": "number", "bool": "bool", "time": "time", "str": "text"}


class ColumnPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the matrix, and where its values come from."""

    name: str
    place: Place
    kind: Kind
    integers: bool
    of: str | None = None  # the request column with the same values; None: the values are computed
    source: str | None = None  # the only event source from which the values are computed; None: none, or several


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Rows as a matrix, with the reason of each null, and marks of values that did not occur in training."""

    values: Floats  # shape (rows, columns)
    reasons: NDArray[np.uint8]  # indexes of `REASONS`; 255 for values that do not come from a view
    strange: NDArray[np.bool_]  # True for categories that did not occur in training; their value is NaN


def planned(features: FeatureSet, encoding: Encoding) -> tuple[ColumnPlan, ...]:
    """Return the columns of the matrix for a version: its inputs, then the other columns of the request.

    The key and the time of the request are left out, because their distribution means nothing. Features that only
    depend on the time, such as the month, are of the kind "time": no value of theirs is a fault. Columns that name
    something, such as the number of a customer, are of the kind "text" even if they are integers: numbers of things
    have no range, no unit and no typical shape.
    """
    joins = {join.name: join for join in features.joins}
    identifiers = _identifiers(features)
    plans = []
    for name, dtype in encoding.dtypes.items():
        expression = features.transforms.get(name)
        join, _, _ = name.partition(".")
        of = _column_of(expression, features.request.columns)
        source = joins[join].view.source.name if expression is None else _source_of(expression, features)
        kind = "category" if name in encoding.vocabularies else _KINDS[dtype]
        if kind != "category" and {name, of} & identifiers:
            kind = "text"
        if expression is not None and _of_time_alone(expression, features):
            kind = "time"
        plans.append(ColumnPlan(name=name, place="input", kind=kind, integers=dtype == "int", of=of, source=source))
    taken = {plan.of for plan in plans} | {features.request.key, features.request.time}
    for name, dtype in features.request.columns.items():
        if name not in taken:
            kind = "text" if name in identifiers else _KINDS[dtype]
            plans.append(ColumnPlan(name=name, place="request", kind=kind, integers=dtype == "int", of=name))
    return tuple(plans)


def rows_of_set(plans: Sequence[ColumnPlan], encoding: Encoding, requests: Columns, features: FeatureFrame) -> Rows:
    """Return the rows of a training set as `Rows`."""
    return _in_columns(plans, encoding.matrix(features.values), requests, features)


def rows_of_block(
    plans: Sequence[ColumnPlan], matrix: NDArray[np.float64], requests: Columns, features: FeatureFrame
) -> Rows:
    """Return the rows of predictions that are in memory as columns; equal to those that `RowReader` reads from the log.

    Args:
        matrix: The inputs of the version, shape (rows, inputs).
        features: The features from which the inputs were computed.
    """
    rows = _in_columns(plans, matrix, requests, features)
    for place, plan in enumerate(plans):
        if plan.kind == "category":
            there = rows.reasons[:, place] == _FOUND
            if plan.of is not None:
                there |= requests[plan.of].present()
            rows.strange[:, place] = np.isnan(rows.values[:, place]) & there
    return rows


def _in_columns(
    plans: Sequence[ColumnPlan], matrix: NDArray[np.float64], requests: Columns, features: FeatureFrame
) -> Rows:
    """Return inputs and further request columns as one matrix. No value is marked as `strange`."""
    inputs = [plan.name for plan in plans if plan.place == "input"]
    values, reasons = [matrix], [features.codes(inputs)]
    texts = TextNumbers()
    for plan in plans[len(inputs) :]:
        column = requests[plan.name]
        if plan.kind == "text" and not plan.integers:
            found = texts.of(column.values.tolist())
        else:
            found = np.where(column.present(), column.values.astype(np.float64), np.nan)
        values.append(found[:, None])
        reasons.append(np.full((requests.rows, 1), NO_VIEW, np.uint8))
    together = np.concatenate(values, axis=1)
    return Rows(together, np.concatenate(reasons, axis=1), np.zeros(together.shape, np.bool_))


class RowReader:
    """Reads rows from the logged predictions of one version."""

    def __init__(self, plans: Sequence[ColumnPlan], request: Sequence[str]) -> None:
        places = {name: place for place, name in enumerate(request)}
        self.inputs = sum(1 for plan in plans if plan.place == "input")
        self._width = len(request)
        self._categories = [
            (place, places.get(plan.of or "")) for place, plan in enumerate(plans) if plan.kind == "category"
        ]
        self._further = [
            (places[plan.name], plan.kind == "text" and not plan.integers) for plan in plans[self.inputs :]
        ]
        self._texts = TextNumbers()
        self._decode = msgspec.msgpack.Decoder(list[object]).decode

    def read(self, predictions: Sequence[Prediction]) -> Rows:
        """Return the rows of predictions, in their order. All of them must have the inputs of the version."""
        count = len(predictions)
        values = np.frombuffer(b"".join([p.values for p in predictions]), "<f8").reshape(count, self.inputs)
        reasons = np.frombuffer(b"".join([p.reasons for p in predictions]), np.uint8).reshape(count, self.inputs)
        if self._further:
            requests = [self._request(p) for p in predictions]
            more = [self._numbers([row[place] for row in requests], text=text) for place, text in self._further]
            values = np.concatenate([values, np.stack(more, axis=1)], axis=1)
            no_view = np.full((count, len(more)), NO_VIEW, np.uint8)
            reasons = np.concatenate([reasons, no_view], axis=1)
        strange = np.zeros(values.shape, np.bool_)
        for place, of in self._categories:
            missing = np.flatnonzero(np.isnan(values[:, place]))
            there = reasons[missing, place] == _FOUND
            if of is not None and missing.size:
                there |= np.array([self._request(predictions[row])[of] is not None for row in missing.tolist()])
            strange[missing[there], place] = True
        return Rows(values, reasons, strange)

    def _request(self, prediction: Prediction) -> list[object]:
        """Return the columns of a logged request; only nulls if there are more or fewer than the version expects."""
        row = self._decode(prediction.request)
        return row if len(row) == self._width else [None] * self._width

    def _numbers(self, values: list[object], *, text: bool) -> Floats:
        if text:
            return self._texts.of(values)
        try:
            return np.array(values, np.float64)
        except (TypeError, ValueError):  # the request was made for another version
            return np.array([v if isinstance(v, int | float) else np.nan for v in values], np.float64)


class TextNumbers:
    """Turns texts into numbers: 52 bits of a hash. These are equal on every machine, and do not reveal the text."""

    def __init__(self) -> None:
        self._known: dict[object, float] = {}

    def of(self, values: Sequence[object]) -> Floats:
        """Return a number for each text; NaN for null."""
        known = self._known
        if len(known) > 100_000:
            known.clear()
        for value in set(values):
            if isinstance(value, str) and value not in known:
                digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                known[value] = float(int.from_bytes(digest, "little") >> 12)
        return np.fromiter(map(known.get, values, repeat(np.nan)), np.float64, len(values))


def _column_of(expression: Expression | None, columns: Mapping[str, object]) -> str | None:
    """If an expression only returns a column, perhaps as a category, return the column's name; otherwise None."""
    if expression is not None and expression.op == "category":
        expression = expression.args[0]
    if expression is None or expression.op != "col":
        return None
    name = str(expression.params[0])
    return name if name in columns else None


def _identifiers(features: FeatureSet) -> set[str]:
    """Return the columns that name things instead of quantities: keys of views, and integers that no feature reads."""
    unread = features.request.columns.keys() - features.request_columns
    return {name for join in features.joins for name in join.by if features.known[name] in ("int", "str")} | {
        name for name in unread if features.request.columns[name] == "int"
    }


def _of_time_alone(expression: Expression, features: FeatureSet) -> bool:
    """Return whether an expression reads the time of the request, directly or by other features, and nothing else."""
    read = expression.columns()
    return bool(read) and all(
        name == features.request.time
        or (
            name not in features.request.columns
            and name in features.transforms
            and _of_time_alone(features.transforms[name], features)
        )
        for name in read
    )


def _source_of(expression: Expression, features: FeatureSet) -> str | None:
    """Return the event source that an expression reads; None if it reads none or several."""
    joins = {join.name: join.view.source.name for join in features.joins}
    read = {joins[name.partition(".")[0]] for name in expression.columns() if name.partition(".")[0] in joins}
    return read.pop() if len(read) == 1 else None
