"""What a running service tells of its requests: metrics, access log, traces, and the live view of them."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import CLI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

import forked
from processes import eventually
from trimtab.core.time import format_time

AS_OF = format_time(shop.NOW_US)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"


class Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        assert isinstance(self.server, Collector)
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def told(trained_once: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose service tells everything; asked in `asked`."""
    import shutil

    folder = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("told") / "project"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "trimtab.toml").write_text(
        f'[serve]\nlog = "relaxed"\naccess_log = "access.jsonl"\ntraces = "{collector.url}"\ngrpc_port = {port}\n'
    )
    (folder / "grpc_port").write_text(str(port))
    return folder


@pytest.fixture(scope="module")
def url(told: Path) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms; what the standard says is 5 s
    try:
        with shop.serving(told, "--as-of", AS_OF) as (_, url):
            yield url
    finally:
        patch.undo()


def ask(url: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **named})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "access.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("road", ["direct", "usual"])
def test_each_prediction_is_a_line_with_what_it_was_and_took(told: Path, url: str, road: str) -> None:
    request = {"request": shop.visit(road, shop.NOW_US)}
    headers = {"x_request_id": f"{road}-1"} | ({"expect": ""} if road == "usual" else {})
    status, answer, got = ask(f"{url}/v1/models/buyer/predict", request, **headers)
    assert (status, got["x-request-id"]) == (200, f"{road}-1")
    (line,) = eventually(lambda: [one for one in lines(told) if one["request_id"] == f"{road}-1"])
    assert line["prediction"] == answer["id"]
    assert (line["model"], line["version"], line["arm"]) == ("buyer", "buyer@2", "champion")
    assert (line["method"], line["status"], line["route"], line["key"]) == ("POST", 200, "predict", "anybody")
    assert set(line["stages_ms"]) == {"read", "decode", "predict", "log", "encode", "features", "model"}
    assert line["ms"] >= line["stages_ms"]["predict"] >= line["stages_ms"]["features"] > 0
    assert line["remote"].startswith("127.0.0.1:")


def test_an_inference_by_the_open_protocol_is_a_line_with_its_prediction(told: Path, url: str) -> None:
    values = (("visit_id", "BYTES", "v2"), ("site", "BYTES", "north"), ("at", "INT64", shop.NOW_US), ("x", "FP64", 0.5))
    tensors = [{"name": name, "shape": [1], "datatype": kind, "data": [value]} for name, kind, value in values]
    status, answer, _ = ask(f"{url}/v2/models/buyer/infer", {"inputs": tensors}, x_request_id="v2-1")
    (line,) = eventually(lambda: [one for one in lines(told) if one["request_id"] == "v2-1"])
    found = {one["name"]: one["data"][0] for one in answer["outputs"]}
    assert (status, line["route"], line["version"]) == (200, "inference", "buyer@2")
    assert line["prediction"] == found["id"]


ASK_BY_GRPC = """
import json, sys
import grpc
from trimtab.serving.inference.messages import build_messages

port, rows, metadata = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
messages = build_messages()
asked = [messages["ModelInferRequest"](model_name=model) for model in ("buyer", "nobody")]
for name, kind, field, value in rows:
    tensor = asked[0].inputs.add(name=name, datatype=kind, shape=[1])
    getattr(tensor.contents, field).append(value.encode() if isinstance(value, str) else value)
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    service = "/inference.GRPCInferenceService/"
    infer = channel.unary_unary(
        service + "ModelInfer", lambda m: m.SerializeToString(), messages["ModelInferResponse"].FromString)
    answer, call = infer.with_call(asked[0], metadata=metadata, timeout=60)
    code = None
    try:
        infer(asked[1], metadata=[("x-request-id", metadata[0][1] + "-wrong")], timeout=60)
    except grpc.RpcError as error:
        code = error.code().name
    stream = channel.stream_stream(
        service + "ModelStreamInfer", lambda m: m.SerializeToString(), messages["ModelStreamInferResponse"].FromString)
    streamed = list(stream(iter(asked), metadata=[("x-request-id", metadata[0][1] + "-stream")], timeout=60))
    ids = [tensor.name for tensor in answer.outputs]
    raw = answer.raw_output_contents[ids.index("id")]
    print(json.dumps([raw[4:].decode(), dict(call.trailing_metadata()), code, len(streamed)]))
"""


