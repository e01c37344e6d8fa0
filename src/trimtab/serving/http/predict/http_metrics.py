"""Metrics of a service that are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.requests.request_record import Telemetry
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.observe.metrics import Metrics

_Values: TypeAlias = dict[tuple[str, ...], float]


def show_answers(metrics: Metrics, predictors: Mapping[str, Predictor]) -> None:
    """Let `metrics` show what was answered, and by which versions."""
    asked = list(predictors.values())
    counted, gauge = metrics.counted, metrics.gauge
    counted("trimtab_answered_requests_total", "Predict requests answered.", ("model",), lambda: _answered(asked))
    said = "Answers by fate of their prediction; dropped stays 0: what can be neither noted nor logged is refused."
    counted("trimtab_predictions_total", said, ("model", "fate"), lambda: _predictions(asked))
    said = "Answers that were made, by the version that made them."
    counted("trimtab_answers_total", said, ("model", "version", "arm"), lambda: _answers(asked))
    said = "Requests offered to the shadows of a model; answered are those that were logged."
    counted("trimtab_shadow_requests_total", said, ("model", "fate"), lambda: _shadows(asked))
    gauge("trimtab_breaker_open", "Features left alone after failures.", ("model", "whose"), lambda: _breakers(asked))
    labels = ("model", "version", "address", "arm")
    gauge("trimtab_model_version", "The version that answers.", labels, lambda: _versions(asked))


def show_load(metrics: Metrics, scheduler: RequestScheduler, slow: Callable[[], int]) -> None:
    """Let `metrics` show how many requests are under way, and how many may be."""

    def under_way() -> _Values:
        held = scheduler.refusals.held
        return {("predict",): scheduler.under_way, ("queued",): scheduler.queued, ("slow",): slow(), ("refused",): held}

    metrics.gauge("trimtab_requests_under_way", "Requests being answered.", ("kind",), under_way)
    said = "Predictions that may be under way."
    metrics.gauge("trimtab_admission_limit", said, (), lambda: {(): scheduler.limit.limit})
    said = "What a request waited for others that had to queue."
    scheduler.queued_s = metrics.histogram("trimtab_queue_wait_seconds", said).of(())


def show_log(metrics: Metrics, commit: GroupCommit) -> None:
    """Let `metrics` show whether predictions reach their log."""
    gauge = metrics.gauge
    said = "1 while predictions cannot be logged."
    gauge("trimtab_prediction_log_failing", said, (), lambda: {(): int(commit.failure is not None)})
    said = "Answers that are noted in the spool, and not in the log yet."
    gauge("trimtab_predictions_noted", said, (), lambda: {(): commit.buffered})
    said = "Appends to the prediction log that failed."
    metrics.counted("trimtab_prediction_log_failures_total", said, (), lambda: {(): commit.failures})


def show_telemetry(metrics: Metrics, telemetry: Telemetry) -> None:
    """Let `metrics` show how many requests access log and traces lack."""
    said = "Requests that access log or traces lack, for they could not keep up."
    metrics.counted("trimtab_untold_requests_total", said, (), lambda: {(): telemetry.dropped})


def _answered(asked: list[Predictor]) -> _Values:
    return {(one.endpoint.name,): one.metrics.requests for one in asked}


def _predictions(asked: list[Predictor]) -> _Values:
    fates = ("logged", "precomputed", "dropped")
    counts = {
        one.endpoint.name: (one.metrics.logged, one.metrics.stored, 0) for one in asked
    }  # nothing is answered and dropped
    return {(name, fate): n for name, found in counts.items() for fate, n in zip(fates, found, strict=True)}


def _answers(asked: list[Predictor]) -> _Values:
    return {
        (one.endpoint.name, one.endpoint.label(version), arm): n
        for one in asked
        for (version, arm), n in dict(one.metrics.answers).items()
    }


def _shadows(asked: list[Predictor]) -> _Values:
    fates = ("answered", "dropped", "failed")
    return {(e.name, fate): getattr(e.shadowed, fate) for e in (one.endpoint for one in asked) for fate in fates}


def _breakers(asked: list[Predictor]) -> _Values:
    policies = {one.endpoint.name: one.endpoint.degrading for one in asked}
    return {
        (name, whose): breaker.is_open
        for name, policy in policies.items()
        if policy is not None
        for whose, breaker in policy.breakers.items()
    }


def _versions(asked: list[Predictor]) -> _Values:
    endpoints = [one.endpoint for one in asked]
    arms = [arm.answerer.served for e in endpoints for arm in (e.canary, e.shadow) if arm is not None]
    served = [*(e.serving for e in endpoints), *arms]
    return {(s.model, s.label, s.version, s.arm): 1 for s in served if s is not None}
