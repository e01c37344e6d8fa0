"""The HTTP service: a raw ASGI application, so that a prediction costs little more than its model.

    POST /v1/models/{name}/predict   {"request": {...}} -> an answer; {"rows": [{...}, ...]} -> {"predictions": [...]}
    GET  /v1/predictions/{id}        a prediction as it was logged
    POST /v1/events/{source}         events: JSON, NDJSON, an Arrow stream; ?wait=applied waits for the views
    GET  /health/live, /health/ready, /metrics
    ...  /v2/...                     the Open Inference Protocol (`serving/inference`)

Every error is a problem detail (RFC 9457), under /v2 `{"error": ...}`. Whatever else is asked goes to `more`, the
application's further routes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import Protocol

import msgspec

from trimtab.core.errors import NotFound, TrimtabError, Unavailable
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.predict.http_metrics import show_answers, show_load, show_log, show_watch
from trimtab.serving.http.predict.model_calls import show_model_calls
from trimtab.serving.http.predict.predicting import PredictFigures, Predictor, Waiting
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.predict.shadowing import Shadowing
from trimtab.serving.http.requests.access import ANYBODY, Access, request_id, right_of
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.request_record import CURRENT, RequestRecord, Watch, begun
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
    asked_timeout,
    check_media_type,
    problem_reply,
    respond,
    retry_after,
    search_until,
    share_back,
    whole_body,
)
from trimtab.serving.http.routes.event_intake import EventDoor, Taken
from trimtab.serving.http.routes.pushing import ARROW_TYPE, EVENT_TYPES, EventsBody, Push, WaitApplied, push_body
from trimtab.serving.inference.inferring import InferenceService
from trimtab.serving.inference.rest import InferenceRest, asked_model, failure_reply, is_inference, methods_of
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import logged_prediction
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.process_metrics import show_process
from trimtab.serving.problems import PROBLEM_TYPE, Refused
from trimtab.serving.protect.admission import GradientLimit

_logger = logging.getLogger(__name__)
_TOO_MANY = "More predictions are under way than can be answered soon. Ask again in a moment."
_ENDED = "The service ends, and could not wait for this any longer. Ask again in a moment."
_GRACE_S = 10.0  # where nobody says how long
_LEAST = 8  # predictions under way that the limit lets in at least, where so many are allowed
_PREDICT_TYPES = (JSON_TYPE, ARROW_TYPE)
_PREDICT = re.compile(r"/v1/models/[^/]*/predict")
_PREDICTION = re.compile(r"/v1/predictions/([^/]+)")
_EVENTS = re.compile(r"/v1/events/([^/]+)")


class Beside(Protocol):
    """Another way in, of the same event loop."""

    async def start(self) -> None:
        """Take requests."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, and finish what is under way, for at most `grace_s`."""
        ...


class More(Protocol):
    """An ASGI application that answers at further addresses."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def answers(self, scope: Scope) -> bool:
        """Whether anything answers to a request's method at its address: else it is refused, whoever asks."""
        ...


