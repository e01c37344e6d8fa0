"""Build training sets from all requests of a project, whether ingested as history or logged when they were answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.logged_requests import (
    LoggedRequest,
    LoggedRequests,
    RequestOf,
    are_among,
    decode_requests,
    ingested_requests,
)
from trimtab.app.data.logged_rows import EncodingOf, logged_features
from trimtab.app.data.retroactive_requests import retroactive_changes_of
from trimtab.app.state.retention_needs import features_from_us, labels_from_us
from trimtab.core.columns.data import Columns
from trimtab.core.errors import NotFound
from trimtab.core.time import DAY_US, format_time
from trimtab.events.columns.frames import EventFrame
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.labels import find_labels
from trimtab.monitoring.inputs.red_windows import FOUND_WITHIN_US
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.data.answers import LoggedAnswers
from trimtab.training.data.retroactive_changes import RetroactiveChange
from trimtab.training.data.sets import LeftOut, TrainingSet, assemble
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    from trimtab.app.features.feature_runs import OpenRun

_logger = logging.getLogger(__name__)


class LivingData:
    """Builds training sets from the data known at a time, the cut. Each request gets its features as of its own time.

    A request may be ingested, logged, or both. If it is both, the logged request is used: its time was recorded when it
    was answered, whereas the time of an ingested request is derived from a column. But if it was answered more than a
    day after the derived time, or after its label was final, the ingested request is used.

    Args:
        open_run: Opens the computation of a model's features, in memory or on disk, with the history of its requests
            and labels.
        kept_from: Returns for each source the time before which events were removed. Requests whose features or label
            need removed events are excluded.
        request_of: Returns for the id of a version the request with which it was trained; None if unknown.
        check: Raises an error if the named model must not be trained here, because other definitions were applied
            after the project was opened.
        encoding_of: Returns the input encoding of a version that has the model's features. It is needed to decode
            logged rows.
        placed: Returns the given feature definitions with sources that know their columns' positions in stored events.
        left_out: Returns the time windows whose rows are excluded from training, given a model and a cut.
    """

    def __init__(
        self,
        open_run: OpenRun,
        predictions: PredictionLog,
        *,
        kept_from: Callable[[], Mapping[str, int]] = dict,
        request_of: RequestOf | None = None,
        check: Callable[[str], object] = lambda model: None,
        encoding_of: EncodingOf = lambda version, features: None,
        placed: Callable[[FeatureSet], FeatureSet] = lambda features: features,
        left_out: Callable[[Model, int], Sequence[LeftOut]] = lambda model, cut_us: (),
    ) -> None:
        # what `requests` has read (the model's hash, the cut, the logged requests), for the next `training_set`
        self._kept: tuple[str, int, LoggedRequests] | None = None
        self.other_shapes = 0  # this many predictions were skipped, because their request had other columns
        self._open_run = open_run
        self._predictions = predictions
        self._kept_from = kept_from
        self._request_of = request_of
        self._check = check
        self._encoding_of = encoding_of
        self._placed = placed
        self.left_out = left_out

    def training_set(
        self, model: Model, *, cut_us: int, since_us: int | None = None, answers: bool = False
    ) -> TrainingSet:
        """Return the training set of all requests up to `cut_us` or, with `since_us`, of those since then.

        With `since_us`, it does not say how columns changed later. With `answers`, it has the logged scores.

        Raises:
            NotFound: There are no requests of the model.
            Conflict: Other definitions of the model were applied after the project was opened.
        """
        self._check(model.name)
        with self._open_run(model) as opened:
            logged = self._logged_requests(model, cut_us, self._read_for_pin(model, cut_us, since_us, answers))
            asked = opened.frames[model.request.name]
            chosen = self._chosen(model, asked, cut_us, logged, since_us)
            requests, at_us = chosen.requests, chosen.at_us
            cut_us = settled_cut(model, opened.frames, at_us, cut_us)
            given = opened.frames[model.label.source.name]
            if model.rows == "logged":
                features = logged_features(model.features, list(filter(None, chosen.rows)), self._encoding_of)
            else:
                features = opened.evaluate(model.features, requests, at_us)
                said = "%s: the features of %d requests were computed %s"
                _logger.info(said, model.name, requests.rows, opened.run.where)
            found = assemble(
                model,
                requests,
                at_us,
                features,
                lambda: find_labels(model.label, given, requests[model.request.key], at_us, cut_us),
                cut_us=cut_us,
                positions=opened.run.positions,
                hindsight=None if since_us is not None else chosen.hindsight(model, asked, cut_us),
                origins=chosen.origins,
                left_out=self.left_out(model, cut_us),
                complete_us=labels_complete_until(given, cut_us),
            )
            return msgspec.structs.replace(found, answers=LoggedAnswers.of(chosen.rows)) if answers else found

    def features_of(
        self, model: Model, features: FeatureSet, requests: Columns, at_us: NDArray[np.int64]
    ) -> FeatureFrame:
        """Compute features of some requests, with the feature definitions of another version of the model.

        Raises:
            Misuse: The definitions need a column of the request that is no longer declared.
            NotFound: The definitions need a source that is no longer declared.
        """
        placed = self._placed(features)
        with self._open_run(msgspec.structs.replace(model, features=placed)) as opened:
            return opened.evaluate(placed, requests, at_us)

    def requests(self, model: Model, frame: EventFrame, cut_us: int) -> tuple[Columns, NDArray[Any]]:
        """Return the training requests in order of time, and the time of each.

        Raises:
            NotFound: There are no requests of the model.
            Conflict: Other definitions of the model were applied after the project was opened.
        """
        self._check(model.name)
        found = self._logged_requests_of(model)
        chosen = self._chosen(model, frame, cut_us, self._logged_requests(model, cut_us, found))
        self._kept = (model.hash, cut_us, found)
        return chosen.requests, chosen.at_us

    def _logged_requests_of(self, model: Model, since_us: int | None = None, answers: bool = False) -> LoggedRequests:
        inputs, request_of = answers or model.rows == "logged", self._request_of
        return LoggedRequests(model, self._predictions, since_us=since_us, inputs=inputs, request_of=request_of)

    def _read_for_pin(self, model: Model, cut_us: int, since_us: int | None, answers: bool) -> LoggedRequests:
        """Return a reader of the logged requests: the one that `requests` has used, if it was for the same cut.

        `requests` is called to compute the pin of a training set (see training_pin.py), so this saves reading the log
        twice. A reader for another cut is dropped, because it may hold data that was erased since.
        """
        if since_us is not None or answers:
            return self._logged_requests_of(model, since_us, answers)
        kept, self._kept = self._kept, None
        return kept[2] if kept is not None and kept[:2] == (model.hash, cut_us) else self._logged_requests_of(model)

    def _chosen(
        self, model: Model, frame: EventFrame, cut_us: int, found: list[LoggedRequest], since_us: int | None = None
    ) -> _Chosen:
        if model.rows == "logged":
            return self._logged(model, found)
        known, known_at_us = ingested_requests(model.request, frame, cut_us)
        found = _answered_in_time(model, found, known, known_at_us)
        logged, logged_at_us = _table(model, found)
        fresh = ~are_among(known[model.request.key].values, logged[model.request.key].values)
        history = known if fresh.all() else known.take(fresh)
        requests = Columns.concat([history, logged])
        at_us: NDArray[Any] = np.concatenate([known_at_us[fresh], logged_at_us])
        kept = self._with_kept_events(model, at_us, since_us=since_us)
        if not kept.size:
            name, since = model.request.name, "" if since_us is None else f" is newer than {format_time(since_us)} and"
            found_none = f"there are no requests {name!r}"
            if requests.rows:
                found_none = f"none of {requests.rows:,} requests {name!r}{since} still has all events that it needs"
            raise NotFound(f"model {model.name!r}: {found_none}. Load their history: trimtab ingest {name} FILE")
        order = kept[np.argsort(at_us[kept], kind="stable")]
        from_history = int((kept < history.rows).sum())
        origins = {"history": from_history, "asked": kept.size - from_history}
        of_found = (order - history.rows).tolist() if found else []
        rows = [found[n] if n >= 0 else None for n in of_found] or [None] * kept.size
        return _Chosen(requests.take(order), at_us[order], origins, rows, logged=logged, history=history)

    def _logged(self, model: Model, logged: list[LoggedRequest]) -> _Chosen:
        """Return the requests that versions with the model's features answered, with their logged inputs."""
        rows = [row for row in logged if self._encoding_of(row.version, model.features) is not None]
        rows.sort(key=lambda row: row.at_us)
        requests, at_us = _table(model, rows)
        kept = self._with_kept_events(model, at_us, labels_only=True)
        if not kept.size:
            raise NotFound(
                f'model {model.name!r} learns from logged rows (rows="logged"), and none of {len(logged)} requests was '
                "answered by a version with its features (or the events of their labels are no longer kept). Train and "
                'serve one with rows="history" first.'
            )
        origins = {"logged": kept.size, "other_features": len(logged) - len(rows)}
        return _Chosen(requests.take(kept), at_us[kept], origins, [rows[place] for place in kept.tolist()])

    def _with_kept_events(
        self, model: Model, at_us: NDArray[Any], *, labels_only: bool = False, since_us: int | None = None
    ) -> NDArray[np.int64]:
        """Return the rows whose features and labels need only events that are still kept.  # D23"""
        kept_from = self._kept_from()
        from_us = labels_from_us(model, kept_from)
        if not labels_only:
            from_us = max(features_from_us(model.features, kept_from), from_us)
        kept = np.flatnonzero(at_us >= from_us)
        if kept.size < at_us.size:
            said = (
                "%s: %d requests before %s are left out of the training set: events that they need are no longer kept"
            )
            _logger.info(said, model.name, at_us.size - kept.size, format_time(from_us))
        return kept if since_us is None else kept[at_us[kept] >= since_us]

    def _logged_requests(self, model: Model, cut_us: int, logged: LoggedRequests) -> list[LoggedRequest]:
        """Return the first prediction of each request from the prediction log."""
        logged.read()
        self.other_shapes = logged.other_shapes
        if logged.other_shapes:
            _logger.warning(
                "%s: %d predictions are left out of the training set: their request had other columns than are "
                "declared now",
                model.name,
                logged.other_shapes,
            )
        return [p for p in logged.first.values() if p.at_us <= cut_us]


