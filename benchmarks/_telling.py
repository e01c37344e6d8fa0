"""What the benchmarks of the access log and of traces share: requests as they have ended, with all that is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

from trimtab.core.records import Prediction
from trimtab.serving.http.requests.request_record import RequestRecord, Sink, Telemetry, begun

REQUESTS, BLOCK = 10_000, 500
_HEADERS = [
    (b"host", b"127.0.0.1:8117"), (b"content-type", b"application/json"), (b"content-length", b"230"),
    (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"connection", b"keep-alive"),
]  # fmt: skip


def requests(sink: Sink) -> list[RequestRecord]:
    """Predictions over HTTP, as the event loop hands them on."""
    fields = dict.fromkeys(Prediction.__struct_fields__)
    watch = Telemetry([sink], traced_share=1.0, most=2 * REQUESTS)
    out = []
    for n in range(REQUESTS):
        received_s = perf_counter()
        one = begun(watch, received_s, "POST", "/v1/models/late/predict", _HEADERS, ("127.0.0.1", 50_000 + n % 32))
        assert one is not None
        given: dict[str, Any] = {**fields, "id": f"{n:032x}", "model": "late", "arm": "champion", "flags": ()}
        one.model, one.label, one.answers, one.made = "late", "late@7", 1, (Prediction(**given),)
        one.times = tuple(received_s + s for s in (0.0, 1e-6, 5e-6, 31e-6, 35e-6, 40e-6))
        one.features_s, one.model_s = 12e-6, 5e-6
        watch.end(one, 200, 230)
        out.append(one)
    return out


def cpu_us(take: Callable[[Sequence[RequestRecord]], object], exchanges: Sequence[RequestRecord]) -> float:
    """The CPU time of `take` for each request, given in blocks as the thread has them."""
    begin_s = process_time()
    for at in range(0, len(exchanges), BLOCK):
        take(exchanges[at : at + BLOCK])
    return (process_time() - begin_s) / len(exchanges) * 1e6
