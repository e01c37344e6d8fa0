"""Turn labels of predictions into events of the label's source. Missing columns are copied from the logged request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any

import msgspec

from trimtab.app.data.label_values import LabelValues
from trimtab.app.data.logged_requests import request_shape
from trimtab.app.state.definitions import Definitions
from trimtab.app.system import System
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.core.time import format_time
from trimtab.events.definitions import Source
from trimtab.events.values.checks import given_time_us
from trimtab.features.definitions import Request
from trimtab.serving.http.routes.operations import GivenLabels, LabelRow
from trimtab.serving.problems import InvalidField
from trimtab.training.definitions import Model


class MadeLabel(msgspec.Struct, frozen=True):
    """The event of one label."""

    event: dict[str, object]
    late: bool = False  # whether the label came after the wait for it was over
    counts_as: str | None = None  # if the label was given as a text that means true or false: "true" or "false"


class LabelEvents:
    """Makes an event of a label's source for each given label.

    Args:
        find: Finds a prediction by its id. It stops searching at a deadline (a time of `perf_counter`).
    """

    def __init__(self, system: System, find: Callable[[str, float | None], Prediction]) -> None:
        self._system = system
        self._find = find
        self._labelled: dict[str, _Labelled] = {}  # by model
        self._requests: dict[str, Request | None] = {}  # by id of a version: the request with which it was trained

    def all(self, model: str, rows: Sequence[LabelRow], until_s: float | None = None) -> GivenLabels:
        """Return one event for each label of one model; see `RecordOperations` in serving/http/routes/operations.py."""
        source = self.of_model(model).source
        made, none = [], f" None of the {len(rows):,} labels was taken." if len(rows) > 1 else ""
        for number, row in enumerate(rows):
            try:
                made.append(self.one(model, row, f"$[{number}]", until_s))
            except InvalidField as error:
                raise InvalidField(f"{error}{none}", field=error.field, pointer=error.pointer) from error
            except NotFound as error:
                raise NotFound(f"$[{number}].prediction: {error}{none}") from error
        return GivenLabels(source.name, [one.event for one in made], sum(one.late for one in made))

    def of_model(self, model: str) -> _Labelled:
        """Return the label of a deployed model, with the columns that the label's events must have. Results are kept.

        Raises:
            NotFound: There is no such deployment.
        """
        if model not in self._labelled:
            definitions = self._system.definitions
            self._labelled[model] = _Labelled(definitions, definitions.deployment(model).model)
        return self._labelled[model]

    def one(
        self,
        model: str,
        row: LabelRow,
        at: str,
        until_s: float | None = None,
        *,
        found: Prediction | None = None,
        text: bool = False,
    ) -> MadeLabel:
        """Return the event of one label.

        Args:
            at: The place of the label, with which error messages begin, such as "$[3]".
            until_s: Until when to search for the prediction.
            found: The prediction, if it was found already.
            text: Whether the values are fields of a text file.

        Raises:
            NotFound: The prediction does not exist.
            InvalidField: The label does not fit. The message says what to give.
        """
        if (row.prediction is None) == (row.request is None):
            raise InvalidField(
                f'{at}: give either "prediction" (its id) or "request" (its key), not both.',
                field="prediction",
                pointer=f"{at}.prediction",
            )
        kind = self.of_model(model)
        event = kind.given(row, at, text)
        if row.prediction is not None and found is None:
            found = self._find(row.prediction, until_s)
        if found is not None and found.model != model:
            raise InvalidField(
                f"{at}.prediction: model {found.model!r} made it, not {model!r}. Send its label to "
                f"/v1/labels/{found.model}.",
                field="prediction",
                pointer=f"{at}.prediction",
            )
        key = row.request if found is None else found.request_id
        dtype = kind.model.request.key_dtype
        event[kind.label.key] = key_value("" if key is None else key, dtype, "request", f"{at}.request")
        known = {} if found is None else self._request_columns(found)
        event[kind.source.time] = self._time_us(kind, row, found, known, at)
        kind.fill(event, known)
        if lost := [column for column in kind.readers if column not in event]:
            raise _left_out(kind.source.name, {column: kind.readers[column] for column in lost}, at)
        late = found is not None and self._system.clock.now_us() > kind.label.final_at(found.at_us)
        counts_as = kind.counts_as(row.value, event)
        return MadeLabel(_with_times_as_text(event, kind.source), late, counts_as)

    def _time_us(
        self, kind: _Labelled, row: LabelRow, found: Prediction | None, known: dict[str, tuple[Dtype, Any]], at: str
    ) -> int:
        """Return the time of the event: the given time, the time of the request if the source uses it, or now. # D206

        If the source and the request have the same time column (such as the time of departure), the event has the time
        of its request. So a label that is sent twice is one event, and features with windows over this source get the
        same event times as from ingested rows. An event before the prediction's as-of time would not count as its
        label. If such a time was given, it is refused; otherwise the as-of time replaces it.
        """
        now_us, time = self._system.clock.now_us(), kind.source.time
        if row.at is not None:
            try:
                at_us = given_time_us(row.at, f"{at}.at", self._system.clock)
            except Misuse as error:
                raise InvalidField(str(error), field="at", pointer=f"{at}.at") from error
            if found is not None and at_us < found.at_us:
                raise InvalidField(
                    f"{at}.at: {format_time(at_us)} is before {format_time(found.at_us)}, the as-of time of the "
                    "prediction, so it cannot be the time of its label. Leave `at` out, or give a later time.",
                    field="at",
                    pointer=f"{at}.at",
                )
            return at_us
        if found is None:
            return now_us
        if kind.model.request.time != time or known.get(time, ("", None))[1] is None:
            return max(now_us, found.at_us)
        dated_us: int = max(known[time][1], found.at_us)
        if dated_us > now_us + kind.source.future_tolerance_us:
            raise InvalidField(
                f"{at}.prediction: the time of its request, {format_time(dated_us)}, is in the future. Send the "
                "label when that time has passed.",
                field="prediction",
                pointer=f"{at}.prediction",
            )
        return dated_us

    def _request_columns(self, found: Prediction) -> dict[str, tuple[Dtype, Any]]:
        """Return the type and the value of each column of a logged request, or nothing if its columns are unknown."""
        if found.version not in self._requests:
            try:
                declared = self._system.live.of(self._system.registry.get(found.version)).request
            except (Misuse, NotFound, Corrupt):  # the version's definitions are gone
                declared = None
            self._requests[found.version] = declared
        declared = self._requests[found.version]
        if declared is None or not request_shape(declared)(found.request):
            return {}
        values = msgspec.msgpack.decode(found.request)
        return {name: (dtype, v) for (name, dtype), v in zip(declared.columns.items(), values, strict=True)}


class _Labelled:
    """The label of a model, and the columns that its events must have, because a view or a label reads them."""

    def __init__(self, definitions: Definitions, model: Model) -> None:
        self.model = model
        self.label = model.label
        self.source = model.label.source
        self.readers = _readers(definitions, model)
        views = [view for view in definitions.views.values() if view.source.name == self.source.name]
        models = [one for one in definitions.models.values() if one.label.source.name == self.source.name]
        aggregates = [aggregate for view in views for aggregate in view.features.values()]
        others = [one.label.value for one in models]
        others += [read for one in aggregates for read in (one.of, one.where) if read is not None]
        self._values = LabelValues(self.label, others)
        labels = {column for one in models for column in one.label.value.columns()}
        own = {self.label.key, self.source.time, self.source.reading.known_at}
        self._filled = [name for name in self.source.declared if name not in labels | own]

    def given(self, row: LabelRow, at: str, text: bool) -> dict[str, Any]:
        """Return the columns that a label gives."""
        source, names = self.source, self._values.columns
        event = dict(row.columns)
        for name in event:
            if name not in source.declared or name in (self.label.key, source.time):
                known = ", ".join(c for c in source.declared if c not in (self.label.key, source.time))
                raise InvalidField(
                    f"{at}.columns: {name!r} cannot be given here. These columns of {source.name!r} can: {known}.",
                    field=name,
                    pointer=f"{at}.columns.{name}",
                )
        if row.value is msgspec.UNSET:
            if event:
                return event
            raise InvalidField(f'{at}: give "value" or "columns".', field="value", pointer=f"{at}.value")
        if len(names) != 1 or names[0] in event:
            needed = ", ".join(f'"{name}": ...' for name in names)
            raise InvalidField(
                f'{at}.value: the label is made from {", ".join(names)}. Give "columns": {{{needed}}} and no "value".',
                field="value",
                pointer=f"{at}.value",
            )
        try:
            value = None if row.value is None else self._values.column_value(row.value, text=text)
        except Misuse as error:
            raise InvalidField(f"{at}.value: {error}", field="value", pointer=f"{at}.value") from None
        if value is None or (isinstance(value, float) and isnan(value)):  # it would take back an earlier label
            raise InvalidField(
                f"{at}.value: null is no label. Give the value, or take a label back with "
                f'{{"_op": "delete"}} to /v1/events/{source.name}.',
                field="value",
                pointer=f"{at}.value",
            )
        return event | {names[0]: value}

    def counts_as(self, given: Any, event: dict[str, Any]) -> str | None:
        """Return "true" or "false" if the label is a truth value and was given as a text; otherwise None."""
        return self._values.counts_as(given, event.get(self._values.columns[0])) if isinstance(given, str) else None

    def fill(self, event: dict[str, Any], known: dict[str, tuple[Dtype, Any]]) -> None:
        """Copy from the request the columns that the label did not give, except those that a label is computed from."""
        for name in self._filled:
            dtype, value = known.get(name, (None, None))
            if name not in event and dtype == self.source.declared[name]:
                event[name] = value


def _with_times_as_text(event: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return the event with its times in ISO 8601, which is accepted whatever format the source declares."""
    return {
        name: format_time(value) if source.declared.get(name) == "time" and isinstance(value, int) else value
        for name, value in event.items()
    }