class _Chosen(msgspec.Struct, frozen=True, eq=False):
    """The requests of a training set, ordered by time."""

    requests: Columns
    at_us: NDArray[Any]
    origins: dict[str, int]  # the number of requests by origin, such as "history"
    rows: Sequence[LoggedRequest | None]  # each logged request; None if only the history has it
    logged: Columns | None = None  # the logged requests; None with `rows="logged"`
    history: Columns | None = None  # requests only in the history; None with `rows="logged"`

    def hindsight(self, model: Model, frame: EventFrame, cut_us: int) -> dict[str, RetroactiveChange]:
        """Return for each column that features read how often it changed between the request and the cut."""
        if self.logged is None or self.history is None:
            return {}
        read = model.features.request_columns
        return retroactive_changes_of(model.request, read, frame, self.logged, self.history, cut_us)


def _answered_in_time(
    model: Model, logged: list[LoggedRequest], known: Columns, known_at_us: NDArray[Any]
) -> list[LoggedRequest]:
    """Return the logged requests without those for which the ingested request is used (see `LivingData`)."""
    if not logged:
        return logged
    until_us = np.minimum(known_at_us + DAY_US, model.label.final_at(known_at_us)).tolist()
    latest_us = dict(zip(map(str, known[model.request.key].to_list()), until_us, strict=True))
    return [p for p in logged if p.at_us <= latest_us.get(p.request_id, p.at_us)]


