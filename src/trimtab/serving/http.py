"""The HTTP service: a raw ASGI application, so that a prediction costs little more than its model.

    POST /v1/models/{name}/predict   {"request": {...}} -> an answer; {"rows": [{...}, ...]} -> {"predictions": [...]}
    GET  /v1/predictions/{id}        a prediction as it was logged
    POST /v1/events/{source}         events: JSON, NDJSON, an Arrow stream; ?wait=applied waits for the views
    GET  /health/live, /health/ready, /metrics

Every error is a problem detail (RFC 9457). Whatever else is asked goes to `more`, the application's further routes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.records import Prediction
from trimtab.features.frames import REASONS
from trimtab.serving.answering import NO_VIEW, logged_prediction
from trimtab.serving.commit import GroupCommit
from trimtab.serving.endpoint import Endpoint
from trimtab.serving.metrics import Counter, Histogram, Metrics
from trimtab.serving.prediction_log import PredictionLog
from trimtab.serving.problems import InvalidField, Refused
from trimtab.serving.pushing import EVENT_TYPES, EventsBody, Push, WaitApplied, push_body, wait_asked
from trimtab.serving.spool import Spool
from trimtab.serving.wire import (
    JSON_TYPE,
    AsgiApp,
    Gone,
    Receive,
    Scope,
    Send,
    check_media_type,
    respond,
    respond_problem,
    whole_body,
)

_logger = logging.getLogger(__name__)
_SAMPLED = 15  # a mask: one in 16
_JSON_TYPES = (JSON_TYPE,)
_PREDICT = re.compile(r"/v1/models/[^/]*/predict")
_PREDICTION = re.compile(r"/v1/predictions/([^/]+)")
_EVENTS = re.compile(r"/v1/events/([^/]+)")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process takes at once; more is refused at once."""

    body_bytes: int = 4 << 20
    body_timeout_s: float = 10.0
    rows: int = 10_000  # of one predict request or push
    rows_inline: int = 64  # more are answered in a thread, so that others do not wait
    predict_at_once: int = 512
    slow_at_once: int = 64  # pushes and look-ups, which wait for a thread
    wait_applied_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise Misuse(f"limits: {name}={getattr(self, name)}. Give a number above 0.")


