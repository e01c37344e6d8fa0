"""The access log and what hands requests to it: whole lines, whatever happens to the file or its reader."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from processes import eventually
from trimtab.core.errors import Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.http.requests.access_log import AccessLog, _Lines, printable
from trimtab.serving.http.requests.request_record import STAGES, RequestRecord, Telemetry
from trimtab.serving.http.requests.traces import Traces
from trimtab.serving.http.service import HttpService, ServiceHooks

pytestmark = pytest.mark.fast
PARTS = "features", "model"


def exchange(path: str = "/metrics", **headers: str) -> RequestRecord:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    made = RequestRecord(perf_counter(), "GET", path, named, ("127.0.0.1", 1))
    made.observed = True
    return made


def read(path: Path) -> list[str]:
    return [json.loads(line)["path"] for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("path", ['/a\n{"path": "/b"}', "/\x1b[2J", "/\x9b\u2028", "/\ud800", '/"\\'])
def test_no_path_forges_a_line_or_reaches_a_terminal(tmp_path: Path, path: str) -> None:
    log = AccessLog(tmp_path / "log")
    log.write([exchange(path), exchange("/after")], 0)
    log.close()
    text = (tmp_path / "log").read_text("utf-8")
    assert len(text.splitlines()) == 2
    assert text.replace("\n", "").isprintable()
    assert read(tmp_path / "log")[1] == "/after"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serving.http.requests.access_log._CHECK_S", 0.0)
    log = AccessLog(tmp_path / "log")
    log.write([exchange("/1")], 0)
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.write([exchange("/2")], 0)
    log.close()
    assert (read(tmp_path / "log.1"), read(tmp_path / "log")) == (["/1"], ["/2"])


@contextmanager
def full_beyond(path: Path, more_bytes: int = 20) -> Iterator[None]:
    """Lets a file grow by so little, as a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_a_full_disk_tore_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(path)
    log.write([exchange("/1")], 0)
    with full_beyond(path), pytest.raises(OSError, match="too large"):
        log.write([exchange("/torn")], 0)
    log.write([exchange("/2")], 0)
    log.close()
    first, torn, second = path.read_text("utf-8").splitlines()
    assert (json.loads(first)["path"], len(torn), json.loads(second)["path"]) == ("/1", 20, "/2")


def test_a_new_file_begins_with_a_line_also_where_the_old_one_was_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.serving.http.requests.access_log._CHECK_S", 0.0)
    path = tmp_path / "log"
    log = AccessLog(path)
    with full_beyond(path), pytest.raises(OSError, match="too large"):
        log.write([exchange("/torn")], 0)
    path.rename(tmp_path / "log.1")
    log.write([exchange("/1")], 0)
    log.close()
    assert read(path) == ["/1"]


def test_lines_go_on_to_a_file_that_was_moved_away_while_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trimtab.serving.http.requests.access_log._CHECK_S", 0.0)
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(folder / "log")
    for moved in ("a", "b"):
        log.write([exchange("/1")], 0)
        folder.rename(tmp_path / moved)
        log.write([exchange("/2")], 0)
        log.write([exchange("/3")], 0)
        assert read(tmp_path / moved / "log") == ["/1", "/2", "/3"]
        folder.mkdir()
    log.write([exchange("/4")], 0)
    log.close()
    assert read(folder / "log") == ["/4"]
    assert caplog.text.count("cannot be opened again") == 2  # once each time


def test_a_pipe_that_nobody_reads_any_more_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(tmp_path / "log")
    log.write([exchange("/1")], 0)
    assert json.loads(os.read(reader, 10_000))["path"] == "/1"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        log.write([exchange("/2")], 0)
    log.close()


def test_a_log_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"access_log: .*cannot be written"):
        AccessLog(tmp_path / "nowhere" / "log")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_what_a_full_disk_refuses_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with Telemetry([AccessLog("/dev/full")]) as watch:
        for _ in range(3):
            watch.end(exchange(), 200, 0)
            eventually(lambda: not watch.waiting)
    assert watch.dropped == 3
    assert len([one for one in caplog.records if "No space left" in one.getMessage()]) == 1