class HttpService:
    """An ASGI application over endpoints, a prediction log and an event log.

    Args:
        endpoints: The models served, by name.
        log: The prediction log; its own mode says whether an answer waits for a sync.
        metrics: Where its figures go; `/metrics` shows all of them.
        limits: What is refused.
        push: Takes events; without it `/v1/events` says that this server takes none.
        wait_applied: For `?wait=applied`; without it that is refused.
        ready: Further conditions of readiness: a sentence about what is missing, or None.
        more: Makes an ASGI application for every other path; `scope["who"]` is who asks, `scope["request_id"]` names
            the request.
        access: Who may ask what; left out, everybody, but only on this machine what changes what is served.
        beside: Makes what takes the same requests by another protocol, in the same event loop.
        watch: Is told of every request and what became of it.
        failing: Is told when predictions cannot be logged, and with None when they can again.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        log: PredictionLog,
        *,
        metrics: Metrics | None = None,
        limits: Limits | None = None,
        push: Push | None = None,
        wait_applied: WaitApplied | None = None,
        ready: Callable[[], str | None] | None = None,
        more: Callable[[HttpService], More] | None = None,
        access: Access | None = None,
        beside: Callable[[HttpService], Beside] | None = None,
        watch: Watch | None = None,
        failing: Callable[[str | None], object] | None = None,
    ) -> None:
        self.access = access or Access()
        self.metrics = metrics or Metrics()
        self.limits = limits or Limits()
        self._log = log
        self.watch = watch
        self._commit = GroupCommit(log, failing)
        self._throttled = ThrottledLogger(_logger)
        self._ready = ready
        self._body_bytes = self.limits.body_bytes
        self.room = Room(max(self.limits.bodies_bytes, 2 * self._body_bytes))
        self.turns = RequestScheduler(
            GradientLimit(least=min(_LEAST, self.limits.predict_at_once), most=self.limits.predict_at_once)
        )
        self._too_many: dict[str, bytes] = {}
        self.threads = Threads(self.limits.slow_at_once)
        self._encode = msgspec.json.Encoder().encode
        self._make_metrics()
        self.door = EventDoor(push, wait_applied, threads=self.threads, metrics=self.metrics, limits=self.limits)
        figures = PredictFigures(self.metrics, self._latency)
        shadowing = Shadowing(self.turns, self._commit)
        made = [
            Predictor(
                e,
                commit=self._commit,
                limits=self.limits,
                figures=figures,
                turns=self.turns,
                threads=self.threads,
                shadowing=shadowing,
            )
            for e in endpoints
        ]
        self.predictors = {one.endpoint.name: one for one in made}
        self._by_path = {one.path: one for one in made}
        self._show_figures(endpoints)
        self.inference = InferenceService(
            self.predictors,
            limits=self.limits,
            turns=self.turns,
            threads=self.threads,
            room=self.room,
            not_ready=self._not_ready,
            metrics=self.metrics,
        )
        self._inference = InferenceRest(self.inference)
        self._more = None if more is None else more(self)
        self._beside = None if beside is None else beside(self)
        self._begun_beside = False
        self._left: asyncio.Task[None] | None = None
        self._end_s: float | None = None  # monotonic: when the grace is over; None: the service goes on
        self._hurried: Callable[[], bool] = lambda: False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            predictor = self._by_path.get(scope["path"])
            scope["share"] = self.room.share()
            try:
                if predictor is not None and scope["method"] == "POST":
                    await self._predict(predictor, scope, receive, send)
                else:
                    await self._other(scope, receive, send)
            finally:
                share_back(scope)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._more is not None:
            await self._more(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def enter(self) -> None:
        """Take requests by the other way in, if there is one; in the event loop, before connections are taken.

        Raises:
            Unavailable: It cannot be opened.
        """
        if self._beside is None or self._begun_beside:
            return
        self._begun_beside = True
        try:
            await self._beside.start()
        except BaseException:
            self.close()
            raise

    def leave(self, grace_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Take nothing new by the other way in, and let it finish meanwhile; in the event loop, when it is to end.

        Args:
            grace_s: How long that, and what threads are at, may take from now on.
            hurried: Whether somebody has lost patience.
        """
        if self._end_s is None:
            self._end_s, self._hurried = monotonic() + grace_s, hurried
        if self._beside is not None and self._left is None:
            self._left = asyncio.get_running_loop().create_task(self._beside.stop(grace_s))

    def close(self) -> None:
        """Finish what is under way, as long as the grace lasts; the log stays open."""
        self._commit.close()
        left_s = _GRACE_S if self._end_s is None else self._end_s - monotonic()
        self.threads.close(left_s, self._hurried)

    async def _predict(self, predictor: Predictor, scope: Scope, receive: Receive, send: Send) -> None:
        received_s = scope.get("received_s") or perf_counter()
        exchange = self._begun(scope, received_s)
        if exchange is None:
            await self._answer(predictor, scope, receive, send, received_s, None)
            return
        exchange.model = predictor.endpoint.name
        CURRENT.set(exchange)
        sent = Sent(send, exchange.request_id)
        await self._answer(predictor, scope, receive, sent, received_s, exchange)
        if self.watch is not None:
            self.watch.end(exchange, sent.status, sent.size_bytes)

    def _begun(self, scope: Scope, received_s: float) -> RequestRecord | None:
        return begun(self.watch, received_s, scope["method"], scope["path"], scope["headers"], scope.get("client"))

    async def _answer(
        self,
        predictor: Predictor,
        scope: Scope,
        receive: Receive,
        send: Send,
        received_s: float,
        exchange: RequestRecord | None,
    ) -> None:
        try:
            reply = await self._reply(predictor, scope, receive, received_s, exchange)
        except Gone:
            self._requests.add("predict", predictor.endpoint.name, "gone")
            return
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._end_s is None:
                raise
            reply = self.failed(predictor, error, exchange)
        share_back(scope)
        await self._respond(send, reply)  # it is counted off by now: its client may take long to read it

    async def _reply(
        self, predictor: Predictor, scope: Scope, receive: Receive, received_s: float, exchange: RequestRecord | None
    ) -> Reply:
        """What is answered to a predict request that comes the usual way."""
        turns = self.turns
        who = self.access.let_in(scope["headers"], "predict")
        if exchange is not None:
            exchange.key = who
        kind = check_media_type(scope, _PREDICT_TYPES)
        timeout_s = asked_timeout(scope)
        body = await whole_body(scope, receive, self._body_bytes, self.limits.body_timeout_s)
        if turns.full():
            return self.overloaded(predictor)
        read_s = await turns.turn()  # how long it was on its way is no wait for others
        begun_s, answer = perf_counter(), None
        try:
            if kind == ARROW_TYPE:
                return await self._answer_arrow(predictor, body, scope, received_s, timeout_s)
            answer = predictor.take(body, received_s, timeout_s, exchange)
            if isinstance(answer, Waiting):
                await answer.done
                begun_s, answer = answer.begun_s(begun_s), answer.answer()
            return Reply(200, answer)
        finally:
            answer = None  # a task that failed: its error names this frame, and together they would keep the body
            turns.under_way -= 1
            turns.answered(read_s, begun_s, waited=True)

    async def _answer_arrow(
        self, predictor: Predictor, body: bytes, scope: Scope, received_s: float, timeout_s: float | None
    ) -> Reply:
        from trimtab.serving.http.predict.arrow_rows import answer_arrow

        return await answer_arrow(
            predictor,
            body,
            scope,
            most_rows=self.limits.rows,
            started=received_s,
            timeout_s=timeout_s,
        )

    def failed(self, predictor: Predictor, error: BaseException, exchange: RequestRecord | None) -> Reply:
        """What is answered to a predict request that failed; counted, and in the process's log when it is our fault."""
        about = "POST" if exchange is None else f"POST (request {exchange.request_id})"
        return self._failed(error, about, predictor.path, "predict", predictor.endpoint.name)

    def refused(self, error: Refused, path: str) -> Reply:
        """What is answered to what cannot be read as a request; counted."""
        return self._failed(error, "-", path, "other")

    def count(self, route: str, status: str, model: str) -> None:
        """Count a request that came another way; a model that is not served is not named."""
        self._requests.add(route, self._known(model), status)

    def _known(self, model: str) -> str:
        """The name of a model that is served, else nothing: labels are not made by who asks."""
        return model if model in self.predictors else ""

    def overloaded(self, predictor: Predictor) -> Reply:
        """What is answered to a predict request that is one too many, counted; its body is made once."""
        self._requests.add("predict", predictor.endpoint.name, "429")
        predictor.endpoint.count_refused()
        body = self._too_many.get(predictor.path)
        if body is None:
            body = self._too_many[predictor.path] = problem_reply(Refused(429, _TOO_MANY), predictor.path).body
        return Reply(429, body, PROBLEM_TYPE, (retry_after(),))

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = scope.get("received_s") or perf_counter()
        path, method = scope["path"], scope["method"]
        route, model = "other", ""
        exchange = None if self.watch is None else self._begun(scope, started)
        scope["request_id"] = request_id(scope["headers"]) if exchange is None else exchange.request_id
        send = sent = Sent(send, scope["request_id"])
        CURRENT.set(exchange)
        try:
            await self._admit(scope)
            if path == "/health/live":
                route = "live"
                self._allow(scope, "GET", "HEAD")
                await respond(send, Reply(200, b'{"status":"live"}'), head=method == "HEAD")
            elif path == "/health/ready":
                route = "ready"
                self._allow(scope, "GET", "HEAD")
                await self._answer_ready(send, method == "HEAD")
            elif path == "/metrics":
                route = "metrics"
                self._allow(scope, "GET", "HEAD")
                body = (await self.threads.look(self.metrics.text)).encode()
                await respond(
                    send, Reply(200, body, b"text/plain; version=0.0.4; charset=utf-8"), head=method == "HEAD"
                )
            elif match := _EVENTS.fullmatch(path):
                route = "events"
                self._allow(scope, "POST")
                await self._take_events(match[1], scope, receive, send)
            elif (match := _PREDICTION.fullmatch(path)) and not (scope["query_string"] and self._more):
                route = "prediction"
                self._allow(scope, "GET", "HEAD")
                await self._show_prediction(match[1], scope, send)
            elif is_inference(path):
                route, model = "inference", self._known(asked_model(path))
                reply = await self._inference.answer(scope, receive)
                share_back(scope)
                await respond(send, reply, head=method == "HEAD")
            elif path in self._by_path:
                route = "predict"
                self._allow(scope, "POST")
            elif _PREDICT.fullmatch(path) or self._more is None:
                raise self._nothing_here(path)
            else:
                route = "more"
                await self._more(scope, receive, send)
                self._requests.add(route, "", str(sent.status or "gone"))
                return
            self._requests.add(route, model, "200")
        except Gone:
            self._requests.add(route, model, "gone")
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._end_s is None:
                raise
            about = f"{method} (request {scope['request_id']})"
            await self._respond(send, self._failed(error, about, path, route, model), head=method == "HEAD")
        finally:
            self._latency.of(("", route))(perf_counter() - started)
            if exchange is not None and self.watch is not None:
                exchange.route, exchange.key = route, scope["who"]
                self.watch.end(exchange, sent.status, sent.size_bytes)

    async def _respond(self, send: Send, reply: Reply, *, head: bool = False) -> None:
        """Send a response; a refusal has its turn."""
        if 400 <= reply.status < 500:
            await self.turns.refusals.turn()
        await respond(send, reply, head=head)

    async def _admit(self, scope: Scope) -> None:
        right = right_of(scope["method"], scope["path"])
        scope["who"] = ANYBODY
        if right == "admin" and not await self._answers(scope):
            right, scope["nothing"] = "read", True  # a mistyped address or method: who may read may hear of it  # D134
        if right is not None:
            scope["who"] = self.access.let_in(scope["headers"], right)

    async def _answers(self, scope: Scope) -> bool:
        """Whether anything answers to a method that may change something, at an address of no right of its own."""
        if is_inference(scope["path"]):
            return scope["method"] in methods_of(scope["path"])
        return self._more is not None and await self._more.answers(scope)

    async def _take_events(self, source: str, scope: Scope, receive: Receive, send: Send) -> None:
        until_s = self.door.wait_until(scope)
        media_type = check_media_type(scope, EVENT_TYPES)
        body = await whole_body(scope, receive, self._body_bytes, self.limits.body_timeout_s)
        sent = EventsBody(body, media_type, self.limits.rows)
        taken = await self.door.take(
            lambda push: Taken(source, *push_body(push, source, sent)), "event", until_s=until_s
        )
        await respond(send, Reply(200, self._encode(taken.pushed)))

    def append_buffered(self) -> None:
        """Append what was answered and is only noted yet, so that it is found in the log; in the event loop."""
        if self._commit.failure is None:
            self._commit.append_buffered()

    async def _show_prediction(self, prediction_id: str, scope: Scope, send: Send) -> None:
        until_s = search_until(scope)
        self.append_buffered()
        self.threads.check_room()
        prediction = await self.threads.wait(self._log.find, prediction_id, until_s)  # it may be a long search  # D123
        await respond(send, Reply(200, self._encode(logged_prediction(prediction))), head=scope["method"] == "HEAD")

    async def _answer_ready(self, send: Send, head: bool) -> None:
        if missing := await self._not_ready():
            raise Unavailable(f"not ready: {missing}")
        await respond(send, Reply(200, b'{"status":"ready"}'), head=head)

    async def _not_ready(self) -> str | None:
        """What is missing until this process can answer as it should."""
        waiting = [f"model {e.name!r}: {e.missing}" for e in self._endpoints() if not e.ready]
        if self._commit.failure is not None:
            noted = f" ({self._commit.buffered:,} that were answered wait)" if self._commit.buffered else ""
            waiting.append(f"predictions cannot be logged{noted}: {self._commit.failure}")
        try:
            more = None if self._ready is None else await self.threads.look(self._ready)
        except TrimtabError as error:  # what cannot even be looked at is not as it should be
            more = str(error)
        if more:
            waiting.append(more)
        return " ".join(waiting) or None

    def _failed(self, error: BaseException, method: str, path: str, route: str, name: str = "") -> Reply:
        if isinstance(error, asyncio.CancelledError) and self._end_s is not None:  # no grace is left, or no patience
            error = Unavailable(_ENDED)
        reply = failure_reply(error, path)
        if reply.status == 500:
            self._throttled.error(f"{method} {path!a} failed", error, of=name)
        self._requests.add(route, name, str(reply.status))
        return reply

    def _allow(self, scope: Scope, *methods: str) -> None:
        if scope["method"] not in methods:
            allowed = ", ".join(methods)
            raise Refused(405, f"{scope['method']} is not for this address. Use {allowed}.", headers=_allow(allowed))
        if "nothing" in scope:  # `right_of` has to name what answers here
            raise RuntimeError(f"{scope['method']} {scope['path']}: it is answered, and needs no right")

    def _nothing_here(self, path: str) -> NotFound:
        if _PREDICT.fullmatch(path):
            models = ", ".join(sorted(self.predictors)) or "none"
            return NotFound(f"{path}: no such model is served here; there are: {models}.")
        return NotFound(
            f"{path}: nothing is here. See /v1/models/NAME/predict, /v1/events/SOURCE, /metrics, /health/ready."
        )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                if self._end_s is None:
                    raise
                return  # nobody waits for the end of what is under way
            if message["type"] == "lifespan.startup":
                await self.enter()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.leave(_GRACE_S)
                if self._left is not None:
                    await self._left
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _make_metrics(self) -> None:
        counter = self.metrics.counter
        self._requests = counter(
            "trimtab_requests_total", "Requests by route, model and status.", ("route", "model", "status")
        )
        self._latency = self.metrics.histogram("trimtab_latency_seconds", "Time by stage.", ("model", "stage"))

    def _show_figures(self, endpoints: Sequence[Endpoint]) -> None:
        show_answers(self.metrics, self.predictors)
        show_load(self.metrics, self.turns, lambda: self.threads.under_way)
        show_log(self.metrics, self._commit)
        if self.watch is not None:
            show_watch(self.metrics, self.watch)
        show_model_calls(self.metrics, endpoints)
        show_process(self.metrics)

    def _endpoints(self) -> list[Endpoint]:
        return [predictor.endpoint for predictor in self.predictors.values()]


def _allow(methods: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"allow", methods.encode()),)
