"""The fast path: answer a predict request without HTTP parser and ASGI, if its head equals an earlier request's head.

All other requests go through ASGI, for which uvicorn makes a scope, a cycle, an event and a task for each request, and
two messages for each response. These take longer than the prediction itself. Both paths meet in `predicting.py`.
# D81
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trimtab.core.errors import Misuse
from trimtab.serving.http.predict.predicting import Waiting
from trimtab.serving.http.requests.request_record import RequestRecord, begun
from trimtab.serving.http.requests.wire import HEADERS, Reply
from trimtab.serving.http.server.known_heads import KnownHead, KnownHeads
from trimtab.serving.http.server.outbox import Outbox
from trimtab.serving.http.service import HttpService
from trimtab.serving.problems import Refused

_LONGEST_HEAD_BYTES = 65_536
_LONGEST_PATH = 1_024  # the maximum number of characters of a refused path in an error message
_LINGER_S = 0.5  # at the end, idle connections stay open this long, because a request may already be on its way
_HEADERS = b"".join(b"%b: %b\r\n" % header for header in HEADERS)
_OK = STATUS_LINE[200] + b"content-type: application/json\r\n" + _HEADERS + b"content-length: %d\r\n\r\n%b"
_CLOSE = ((b"connection", b"close"),)


class FastPath:
    """The objects that the connections of one service share."""

    def __init__(self, service: HttpService) -> None:
        self.service = service
        self.heads = KnownHeads(service.quick, service.parts.limits.body_bytes)
        self.outbox = Outbox()

    def __call__(self, **given: Any) -> FastPathProtocol:
        """Make the protocol of a new connection."""
        return FastPathProtocol(self, **given)


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol, extended by the fast path. There is one object for each connection."""

    def __init__(self, fast: FastPath, **given: Any) -> None:
        super().__init__(**given)
        self.url = b""
        self._fast = fast
        self._service = fast.service
        self._parts = fast.service.parts
        self._received_s = 0.0  # the time when data last arrived
        self._since_s = 0.0  # when the last head (request line, headers) began to arrive, or the connection was made
        self._head_bytes = -1  # bytes received of a head that arrives in several parts; otherwise -1
        self._within = False  # whether the parser is in the middle of a request
        self._messages = 0  # how many requests began in the data received last
        self._leaving = False  # whether the service is ending
        self._running: RequestResponseCycle | None = None  # the last request that went through ASGI

    # -- requests -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._received_s = perf_counter()
        fresh, in_head = not self._within, self._head_bytes >= 0
        if fresh and not self._leaving and self._is_free() and (found := self._fast.heads.find(data)) is not None:
            self._since_s = self._received_s
            self._answer(*found)
            return
        self._unset_keepalive_if_required()
        self._messages = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            self._decline_upgrade(data[offered.args[0] :])
            return
        except httptools.HttpParserError as error:
            # the parser wraps errors that our callbacks raise
            wrong = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            self.send_400_response(f"The bytes received are not an HTTP request: {wrong}.")
            return
        if fresh and self._messages == 1 and not self._within and self.parser.get_http_version() == "1.1":
            self._fast.heads.learn(data, self.parser.get_method(), self.url, self.headers)
        if self._head_bytes >= 0 and in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")
                return
        if self._head_bytes >= 0 or self._is_free():
            self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["received_s"] = self._since_s = self._received_s  # type: ignore[typeddict-unknown-key]  # our key
        self._messages += 1
        self._within, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_bytes >= 0:  # trailers are ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        if self.parser.should_upgrade():
            return  # the parser now stops with `HttpParserUpgrade`
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or not (hosts or self.parser.get_http_version() == "1.0"):  # RFC 9112, section 3.2
            raise Misuse(f"its head has {hosts} Host lines, but exactly one is needed")
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._within = False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Handle a request as if it had not offered to switch to another protocol.

        Java's client offers HTTP/2 with the first request of each connection.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not supported.")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self._within = False
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def send_400_response(self, msg: str) -> None:
        """Refuse data that is not a valid request, and close the connection.

        If the data contains an address, the response has the form of errors at this address.
        """
        self._refuse(Refused(400, msg, headers=_CLOSE))

    def _refuse(self, refused: Refused) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # an earlier request is in flight, and its response will be the last on this connection
            if not self.pipeline and not cycle.more_body:
                cycle.keep_alive = False
                return
            if self.pipeline or cycle.response_started:
                self.transport.close()
                return
        path = self.url.partition(b"?")[0].decode("latin-1")[:_LONGEST_PATH]
        record = begun(self._parts.telemetry, self._received_s, "-", path, self.headers or [], self.client)
        if record is not None:
            record.route = "other"
        self._write(self._service.refused(refused, path), record)

    # -- the fast path ------------------------------------------------------------------------------------------

    def _is_free(self) -> bool:
        """Return whether no request on this connection is in flight and nothing waits to be sent."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _answer(self, known: KnownHead, body: bytes) -> None:
        """Answer a request at once if the scheduler allows it (`free`); otherwise queue or refuse it."""
        parts, predictor, received_s = self._parts, known.predictor, self._received_s
        scheduler, record = parts.scheduler, None
        if parts.telemetry is not None:
            record = parts.telemetry.begin(received_s, "POST", known.form.path, known.headers, self.client)
            if record is not None:
                record.model, record.route = predictor.endpoint.name, known.form.route
        if parts.access.asks:
            try:
                who = parts.access.admit(known.headers, "predict")
            except Refused as error:
                self._send_refusal(self._service.failed(predictor, known.form, error, record), known, record)
                return
            if record is not None:
                record.key = who
        if scheduler.full():
            self._send_refusal(self._service.overloaded(predictor, known.form), known, record)
            return
        if not scheduler.free(received_s):
            scheduler.queue(self._wait(known, record, body).answer, received_s)
            return
        begun_s = perf_counter()
        try:
            answer = predictor.take(body, received_s, known.timeout_s, record, known.form)
        except Exception as error:
            known.form.failed(perf_counter() - begun_s)
            self._write(self._service.failed(predictor, known.form, error, record), record)
        else:
            if isinstance(answer, Waiting):
                scheduler.waits()
                self._wait(known, record).wait_for(answer, begun_s)
                return
            self._send(answer, record)
            if known.form is not predictor.form:
                self._service.answered(predictor, known.form, perf_counter() - received_s)
        scheduler.answered(received_s, begun_s, waited=False)  # also after failures, which take time as well
        self.server_state.total_requests += 1
        self._wait_for_head()

    def _wait(self, known: KnownHead, record: RequestRecord | None, body: bytes = b"") -> _InFlight:
        """Mark a request as in flight, so that the following requests on this connection wait for it."""
        request = _InFlight(self, known, record, body)
        self.cycle = request  # type: ignore[assignment]  # it has all attributes that uvicorn uses
        return request

    def _send_refusal(self, reply: Reply, known: KnownHead, record: RequestRecord | None) -> None:
        """Send a refusal when it is its turn."""
        refusals = self._parts.scheduler.refusals
        if refusals.at_once():
            self._write(reply, record)
            self._wait_for_head()
        else:
            request = self._wait(known, record)
            refusals.hold(lambda: self.respond(reply, request))

    def respond(self, answer: bytes | Reply, request: _InFlight) -> None:
        """Send a response that was not ready at once. Then handle the next request on the connection."""
        request.response_complete = True
        self._send(answer, request.record, keep_alive=request.keep_alive)
        if self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._wait_for_head()

    def _send(self, answer: bytes | Reply, record: RequestRecord | None, *, keep_alive: bool = True) -> None:
        if isinstance(answer, Reply):
            self._write(answer, record, keep_alive=keep_alive)
        elif record is None and keep_alive:
            self._fast.outbox.put(self.transport, _OK % (len(answer), answer))
        else:
            self._write(Reply(200, answer), record, keep_alive=keep_alive)

    def _write(self, reply: Reply, record: RequestRecord | None, *, keep_alive: bool = True) -> None:
        status = 0  # if the client has closed the connection
        if not self.transport.is_closing():
            status = reply.status
            keep_alive = keep_alive and _CLOSE[0] not in reply.headers
            named = () if record is None else record.named
            head = [STATUS_LINE[status], b"content-type: ", reply.media_type, b"\r\n", _HEADERS]
            head += [b"%b: %b\r\n" % one for one in (*reply.headers, *named) if one != _CLOSE[0]]
            head.append(b"content-length: %d\r\n" % len(reply.body))
            head.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
            self._fast.outbox.send()  # send earlier responses on this connection first
            self.transport.write(b"".join((*head, reply.body)))
            if not keep_alive:
                self.transport.close()
        if record is not None and self._parts.telemetry is not None:
            self._parts.telemetry.end(record, status, len(reply.body) if status else 0)

    # -- connections --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._since_s = perf_counter()
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()  # uvicorn does not stop the timer after an error
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:  # uvicorn informs only the newest one
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Close the connection at the end of the service. A request that is already on its way is still answered."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _wait_for_head(self) -> None:
        """If a connection has no timer, start one: for the rest of a head, or for an idle connection."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            longest_s = self._parts.limits.body_timeout_s if self._head_bytes >= 0 else self.timeout_keep_alive
            left_s = max(0.0, self._since_s + longest_s - perf_counter())
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for too long, or if a head took too long to arrive."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or not self._is_free():
            return  # the timer is set again after the response in flight
        waited_s, longest_s = perf_counter() - self._since_s, self._parts.limits.body_timeout_s
        if self._head_bytes >= 0 and waited_s >= longest_s:
            text = f"The head of the request is incomplete after {longest_s:g} s. Send the head faster."
            self._refuse(Refused(408, text, headers=_CLOSE))
        elif waited_s >= self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        else:
            self._wait_for_head()


