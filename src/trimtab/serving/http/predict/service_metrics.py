"""Metrics of a service that are computed when they are read. The table `_ROWS` has one row for each metric."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from trimtab.serving.answer.batching import calls_by_size
from trimtab.serving.answer.score_cache import CACHED_SCORES
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.observe.metrics import Metrics

_Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]


class _Row(NamedTuple):
    """A metric, and a function that returns its samples for a service."""

    is_counter: bool
    name: str
    about: str
    labels: tuple[str, ...]
    samples: Callable[[Parts, Sequence[Predictor]], _Samples]


def show_service(parts: Parts, predictors: Collection[Predictor]) -> None:
    """Register the metrics of a service: its load, its prediction log, and the predictions and costs of its models."""
    models = list(predictors)
    for row in _ROWS:
        show = parts.metrics.counted if row.is_counter else parts.metrics.gauge
        show(row.name, row.about, row.labels, partial(_read, row, parts, models))
    waited = "Seconds that queued requests waited before they were processed."
    parts.scheduler.queued_s = parts.metrics.histogram("trimtab_queue_wait_seconds", waited).of(())
    show_cached(parts.metrics, [one.endpoint for one in models])


def show_cached(metrics: Metrics, endpoints: Sequence[Endpoint]) -> None:
    """Register a metric that counts how many scores came from the cache, for models that have a cache."""

    def read() -> dict[tuple[str, ...], float]:
        # a model gets its cache with its first version
        caches = [(one.name, one.cached) for one in endpoints if one.cached is not None]
        return {(n, found): c for n, one in caches for found, c in (("yes", one.hits), ("no", one.misses))}

    about = "Scores looked up in the cache, by whether they were found."
    metrics.counted(CACHED_SCORES, about, ("model", "found"), read)


def _read(row: _Row, parts: Parts, models: Sequence[Predictor]) -> dict[tuple[str, ...], float]:
    return dict(row.samples(parts, models))


def _in_flight(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    scheduler = parts.scheduler
    yield ("predict",), scheduler.under_way
    yield ("queued",), scheduler.queued
    yield ("slow",), parts.threads.under_way
    yield ("refused",), scheduler.refusals.held


def _predictions(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for one in models:
        yield (one.endpoint.name, "logged"), one.metrics.logged
        yield (one.endpoint.name, "precomputed"), one.metrics.stored
        yield (one.endpoint.name, "dropped"), 0


def _by_version(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for one in models:
        for (version, arm), count in list(one.metrics.answers.items()):
            yield (one.endpoint.name, one.endpoint.label(version), arm), count


def _shadows(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for one in models:
        for fate in ("answered", "dropped", "failed"):
            yield (one.endpoint.name, fate), getattr(one.endpoint.shadowed, fate)


def _breakers(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for endpoint in (one.endpoint for one in models):
        if endpoint.degrading is not None:
            for whose, breaker in endpoint.degrading.breakers.items():
                yield (endpoint.name, whose), breaker.is_open


def _versions(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for endpoint in (one.endpoint for one in models):
        canaries = [] if endpoint.canary is None else endpoint.canary.answerers.values()
        arms = [arm.served for arm in (*canaries, *([] if endpoint.shadow is None else [endpoint.shadow.answerer]))]
        for served in (endpoint.serving, *arms):
            if served is not None:
                yield (served.model, served.label, served.version, served.arm), 1


def _batches(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for one in models:
        for size, calls in calls_by_size(dict(one.endpoint.batched.calls)).items():
            yield (one.endpoint.name, size), calls


def _batch_waits(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    return (((e.name,), e.batched.waited_s) for e in (one.endpoint for one in models) if e.batched.calls)


def _row_costs(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    for endpoint in (one.endpoint for one in models):
        costs = endpoint.batched.costs
        if endpoint.ready and costs.alone_s:
            yield (endpoint.name, "1"), costs.alone_s
            for rows, cost in costs.together_s.items():
                yield (endpoint.name, str(rows)), cost


def _dropped(parts: Parts, models: Sequence[Predictor]) -> _Samples:
    return [] if parts.telemetry is None else [((), parts.telemetry.dropped)]


_ROWS = [_Row(*row) for row in (
    (False, "trimtab_requests_under_way", "Requests in flight.", ("kind",), _in_flight),
    (False, "trimtab_admission_limit", "Predict requests that may be in flight.", (),
     lambda parts, _: [((), parts.scheduler.limit.limit)]),
    (True, "trimtab_untold_requests_total",
     "Requests not written to the access log or the traces, because these could not keep up.", (), _dropped),
    (False, "trimtab_prediction_log_failing", "1 while predictions cannot be logged.", (),
     lambda parts, _: [((), parts.commit.failure is not None)]),
    (False, "trimtab_predictions_noted", "Predictions in the spool that are not in the log yet.", (),
     lambda parts, _: [((), parts.commit.buffered)]),
    (True, "trimtab_prediction_log_failures_total", "Appends to the prediction log that failed.", (),
     lambda parts, _: [((), parts.commit.failures)]),
    (True, "trimtab_answered_requests_total", "Predict requests answered.", ("model",),
     lambda _, models: [((one.endpoint.name,), one.metrics.requests) for one in models]),
    (True, "trimtab_predictions_total",
     "Predictions by fate; dropped is always 0, because a request is refused if its answer can be neither buffered nor "
     "logged.", ("model", "fate"), _predictions),
    (True, "trimtab_answers_total", "Predictions by the version that made them.", ("model", "version", "arm"),
     _by_version),
    (True, "trimtab_shadow_requests_total",
     "Requests offered to the shadow of a model; answered counts shadow answers that were logged.", ("model", "fate"),
     _shadows),
    (False, "trimtab_breaker_open", "1 while features are not read, because reads failed.", ("model", "whose"),
     _breakers),
    (False, "trimtab_model_version", "1 for each version in service.", ("model", "version", "address", "arm"),
     _versions),
    (True, "trimtab_model_batches_total",
     "Calls of a model that rows of several requests may share, by number of rows, rounded up to a power of two.",
     ("model", "rows"), _batches),
    (True, "trimtab_model_batch_wait_seconds_total", "Seconds that rows waited for other rows to share a call.",
     ("model",), _batch_waits),
    (False, "trimtab_model_row_seconds", "Seconds to score one row, by the number of rows that share the call.",
     ("model", "rows"), _row_costs),
)]  # fmt: skip
