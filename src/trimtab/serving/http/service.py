"""The HTTP service, as a raw ASGI application, so that a prediction takes little more time than its model.

    POST /v1/models/{name}/predict   {"request": {...}} -> an answer; {"rows": [{...}, ...]} -> {"predictions": [...]}

All other addresses are rows of a table (`routes/addresses.py`); applications such as the Open Inference Protocol are
mounted with rows of their own. Every error is a problem detail (RFC 9457), unless its application has another form.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from trimtab.core.errors import NotFound, TrimtabError, Unavailable
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.lifecycle import Lifecycle
from trimtab.serving.http.predict.arrow_rows import ArrowForm
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predict_metrics import PredictMetrics
from trimtab.serving.http.predict.predicting import Form, MakeForm, Predictor
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.predict.service_metrics import show_service
from trimtab.serving.http.predict.shadowing import Shadowing
from trimtab.serving.http.requests.access import NO_KEY, Access, request_id
from trimtab.serving.http.requests.arrow_body import ARROW_TYPE
from trimtab.serving.http.requests.http_request import HttpRequest
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.request_record import CURRENT, RequestRecord, Telemetry, begun
from trimtab.serving.http.requests.room import Room
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.http.requests.wire import (
    JSON_TYPE,
    Gone,
    Receive,
    Reply,
    Scope,
    Send,
    Sent,
    check_media_type,
    respond,
    retry_after,
    share_back,
    timeout_of_request,
    whole_body,
)
from trimtab.serving.http.routes.address import Application, Match, Router
from trimtab.serving.http.routes.addresses import SERVICE
from trimtab.serving.http.routes.event_intake import EventIntake
from trimtab.serving.http.routes.pushing import Push, WaitApplied
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.process_metrics import show_process
from trimtab.serving.problems import Refused
from trimtab.serving.protect.admission import GradientLimit

_logger = logging.getLogger(__name__)
_TOO_MANY = "Too many predictions are in flight. Send the request again soon."
_ENDED = "The service is stopping and could not finish this request. Send the request again soon."
_HINT = "See /v1/models/NAME/predict, /v1/events/SOURCE, /metrics, /health/ready."
_LEAST = 8  # this many predict requests are always allowed in flight, unless `limits` allows fewer
_PREDICT_TYPES = (JSON_TYPE, ARROW_TYPE)


class ServiceHooks(msgspec.Struct, frozen=True):
    """Functions that the service calls at certain events."""

    # a further check of readiness: returns why the service is not ready, or None
    ready: Callable[[], str | None] | None = None
    # called with the reason when the prediction log begins to fail, and with None when it works again
    failing: Callable[[str | None], object] | None = None
    telemetry: Telemetry | None = None  # receives a record of every request


class HttpService:
    """An ASGI application that serves models (endpoints), writes the prediction log, and accepts events.

    Args:
        log: The prediction log. Answers wait until their predictions are in it, or in its buffer (`BufferedLog`).
        metrics: The object to which the service adds its metrics. `/metrics` shows all metrics of this object.
        limits: Limits on what the service works on at the same time.
        access: Decides which client may do what. By default, everyone may do everything, but administration is allowed
            only from this machine.
        push: Appends events to the log. Without it, `/v1/events` responds that this server accepts no events.
        wait_applied: Waits until events are applied, for `?wait=applied`. Without it, such requests are refused.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        log: PredictionLog,
        *,
        metrics: Metrics | None = None,
        limits: Limits | None = None,
        access: Access | None = None,
        push: Push | None = None,
        wait_applied: WaitApplied | None = None,
        hooks: ServiceHooks | None = None,
    ) -> None:
        limits, hooks = limits or Limits(), hooks or ServiceHooks()
        at_once = limits.predict_at_once
        self.log = log
        self.parts = parts = Parts(
            access=access or Access(),
            commit=GroupCommit(log, hooks.failing),
            limits=limits,
            metrics=metrics or Metrics(),
            room=Room(max(limits.bodies_bytes, 2 * limits.body_bytes)),
            scheduler=RequestScheduler(GradientLimit(least=min(_LEAST, at_once), most=at_once)),
            telemetry=hooks.telemetry,
            threads=Threads(limits.slow_at_once),
        )
        self._requests = parts.metrics.counter(
            "trimtab_requests_total", "Requests by route, model and status.", ("route", "model", "status")
        )
        self._latency = parts.metrics.histogram(
            "trimtab_latency_seconds", "Seconds that requests took, by stage.", ("model", "stage")
        )
        self.intake = EventIntake(push, wait_applied, parts)
        shared, shadowing = PredictMetrics(parts.metrics, self._latency), Shadowing(parts.scheduler, parts.commit)
        self.predictors = {one.name: Predictor(one, parts, shared, shadowing) for one in endpoints}
        self._by_path = {one.form.path: one for one in self.predictors.values()}
        # by path: the predictor of requests on the fast path, and a function that makes their form from their headers
        self.quick: dict[str, tuple[Predictor, MakeForm]] = {
            path: (one, one.form.of) for path, one in self._by_path.items()
        }
        self._ready = hooks.ready
        self._throttled = ThrottledLogger(_logger)
        self._too_many: dict[str, Reply] = {}  # by path: the response for too many requests
        self.lifecycle = Lifecycle(self._close)
        self._router = Router()
        self.mount(Application(self, SERVICE, _HINT))
        show_service(parts, self.predictors.values())
        show_process(parts.metrics)

    def mount(self, application: Application) -> None:
        """Add the addresses of an application to the service."""
        self._router.mount(application)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            predictor = self._by_path.get(scope["path"])
            scope["share"] = self.parts.room.share()
            try:
                if predictor is not None and scope["method"] == "POST":
                    await self._predict(predictor, scope, receive, send)
                else:
                    await self._other(scope, receive, send)
            finally:
                share_back(scope)
        elif scope["type"] == "lifespan":
            await self.lifecycle.run(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def close(self) -> None:
        """Finish running work within the time that is left for it, and close the service. The log stays open."""
        self.lifecycle.close()

    def _close(self, within_s: float, hurried: Callable[[], bool]) -> None:
        self.parts.commit.close()
        self.parts.threads.close(within_s, hurried)

    # -- predictions --------------------------------------------------------------------------------------------

    async def _predict(self, predictor: Predictor, scope: Scope, receive: Receive, send: Send) -> None:
        received_s = scope.get("received_s") or perf_counter()
        record = self._begun(scope, received_s)
        if record is None:
            await self._answer(predictor, scope, receive, send, received_s, None)
            return
        record.model = predictor.endpoint.name
        CURRENT.set(record)
        sent = Sent(send, record.request_id)
        await self._answer(predictor, scope, receive, sent, received_s, record)
        if self.parts.telemetry is not None:
            self.parts.telemetry.end(record, sent.status, sent.size_bytes)

    def _begun(self, scope: Scope, received_s: float) -> RequestRecord | None:
        method, path, client = scope["method"], scope["path"], scope.get("client")
        return begun(self.parts.telemetry, received_s, method, path, scope["headers"], client)

    async def _answer(
        self,
        predictor: Predictor,
        scope: Scope,
        receive: Receive,
        send: Send,
        received_s: float,
        record: RequestRecord | None,
    ) -> None:
        try:
            reply = await self._reply(predictor, scope, receive, received_s, record)
        except Gone:
            self._requests.add("predict", predictor.endpoint.name, "gone")
            return
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not self.lifecycle.ending:
                raise
            reply = self.failed(predictor, predictor.form, error, record)
        share_back(scope)
        await self._respond(send, reply)  # the request no longer counts as in flight, because clients may read slowly

    async def _reply(
        self, predictor: Predictor, scope: Scope, receive: Receive, received_s: float, record: RequestRecord | None
    ) -> Reply:
        """Return the response to a predict request that came through ASGI."""
        parts = self.parts
        who = parts.access.let_in(scope["headers"], "predict")
        if record is not None:
            record.key = who
        kind = check_media_type(scope, _PREDICT_TYPES)
        timeout_s = timeout_of_request(scope)
        body = await whole_body(scope, receive, parts.limits.body_bytes, parts.limits.body_timeout_s)
        if parts.scheduler.full():
            return self.overloaded(predictor, predictor.form)
        if kind == ARROW_TYPE:
            form = ArrowForm(predictor.endpoint, scope, parts.limits.rows)
            reply: Reply = await predictor.take_in_turn(body, received_s, timeout_s, record, form, large=True)
            return reply
        return Reply(200, await predictor.take_in_turn(body, received_s, timeout_s, record))

    def failed(self, predictor: Predictor, form: Form, error: BaseException, record: RequestRecord | None) -> Reply:
        """Return the response to a predict request that failed.

        The failure is counted. If it is the service's fault, it is also logged.
        """
        about = "POST" if record is None else f"POST (request {record.request_id})"
        return self._failed(error, about, form.path, form.route, predictor.endpoint.name)

    def answered(self, predictor: Predictor, form: Form, seconds: float) -> None:
        """Count a request of another protocol than `/v1` on the fast path. The predictor counts requests of `/v1`."""
        self._requests.add(form.route, predictor.endpoint.name, "200")
        self._latency.of(("", form.route))(seconds)

    def overloaded(self, predictor: Predictor, form: Form) -> Reply:
        """Refuse a predict request because too many are in flight: count the refusal, and return it as a response.

        The body of the refusal is made only once for each path.
        """
        self._requests.add(form.route, predictor.endpoint.name, "429")
        predictor.endpoint.count_refused()
        reply = self._too_many.get(form.path)
        if reply is None:
            made = self._router.application(form.path).error_reply(Refused(429, _TOO_MANY), form.path)
            reply = self._too_many[form.path] = made
        return Reply(429, reply.body, reply.media_type, (retry_after(),))

    # -- all other addresses ------------------------------------------------------------------------------------

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, parts = scope.get("received_s") or perf_counter(), self.parts
        path, method = scope["path"], scope["method"]
        match = self._router.find(method, path)
        model = self._known(match.names.get("model", "")) if match.route == "inference" else ""
        record = None if parts.telemetry is None else self._begun(scope, started)
        scope["request_id"] = request_id(scope["headers"]) if record is None else record.request_id
        scope["who"] = NO_KEY
        send = sent = Sent(send, scope["request_id"])
        CURRENT.set(record)
        try:
            reply = await self._handled(match, scope, receive)
            self._requests.add(match.route, model, str(reply.status))
            share_back(scope)
            await respond(send, reply, head=method == "HEAD")
        except Gone:
            self._requests.add(match.route, model, "gone")
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not self.lifecycle.ending:
                raise
            about = f"{method} (request {scope['request_id']})"
            await self._respond(send, self._failed(error, about, path, match.route, model), head=method == "HEAD")
        finally:
            self._latency.of(("", match.route))(perf_counter() - started)
            if record is not None and parts.telemetry is not None:
                record.route, record.key = match.route, scope["who"]
                parts.telemetry.end(record, sent.status, sent.size_bytes)

    async def _handled(self, match: Match, scope: Scope, receive: Receive) -> Reply:
        """If the client has the right, call the handler of the request's address. Return the response."""
        if match.right is not None:
            scope["who"] = self.parts.access.let_in(scope["headers"], match.right)
        if match.address is None:
            if not match.methods:
                raise NotFound(f"{scope['path'][:200]}: nothing is here. {match.application.hint}")
            allowed = ", ".join(match.methods)
            text = f"{scope['method']} is not allowed at this address. Use {allowed}."
            raise Refused(405, text, headers=((b"allow", allowed.encode()),))
        request = HttpRequest(scope, receive, match.names, self.parts.limits, self.parts.threads)
        if match.address.query is not None:
            request.query(match.address.query)
        return await match.address.handler(match.application.target, request)

    async def _respond(self, send: Send, reply: Reply, *, head: bool = False) -> None:
        """Send a response. A refusal is delayed until it is its turn."""
        if 400 <= reply.status < 500:
            await self.parts.scheduler.refusals.turn()
        await respond(send, reply, head=head)

    def refused(self, error: Refused, path: str) -> Reply:
        """Return the response to data that is not a valid request, and count it."""
        return self._failed(error, "-", path, "other")

    def count(self, route: str, status: str, model: str) -> None:
        """Count a request of another protocol. If its model is not deployed, the metrics do not name it."""
        self._requests.add(route, self._known(model), status)

    def _known(self, model: str) -> str:
        """Return the name of a model if it is deployed, and otherwise "".

        So clients cannot create labels in the metrics.
        """
        return model if model in self.predictors else ""

    def _failed(self, error: BaseException, method: str, path: str, route: str, name: str = "") -> Reply:
        if isinstance(error, asyncio.CancelledError) and self.lifecycle.ending:
            error = Unavailable(_ENDED)
        reply = self._router.application(path).error_reply(error, path)
        if reply.status == 500:
            self._throttled.error(f"{method} {path!a} failed", error, of=name)
        self._requests.add(route, name, str(reply.status))
        return reply

    # -- state --------------------------------------------------------------------------------------------------

    def append_buffered(self) -> None:
        """Write the buffered predictions to the log, unless the log is failing now. Call this in the event loop."""
        if self.parts.commit.failure is None:
            self.parts.commit.append_buffered()

    async def not_ready(self) -> str | None:
        """Return why this process is not ready to answer, or None if it is."""
        endpoints = [one.endpoint for one in self.predictors.values()]
        waiting = [f"model {e.name!r}: {e.missing}" for e in endpoints if not e.ready]
        commit = self.parts.commit
        if commit.failure is not None:
            buffered = f" ({commit.buffered:,} answered predictions wait to be logged)" if commit.buffered else ""
            waiting.append(f"predictions cannot be logged{buffered}: {commit.failure}")
        try:
            more = None if self._ready is None else await self.parts.threads.look(self._ready)
        except TrimtabError as error:  # if a condition cannot be checked, the service is not ready
            more = str(error)
        if more:
            waiting.append(more)
        return " ".join(waiting) or None
