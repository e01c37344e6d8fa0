"""Records of requests, which a thread passes to the access log and the traces.

The event loop only adds the record of a finished request to a list. A thread does the rest. If the thread cannot keep
up, records are dropped and counted, so that no request has to wait.
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
from typing import Protocol, TypeAlias

from trimtab.core.records import Prediction
from trimtab.serving.answer.served import Answer
from trimtab.serving.http.requests.access import NO_KEY, request_id
from trimtab.serving.http.requests.wire import Headers
from trimtab.serving.observe.log_throttle import ThrottledLogger

STAGES = ("read", "decode", "predict", "log", "encode")  # the stages of a predict request, in order
GONE = 499  # the status of a request whose client closed the connection
MOST_WAITING = 50_000  # the maximum number of records that wait for the thread
AT_ONCE = 500  # the maximum number of records passed to a sink at once
_EVERY_S = 0.1
_END_S = 3.0  # time for the waiting records when the service ends
_OF_TRACES = frozenset((b"traceparent", b"tracestate"))
_LONGEST_TEXT = 2_048  # paths and headers are cut to this many characters, because clients choose them
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]([0-9a-f])")
_logger = logging.getLogger(__name__)
CURRENT: ContextVar[RequestRecord | None] = ContextVar("record", default=None)  # the record of the running task


RawHeaders: TypeAlias = "Iterable[tuple[bytes, bytes]]"  # headers as received, with names in lower case
Client: TypeAlias = "tuple[str, int] | None"


class RequestRecord:
    """The record of one request.

    Args:
        received_s: The time (`perf_counter`) when the request began to arrive.
        method: The HTTP method, or `gRPC`.
        headers: All headers. Only those for traces are kept.
    """

    # fields of predict requests, as class attributes, so that other records need not set them
    label = ""  # the name of the version that answered: "late_flight@7"
    made: Sequence[Prediction | Answer] = ()  # only the first logged prediction, to save memory
    answers = 0
    times: tuple[float, ...] = ()  # the start of the request, then the end of each stage (`perf_counter`)
    features_s = model_s = 0.0
    grpc = ""  # the name of the gRPC status

    def __init__(self, received_s: float, method: str, path: str, headers: RawHeaders, client: Client) -> None:
        self.received_s = received_s
        self.method = method
        self.path = path if len(path) <= _LONGEST_TEXT else path[:_LONGEST_TEXT]
        self.headers = [one for one in headers if one[0] in _OF_TRACES and len(one[1]) <= _LONGEST_TEXT]
        self.client = client
        self.request_id = request_id(headers)
        self.key = NO_KEY  # the name of the client's key
        self.route = "predict"
        self.model = ""
        self.status = 0
        self.size_bytes = 0  # the size of the response's body
        self.ended_s = received_s
        self.traced = False
        self.observed = False  # whether a sink needs this record

    @property
    def named(self) -> Headers:
        """Return the response header that carries the request's id."""
        return ((b"x-request-id", self.request_id.encode()),)


def trace_id(headers: RawHeaders) -> str:
    """Return the id of the trace to which a request belongs (from `traceparent`), or "" if there is none.

    >>> trace_id([(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
    '0af7651916cd43dd8448eb211c80319c'
    """
    for name, value in headers:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            return match[1].decode()
    return ""


class DroppedRecordsError(Exception):
    """A sink had no room for `count` of the records, and took the others."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class Sink(Protocol):
    """Receives the records of finished requests. It is called in only one thread."""

    traces: bool  # whether the sink takes only the records of traced requests

    def write(self, records: Sequence[RequestRecord], ahead_ns: int) -> None:
        """Take some records. `ahead_ns` is the wall clock minus `perf_counter`, in nanoseconds.

        Raises:
            DroppedRecordsError: There was no room for some of the records.
        """
        ...

    def close(self) -> None: ...


class Telemetry:
    """Passes the records of finished requests to sinks, in a thread.

    Args:
        sinks: The sinks that receive the records.
        traced_share: The share of requests without `traceparent` that are traced.
        most: The maximum number of records that wait for the thread.
    """

    def __init__(self, sinks: Sequence[Sink], *, traced_share: float = 0.0, most: int = MOST_WAITING) -> None:
        self.dropped = 0
        self._sinks = sinks
        self._traces = any(sink.traces for sink in sinks)
        self._all = any(not sink.traces for sink in sinks)
        self._share = traced_share
        self._most = most
        self._ended: deque[RequestRecord] = deque()
        self._failing: set[Sink] = set()  # sinks whose last write failed
        self._throttled = ThrottledLogger(_logger)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-telemetry", daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_END_S)
        if self.waiting:
            text = "telemetry: the records of %d requests were dropped at the end; access log or traces are too slow"
            _logger.warning(text, len(self._ended))

    @property
    def waiting(self) -> int:
        """Return the number of records that wait for the thread."""
        return len(self._ended)

    def begin(
        self, received_s: float, method: str, path: str, headers: RawHeaders, client: Client
    ) -> RequestRecord | None:
        """Return the record for a request that has arrived, or None if no sink needs a record."""
        traced = self._traces and self._is_traced(headers)
        if not (traced or self._all):
            return None
        record = RequestRecord(received_s, method, path, headers, client)
        record.traced, record.observed = traced, True
        return record

    def end(self, record: RequestRecord, status: int, size_bytes: int) -> None:
        """Record how a request ended. Status 0 means that the client closed the connection."""
        if not record.observed:
            return
        if len(self._ended) >= self._most:
            self.dropped += 1
            return
        record.status = status or GONE
        record.size_bytes = size_bytes
        record.ended_s = perf_counter()
        self._ended.append(record)

    def _is_traced(self, headers: RawHeaders) -> bool:
        for name, value in headers:
            if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
                return match[2] in b"13579bdf"  # the flag "sampled" that the client has set
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
                except DroppedRecordsError as error:  # throttled, because a slow sink may cause many such errors
                    self.dropped += error.count
                    self._throttled.warning("telemetry: records were dropped", error)
                except Exception as error:  # a full disk or a fault must not stop this thread
                    self.dropped += len(its)
                    if sink not in self._failing:
                        self._failing.add(sink)
                        _logger.warning("telemetry: records cannot be written: %s: %s", type(error).__name__, error)


def begun(
    telemetry: Telemetry | None, received_s: float, method: str, path: str, headers: RawHeaders, client: Client
) -> RequestRecord | None:
    """Return a record if a sink needs one or if the response must carry the request's id, else None."""
    record = None if telemetry is None else telemetry.begin(received_s, method, path, headers, client)
    if record is None and any(name == b"x-request-id" for name, _ in headers):
        record = RequestRecord(received_s, method, path, headers, client)
    return record