def test_a_request_by_grpc_is_a_line_and_a_span_as_one_by_http(told: Path, collector: Collector, url: str) -> None:
    rows = [
        ("visit_id", "BYTES", "bytes_contents", "g1"),
        ("site", "BYTES", "bytes_contents", "north"),
        ("at", "INT64", "int64_contents", shop.NOW_US),
        ("x", "FP64", "fp64_contents", 0.5),
    ]
    trace_id = "5" * 31 + "b"
    metadata = [("x-request-id", "g-1"), ("traceparent", f"00-{trace_id}-{'c' * 16}-01")]
    port = (told / "grpc_port").read_text()
    script = [sys.executable, "-c", ASK_BY_GRPC, port, json.dumps(rows), json.dumps(metadata)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    prediction, trailing, code, streamed = json.loads(done.stdout)
    assert (trailing["x-request-id"], code, streamed) == ("g-1", "NOT_FOUND", 2)
    (line,) = eventually(lambda: [one for one in lines(told) if one["request_id"] == "g-1"])
    assert (line["method"], line["route"], line["status"], line["grpc"]) == ("gRPC", "grpc", 200, "OK")
    assert line["path"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (line["model"], line["version"], line["prediction"]) == ("buyer", "buyer@2", prediction)
    assert (line["key"], line["predictions"], line["trace_id"]) == ("anybody", 1, trace_id)
    assert line["remote"].startswith("127.0.0.1:")
    assert line["bytes"] > 0
    assert {"predict", "log", "features", "model"} <= set(line["stages_ms"])
    (wrong,) = eventually(lambda: [one for one in lines(told) if one["request_id"] == "g-1-wrong"])
    assert (wrong["status"], wrong["grpc"], wrong.get("prediction")) == (404, "NOT_FOUND", None)
    both = eventually(lambda: [x for x in lines(told) if x["request_id"] == "g-1-stream"][1:] and lines(told))
    assert [x["grpc"] for x in both if x["request_id"] == "g-1-stream"] == ["OK", "NOT_FOUND"]
    spans = eventually(lambda: [one for one in collector.spans if one.trace_id.hex() == trace_id])
    (server,) = [one for one in spans if one.parent_span_id.hex() == "c" * 16]
    said = {one.key: one.value for one in server.attributes}
    assert said["rpc.system"].string_value == "grpc"
    assert said["rpc.method"].string_value == "ModelInfer"
    assert said["trimtab.prediction_id"].string_value == prediction
    assert {"features", "model"} <= {one.name for one in spans if one.parent_span_id == server.span_id}


def test_every_other_request_is_a_line_and_none_can_forge_one(told: Path, url: str) -> None:
    before = len(lines(told))
    forged = "x%0a%7b%22status%22:200%7d%1b%5b2J%c2%9b"
    assert shop.call(f"{url}/{forged}")[0] == 404
    status, _, got = ask(f"{url}/v1/models/buyer/predict", {"request": {}}, x_request_id='a"b')
    assert status == 422
    more = eventually(lambda: lines(told)[before:] if len(lines(told)) >= before + 2 else None)
    assert [(one["route"], one["status"]) for one in more] == [("other", 404), ("predict", 422)]
    assert more[0]["path"].isprintable()
    assert more[1]["request_id"] == got["x-request-id"] != 'a"b'


def test_a_request_goes_on_with_the_trace_that_it_carries(collector: Collector, url: str) -> None:
    status, answer, _ = ask(
        f"{url}/v1/models/buyer/predict",
        {"request": shop.visit("traced", shop.NOW_US)},
        traceparent=f"00-{TRACE}-{SPAN}-01",
    )
    assert status == 200

    def found() -> list[Any]:
        mine = [one for one in collector.spans if one.trace_id.hex() == TRACE]
        return mine if len(mine) >= 6 else []

    spans = {one.name: one for one in eventually(found)}
    server = spans.pop("POST /v1/models/{model}/predict")
    assert server.parent_span_id.hex() == SPAN
    said = {one.key: one.value.string_value for one in server.attributes}
    assert said["trimtab.prediction_id"] == answer["id"]
    assert (said["trimtab.version"], said["trimtab.arm"]) == ("buyer@2", "champion")
    assert set(spans) == {"decode", "features", "model", "log", "encode"}
    for one in spans.values():
        assert one.parent_span_id == server.span_id
        assert server.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
        assert one.end_time_unix_nano <= server.end_time_unix_nano
    assert abs(server.start_time_unix_nano / 1e9 - time.time()) < 60


def test_a_request_whose_asker_does_not_trace_it_is_not_traced(collector: Collector, url: str) -> None:
    quiet = TRACE.replace("0af7", "1af7")
    ask(
        f"{url}/v1/models/buyer/predict",
        {"request": shop.visit("quiet", shop.NOW_US)},
        traceparent=f"00-{quiet}-{SPAN}-00",
    )
    ask(f"{url}/v1/models/buyer/predict", {"request": shop.visit("loud", shop.NOW_US)}, x_request_id="loud")
    eventually(lambda: any(a.value.string_value == "loud" for one in collector.spans for a in one.attributes))
    assert quiet not in {one.trace_id.hex() for one in collector.spans}


def test_the_metrics_are_what_prometheus_reads_and_counters_are_declared(url: str) -> None:
    ask(f"{url}/v1/models/buyer/predict", {"request": shop.visit("measured", shop.NOW_US)})
    text = shop.call(f"{url}/metrics")[1]
    families = {one.name: one for one in text_string_to_metric_families(text)}
    for name, family in families.items():
        assert family.documentation, name
        assert family.type == "histogram" or len({tuple(s.labels.items()) for s in family.samples}) == len(
            family.samples
        )
    declared = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name for name, kind in declared.items() if name.endswith("_total") != (kind == "counter")} == set()
    for family in families.values():
        if family.type == "histogram":
            check_histogram(family)
    stages = {s.labels["stage"] for s in families["trimtab_latency_seconds"].samples if s.labels["model"] == "buyer"}
    assert stages == {"total", "read", "decode", "predict", "features", "model", "log", "encode"}
    answers = {tuple(s.labels.values()): s.value for s in families["trimtab_answers"].samples}
    assert answers["buyer", "buyer@2", "champion"] >= 1
    assert families["process_resident_memory_bytes"].samples[0].value > 1e7


def check_histogram(family: Any) -> None:
    """Buckets never fall, the last is +Inf, and is the count."""
    buckets: dict[Any, list[tuple[float, float]]] = {}
    counts: dict[Any, float] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        key = tuple(labels.items())
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[key] = sample.value
    for key, found in buckets.items():
        assert found == sorted(found)
        assert [n for _, n in found] == sorted(n for _, n in found)
        assert found[-1] == (float("inf"), counts[key])


def test_top_shows_the_service_of_the_project_in_80_columns(told: Path, url: str) -> None:
    ask(f"{url}/v1/models/buyer/predict", {"request": shop.visit("seen", shop.NOW_US)})
    done = run(told, "service", "top", "--once", "--every", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    for words in (url, "buyer  buyer@2  champion", "in flight", "log ok", "breaker closed", "  features", "p99"):
        assert words in done.stdout
    found = json.loads(run(told, "service", "top", "--once", "--every", "0.3", "--url", url, "--json").stdout)
    assert found["answers"][0]["name"] == ["buyer", "buyer@2", "champion"]
    assert {one["stage"] for one in found["stages"]} >= {"features", "model"}
    assert f"served on {url}" in run(told, "status").stdout


def test_top_says_that_no_service_runs(trained: Path) -> None:
    (trained / "trimtab.toml").write_text("[serve]\nport = 9\n")
    done = run(trained, "service", "top", "--once")
    assert done.returncode == 5
    assert "http://127.0.0.1:9: no service answers there" in done.stderr
    assert "trimtab serve" in done.stderr
    named = run(trained, "service", "top", "--once", "--url", "127.0.0.1:9")
    assert (named.returncode, named.stderr) == (5, done.stderr)
    for wrong in ("foo://here", "http://", "http://[:1"):
        done = run(trained, "service", "top", "--once", "--url", wrong)
        assert (done.returncode, "Give an address such as http://" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\ncut off",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"\0\0\x18\x04 is gRPC\r\n\r\n",
    ],
)
def test_top_says_that_no_service_of_trimtab_answers(trained: Path, answer: bytes) -> None:
    done = top_of(answer, trained)
    assert done.returncode == 5
    assert "service" in done.stderr


@pytest.mark.parametrize("body", [b"<html>", b"Hello World", b"version 1.2.3", b"\x89PNG\r\n\x1a\n", b"Gr\xfc\xdfe 1"])
def test_top_says_that_what_answers_has_no_figures_of_trimtab(trained: Path, body: bytes) -> None:
    done = top_of(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body), trained)
    assert done.returncode == 2
    assert "is not a sample of a metric. Give the address of a trimtab service." in done.stderr


