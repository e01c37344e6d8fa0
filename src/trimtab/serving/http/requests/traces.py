"""Export OpenTelemetry spans of requests (extra `otel`). Spans are made after the response, from measured times."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from random import getrandbits
from typing import Any, cast

from trimtab.core.errors import Misuse
from trimtab.serving.http.requests.access_log import printable
from trimtab.serving.http.requests.request_record import AT_ONCE, STAGES, DroppedRecordsError, RequestRecord

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SAMPLER = "OTEL_TRACES_SAMPLER"
QUEUE = "OTEL_BSP_MAX_QUEUE_SIZE"
_EXPORT_S = 5.0  # time limit for one attempt to send spans to the collector
_FLUSH_MS = 2_000  # time limit for sending the remaining spans at the end
_MOST_WAITING = 5 * AT_ONCE * 6  # the maximum number of waiting spans; a predict request has six spans
_SHOWN = ("decode", "log", "encode")  # the stages that become spans without changes


class Traces:
    """Makes spans of requests, which are sent to a collector in the background.

    Args:
        endpoint: The URL of the OTLP collector (HTTP). By default, it is taken from the environment.
        exporter: An exporter to use instead of one for the collector.

    Raises:
        Misuse: The extra is not installed.
    """

    traces = True

    def __init__(self, endpoint: str | None = None, *, exporter: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
            from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise Misuse(
                f'traces: {error.name} is not installed. Run: pip install "trimtab[otel]", or leave out '
                f"serve.traces and {ENDPOINTS[1]}."
            ) from error
        if exporter is None:
            exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)
        logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").setLevel(logging.ERROR)
        self._provider = TracerProvider(resource=Resource.create(_named(os.environ)), shutdown_on_exit=False)
        found = os.environ.get(QUEUE, "")
        self._most = int(found) if found.isdecimal() else _MOST_WAITING
        self._exporter = _Counted(exporter)
        processor = BatchSpanProcessor(cast("Any", self._exporter), max_queue_size=self._most)
        self._provider.add_span_processor(processor)
        self._take, self._given = processor.on_end, 0  # `_given`: how many spans the processor has received
        self._span = partial(
            ReadableSpan, resource=self._provider.resource, instrumentation_scope=InstrumentationScope("trimtab")
        )
        self._context = partial(SpanContext, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        # without this variable, the spans of all traced requests are kept
        self._sampler = self._provider.sampler if SAMPLER in os.environ else None
        self._extract = TraceContextTextMapPropagator().extract
        self._carrying = get_current_span
        self._server, self._inside = SpanKind.SERVER, SpanKind.INTERNAL
        self._good, self._error = Status(), Status(StatusCode.ERROR)

    def write(self, records: Sequence[RequestRecord], ahead_ns: int) -> None:
        """Make the spans of finished requests.

        The spans are made without OpenTelemetry's tracer, whose locks and contexts take five times as long.  # D0118
        OpenTelemetry's span processor silently drops spans if its queue is full, so it gets only as many as fit.

        Raises:
            DroppedRecordsError: Too many spans are waiting for the collector.
        """
        dropped = 0
        span, take, context_of, inside, good = self._span, self._take, self._context, self._inside, self._good
        for one in records:
            parent = self._parent(one)
            trace_id = (getrandbits(128) or 1) if parent is None else parent.trace_id
            name = f"{printable(one.method)} {_route(one)}"
            attributes = _attributes(one)
            if self._sampler is not None and not self._is_wanted(one, trace_id, name, attributes):
                continue
            state = None if parent is None else parent.trace_state
            context = context_of(trace_id, getrandbits(64) or 1, trace_state=state)
            parts = _parts(one)
            if self._given + len(parts) + 1 - self._exporter.done > self._most:
                dropped += 1
                continue
            self._given += len(parts) + 1
            for part, start_s, end_s in parts:
                own = context_of(trace_id, getrandbits(64) or 1, trace_state=state)
                start_ns, end_ns = int(start_s * 1e9) + ahead_ns, int(end_s * 1e9) + ahead_ns
                take(span(part, own, context, kind=inside, status=good, start_time=start_ns, end_time=end_ns))
            take(
                span(
                    name,
                    context,
                    parent,
                    attributes=attributes,
                    kind=self._server,
                    status=self._error if one.status >= 500 else good,
                    start_time=int(one.received_s * 1e9) + ahead_ns,
                    end_time=int(one.ended_s * 1e9) + ahead_ns,
                )
            )
        if dropped:
            raise DroppedRecordsError(
                f"traces: spans of {dropped:,} requests dropped; {self._most:,} spans already wait for the collector. "
                "Make the collector faster, or trace a smaller share (serve.traces_share).",
                dropped,
            )

    def _parent(self, one: RequestRecord) -> Any:
        """Return the client's span that the request names as its parent, or None."""
        carried = _carried(one)
        if "traceparent" not in carried:
            return None
        context = self._carrying(self._extract(carried)).get_span_context()
        return context if context.is_valid else None

    def _is_wanted(self, one: RequestRecord, trace_id: int, name: str, attributes: Mapping[str, Any]) -> bool:
        """Return whether the environment's sampler keeps the request."""
        assert self._sampler is not None
        given = self._extract(_carried(one))
        found = self._sampler.should_sample(given, trace_id, name, self._server, attributes)
        return bool(found.decision.is_sampled())  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Try to send the remaining spans within about two seconds, and drop the rest."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


