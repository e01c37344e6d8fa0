"""The estimator of a new project: trees or a linear model, whichever is better on the newest rows of the file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.options import Assumption, Options
from trimtab.app.start.init.plan import Plan
from trimtab.app.start.init.project_text import project_text
from trimtab.app.state.definitions import load_definitions
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, Unavailable
from trimtab.core.time import duration_us, format_time
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Source
from trimtab.events.files.files import read_rows
from trimtab.report.tables import written
from trimtab.stats.metrics.losses import row_losses
from trimtab.training.data.sets import TrainingSet, build_training_set
from trimtab.training.definitions import Model
from trimtab.training.fitting.fit import fit_unchecked
from trimtab.training.fitting.score_checks import fitted_values
from trimtab.training.judge.baselines import baseline_scores

_MOST_ROWS = 50_000  # this many of the newest rows are used
_JUDGED = 0.2  # the newest of these rows are judged: at least this share, and all in the gate's window
_LEAST_ROWS = 30  # with fewer rows to learn from or to judge, nothing is compared


def with_estimator(table: DataTable, planned: Plan, options: Options, now_us: int) -> Plan:
    """Return the plan with the estimator that has the lower mean loss on the newest rows of the file.

    Both estimators are fitted on older rows, with the features that the project declares. If the caller named an
    estimator, or there is nothing to compare, the plan keeps its estimator.
    """
    if options.estimator != "auto":
        return planned
    if not planned.trees:
        said = "a linear model, because LightGBM is not installed; with it, trees are tried as well"
        return _assuming(planned, said)
    try:
        models = {trees: _model(table, msgspec.structs.replace(planned, trees=trees)) for trees in (True, False)}
        found = _compared(table.file, models, planned, now_us)
    except (Misuse, Unavailable) as error:
        return _assuming(planned, f"trees; they were not compared with a linear model: {error}")
    if isinstance(found, str):
        return _assuming(planned, f"trees; they were not compared with a linear model, because {found}")
    metric, rows, losses = models[True].metric, found.rows, found.losses
    trees = losses[True] < losses[False]
    names = {True: "trees", False: "a linear model"}
    said = (
        f"{names[trees]}, because {metric} on {rows} is {written(losses[trees])}; for {names[not trees]} it is "
        f"{written(losses[not trees])}"
    )
    best = min(found.baselines, key=lambda name: found.baselines[name], default=None)
    notes = planned.notes
    if best is not None and found.baselines[best] <= losses[trees]:
        notes += (
            f"On {rows}, {metric} of the baseline {best} is {written(found.baselines[best])}, no more than that of the "
            f"model ({written(losses[trees])}). The gate refuses a version that does not beat the best baseline.",
        )
    return _assuming(msgspec.structs.replace(planned, trees=trees, notes=notes), said)


def file_training_set(file: Path, model: Model, now_us: int) -> TrainingSet:
    """Return the training set of the newest rows of a file, as the project will build it from its log.

    Rows are left out if they are dated after `now_us`, or if a value does not fit the requests' or the labels' source.

    Raises:
        Misuse: The file has no row that is usable.
    """
    # Reading takes most of the time, so the file is read once for both sources.
    columns = read_rows(file, _of_both(model), on_error="quarantine").columns
    requests, _ = _newest(columns, model.request.source, now_us)
    events, newest_us = _newest(columns, model.label.source, now_us)
    frames = {model.label.source.name: _frame(model.label.source, events)}
    return build_training_set(model, requests, frames, cut_us=newest_us + model.label.wait_us, positions={})


class _Compared(msgspec.Struct, frozen=True):
    """The mean losses of both estimators and of the baselines on the same rows."""

    losses: dict[bool, float]  # True: trees, False: a linear model
    baselines: dict[str, float]
    rows: str  # the judged rows in words


def _assuming(planned: Plan, said: str) -> Plan:
    one = Assumption("estimator", said, "--estimator")
    return msgspec.structs.replace(planned, assumed=(*planned.assumed, one))


def _model(table: DataTable, planned: Plan) -> Model:
    """Return the model that the text of the project declares."""
    with tempfile.TemporaryDirectory(prefix="trimtab-init-") as name:
        file = Path(name) / "project.py"
        file.write_text(project_text(table, planned), "utf-8")
        return load_definitions(file).models[planned.model]


def _compared(file: Path, models: dict[bool, Model], planned: Plan, now_us: int) -> _Compared | str:
    """Return the losses on the newest rows, or the reason why there are none."""
    model = models[True]
    rows = file_training_set(file, model, now_us)
    usable = rows.usable & np.isfinite(rows.target)
    if not usable.any():
        return "no row has a label whose wait is over"
    newest_us = int(rows.at_us[usable].max())
    start_us = min(int(np.quantile(rows.at_us[usable], 1 - _JUDGED)), newest_us - duration_us(planned.window))
    judged = usable & (rows.at_us > start_us)
    learnt = usable & (rows.at_us + model.label.wait_us <= start_us)
    if min(judged.sum(), learnt.sum()) < _LEAST_ROWS:
        return f"{int(learnt.sum())} rows to learn from and {int(judged.sum())} later ones are too few"
    chosen = np.flatnonzero(judged)
    losses = {trees: _mean_loss(one, rows, chosen, learnt) for trees, one in models.items()}
    baselines = {
        f"{name} (by {', '.join(one.by)})" if one.by else name: _loss(model, rows, chosen, one.scores)
        for name, one in baseline_scores(model, rows, chosen, learnt, seed=0).items()
        if one is not None and name != "linear"
    }
    since = format_time(int(rows.at_us[chosen].min()))[:10]
    return _Compared(losses, baselines, f"the newest {chosen.size:,} rows (since {since})")


def _mean_loss(model: Model, rows: TrainingSet, chosen: NDArray[Any], learnt: NDArray[np.bool_]) -> float:
    fitted = fit_unchecked(model, rows, rows=learnt)
    return _loss(model, rows, chosen, fitted_values(fitted, rows.features.values.take(chosen)))


def _loss(model: Model, rows: TrainingSet, chosen: NDArray[Any], scores: NDArray[np.float64]) -> float:
    return float(row_losses(model.metric, rows.target[chosen], scores).mean())


def _of_both(model: Model) -> Source:
    """Return a source with the columns and rules of the model's request and label."""
    request, label = model.request.source, model.label.source
    reading = msgspec.structs.replace(
        label.reading,
        number_formats=request.reading.number_formats | label.reading.number_formats,
        constants=request.reading.constants | label.reading.constants,
    )
    return msgspec.structs.replace(
        label,
        columns=request.columns | label.columns,
        time_formats=request.declared_formats | label.declared_formats,
        reads=reading,
    )


