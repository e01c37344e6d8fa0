"""Spans that wait for a collector, and requests that find no room among them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from processes import eventually
from trimtab.serving.http.requests.request_record import AT_ONCE, DroppedRecordsError, RequestRecord, Telemetry
from trimtab.serving.http.requests.traces import QUEUE, Traces

pytestmark = pytest.mark.fast


class Held(SpanExporter):
    """A collector that takes nothing until it may."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.spans: list[Any] = []

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        assert self.free.wait(60)
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def predictions(count: int) -> list[RequestRecord]:
    """Of six spans each."""
    return [prediction() for _ in range(count)]


def prediction() -> RequestRecord:
    received_s = perf_counter()
    one = RequestRecord(received_s, "POST", "/v1/models/late/predict", [], ("127.0.0.1", 1))
    one.traced = one.observed = True
    one.times = tuple(received_s + us / 1e6 for us in (0, 1, 5, 31, 35, 40))
    one.features_s, one.model_s = 12e-6, 5e-6
    return one


def test_spans_of_several_handings_on_wait_for_a_collector_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(QUEUE, raising=False)
    held = Held()
    traces = Traces(exporter=held)
    for _ in range(5):
        traces.write(predictions(AT_ONCE), 0)
    held.free.set()
    traces.close()
    assert len(held.spans) == 5 * AT_ONCE * 6


def test_requests_whose_spans_find_no_room_are_counted_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(QUEUE, "603")
    held = Held()
    with Telemetry([Traces(exporter=held)]) as watch:
        for count, untold in ((150, 50), (5, 55)):
            for one in predictions(count):
                watch.end(one, 200, 0)
            eventually(lambda untold=untold: watch.dropped == untold and not watch.waiting)
        held.free.set()
    assert watch.dropped == 55
    assert Counter(Counter(span.context.trace_id for span in held.spans).values()) == {6: 100}  # whole ones
    assert caplog.text.count("603 spans already wait") == 1


def test_there_is_room_again_when_the_collector_is_done_with_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUEUE, "600")
    held = Held()
    traces = Traces(exporter=held)
    traces.write(predictions(100), 0)
    with pytest.raises(DroppedRecordsError):
        traces.write(predictions(1), 0)
    held.free.set()
    traces._provider.force_flush()
    traces.write(predictions(100), 0)
    traces.close()
    assert len(held.spans) == 1_200
