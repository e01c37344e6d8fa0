"""CPU time of the spans of a prediction, six of them, in the thread that makes them; their export is not counted.

The floor is the usual way: the SDK's tracer opens and ends the same six spans with the same times.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _telling import REQUESTS, cpu_us, requests
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, set_span_in_context

from trimtab.serving.http.requests.request_record import RequestRecord
from trimtab.serving.http.requests.traces import Traces, _attributes, _parts

NAME = "traces"
TARGET = "ratio <= 0.4"
UNIT = "us"
BETTER = "lower"


class Nowhere(SpanExporter):
    """Takes everything."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def setup(folder: Path) -> tuple[Traces, list[RequestRecord]]:
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = str(12 * REQUESTS)
    traces = Traces(exporter=Nowhere())
    return traces, requests(traces)


def ours(state: tuple[Traces, list[RequestRecord]]) -> float:
    traces, exchanges = state
    return cpu_us(lambda some: traces.write(some, 0), exchanges)


def floor(state: tuple[Traces, list[RequestRecord]]) -> float:
    traces, exchanges = state
    tracer = traces._provider.get_tracer("trimtab")

    def take(some: Sequence[RequestRecord]) -> None:
        for one in some:
            said, kind = _attributes(one), SpanKind.SERVER
            span = tracer.start_span("POST", None, kind, said, start_time=int(one.received_s * 1e9))
            context = set_span_in_context(span)
            for name, start_s, end_s in _parts(one):
                part = tracer.start_span(name, context, start_time=int(start_s * 1e9))
                part.end(int(end_s * 1e9))
            span.end(int(one.ended_s * 1e9))

    return cpu_us(take, exchanges)