def _newest(columns: Columns, source: Source, now_us: int) -> tuple[Columns, int]:
    """Return the newest rows of a source, and the newest time. If rows have the same key, only the last one counts."""
    columns = columns.select(source.columns)
    assert source.key is not None  # `init` declares a key for each source
    there = columns[source.time].present() & columns[source.key].present()
    columns = columns.take(there & (columns[source.time].values <= now_us))
    last = dict(zip(columns[source.key].to_list(), range(columns.rows), strict=True))
    columns = columns.take(np.sort(np.fromiter(last.values(), np.int64, len(last))))
    newest_us = int(columns[source.time].values.max(initial=0))
    if source.reading.only_final:
        columns = columns.take(columns[source.time].values + source.delay_us <= newest_us)
    return columns.take(np.argsort(columns[source.time].values, kind="stable")[-_MOST_ROWS:]), newest_us


def _frame(source: Source, columns: Columns) -> EventFrame:
    """Return rows of a source as events, with the times at which they become known according to the source."""
    times = columns[source.time].values
    known_us = times + source.delay_us
    if source.reading.known_at is not None:
        said = columns[source.reading.known_at]
        known_us = np.where(said.present(), np.maximum(said.values, times), known_us)
    rows = columns.rows
    return EventFrame(
        source.name,
        columns.select(source.columns),
        times,
        known_us,
        np.full(rows, NEVER_US),
        np.zeros(rows, np.bool_),
        np.zeros(rows, np.int16),
        np.arange(1, rows + 1),
        ("file",),
    )
