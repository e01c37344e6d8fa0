"""The verbs of a project about rows: events and labels in, answers and features out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgspec

from trimtab.app.calls import public_calls
from trimtab.app.project_experiments import ProjectExperiments
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.serving.answer.request_rows import rows_of_table
from trimtab.serving.answer.served import Answer

if TYPE_CHECKING:
    import datetime as dt

    from trimtab.app.data.label_tables import LabelsTaken
    from trimtab.app.features.feature_tables import AsKnown, FeatureFile, FeatureTable, How, Of
    from trimtab.app.features.loading import Ingested
    from trimtab.app.serve.batch import AnsweredTable, OnError
    from trimtab.events.files.files import Rows, Table
    from trimtab.events.ingest import Pushed
    from trimtab.events.quarantine import Replayed, SetAside

Meter: TypeAlias = Callable[[int, int], object]


@public_calls
class ProjectRows(ProjectExperiments):
    """The methods of `Project` that take rows or return them."""

    def __repr__(self) -> str:
        models = ", ".join(self.declared.deployments) or "no deployment"
        return f"<trimtab project {self.config.project.name!r} in {self.config.folder}: {models}>"

    def __dir__(self) -> list[str]:
        """Return the public names: the verbs, and the parts in `System._public`."""
        return dir(type(self))

    def push(self, source: str, rows: Sequence[Mapping[str, object]] | Table) -> Pushed:
        """Append events. They are durable when this returns.

        Args:
            source: The source's name.
            rows: One mapping per event, or a table of polars, pandas, pyarrow, DuckDB or `Columns`.

        Raises:
            NotFound: There is no such source.
            Misuse: A column is not declared, or a table's column is of another type. Nothing was done.
        """
        return self.ingestor.push(source, rows)

    def ingest(
        self, source: str, file: Rows, *, history: bool = True, absent_ok: bool = False, progress: Meter | None = None
    ) -> Ingested:
        """Load a source's events from a file or a table. Invalid rows, such as events in the future, go to quarantine.

        Args:
            source: The source's name.
            file: A CSV, Parquet, NDJSON or Arrow (Feather) file, or anything else that `events.read_rows` takes.
            history: True: an event counts as known from its event time plus the source's delay on; False: from now on.
            absent_ok: Fill declared columns that the file lacks with nulls instead of refusing it.
            progress: Called with rows done and rows in total, every 20,000 rows.

        Raises:
            NotFound: There is no such source or file.
            Misuse: The file cannot be read as a table, or lacks a column. Nothing was done.
        """
        from trimtab.app.features.loading import load_rows

        return load_rows(self, source, file, history=history, absent_ok=absent_ok, progress=progress)

    def label(
        self,
        prediction: str,
        value: object = msgspec.UNSET,
        *,
        columns: Mapping[str, object] | None = None,
        at: str | int | dt.datetime | None = None,
    ) -> LabelsTaken:
        """Give the true value of a prediction. It becomes an event of the label's source, safe when this returns.

        The event's key and its other columns are taken from the request of the prediction. A second value for the same
        prediction corrects the first. An equal value with the same time (see `at`) changes nothing.

        Args:
            prediction: The id of an answer.
            value: True or False if the model predicts whether an event happens, else the number or the class. The value
                that the label's column has in files is accepted, too.
            columns: Values of further columns of the label's source. Without `value`, they must include all columns
                from which the label is computed.
            at: When the outcome occurred; default: the request's time if the source has the same time column, else now.

        Raises:
            NotFound: There is no such prediction.
            Misuse: The value does not fit, a column is missing, or `at` is before the prediction. The message says what
                to give.
        """
        from trimtab.app.data.label_tables import label_prediction
        from trimtab.serving.http.routes.operations import LabelRow

        row = LabelRow(prediction=prediction, value=value, columns=dict(columns or {}), at=self._time_us("at", at))
        return label_prediction(self, row)

    def label_table(self, labels: Rows, *, progress: Meter | None = None) -> LabelsTaken:
        """Give the true values of predictions as a table with the columns `prediction`, `value` and, optionally, `at`.

        The ids may also be in a column `prediction_id`, as in the result of `predict_frame`, or in a column `id`, as in
        the file of `predict_table` (unless a label's source has a column `id`). The table may also have columns of the
        label's source, with or without `value`. Labels that cannot be taken are counted, and the first hundred are
        described with the reason. Those with a value of a wrong type are also put in quarantine.

        Args:
            labels: A file, a table of any library, or a list of dicts.
            progress: Called with rows done and rows in total.

        Raises:
            NotFound: There is no such file.
            Misuse: The table cannot be read, or lacks a column. Nothing was done.
        """
        from trimtab.app.data.label_tables import label_table

        return label_table(self, labels, progress)

    def quarantined(self, source: str | None = None) -> list[SetAside]:
        """For each source and reason: how many rows are in quarantine, since when, and the newest of them.

        Raises:
            NotFound: There is no such source.
        """
        return self.quarantine.summary(self._named(source))

    def replay_quarantine(self, source: str | None = None, *, reason: str | None = None) -> Replayed:
        """Ingest quarantined rows again, after a fix. Rows that fail again stay in quarantine.

        Raises:
            NotFound: There is no such source or reason, or the source is no longer declared.
            Misuse: A row has a column that its source does not declare.
        """
        return self.quarantine.replay(self.ingestor, self._named(source), reason=reason)

    def drop_quarantined(self, source: str | None = None, *, reason: str | None = None) -> int:
        """Delete quarantined rows of one source or all, with one reason or any. Returns their number.

        Raises:
            NotFound: There is no such source or reason.
        """
        return self.quarantine.drop(self._named(source), reason=reason)

    def predict(
        self, model: str, rows: Sequence[Mapping[str, Any]] | Table, *, at: str | int | dt.datetime | None = None
    ) -> list[Answer]:
        """Return an answer to each request, in their order. All answers are in the prediction log when this returns.

        Args:
            model: A deployed model's name.
            rows: A list of request rows, or a table of any library, with every declared column.
            at: A time in the past to answer as of; default: now.

        Raises:
            NotFound: There is no such model.
            Misuse: A row does not fit the request, `at` is in the future, or there are several models and none named.
        """
        check_named("predict", model, list(self.definitions.deployments))
        given = _request_rows(rows)
        return self.current(model).endpoint.answer(given, at=self._time_us("at", at))

    def predict_frame(
        self,
        frame: Any,
        model: str | None = None,
        *,
        at: str | int | dt.datetime | None = None,
        progress: Meter | None = None,
    ) -> Any:
        """Predict for the rows of a frame, as `predict` does, and return the frame with the answers.

        A request is due at its time minus the `lead` of `tt.request`. Without `at`, rows that were due more than an
        hour ago are answered as a batch, as `predict_table` does, each as of the time at which it was due. All others
        are answered as of now.

        The result is a frame of the same library, with the same rows in the same order, and added columns `score`,
        `version`, `prediction_id` and `flags` (for several classes also `prediction`, and `scores.NAME` for each).
        Columns that the request does not declare are kept, not read. The key may be left out if the request makes it of
        other columns (`key_of`).

        Args:
            frame: A frame or table of pandas, polars, pyarrow, DuckDB or `Columns`, or a list of dicts.
            model: A deployed model's name; optional where there is only one.
            at: A time in the past to answer all rows as of.
            progress: Called with rows done and rows in total.

        Raises:
            NotFound: There is no such model, or no version of it is in service.
            Misuse: A column is missing or does not fit, the frame has a column `score`, or there are several models and
                none is named. No answer was given.
        """
        from trimtab.app.serve.predicted_frames import predict_frame

        names = list(self.definitions.deployments)
        check_named("predict_frame", model, names)
        model = next(iter(names), "") if model is None else model
        return predict_frame(self, frame, model, self._time_us("at", at), progress)

    def predict_table(
        self,
        model: str,
        requests: Rows,
        *,
        at: str | int | dt.datetime | None = None,
        mode: Literal["batch", "precomputed"] = "batch",
        out: str | Path | None = None,
        on_error: OnError = "refuse",
        again: bool = False,
        progress: Meter | None = None,
    ) -> AnsweredTable:
        """Predict for a table of requests, each as of its own time or all as of one.

        Calls with the same table, version, `at` and `mode` are one batch, so a call resumes a stopped one.
        If the batch is finished already, its stored answers are returned, and `answered_before` of the result is True.

        Args:
            model: A deployed model's name.
            requests: A file, a table of polars, pandas, pyarrow, DuckDB or `Columns`, or a list of dicts.
            at: One time for all; default: each request's time minus its lead, but at most the batch's start.
            mode: "precomputed": answers are also stored for the service, which gives them while they are fresh.
            out: A .csv or .parquet file for the answers.
            on_error: "skip": rows that do not fit get no answer, and are listed in `unanswered` of the result.
            again: Answer the rows as a new batch, even if the same table was answered before.
            progress: Called with rows done and rows in total.
        """
        from trimtab.app.serve.batch import answer_table

        return answer_table(
            self,
            model,
            requests,
            at_us=self._time_us("at", at),
            mode=mode,
            out=None if out is None else checked_path("out", out),
            on_error=on_error,
            again=again,
            progress=progress,
        )

    def join(
        self,
        requests: Rows,
        of: Of | None = None,
        *,
        at: str | int | dt.datetime | None = None,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """Add features to requests, each as of its own time. Rows stay in their order.

        If the history does not fit into half of the setting `features.memory_bytes`, it is split on disk and processed
        in parts, which gives the same bits. If such a run is stopped, the same call resumes it.

        Args:
            requests: A file, a table of any library, or a list of dicts; all its columns stay. With a model, it is read
                by the rules that the model's request declares, such as formats of times.
            of: A model or its name; or a view, the join of a view, a dict of expressions, or a list of these. Default:
                the project's only model.
            at: The requests' column of times, or one time for all. Default: the time in the model's request, minus its
                lead.
            as_known: "then": use what was known at the time of the request; "final": use what is known now.
            reasons: Add a column `<feature>.reason` for each feature of a view, and for each expression that may fail.
            out: A .parquet or .csv file to write instead of returning the table.
            events: For a source, a Parquet file or a folder of them, to read in place of the project's history.
            progress: Called with the number of finished pieces of work and of all pieces.

        Returns:
            A table or, with `out`, a description of the file. In both, `let_in` counts the values that
            `as_known="final"` changed.

        Raises:
            NotFound: There is no such file, model or view.
            Misuse: A column is missing or of the wrong type, or a time is in the future. Nothing was done.
            Conflict: `out` exists, or another process computes the same table.
            Unavailable: Memory or disk ran out. Finished parts are kept: run it again.
        """
        from trimtab.app.features.feature_tables import join_features

        return join_features(self, requests, of, at=at, how=_how(as_known, reasons, out, events, progress))

    def snapshot(
        self,
        of: Of,
        *,
        at: str | int | dt.datetime | None = None,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """The features of all entities that had an event by a time: one row for each entity, ordered by key.

        Args:
            of: A view or its name, or a list: views of one entity, joins, and dicts of expressions.
            at: The time; default: now.
            as_known: See `join`, also for the arguments below.
            reasons: Add the reasons.
            out: The file to write.
            events: Parquet files in place of the history.
            progress: Called with the number of finished pieces of work and of all pieces.

        Raises:
            NotFound: There is no such view.
            Misuse: Views of different entities, or a time in the future.
        """
        from trimtab.app.features.feature_tables import snapshot_features

        at_us = self._time_us("at", at)
        times = [self.clock.now_us() if at_us is None else at_us]
        return snapshot_features(self, of, times, how=_how(as_known, reasons, out, events, progress))

    def snapshots(
        self,
        of: Of,
        *,
        start: str | int | dt.datetime,
        end: str | int | dt.datetime,
        every: str | int,
        as_known: AsKnown = "then",
        reasons: bool = False,
        out: str | Path | None = None,
        events: Mapping[str, str | Path] | None = None,
        progress: Meter | None = None,
    ) -> FeatureTable | FeatureFile:
        """Snapshots from `start` (included) to `end` (excluded) in steps of `every`, in one table; see `snapshot`."""
        from trimtab.app.features.feature_tables import snapshot_features, times_between

        times = times_between(start, end, every, self.clock)
        return snapshot_features(self, of, times, how=_how(as_known, reasons, out, events, progress))

    def _named(self, source: str | None) -> str | None:
        """Check that a source is declared, or has quarantined rows."""
        if source is not None and source not in self.quarantine.counts():
            self.definitions.source(source)
        return source

    def _time_us(self, name: str, given: str | int | dt.datetime | None) -> int | None:
        from trimtab.events.values.checks import given_time_us

        return None if given is None else given_time_us(given, name, self.clock)


def check_named(what: str, model: str | None, names: Sequence[str]) -> None:
    """Raise an error if no model is named and there are several."""
    if model is None and len(names) > 1:
        raise Misuse(f"{what}: no model is named, and there are {', '.join(names)}. Name one.")


def _request_rows(given: Sequence[Mapping[str, Any]] | Table) -> Sequence[Mapping[str, Any]]:
    if given.__class__ is list:  # the common case
        return cast("list[Mapping[str, Any]]", given)
    from trimtab.events.files.files import is_table

    if is_table(given):
        return rows_of_table(given if isinstance(given, Columns) else Columns.from_arrow(given))
    if isinstance(given, Mapping):
        raise Misuse("predict: rows is one dict. Give a list of dicts, also for one row: [row]")
    if isinstance(given, str | bytes | Path) or not isinstance(given, Sequence):
        raise Misuse(
            f"predict: rows is a {type(given).__name__}. Give a list of dicts, a table (polars, pandas, pyarrow, "
            "DuckDB, Columns), or use predict_table for a file."
        )
    return given


def checked_path(name: str, given: str | Path) -> Path:
    """Return a path that a caller gave as the argument `name`."""
    try:
        return Path(given)
    except TypeError:
        raise Misuse(f"{name}: {given!r} is a {type(given).__name__}. Give a text or a Path.") from None


def _how(
    as_known: AsKnown,
    reasons: bool,
    out: str | Path | None,
    events: Mapping[str, str | Path] | None,
    progress: Meter | None,
) -> How:
    from trimtab.app.features.feature_tables import How

    return How(
        as_known=as_known,
        reasons=reasons,
        out=None if out is None else checked_path("out", out),
        events={name: checked_path(f"events of {name!r}", path) for name, path in (events or {}).items()},
        progress=progress,
    )