class _NoEvent:
    """Stands for an event in uvicorn's cycle, for which no task waits here."""

    def set(self) -> None: ...


class _InFlight:
    """A request on the fast path that is answered later, with those attributes of a cycle that uvicorn uses."""

    message_event = _NoEvent()
    more_body = False  # the whole body was read
    response_started = False
    waiting_for_100_continue = False

    def __init__(
        self, connection: FastPathProtocol, known: KnownHead, record: RequestRecord | None, body: bytes
    ) -> None:
        self.connection = connection
        self.known = known
        self.record = record
        self.body = body
        self.received_s = connection._received_s
        self.keep_alive = True
        self.disconnected = self.response_complete = False

    def answer(self) -> None:
        """Answer the request, because it is now its turn."""
        begun_s, known = perf_counter(), self.known
        if self.connection.transport.is_closing():
            self._respond(b"", begun_s)
            return
        try:
            answer = known.predictor.take(self.body, self.received_s, known.timeout_s, self.record, known.form)
        except Exception as error:
            self._respond(self.failed(error, begun_s), begun_s)
            return
        if isinstance(answer, Waiting):
            self.wait_for(answer, begun_s)
        else:
            self._respond(answer, begun_s)

    def wait_for(self, waiting: Waiting, begun_s: float) -> None:
        """Send the response when it is ready."""
        waiting.done.add_done_callback(lambda _: self._finish(waiting, begun_s))

    def _finish(self, waiting: Waiting, begun_s: float) -> None:
        begun_s = waiting.begun_s(begun_s)
        answer: bytes | Reply
        try:
            answer = waiting.answer()
        except (Exception, asyncio.CancelledError) as error:
            answer = self.failed(error, begun_s)
        del waiting  # break a reference cycle that would keep the decoded body in memory
        self._respond(answer, begun_s)

    def failed(self, error: BaseException, begun_s: float) -> Reply:
        """Count a failure, and return the response."""
        self.known.form.failed(perf_counter() - begun_s)
        return self.connection._service.failed(self.known.predictor, self.known.form, error, self.record)

    def _respond(self, answer: bytes | Reply, begun_s: float) -> None:
        predictor, form = self.known.predictor, self.known.form
        if form is not predictor.form and answer and (not isinstance(answer, Reply) or answer.status == 200):
            self.connection._service.answered(predictor, form, perf_counter() - self.received_s)
        scheduler = self.connection._parts.scheduler
        scheduler.under_way -= 1
        scheduler.answered(self.received_s, begun_s, waited=True)
        self.connection.respond(answer, self)
