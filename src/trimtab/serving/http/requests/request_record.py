"""Requests and what became of them, for those who want to know each: the access log, and traces.

The event loop only puts a finished exchange into a list; a thread does the rest. When that cannot keep up, exchanges
are dropped and counted, and no request waits.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from random import random
from time import perf_counter, time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from trimtab.serving.http.requests.access import ANYBODY, request_id
from trimtab.serving.http.requests.wire import Headers
from trimtab.serving.observe.log_throttle import ThrottledLogger

if TYPE_CHECKING:
    from trimtab.core.records import Prediction

STAGES = ("read", "decode", "predict", "log", "encode")  # of a prediction, by their ends
GONE = 499  # the status of a request whose asker hung up
MOST_WAITING = 50_000  # exchanges that may wait for the thread
AT_ONCE = 500  # that a sink is given
_EVERY_S = 0.1
_END_S = 3.0  # for what waits when the service ends
_OF_TRACES = frozenset((b"traceparent", b"tracestate"))
_LONGEST_TOLD = 2_048  # of a path or a header: an asker may make up as much as a head can hold
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]([0-9a-f])")
_logger = logging.getLogger(__name__)
CURRENT: ContextVar[RequestRecord | None] = ContextVar("exchange", default=None)  # of a task, where nobody hands it on


RawHeaders: TypeAlias = "Iterable[tuple[bytes, bytes]]"  # headers as they came, names in lower case
Client: TypeAlias = "tuple[str, int] | None"


class RequestRecord:
    """One request, and what became of it.

    Args:
        heard_s: `perf_counter` when it began to arrive.
        method: Of HTTP, or `gRPC`.
        path: Its address, without a query.
        headers: As they came; those of traces are kept.
        client: The address and port that it came from.
    """

    __slots__ = (
        "answers",
        "client",
        "ended_s",
        "features_s",
        "grpc",
        "headers",
        "key",
        "label",
        "made",
        "method",
        "model",
        "model_s",
        "path",
        "received_s",
        "request_id",
        "route",
        "size_bytes",
        "status",
        "times",
        "traced",
        "watched",
    )

    def __init__(self, received_s: float, method: str, path: str, headers: RawHeaders, client: Client) -> None:
        self.received_s = received_s
        self.method = method
        self.path = path if len(path) <= _LONGEST_TOLD else path[:_LONGEST_TOLD]
        self.headers = [one for one in headers if one[0] in _OF_TRACES and len(one[1]) <= _LONGEST_TOLD]
        self.client = client
        self.request_id = request_id(headers)
        self.key = ANYBODY  # who asks: the name of the key
        self.route = "predict"
        self.model = ""
        self.label = ""  # of the version that answered: "late_flight@7"
        self.made: Sequence[Prediction] = ()  # the first of what is logged of it: many exchanges may wait to be told
        self.answers = 0
        self.times: tuple[float, ...] = ()  # of a prediction: the ends of its stages
        self.features_s = self.model_s = 0.0
        self.status = 0
        self.grpc = ""  # the name of its status there, when it came by gRPC
        self.size_bytes = 0  # of the answer's body
        self.ended_s = received_s
        self.traced = False
        self.watched = False  # whether anybody is to be told

    @property
    def named(self) -> Headers:
        """The header that carries the request's id back."""
        return ((b"x-request-id", self.request_id.encode()),)


def trace_id(headers: RawHeaders) -> str:
    """The trace that a request belongs to by its `traceparent`; empty when it says none.

    >>> trace_id([(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
    '0af7651916cd43dd8448eb211c80319c'
    """
    for name, value in headers:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            return match[1].decode()
    return ""


class Untold(Exception):
    """A sink had no room for `count` of the exchanges; the others it took."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class Sink(Protocol):
    """Takes exchanges that have ended; called in one thread only."""

    traces: bool  # only those that are traced

    def write(self, exchanges: Sequence[RequestRecord], ahead_ns: int) -> None:
        """Take some. `ahead_ns` is what the wall clock is ahead of `perf_counter`.

        Raises:
            Untold: There was no room for some.
        """
        ...

    def close(self) -> None: ...


class Watch:
    """Hands exchanges that have ended to sinks, in a thread.

    Args:
        sinks: Where they go.
        traced_share: Which part of the requests is traced that do not say so themselves (`traceparent`).
        most: How many may wait for the thread.
    """

    def __init__(self, sinks: Sequence[Sink], *, traced_share: float = 0.0, most: int = MOST_WAITING) -> None:
        self.dropped = 0
        self._sinks = sinks
        self._traces = any(sink.traces for sink in sinks)
        self._all = any(not sink.traces for sink in sinks)
        self._share = traced_share
        self._most = most
        self._ended: deque[RequestRecord] = deque()
        self._failing: set[Sink] = set()  # whose newest writing failed
        self._throttled = ThrottledLogger(_logger)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_END_S)
        if self.waiting:
            _logger.warning("%d requests were not told of any more: whoever reads is too slow", len(self._ended))

    @property
    def waiting(self) -> int:
        """How many wait for the thread."""
        return len(self._ended)

    def begin(
        self, received_s: float, method: str, path: str, headers: RawHeaders, client: Client
    ) -> RequestRecord | None:
        """A request came; None when nobody wants to be told of it."""
        traced = self._traces and self._is_traced(headers)
        if not (traced or self._all):
            return None
        exchange = RequestRecord(received_s, method, path, headers, client)
        exchange.traced, exchange.watched = traced, True
        return exchange

    def end(self, exchange: RequestRecord, status: int, size_bytes: int) -> None:
        """It was answered; status 0: its asker hung up."""
        if not exchange.watched:
            return
        if len(self._ended) >= self._most:
            self.dropped += 1
            return
        exchange.status = status or GONE
        exchange.size_bytes = size_bytes
        exchange.ended_s = perf_counter()
        self._ended.append(exchange)

    def _is_traced(self, headers: RawHeaders) -> bool:
        for name, value in headers:
            if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
                return match[2] in b"13579bdf"  # the flag that its asker traces it
        return random() < self._share

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._hand_on()
        self._hand_on()
        for sink in self._sinks:
            sink.close()

    def _hand_on(self) -> None:
        ended = self._ended
        while ended:
            some = [ended.popleft() for _ in range(min(AT_ONCE, len(ended)))]
            ahead_ns = time_ns() - int(perf_counter() * 1e9)
            for sink in self._sinks:
                its = [one for one in some if one.traced] if sink.traces else some
                try:
                    if its:
                        sink.write(its, ahead_ns)
                        self._failing.discard(sink)
                except Untold as error:  # where one is too slow, some find room and some do not, time and again
                    self.dropped += error.count
                    self._throttled.warning("requests cannot be told of", error)
                except Exception as error:  # a full disk, or a fault: it must not end the telling, nor any request
                    self.dropped += len(its)
                    if sink not in self._failing:
                        self._failing.add(sink)
                        _logger.warning("requests cannot be told of: %s: %s", type(error).__name__, error)


def begun(
    watch: Watch | None, received_s: float, method: str, path: str, headers: RawHeaders, client: Client
) -> RequestRecord | None:
    """The exchange of a request, where somebody wants to be told of it, or it has an id to carry back."""
    exchange = None if watch is None else watch.begin(received_s, method, path, headers, client)
    if exchange is None and any(name == b"x-request-id" for name, _ in headers):
        exchange = RequestRecord(received_s, method, path, headers, client)
    return exchange
