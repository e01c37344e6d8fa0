"""An overview of a running service (`trimtab service top`), made from its metrics at two times."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trimtab.core.shown import format_bytes
from trimtab.core.time import SECOND_US, format_duration
from trimtab.serving.answer.score_cache import CACHED_SCORES
from trimtab.serving.observe.scrape import Scrape, grown, quantiles

_STAGES = ("total", "read", "decode", "predict", "features", "model", "log", "encode")
_PARTS = ("features", "model")  # the parts of the stage `predict`
_PREDICT_ROUTES = frozenset({"predict", "inference", "grpc"})  # the routes of predict requests
_REFUSED = frozenset({"429", "RESOURCE_EXHAUSTED"})
_WELL = frozenset({"200", "OK", "gone"})  # the statuses of requests that were answered, or whose clients went away
_WIDTH = 78
_SHOWN = 6  # the maximum number of lines in a list


class StageTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of the time of one stage of requests, in milliseconds. They are None if nothing was measured."""

    stage: str
    p50_ms: float | None  # the median of recent requests
    p99_ms: float | None  # the 99th percentile of recent requests
    since_start_p50_ms: float | None
    since_start_p99_ms: float | None


class Rate(msgspec.Struct, frozen=True):
    """A count, and its growth per second."""

    name: tuple[str, ...]
    per_s: float
    total: float