class Stuck:
    """A sink whose reader does not read."""

    traces = False

    def __init__(self) -> None:
        self.taken: list[RequestRecord] = []
        self.free = threading.Event()
        self.was_waited_for = False

    def write(self, exchanges: Sequence[RequestRecord], ahead_ns: int) -> None:
        self.was_waited_for |= not self.free.wait(30)
        self.taken += exchanges

    def close(self) -> None: ...


def test_what_a_slow_reader_does_not_take_is_dropped_and_counted_and_nobody_waits() -> None:
    sink = Stuck()
    with Telemetry([sink], most=100) as watch:
        for _ in range(5_000):
            watch.end(exchange(), 200, 0)
        sink.free.set()
    assert not sink.was_waited_for
    assert watch.dropped > 0
    assert len(sink.taken) + watch.dropped == 5_000


def test_exchanges_that_wait_hold_little(shop: Any) -> None:
    """A reader that stands still kept all predictions and headers of fifty thousand requests in memory."""
    sink = Stuck()
    carried = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1", "x-more": "z" * 9_000}

    async def talk(service: HttpService) -> None:
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            rows = {"rows": [shop.ask(id=f"c{n}") for n in range(50)]}
            answer = await client.post("/v1/models/late/predict", json=rows, headers=carried)
            assert len(answer.json()["predictions"]) == 50
            await client.get("/" + "a" * 9_000, headers={"tracestate": "y" * 9_000})

    with Telemetry([sink]) as watch:
        service = HttpService([shop.endpoint], shop.log, hooks=ServiceHooks(telemetry=watch))
        asyncio.run(talk(service))
        service.close()
        sink.free.set()
    predicted, mistyped = sink.taken
    assert (len(predicted.made), predicted.answers) == (1, 50)
    assert dict(predicted.headers) == {
        name.encode(): value.encode() for name, value in carried.items() if "trace" in name
    }
    assert (len(mistyped.path), mistyped.headers) == (2_048, [])


def test_a_request_is_traced_by_the_flag_that_it_carries_else_by_the_share() -> None:
    class Tracing(Stuck):
        traces = True

    sink = Tracing()
    sink.free.set()
    carried = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{}"
    with Telemetry([sink], traced_share=0.0) as watch:
        for flag in ("0", "1", "2", "3"):
            headers = [(b"traceparent", carried.format(flag).encode())]
            ask(watch, f"/{flag}", headers)
        ask(watch, "/none", [])
        ask(watch, "/wrong", [(b"traceparent", b"00-zz-01")])
    assert [one.path for one in sink.taken] == ["/1", "/3"]