class HttpService:
    """An ASGI application over endpoints, a prediction log and an event log.

    Args:
        endpoints: The models served, by name.
        log: The prediction log; its own mode says whether an answer waits for a sync.
        spool: Where answers are noted that do not wait for the log (for a relaxed one); without it they wait.
        metrics: Where its figures go; `/metrics` shows all of them.
        limits: What is refused.
        push: Takes events; without it `/v1/events` says that this server takes none.
        wait_applied: For `?wait=applied`; without it that is refused.
        ready: Further conditions of readiness: a sentence about what is missing, or None.
        more: An ASGI application for every other path.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        log: PredictionLog,
        *,
        spool: Spool | None = None,
        metrics: Metrics | None = None,
        limits: Limits | None = None,
        push: Push | None = None,
        wait_applied: WaitApplied | None = None,
        ready: Callable[[], str | None] | None = None,
        more: AsgiApp | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.limits = limits or Limits()
        self._log = log
        self._commit = GroupCommit(log, spool)
        self._push = push
        self._wait_applied = wait_applied
        self._ready = ready
        self._more = more
        self._at_once, self._body_bytes = self.limits.predict_at_once, self.limits.body_bytes
        self._rows_inline = self.limits.rows_inline
        self._predicting = 0
        self._slow = 0
        self._threads = ThreadPoolExecutor(8, "trimtab-http")
        self._encode = msgspec.json.Encoder().encode
        self._make_metrics()
        self._served = {
            f"/v1/models/{e.name}/predict": _Served(e, self._latency, self._nulls, self._flags) for e in endpoints
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            served = self._served.get(scope["path"])
            if served is not None and scope["method"] == "POST":
                await self._predict(served, scope, receive, send)
            else:
                await self._other(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._more is not None:
            await self._more(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def close(self) -> None:
        """Finish what is under way; the log stays open."""
        self._commit.close()
        self._threads.shutdown()

    async def _predict(self, served: _Served, scope: Scope, receive: Receive, send: Send) -> None:
        """The hot path: nothing here may cost what it need not (`make bench ARGS=http_relaxed`)."""
        started = perf_counter()
        self._predicting += 1
        try:
            if self._predicting > self._at_once:
                raise Refused(429, f"{self._at_once} predictions are under way. Ask again in a moment.")
            check_media_type(scope, _JSON_TYPES)
            message = await receive()
            body = message.get("body")
            if body is None or message.get("more_body") or len(body) > self._body_bytes:
                body = await whole_body(message, scope, receive, self._body_bytes, self.limits.body_timeout_s)
            received = perf_counter()
            endpoint = served.endpoint
            answerer = endpoint.current
            asked = answerer.rows.decode(body)
            rows = asked.rows
            if len(rows) <= self._rows_inline and asked.at_us is None:
                prepared = endpoint.prepare(answerer, rows, None)
            elif len(rows) > self.limits.rows:
                raise Refused(413, f"body: {len(rows)} rows; the limit is {self.limits.rows}. Send them in parts.")
            else:
                prepared = await self._in_thread(endpoint.prepare, answerer, rows, asked.at_us)
            predicted = perf_counter()
            made = [one for one in prepared if isinstance(one, Prediction)]
            if made and not self._commit.note(made):
                await self._commit.append(made)
            logged = perf_counter()
            out = [one if isinstance(one, bytes) else self._encode(answerer.shown(one)) for one in prepared]
            await respond(send, 200, b'{"predictions":[' + b",".join(out) + b"]}" if asked.many else out[0])
            served.count(made, len(prepared), (started, received, predicted, logged, perf_counter()))
        except Gone:
            self._requests.add("predict", served.endpoint.name, "gone")
        except Exception as error:
            await self._fail(send, scope, error, "predict", served.endpoint.name)
        finally:
            self._predicting -= 1

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        path, method = scope["path"], scope["method"]
        route = "other"
        try:
            if path == "/health/live":
                route = "live"
                self._allow(scope, "GET", "HEAD")
                await respond(send, 200, b'{"status":"live"}', head=method == "HEAD")
            elif path == "/health/ready":
                route = "ready"
                self._allow(scope, "GET", "HEAD")
                await self._answer_ready(send, method == "HEAD")
            elif path == "/metrics":
                route = "metrics"
                self._allow(scope, "GET", "HEAD")
                body = (await self._in_thread(self.metrics.text)).encode()
                await respond(send, 200, body, b"text/plain; version=0.0.4; charset=utf-8", head=method == "HEAD")
            elif match := _EVENTS.fullmatch(path):
                route = "events"
                self._allow(scope, "POST")
                await self._take_events(match[1], scope, receive, send)
            elif match := _PREDICTION.fullmatch(path):
                route = "prediction"
                self._allow(scope, "GET", "HEAD")
                await self._show_prediction(match[1], send, method == "HEAD")
            elif path in self._served:
                route = "predict"
                self._allow(scope, "POST")
            elif _PREDICT.fullmatch(path) or self._more is None:
                raise self._nothing_here(path)
            else:
                await self._more(scope, receive, send)
                self._requests.add("more", "", "handed on")
                return
            self._requests.add(route, "", "200")
        except Gone:
            self._requests.add(route, "", "gone")
        except Exception as error:
            await self._fail(send, scope, error, route, "")
        finally:
            self._latency.of(("", route))(perf_counter() - started)

    async def _take_events(self, source: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._push is None:
            raise NotFound("events: this server takes none. Push them where the event log is.")
        wait = wait_asked(scope["query_string"])
        if wait and self._wait_applied is None:
            raise Unavailable("wait=applied: no views are applied in this process. Leave it out.")
        media_type = check_media_type(scope, EVENT_TYPES)
        body = await whole_body(await receive(), scope, receive, self._body_bytes, self.limits.body_timeout_s)
        sent = EventsBody(body, media_type, self.limits.rows)
        pushed, rows = await self._in_thread(push_body, self._push, source, sent)
        self._events.add(source, "accepted", by=pushed.accepted)
        self._events.add(source, "quarantined", by=pushed.quarantined)
        if wait and pushed.accepted:
            assert self._wait_applied is not None  # refused above
            await self._in_thread(self._wait_applied, {pushed.partition: pushed.position}, self.limits.wait_applied_s)
        if pushed.problems and not pushed.accepted:
            first = pushed.problems[0]
            raise InvalidField(
                f"none of {rows} events was taken; all are in quarantine. Event {first.row}: {first.field} is "
                f"{first.reason} (found {first.found}).",
                field=first.field,
                pointer=f"$[{first.row}].{first.field}",
            )
        await respond(send, 200, self._encode(pushed))

    async def _show_prediction(self, prediction_id: str, send: Send, head: bool) -> None:
        self._commit.append_noted()
        prediction = await self._in_thread(self._log.find, prediction_id)
        await respond(send, 200, self._encode(logged_prediction(prediction)), head=head)

    async def _answer_ready(self, send: Send, head: bool) -> None:
        waiting = [f"model {e.name!r}: no version serves yet." for e in self._endpoints() if not e.ready]
        if self._commit.failure is not None:
            waiting.append(f"predictions are noted, but cannot be logged: {self._commit.failure}")
        more = None if self._ready is None else await self._in_thread(self._ready)
        if more:
            waiting.append(more)
        if waiting:
            raise Unavailable(f"not ready: {' '.join(waiting)}")
        await respond(send, 200, b'{"status":"ready"}', head=head)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what blocks in a thread; at most so many at once."""
        if self._slow >= self.limits.slow_at_once:
            raise Refused(429, f"{self._slow} slow requests are under way. Ask again in a moment.")
        self._slow += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._slow -= 1

    async def _fail(self, send: Send, scope: Scope, error: Exception, route: str, name: str) -> None:
        if not isinstance(error, TrimtabError):
            _logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        problem = await respond_problem(send, scope, error)
        self._requests.add(route, name, str(problem.status))

    def _allow(self, scope: Scope, *methods: str) -> None:
        if scope["method"] not in methods:
            allowed = ", ".join(methods)
            raise Refused(405, f"{scope['method']} is not for this address. Use {allowed}.", headers=_allow(allowed))

    def _nothing_here(self, path: str) -> NotFound:
        if _PREDICT.fullmatch(path):
            models = ", ".join(sorted(e.name for e in self._endpoints())) or "none"
            return NotFound(f"{path}: no such model is served here; there are: {models}.")
        return NotFound(
            f"{path}: nothing is here. See /v1/models/NAME/predict, /v1/events/SOURCE, /metrics, /health/ready."
        )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _make_metrics(self) -> None:
        counter, gauge = self.metrics.counter, self.metrics.gauge
        self._requests = counter(
            "trimtab_requests_total", "Requests by route, model and status.", ("route", "model", "status")
        )
        self._nulls = counter("trimtab_null_inputs_total", "Inputs without a fresh value.", ("model", "reason"))
        self._flags = counter("trimtab_flagged_predictions_total", "Answers with a flag.", ("model", "flag"))
        self._events = counter("trimtab_events_total", "Events pushed over HTTP.", ("source", "fate"))
        self._latency = self.metrics.histogram("trimtab_latency_seconds", "Time by stage.", ("model", "stage"))
        gauge("trimtab_predictions_total", "Answers by fate of their prediction.", ("model", "fate"), self._answers)
        gauge("trimtab_answered_requests_total", "Predict requests answered.", ("model",), self._answered)
        gauge("trimtab_requests_under_way", "Requests being answered.", ("kind",), self._under_way)
        labels = ("model", "version", "address", "arm")
        gauge("trimtab_model_version", "The version that answers.", labels, self._versions)

    def _endpoints(self) -> list[Endpoint]:
        return [served.endpoint for served in self._served.values()]

    def _answers(self) -> dict[tuple[str, ...], float]:
        out: dict[tuple[str, ...], float] = {}
        for served in self._served.values():
            out[served.endpoint.name, "logged"] = served.logged
            out[served.endpoint.name, "precomputed"] = served.stored
        return out

    def _answered(self) -> dict[tuple[str, ...], float]:
        return {(served.endpoint.name,): served.requests for served in self._served.values()}

    def _under_way(self) -> dict[tuple[str, ...], float]:
        return {("predict",): self._predicting, ("slow",): self._slow}

    def _versions(self) -> dict[tuple[str, ...], float]:
        served = [e.current.served for e in self._endpoints() if e.ready]
        return {(s.model, s.label, s.version, s.arm): 1 for s in served}


