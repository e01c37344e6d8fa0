"""The direct road: a prediction that arrives in one piece is answered from the parser, without ASGI.

uvicorn makes a scope, a cycle, an event and a task for every request, and two messages for every answer: more work
than the prediction is. A request to a predict address that has all arrived when the parser sees it needs none of that.
One that is in any way unusual goes the usual way; both ways meet in `predicting.py`.  # D81
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trimtab.core.errors import Misuse
from trimtab.serving.http.predict.predicting import Predictor, Waiting
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.http.requests.access import Access
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.request_record import RequestRecord, Watch, begun
from trimtab.serving.http.requests.wire import JSON_TYPE, NO_GUESSING, TIMEOUT, Reply, timeout_of, too_large
from trimtab.serving.http.server.outbox import Outbox
from trimtab.serving.problems import Refused

_LONGEST_HEAD_BYTES = 65_536
_LINE_BYTES = len("  HTTP/1.1\r\n\r\n")  # of the first line besides method and address, and of the last
_TOO_LARGE = "The head of the request is too large."
_LONGEST_TOLD = 1_024  # characters of an address that is refused
_TLS_BEGINS = b"\x16\x03"
_TLS = "This is the beginning of TLS, and the service speaks HTTP here. Ask by http://, or set serve.tls_cert."
_HEAD_END = b"\r\n\r\n"
_LOOK_S = 10.0  # between two looks at a head that is still arriving
_LINGER_S = 0.5  # at the end, for what is just being asked on a connection that seems idle
_KNOWN_HEADS = 512  # of all connections; then they are learnt anew
_LONGEST_KNOWN_BYTES = 2_048
_NO_GUESSING = b"%b: %b\r\n" % NO_GUESSING
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + _NO_GUESSING + b"content-length: %d\r\n\r\n%b"
_REQUEST_ID = b"x-request-id"
_EACH_ITS_OWN = frozenset((_REQUEST_ID, b"traceparent"))  # headers that differ from request to request
_CLOSE = ((b"connection", b"close"),)
_PAGES = (b"origin", b"sec-fetch-site")  # of browsers: whose page asks is looked at on the usual way
_SPECIAL = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", TIMEOUT, _REQUEST_ID, *_PAGES))


class KnownHead(NamedTuple):
    """The head of a request that may go the direct way, as it was read."""

    predictor: Predictor
    headers: list[tuple[bytes, bytes]]
    timeout_s: float | None
    length: int  # of the body


class Direct(Protocol):
    """What answers on the direct road."""

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """By the names of their models."""
        ...

    @property
    def limits(self) -> Limits: ...

    @property
    def turns(self) -> RequestScheduler: ...

    @property
    def access(self) -> Access: ...

    @property
    def watch(self) -> Watch | None: ...

    def failed(self, predictor: Predictor, error: BaseException, exchange: RequestRecord | None) -> Reply:
        """What is answered to a request that failed."""
        ...

    def overloaded(self, predictor: Predictor) -> Reply:
        """What is answered to a request that is one too many."""
        ...

    def refused(self, error: Refused, path: str) -> Reply:
        """What is answered to what cannot be read as a request."""
        ...


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a shorter way for whole predict requests; one object a connection."""

    def __init__(self, direct: Direct, known: dict[bytes, KnownHead], outbox: Outbox, **given: Any) -> None:
        super().__init__(**given)
        self.url = b""
        self._direct = direct
        self._known = known
        self._outbox = outbox
        self._turns = direct.turns
        self._access = direct.access
        self._watch = direct.watch
        self._predictors = {one.path.encode(): one for one in direct.predictors.values()}
        self._predictor: Predictor | None = None  # of the request that is being parsed, if it may go the direct way
        self._parts: list[bytes] = []  # of its body
        self._heard_s = 0.0  # when something last arrived
        self._head_bytes = -1  # of a head that has not all arrived
        self._lines_bytes = 0  # of its headers, as they are without white space
        self._head_s = 0.0  # when it began to arrive
        self._began = False  # whether a message began with what arrived last
        self._ended = False  # whether a message ended with what arrived last
        self._data = b""  # what arrived, where a message begins with it
        self._open = False  # whether the parser is within a message
        self._keep_alive = True  # after the answer to the request at hand
        self._leaving = False  # the service ends
        self._timeout_s: float | None = None  # of the request that is being parsed
        self._named = False  # whether its answer carries an id
        self._exchange: RequestRecord | None = None  # of the request that is being taken
        self._usual = False  # whether the message that is being parsed goes the usual way
        self._under: _Under | None = None  # the last one that was answered later on the direct way
        self._running: RequestResponseCycle | None = None  # the last one that was begun on the usual way
        self._refusal: Refused | None = None  # what is answered once all before it is: nothing is read any more
        self._body_came = False  # of a body, with what arrived last
        self._beside_bytes = 0  # that have arrived since, and are neither body nor an end: trailers

    # -- what the parser says -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        before_s, self._heard_s = self._heard_s, perf_counter()
        was_past_head = self._open and self._head_bytes < 0
        if not self._open:
            if self._is_known(data):
                return
            self._data = data
            self._began = False
        self._ended = self._body_came = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            broken = self._open and self._usual
            self._predictor = None
            if broken and self._is_broken_off():
                return
            wrong = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error  # our own
            said = _TLS if data.startswith(_TLS_BEGINS) else f"What came is no HTTP request: {wrong}."
            self.send_400_response(str(wrong) if isinstance(wrong, Refused) else said)
        except httptools.HttpParserUpgrade as offered:
            self._parse_anew(data[offered.args[0] :])
        if self._predictor is not None:  # the rest is still to come
            self._go_round()
        elif self._head_bytes >= 0:
            if not self._ended:  # else most of it may belong to what came before the head
                self._bound_head(len(data))
        elif self._open:
            self._bound_trailers(len(data) if was_past_head else 0)
        elif not self._began:
            self._heard_s = before_s  # line ends between requests ask nothing

    def _is_known(self, data: bytes) -> bool:
        """Take a request whose head was read before, byte by byte the same; False when it has to be parsed."""
        at = data.find(_HEAD_END) + len(_HEAD_END)
        known = self._known.get(data[:at])
        if known is None or len(data) != at + known.length or not self._is_free():
            return False
        self.headers = known.headers
        self._timeout_s, self._named, self._keep_alive = known.timeout_s, self._watch is not None, True
        self._take(known.predictor, data[at:])
        return True

    def _learn(self, predictor: Predictor, body: bytes) -> None:
        """Know the head of a whole request from now on: askers send the same one again and again."""
        data = self._data
        at = len(data) - len(body)
        whole = data[at - len(_HEAD_END) : at] == _HEAD_END and data.find(_HEAD_END) == at - len(_HEAD_END)
        if not whole or at > _LONGEST_KNOWN_BYTES or any(name in _EACH_ITS_OWN for name, _ in self.headers):
            return
        if len(self._known) >= _KNOWN_HEADS:
            self._known.clear()
        self._known[data[:at]] = KnownHead(predictor, self.headers, self._timeout_s, len(body))

    def on_message_begin(self) -> None:
        self._open = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = self._lines_bytes = 0
        self._usual = False
        self._head_s = self._heard_s
        self._began = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_bytes >= 0:  # else it is a trailer, and nothing here heeds one
            super().on_header(name, value)
            self._lines_bytes += len(name) + len(value) + 4
            if self._lines_bytes > _LONGEST_HEAD_BYTES:  # it need not end
                raise Refused(400, _TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._head_bytes, self._beside_bytes = -1, 0
        if self.parser.should_upgrade():
            return  # the parser stops here, with `HttpParserUpgrade`
        self._check_head()
        predictor = self._predictors.get(self.url)
        if predictor is None or not self._is_plain():
            self._begin_usual()
            return
        self._predictor = predictor
        self._parts = []

    def _check_head(self) -> None:
        """Refuse a head that is too large, however it was cut into segments, and one that does not name one host.

        Two hosts are read differently on the way here (RFC 9112, section 3.2).
        """
        first_bytes = len(self.parser.get_method()) + len(self.url) + _LINE_BYTES
        if first_bytes + self._lines_bytes > _LONGEST_HEAD_BYTES:
            raise Refused(400, _TOO_LARGE)
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or not (hosts or self.parser.get_http_version() == "1.0"):
            raise Misuse(f"its head has {hosts} lines Host, and needed is one")

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        if self._predictor is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self._open, self._ended = False, True
        if self.parser.should_upgrade():
            return
        predictor, self._predictor = self._predictor, None
        if predictor is None:
            super().on_message_complete()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._keep_alive = self.parser.should_keep_alive() and not self._leaving
        if self._keep_alive:
            self._learn(predictor, body)
        self._take(predictor, body)

    # -- the direct way -----------------------------------------------------------------------------------------

    def _is_plain(self) -> bool:
        """Whether the request may go the direct way: nothing before it waits, and it asks for nothing special."""
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1" or not self._is_free():
            return False
        self._timeout_s = None
        self._named = self._watch is not None
        for name, value in self.headers:
            if name == TIMEOUT and self._timeout_s is None and (timeout_s := timeout_of(value)):
                self._timeout_s = timeout_s
            elif name in _SPECIAL:
                if name != _REQUEST_ID:
                    return False
                self._named = True
            elif name == b"content-type" and value != JSON_TYPE:
                return False
        return True

    def _is_free(self) -> bool:
        """Whether nothing on this connection waits to be answered or sent."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _take(self, predictor: Predictor, body: bytes) -> None:
        turns, received_s = self._turns, self._heard_s
        exchange = self._exchange = self._begun(predictor, received_s) if self._named else None
        if self._access.asks:
            try:
                who = self._access.admit(self.headers, "predict")
                if exchange is not None:
                    exchange.key = who
            except Refused as error:
                self._refuse(predictor, error)
                return
        if turns.full():
            self._send_refusal(predictor, self._direct.overloaded(predictor))
        elif len(body) > self._direct.limits.body_bytes:
            self._refuse(predictor, too_large(f"{len(body)} bytes", self._direct.limits.body_bytes))
        elif turns.free(received_s):
            self._answer(predictor, body, received_s)
        else:
            turns.queue(self._wait(predictor, received_s, body).answer, received_s)

    def _begun(self, predictor: Predictor, received_s: float) -> RequestRecord | None:
        exchange = begun(self._watch, received_s, "POST", predictor.path, self.headers, self.client)
        if exchange is not None:
            exchange.model = predictor.endpoint.name
        return exchange

    def _answer(self, predictor: Predictor, body: bytes, received_s: float) -> None:
        """Answer in the parser's callback: the way of most requests."""
        begun_s = perf_counter()
        try:
            answer = predictor.take(body, received_s, self._timeout_s, self._exchange)
        except Exception as error:
            self._write(
                self._direct.failed(predictor, error, self._exchange),
                keep_alive=self._keep_alive,
                exchange=self._exchange,
            )
            self._turns.answered(received_s, begun_s, waited=False)  # it took its time all the same
            self._wait_for_more()
            return
        if isinstance(answer, Waiting):
            self._turns.waits()
            self._wait(predictor, received_s).wait_for(answer, begun_s)
            return
        if self._exchange is None and self._keep_alive:
            self._outbox.put(self.transport, _OK % (len(answer), answer))
        else:
            self._write(Reply(200, answer), keep_alive=self._keep_alive, exchange=self._exchange)
        self._turns.answered(received_s, begun_s, waited=False)
        self._wait_for_more()

    def answer_queued(self, cycle: _Under) -> None:
        """Answer a request that had to queue."""
        if cycle.disconnected:
            self._turns.under_way -= 1
            cycle.response_complete = True
            self._hung_up(cycle.exchange)
            return
        begun_s = perf_counter()
        try:
            answer = cycle.predictor.take(cycle.body, cycle.received_s, cycle.timeout_s, cycle.exchange)
        except Exception as error:
            self._leave(self._direct.failed(cycle.predictor, error, cycle.exchange), cycle, begun_s)
            return
        if isinstance(answer, Waiting):
            cycle.wait_for(answer, begun_s)
        else:
            self._leave(answer, cycle, begun_s)

    def finish(self, waiting: Waiting, cycle: _Under, begun_s: float) -> None:
        """What an answer waited for is done."""
        begun_s = waiting.begun_s(begun_s)
        answer: bytes | Reply
        try:
            answer = waiting.answer()
        except (Exception, asyncio.CancelledError) as error:
            answer = self._direct.failed(cycle.predictor, error, cycle.exchange)
        del waiting  # its error names this frame: together they would keep what was decoded
        self._leave(answer, cycle, begun_s)

    def _leave(self, answer: bytes | Reply, cycle: _Under, begun_s: float) -> None:
        """Send an answer that had to wait; what was asked meanwhile on this connection has its turn."""
        self._turns.under_way -= 1
        self._turns.answered(cycle.received_s, begun_s, waited=True)
        self._respond(answer, cycle)

    def _respond(self, answer: bytes | Reply, cycle: _Under) -> None:
        """Send what a request waited for; the next one on its connection has its turn."""
        cycle.response_complete = True
        if cycle.disconnected:
            self._hung_up(cycle.exchange)
        elif isinstance(answer, Reply):
            self._write(answer, keep_alive=cycle.keep_alive, exchange=cycle.exchange)
        elif cycle.exchange is None and cycle.keep_alive:
            self._outbox.put(self.transport, _OK % (len(answer), answer))
        else:
            self._write(Reply(200, answer), keep_alive=cycle.keep_alive, exchange=cycle.exchange)
        if self._refuse_last():
            return
        if self.pipeline:
            self.on_response_complete()
        else:
            self._wait_for_more()

    def _refuse(self, predictor: Predictor, error: Exception) -> None:
        self._send_refusal(predictor, self._direct.failed(predictor, error, self._exchange))

    def _send_refusal(self, predictor: Predictor, reply: Reply) -> None:
        """Send a refusal, in its turn."""
        if self._turns.refusals.at_once():
            self._write(reply, keep_alive=self._keep_alive, exchange=self._exchange)
            self._wait_for_more()
        else:
            cycle = self._wait(predictor, self._heard_s)
            self._turns.refusals.hold(lambda: self._respond(reply, cycle))

    def _wait(self, predictor: Predictor, received_s: float, body: bytes = b"") -> _Under:
        """The request at hand is answered later: requests behind it on this connection queue."""
        cycle = _Under(self, predictor, received_s, body)
        self._under = cycle
        self.cycle = cycle  # type: ignore[assignment]  # it has what uvicorn asks of a cycle
        return cycle

    def _hung_up(self, exchange: RequestRecord | None) -> None:
        if exchange is not None and self._watch is not None:
            self._watch.end(exchange, 0, 0)

    def _write(self, reply: Reply, *, keep_alive: bool, exchange: RequestRecord | None) -> None:
        if self.transport.is_closing():
            self._hung_up(exchange)
            return
        head = [STATUS_LINE[reply.status], b"content-type: ", reply.media_type]
        head += [b"\r\n", _NO_GUESSING, b"content-length: %d\r\n" % len(reply.body)]
        named = () if exchange is None else exchange.named
        head += [b"%b: %b\r\n" % pair for pair in (*reply.headers, *named)]
        closes = (b"connection", b"close") in reply.headers
        if not keep_alive and not closes:
            head.append(b"connection: close\r\n")
        self._outbox.send()  # what this connection was answered before comes before
        self.transport.write(b"".join((*head, b"\r\n", reply.body)))
        if closes or not keep_alive:
            self.transport.close()
        if exchange is not None and self._watch is not None:
            self._watch.end(exchange, reply.status, len(reply.body))

    # -- the usual way ------------------------------------------------------------------------------------------

    def _begin_usual(self) -> None:
        """Give uvicorn the request that the parser has read the head of."""
        self._outbox.send()  # what this connection was answered before comes before
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        self.scope["received_s"] = self._heard_s  # type: ignore[typeddict-unknown-key]  # ours: when the head had arrived
        super().on_headers_complete()
        self._usual = True
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _go_round(self) -> None:
        """The usual way for a request whose body has not all arrived."""
        parts, self._predictor = self._parts, None
        self._begin_usual()
        for part in parts:
            super().on_body(part)

    def _parse_anew(self, rest: bytes) -> None:
        """Take a request as if it had not offered another protocol, after which the parser reads no body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not taken.")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot go on with, as its address answers errors, and close the connection."""
        self._refuse_all(Refused(400, msg, headers=_CLOSE))

    def _refuse_all(self, refused: Refused) -> None:
        """Answer what this connection will never ask properly, once all before it is answered, and close it."""
        self._refusal = refused
        self._refuse_last()

    def _refuse_last(self) -> bool:
        """Give the refusal that ends this connection, if there is one and it has its turn; whether it was given."""
        refused = self._refusal
        if refused is None or self.transport.is_closing():
            return False
        if self.pipeline or (self.cycle is not None and not self.cycle.response_complete):
            self.flow.pause_reading()
            return False
        path = self.url.partition(b"?")[0].decode("latin-1")[:_LONGEST_TOLD]
        headers = self.headers or []
        exchange = begun(self._watch, self._heard_s, "-", path, headers, self.client)  # its method may not be read yet
        if exchange is not None:
            exchange.route = "other"
        self._write(self._direct.refused(refused, path), keep_alive=False, exchange=exchange)
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._refuse_last()

    def _is_broken_off(self) -> bool:
        """Give up the request whose body cannot be read on, which has begun; whether nothing is to be said of it."""
        broken = self.cycle
        if self.pipeline and self.pipeline[0][0] is broken:  # it waits for others, which go on
            self.pipeline.popleft()
            others = [self.pipeline[0][0]] if self.pipeline else [self._running, self._under]
            last: Any = next((one for one in others if one is not None and not one.response_complete), None)
            self.cycle = last
            return False
        if broken.response_started:  # it has its answer, or is getting it
            self.transport.close()
            return True
        broken.disconnected = broken.response_complete = True
        broken.message_event.set()
        return False

    def _bound_trailers(self, more_bytes: int) -> None:
        """Close a connection whose message does not end, and has no body: it is answered by now, or never will be."""
        self._beside_bytes = 0 if self._body_came else self._beside_bytes + more_bytes
        if self._beside_bytes > _LONGEST_HEAD_BYTES:
            self.transport.close()

    def _bound_head(self, more_bytes: int) -> None:
        """Refuse a head that grows and does not end; one that does is measured then, without its white space."""
        self._head_bytes += more_bytes
        if self._head_bytes > 2 * _LONGEST_HEAD_BYTES:
            self.send_400_response(_TOO_LARGE)

    # -- connections that ask nothing ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._heard_s = perf_counter()
        self._look_later(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()  # uvicorn leaves it after an error
        super().connection_lost(exc)
        self.pipeline.clear()
        for cycle in (self._under, self._running):  # uvicorn tells the newest only
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """The service ends: what is asked in this moment is still answered, and told that nothing more will be."""
        self._leaving = True
        self._known = {}  # every head is parsed from now on
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _wait_for_more(self) -> None:
        self.server_state.total_requests += 1
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._look_later(self.timeout_keep_alive)

    def _look_later(self, time_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(time_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been silent for long: one timer looks now and then, none is set a request."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        now_s = perf_counter()
        silent_s = now_s - self._heard_s
        if self.cycle is not None and not self.cycle.response_complete:
            self._look_later(self.timeout_keep_alive)
        elif self._head_bytes >= 0:
            self._wait_for_head(now_s - self._head_s)
        elif silent_s < self.timeout_keep_alive:
            self._look_later(self.timeout_keep_alive - silent_s)
        else:
            super().timeout_keep_alive_handler()

    def _wait_for_head(self, taken_s: float) -> None:
        """Close the connection if the head of a request has been arriving for too long, however steadily it does."""
        longest_s = self._direct.limits.body_timeout_s
        if taken_s < longest_s:
            self._look_later(min(_LOOK_S, longest_s - taken_s))
            return
        said = f"The head of the request is incomplete after {longest_s:g} s. Send it faster."
        self._refuse_all(Refused(408, said, headers=_CLOSE))


class _Under:
    """A request under way on the direct road: what is needed to answer it, and what uvicorn asks of a cycle."""

    __slots__ = (
        "body",
        "connection",
        "disconnected",
        "exchange",
        "keep_alive",
        "message_event",
        "predictor",
        "received_s",
        "response_complete",
        "timeout_s",
    )  # fmt: skip

    def __init__(self, connection: DirectProtocol, predictor: Predictor, received_s: float, body: bytes) -> None:
        self.connection = connection
        self.predictor = predictor
        self.received_s = received_s
        self.body = body
        self.keep_alive = connection._keep_alive
        self.exchange = connection._exchange
        self.timeout_s = connection._timeout_s
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY

    def answer(self) -> None:
        """Answer it now."""
        self.connection.answer_queued(self)

    def wait_for(self, waiting: Waiting, begun_s: float) -> None:
        """Answer it when that is done."""
        waiting.done.add_done_callback(lambda _: self.connection.finish(waiting, self, begun_s))


class _Nobody:
    """The event of a cycle that nobody waits for."""

    def set(self) -> None: ...


_NOBODY = _Nobody()