def test_top_takes_a_key_from_its_input_which_no_list_of_processes_shows(trained: Path) -> None:
    heard: list[bytes] = []
    top_of(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", trained, "--key", "-", given="tt_1234\n", heard=heard)
    assert b"authorization: bearer tt_1234\r\n" in heard[0].lower()


def top_of(
    answer: bytes, folder: Path, *words: str, given: str = "", heard: list[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    """`trimtab service top` of a server that always gives one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    asked = connection.recv(10_000)
                    if heard is not None:
                        heard.append(asked)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return run(folder, "service", "top", "--once", "--url", url, *words, given=given)


def test_top_asks_the_service_itself_whatever_proxy_there_is(
    told: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    done = run(told, "service", "top", "--once", "--every", "0.3", "--url", url)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_told_is_refused_before_serving(trained: Path) -> None:
    (trained / "trimtab.toml").write_text('[serve]\naccess_log = "nowhere/access.jsonl"\n')
    done = run(trained, "serve", "--port", "0")
    assert (done.returncode, "access_log" in done.stderr) == (5, True)
    (trained / "trimtab.toml").write_text('[serve]\naccess_log = "-"\n')
    done = run(trained, "serve", "--port", "0", "--workers", "2")
    assert (done.returncode, "Name a file" in done.stderr) == (2, True)


def run(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return forked.run(
        [*CLI, *words], cwd=folder, env=shop.environment(), capture_output=True, text=True, timeout=60, input=given
    )