class _Served:
    """An endpoint and its figures, bound once so that counting costs next to nothing."""

    def __init__(self, endpoint: Endpoint, latency: Histogram, nulls: Counter, flags: Counter) -> None:
        self.endpoint = endpoint
        self.requests = 0
        self.logged = 0
        self.stored = 0
        self._nulls = nulls
        self._flags = flags
        self._total = latency.of((endpoint.name, "total"))
        self._stages = [latency.of((endpoint.name, stage)) for stage in ("read", "predict", "log", "respond")]

    def count(self, made: Sequence[Prediction], answers: int, times: tuple[float, ...]) -> None:
        """Count one answered request by the ends of its stages; one in 16 shows in the histogram of stages."""
        self.requests = requests = self.requests + 1
        logged = len(made)
        self.logged += logged
        if logged != answers:
            self.stored += answers - logged
        self._total(times[-1] - times[0])
        if not requests & _SAMPLED:
            for observe, start, end in zip(self._stages, times, times[1:], strict=False):
                observe(end - start)
        for one in made:
            if one.flags or one.reasons.translate(None, _QUIET):
                self._count_remarks(one)

    def _count_remarks(self, one: Prediction) -> None:
        for flag in one.flags:
            self._flags.add(self.endpoint.name, flag)
        for code in one.reasons.translate(None, _QUIET):
            self._nulls.add(self.endpoint.name, REASONS[code])


def _allow(methods: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"allow", methods.encode()),)


_QUIET = bytes((0, NO_VIEW))