def ask(watch: Telemetry, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    if (begun := watch.begin(0.0, "POST", path, headers, None)) is not None:
        watch.end(begun, 200, 0)


def test_a_request_whose_asker_hung_up_has_the_status_499(tmp_path: Path) -> None:
    with Telemetry([AccessLog(tmp_path / "log")]) as watch:
        watch.end(exchange(), 0, 0)
    (line,) = (tmp_path / "log").read_text("utf-8").splitlines()
    assert json.loads(line)["status"] == 499


texts = st.text(max_size=8) | st.sampled_from(["", "a", '"', "\\", "\n", "\x9b", "é", "\ud800"])
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
seconds = st.floats(0, 10)


@given(
    texts, texts, plain, st.integers(200, 599), st.sampled_from(["", "NOT_FOUND"]), plain, plain,
    st.lists(plain, max_size=2), st.booleans(), st.lists(seconds, min_size=6, max_size=6), st.tuples(seconds, seconds),
)  # fmt: skip
def test_a_line_says_what_an_encoder_says_field_by_field(
    method: str, path: str, route: str, status: int, grpc: str, model: str, host: str, flags: list[str],
    predicted: bool, times: list[float], parts: tuple[float, float],
) -> None:  # fmt: skip
    """Lines are put together from texts that are kept; here the same exchange is told plainly."""
    one = RequestRecord(times[0], method, path, [], (host, 1))
    one.route, one.status, one.grpc, one.model, one.size_bytes = route, status, grpc, model, 7
    one.ended_s = times[0] + parts[0]
    if predicted:
        one.times, (one.features_s, one.model_s), one.answers, one.label = tuple(sorted(times)), parts, 2, f"{model}@1"
        one.made = [prediction(model, tuple(flags))]
    lines = _Lines()
    for _ in range(2):  # the second one from what was kept
        line = lines.line(one, 1_700_000_000_000_000_000)
        assert line.isprintable() or not "".join((route, model, host, *flags)).isprintable()
        found = json.loads(line)
        taken = {name: end - begin for name, begin, end in zip(STAGES, one.times, one.times[1:], strict=False)}
        stages = found.pop("stages_ms", {})
        taken |= dict(zip(PARTS, parts, strict=True)) if predicted else {}
        assert set(stages) == {name for name, taken_s in taken.items() if taken_s}
        assert all(abs(stages[name] - 1e3 * taken[name]) < 0.001 for name in stages)
        assert abs(found.pop("ms") - 1e3 * (one.ended_s - one.received_s)) < 0.001
        at = dt.datetime.fromtimestamp(1_700_000_000 + int(times[0] * 1e6) / 1e6, dt.UTC)
        assert abs(dt.datetime.fromisoformat(found.pop("time")) - at) < dt.timedelta(microseconds=3)
        told: dict[str, Any] = {"model": model}
        if predicted:
            told |= {"version": f"{model}@1", "arm": "champion", "flags": flags}
        assert found == {
            "request_id": one.request_id,
            "method": printable(method),
            "path": printable(path),
            "route": route,
            "status": status,
            **({"grpc": grpc} if grpc else {}),
            "key": "anybody",
            "remote": f"{host}:1",
            "bytes": 7,
            **({"prediction": "p1", "predictions": 2} if predicted else {}),
            **{name: value for name, value in told.items() if value},
        }


def prediction(model: str, flags: tuple[str, ...]) -> Prediction:
    fields = dict.fromkeys(Prediction.__struct_fields__)
    return Prediction(**{**fields, "id": "p1", "model": model, "arm": "champion", "flags": flags})  # type: ignore[arg-type]


def test_what_is_kept_of_lines_is_bounded(tmp_path: Path) -> None:
    lines = _Lines()
    for n in range(2_500):
        lines.line(exchange(f"/made/up/{n}"), 0)
    assert len(lines._requests) <= 1_000


def test_what_is_kept_of_long_paths_is_nothing() -> None:
    lines = _Lines()
    path = "/" + "é" * 30_000
    assert json.loads(lines.line(exchange(path), 0))["path"] == path[:2_048]
    lines.line(exchange("/metrics"), 0)
    assert [key[1] for key in lines._requests] == ["/metrics"]


@pytest.mark.parametrize(("sampler", "spans"), [(None, 1), ("always_off", 0), ("parentbased_always_on", 1)])
def test_spans_follow_their_parent_and_the_sampler_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, sampler: str | None, spans: int
) -> None:
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    exporter = InMemorySpanExporter()
    traces = Traces(exporter=exporter)
    carried = exchange("/a", traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate="vendor=1")
    failed = exchange("/b")
    failed.status = 503
    traces.write([carried, failed], 0)
    traces.close()
    found = exporter.get_finished_spans()
    assert len(found) == 2 * spans
    if spans:
        assert (found[0].context.trace_id, found[0].parent.span_id) == (int("a" * 32, 16), int("b" * 16, 16))
        assert found[0].context.trace_state["vendor"] == "1"
        assert found[1].parent is None
        assert found[1].context.trace_id not in (0, found[0].context.trace_id)
        assert [one.status.status_code.name for one in found] == ["UNSET", "ERROR"]