class CachedShare(msgspec.Struct, frozen=True):
    """The shares of a model's scores that came from its cache. They are None if no score was needed."""

    model: str
    lately: float | None
    since_start: float | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a service at one time, with rates over the time since the previous overview."""

    url: str
    up_s: float | None
    workers: int  # the number of workers; 0 if one process does everything
    workers_ready: int
    requests: Rate
    refused: Rate  # requests that were refused because too many were in flight
    errors: Rate  # predict requests that failed or were refused for another reason
    stages: list[StageTimes]
    answers: list[Rate]  # answers by model, version and arm
    nulls: list[Rate]  # missing values by model and reason
    flags: list[Rate]  # flagged answers, such as degraded responses, by model and flag
    remembered: list[CachedShare]  # for each model that has a cache
    under_way: int  # predict requests in flight
    queued: int
    limit: int  # predict requests that may be in flight
    slow: int  # requests that use threads
    log_failing: bool
    noted: int  # predictions in the buffer, not in the log yet
    views_lag_records: int | None  # events that are not applied to online features yet
    breakers_open: list[str]  # the models with an open circuit breaker
    failing_work: list[str]  # the background tasks that fail
    untold: int | None  # requests missing in the access log or the traces, because these could not keep up
    cpu_share: float | None  # CPU time per second, as a multiple of one core
    memory_bytes: int

    def lines(self) -> list[str]:
        """Return the overview as lines of text, at most 78 characters wide."""
        up = "" if self.up_s is None else f"  up {format_duration(max(1, int(self.up_s)) * SECOND_US)}"
        workers = f"  workers {self.workers_ready} of {self.workers} ready" if self.workers else ""
        cpu = "" if self.cpu_share is None else f"  cpu {self.cpu_share:.0%}"
        out = [
            f"{self.url}{up}{workers}{cpu}  memory {format_bytes(self.memory_bytes)}",
            f"requests {_per_s(self.requests)}   refused {_per_s(self.refused)}   errors {_per_s(self.errors)}",
            f"in flight {self.under_way:,} (limit {self.limit:,})   queued {self.queued:,}   in threads {self.slow:,}",
            self._health(),
            "",
            f"{'ms':12}{'p50':>9}{'p99':>9}   since start{'p50':>9}{'p99':>9}",
        ]
        for one in self.stages:
            name = f"  {one.stage}" if one.stage in _PARTS else one.stage
            since = f"{_ms(one.since_start_p50_ms):>9}{_ms(one.since_start_p99_ms):>9}"
            out.append(f"{name:12}{_ms(one.p50_ms):>9}{_ms(one.p99_ms):>9}{'':14}{since}")
        for title, rates in (("answers", self.answers), ("nulls", self.nulls), ("flags", self.flags)):
            out += ["", *_table(title, rates)] if rates or title == "answers" else []
        if self.remembered:
            out += ["", f"{'cached scores':20}{'lately':>12}{'since start':>14}"]
            out += [
                f"{'  ' + one.model[:48]:20}{_share(one.lately):>12}{_share(one.since_start):>14}"
                for one in self.remembered[:_SHOWN]
            ]
        return [line[:_WIDTH] for line in out]

    def _health(self) -> str:
        lag = "" if self.views_lag_records is None else f"   views lag by {self.views_lag_records:,} events"
        log = f"log {'FAILING' if self.log_failing else 'ok'}, buffered {self.noted:,}"
        text = f"{log}{lag}   breaker {'OPEN: ' + ', '.join(self.breakers_open) if self.breakers_open else 'closed'}"
        text += f"   FAILING: {', '.join(self.failing_work)}" if self.failing_work else ""
        return text + (f"   telemetry dropped {self.untold:,}" if self.untold else "")


def overview(before: Scrape | None, now: Scrape, url: str, model: str | None = None) -> Overview:
    """Return the overview of a service from two scrapes of its metrics.

    Rates are since the scrape `before`, or if there is none, since the service began.

    Args:
        before: An earlier scrape.
        now: The newest scrape.
        url: The URL of the service.
        model: If given, only the predictions of this model are shown.
    """
    only = {} if model is None else {"model": model}
    begun_s = min(now.samples.get("process_start_time_seconds", {}).values(), default=None)
    up_s = None if begun_s is None else max(0.0, now.at_s - begun_s)
    over_s = max(1e-9, now.at_s - before.at_s) if before is not None else up_s or 1.0

    def rates(name: str, by: tuple[str, ...], **more: str) -> list[Rate]:
        lately, total = grown(before, now, name, by, **only, **more), now.total(name, by, **only, **more)
        found = [Rate(key, lately[key] / over_s, total[key]) for key in total]
        return sorted(found, key=lambda rate: (-rate.per_s, -rate.total, rate.name))

    refusals = [one for one in rates("trimtab_requests_total", ("route", "status")) if one.name[0] in _PREDICT_ROUTES]
    ready = now.samples.get("trimtab_worker_ready", {})
    lag = now.total("trimtab_views_lag_records")
    untold = now.total("trimtab_untold_requests_total")
    cpu = grown(before, now, "process_cpu_seconds_total").get(())
    open_for = {key[0] for key, value in now.total("trimtab_breaker_open", ("model",)).items() if value}
    failing = {key[0] for key, value in now.total("trimtab_keeper_failing", ("work",)).items() if value}
    return Overview(
        url=url,
        up_s=up_s,
        workers=len(ready),
        workers_ready=int(sum(ready.values())),
        requests=_sum(rates("trimtab_answered_requests_total", ())),
        refused=_sum([one for one in refusals if one.name[1] in _REFUSED]),
        errors=_sum([one for one in refusals if one.name[1] not in _REFUSED | _WELL]),
        stages=[_stage(before, now, stage, only) for stage in _STAGES],
        answers=rates("trimtab_answers_total", ("model", "version", "arm")),
        nulls=rates("trimtab_null_inputs_total", ("model", "reason")),
        flags=rates("trimtab_flagged_predictions_total", ("model", "flag")),
        remembered=_cached_shares(before, now, only),
        under_way=int(now.number("trimtab_requests_under_way", kind="predict")),
        queued=int(now.number("trimtab_requests_under_way", kind="queued")),
        limit=int(now.number("trimtab_admission_limit")),
        slow=int(now.number("trimtab_requests_under_way", kind="slow")),
        log_failing=now.number("trimtab_prediction_log_failing") > 0,
        noted=int(now.number("trimtab_predictions_noted")),
        views_lag_records=int(lag[()]) if lag else None,
        breakers_open=sorted(open_for),
        failing_work=sorted(failing),
        untold=int(untold[()]) if untold else None,
        cpu_share=None if cpu is None else cpu / over_s,
        memory_bytes=int(now.number("process_resident_memory_bytes")),
    )


def _stage(before: Scrape | None, now: Scrape, stage: str, only: dict[str, str]) -> StageTimes:
    name, shares = "trimtab_latency_seconds", (0.5, 0.99)
    lately = quantiles(before, now, name, shares, stage=stage, **only)
    ever = quantiles(None, now, name, shares, stage=stage, **only)
    p50, p99, ever_p50, ever_p99 = (None if found is None else found * 1e3 for found in (*lately, *ever))
    return StageTimes(stage=stage, p50_ms=p50, p99_ms=p99, since_start_p50_ms=ever_p50, since_start_p99_ms=ever_p99)


def _cached_shares(before: Scrape | None, now: Scrape, only: dict[str, str]) -> list[CachedShare]:
    by = "model", "found"
    lately, total = grown(before, now, CACHED_SCORES, by, **only), now.total(CACHED_SCORES, by, **only)
    models = sorted({model for model, _ in total})
    return [CachedShare(model, found_share(lately, model), found_share(total, model)) for model in models]


def found_share(counts: Mapping[tuple[str, ...], float], model: str) -> float | None:
    """Return the share of a model's scores that came from its cache, or None if no score was needed.

    `counts` is by model and `found` ("yes" or "no").
    """
    yes, no = (counts.get((model, found), 0.0) for found in ("yes", "no"))
    return yes / (yes + no) if yes + no else None


def _sum(rates: list[Rate]) -> Rate:
    return Rate((), sum(one.per_s for one in rates), sum(one.total for one in rates))


def _per_s(rate: Rate) -> str:
    return f"{rate.per_s:,.1f}/s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}"


def _table(title: str, rates: list[Rate]) -> list[str]:
    width = max([len(_label(one)) for one in rates[:_SHOWN]] + [20])
    out = [f"{title:{width}}{'per s':>12}{'total':>14}"]
    out += [f"{_label(one):{width}}{one.per_s:>12,.1f}{one.total:>14,.0f}" for one in rates[:_SHOWN]]
    left = len(rates) - _SHOWN
    return [*out, f"  and {left} more"] if left > 0 else out


def _label(rate: Rate) -> str:
    return "  " + "  ".join(rate.name)[:48]