class _Counted:
    """An exporter that counts the spans that it handled, even those that it could not send."""

    def __init__(self, exporter: Any) -> None:
        self.done = 0
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush
        self._export = exporter.export

    def export(self, spans: Sequence[Any]) -> Any:
        try:
            return self._export(spans)
        finally:
            self.done += len(spans)


def endpoint_of_environment(environment: Mapping[str, str]) -> str | None:
    """Return the URL of the collector from the environment, or None.

    The result is also None if the environment disables traces, or if the extra is not installed.

    >>> endpoint_of_environment({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    """
    # without the extra, the variable is meant for other programs
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        return None
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return next((environment[name] for name in ENDPOINTS if environment.get(name)), None)


def _named(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the service's name as an attribute, unless the environment names the service."""
    found = "OTEL_SERVICE_NAME" in environment or "service.name" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if found else {"service.name": "trimtab"}


def _carried(one: RequestRecord) -> dict[str, str]:
    return {
        name.decode(): value.decode("latin-1") for name, value in one.headers if name in (b"traceparent", b"tracestate")
    }


def _route(one: RequestRecord) -> str:
    return "/v1/models/{model}/predict" if one.route == "predict" else one.route


def _attributes(one: RequestRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": printable(one.method),
        "url.path": printable(one.path),
        "http.route": _route(one),
        "http.response.status_code": one.status,
        "http.response.body.size": one.size_bytes,
        "client.address": "" if one.client is None else one.client[0],
        "trimtab.request_id": one.request_id,
    }
    if one.grpc:
        service, _, name = one.path.strip("/").rpartition("/")
        found |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "trimtab.grpc_status": one.grpc}
    if one.model:
        found["trimtab.model"] = one.model
    if one.label:
        found["trimtab.version"] = one.label
        found["trimtab.predictions"] = one.answers
    if one.made:
        first = one.made[0]
        found |= {"trimtab.model": first.model, "trimtab.arm": first.arm, "trimtab.prediction_id": first.id}
        if first.flags:
            found["trimtab.flags"] = first.flags
    return found


def _parts(one: RequestRecord) -> list[tuple[str, float, float]]:
    """Return the names and times of child spans. `features` and `model` are parts of `predict`, in this order."""
    out = []
    for name, (start_s, end_s) in zip(STAGES, pairwise(one.times), strict=False):
        if name in _SHOWN and end_s > start_s:
            out.append((name, start_s, end_s))
        elif name == "predict":
            read_s = start_s + one.features_s
            if one.features_s:
                out.append(("features", start_s, read_s))
            if one.model_s:
                out.append(("model", read_s, read_s + one.model_s))
    return out