def _table(model: Model, rows: Sequence[LoggedRequest]) -> tuple[Columns, NDArray[Any]]:
    return decode_requests(model.request, [p.request for p in rows]), np.array([p.at_us for p in rows], np.int64)


def labels_complete_until(frame: EventFrame, cut_us: int) -> int:
    """Return the time up to which the events of labels are complete, at most `cut_us`.

    If the newest event known at `cut_us` was loaded with a file of history, this is the end of the day on which it
    became known, because later labels are not in the file. Otherwise, it is `cut_us`.
    """
    known = np.flatnonzero(frame.known_at_us <= cut_us)
    if frame.loaded_h is None or not known.size:
        return cut_us
    newest = known[int(frame.known_at_us[known].argmax())]
    return min(cut_us, (int(frame.known_at_us[newest]) // DAY_US + 1) * DAY_US) if frame.loaded_h[newest] else cut_us


def settled_cut(model: Model, frames: Mapping[str, EventFrame], at_us: NDArray[Any], cut_us: int) -> int:
    """Return the newest time up to `cut_us` at which the data of the training set changed.

    The training sets as of this time and as of `cut_us` are equal. With this time as the cut, two trainings on the same
    data give the same version id, however much time passes between them.

    Args:
        frames: Events by source, at least those of the model's requests and labels.
        at_us: The times of the requests.
        cut_us: Whatever became known after this time is ignored.
    """
    day_ends_us = (at_us // DAY_US + 1) * DAY_US
    final_us = model.label.final_at(at_us)
    times = [at_us, final_us, np.maximum(final_us, at_us + FOUND_WITHIN_US), model.label.final_at(day_ends_us)]
    for name in sorted({model.request.name, model.label.source.name}):
        frame = frames[name]
        times += [frame.known_at_us, frame.superseded_at_us]
    return max((int(m[m <= cut_us].max()) for m in times if (m <= cut_us).any()), default=cut_us)