def _readers(definitions: Definitions, declared: Model) -> dict[str, str]:
    """Return the columns that a label event must have, each with the name of something that reads it."""
    label, source = declared.label, declared.label.source
    readers: dict[str, str] = {}
    for name, model in definitions.models.items():
        if model.label.source.name == source.name:
            readers |= dict.fromkeys(
                sorted(model.label.value.columns() - readers.keys()), f"the label of model {name!r}"
            )
    for name, view in definitions.views.items():
        if view.source.name == source.name:
            readers |= dict.fromkeys(sorted(view.columns_read - readers.keys()), f"view {name!r}")
    if source.key is not None:
        readers.setdefault(source.key, f"source {source.name!r}")
    return {column: who for column, who in readers.items() if column not in (label.key, source.time)}


def _left_out(source: str, lost: dict[str, str], at: str) -> InvalidField:
    """Return the error for a label that leaves out columns that something reads.

    The newest event of a key replaces earlier events, so these columns would become null for their readers. # D21
    """
    field = next(iter(lost))
    readers = ", ".join(f"{column!r} ({who} reads it)" for column, who in lost.items())
    return InvalidField(
        f"{at}: a label is a whole event of {source!r}, and this one leaves out {readers}, which would be null "
        f'from now on. Give all of them in "columns", or push the whole row to /v1/events/{source}.',
        field=field,
        pointer=f"{at}.columns.{field}",
    )


def key_value(text: str | int, dtype: Dtype, field: str, pointer: str = "") -> str | int:
    """Return a key converted to the type of its column."""
    if dtype != "int":
        return str(text)
    try:
        number = int(text)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise InvalidField(
            f"{pointer or field}: {text!r} is not a 64-bit integer, the type of the key.", field=field, pointer=pointer
        )
    return number
