"""Predict for the rows of a frame, and return a frame of the same library with the answers as further columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.app.models.served_model import ServedModel
from trimtab.app.serve.batch import answer_table, flag_column, named_rows
from trimtab.app.system import System
from trimtab.core.columns.data import Columns, column
from trimtab.core.columns.same_library import library_of, with_columns
from trimtab.core.errors import Misuse
from trimtab.core.time import HOUR_US
from trimtab.events import read_rows
from trimtab.events.files.files import is_table
from trimtab.serving.answer.batch import batch_predictions
from trimtab.serving.answer.request_rows import rows_of_table
from trimtab.serving.answer.served import Answer, shown

_CHUNK = 5_000  # this many rows are answered together


def predict_frame(system: System, frame: Any, model: str, at_us: int | None, progress: Any) -> Any:
    """Predict for the rows of a frame; see `Project.predict_frame`."""
    if isinstance(frame, Mapping) or not (is_table(frame) or isinstance(frame, Sequence)) or isinstance(frame, str):
        also = " Collect it first." if hasattr(frame, "collect") else ""
        raise Misuse(
            f"predict_frame: a {type(frame).__name__} holds no rows.{also} Give a frame of pandas, polars, pyarrow or "
            "DuckDB, or a list of dicts; predict_table takes files."
        )
    served = system.current(model)
    loaded = served.refresh()
    request = served.answerers.features(loaded).request
    given: Any = frame
    if library_of(frame) == "duckdb":  # a relation is a query, which may give its rows in another order each time
        given = Columns.from_arrow(frame)
    found = read_rows(given, request.source)
    table = found.columns
    absent = [name for name in request.columns if name not in table]
    if absent:
        raise Misuse(f"predict_frame: no column {absent[0]!r}, which request {request.name!r} declares. Add it.")
    table = table.select(request.columns)
    if lacking := named_rows(request, found, "row")[1]:
        raise Misuse(f"predict_frame: {lacking[0]}")
    times = table[request.time]
    due_us = times.values - request.lead_us
    past = times.present() & (at_us is None) & (due_us < system.clock.now_us() - HOUR_US)
    answers = _answers_of_past(system, served, table.take(past), progress)
    rows = rows_of_table(table.take(~past))
    for start in range(0, len(rows), _CHUNK):
        answers += served.endpoint.answer(rows[start : start + _CHUNK], at=at_us)
        if progress is not None:
            progress(len(answers), table.rows)
    places = np.argsort(np.concatenate([np.flatnonzero(past), np.flatnonzero(~past)]))
    answers = [answers[place] for place in places.tolist()]
    more = answer_columns(answers, loaded.artifact.class_names)
    if is_table(frame):
        return with_columns(given, more, like=frame)
    return [{**row, **added} for row, added in zip(given, more.to_rows(), strict=True)]


def _answers_of_past(system: System, served: ServedModel, table: Columns, progress: Any) -> list[Answer]:
    """Answer rows that were due over an hour ago as a batch, each as of its own time minus the lead."""
    if not table.rows:
        return []
    made = answer_table(
        system,
        served.deployment.name,
        table,
        at_us=None,
        mode="batch",
        out=None,
        on_error="refuse",
        progress=progress,
        again=True,
    )
    version = served.answerers.served(served.refresh())
    return [shown(p, version) for part in batch_predictions(made, system.predictions) for p in part]


def answer_columns(answers: Sequence[Answer], classes: Sequence[str]) -> Columns:
    """Return the answers as columns: score, version, id, flags; for several classes also prediction and all scores."""
    found = {}
    if classes:
        found["prediction"] = column("str", [one.prediction for one in answers])
        for name in classes:
            scores = [None if one.scores is None else one.scores.get(name, 0.0) for one in answers]
            found[f"scores.{name}"] = column("float", scores)
    return Columns(
        found
        | {
            "score": column("float", [one.score for one in answers]),
            "version": column("str", [one.version for one in answers]),
            "prediction_id": column("str", [one.id for one in answers]),
            "flags": flag_column(answers),
        }
    )
