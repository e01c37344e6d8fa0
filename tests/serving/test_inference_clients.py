"""Unmodified tritonclient, in a process of its own, against a process that serves."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forked
from trimtab.core.errors import Unavailable
from trimtab.serving.http.server.server import listen, listen_advice
from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer, check_free
from trimtab.serving.inference.messages import build_messages

pytest.importorskip("tritonclient", reason="tritonclient is not installed")
HERE = Path(__file__).parent


class Serving:
    """`inference_process.py`, and what a client says of it."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(HERE / "inference_process.py"), str(folder)]
        self.process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.words = self.process.stdout.readline().split()
        assert self.words, self.process.communicate()[1]

    def ask(self) -> Any:
        command = [sys.executable, str(HERE / "inference_client.py"), *self.words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self) -> tuple[int, str]:
        self.process.terminate()
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """What the client found, over both protocols; the server ended well after it."""
    with tempfile.TemporaryDirectory() as folder:
        server = Serving(Path(folder))
        try:
            told = server.ask()
        finally:
            ended = server.stop()
        assert ended == (0, "")
        yield told


@pytest.mark.parametrize("library", ["http", "grpc"])
def test_tritonclient_finds_server_and_model(found: dict[str, Any], library: str) -> None:
    told = found[library]
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, [True, True])
    assert told["absent_ready"] == [False, False]
    assert told["server"]["name"] == "trimtab"
    assert [one["name"] for one in told["metadata"]["inputs"]] == ["id", "user", "basket", "kind", "at"]
    assert told["metadata"]["versions"] == ["1"]
    config = told["config"].get("config", told["config"])
    assert config["output"][0] == {"name": "score", "data_type": "TYPE_FP64", "dims": config["output"][0]["dims"]}
    assert [one["name"] for one in config["input"] if one.get("optional")] == ["user", "basket", "kind"]
    index = told["index"]["models"] if library == "grpc" else told["index"]
    assert [(one["name"], one["version"], one["state"]) for one in index] == [("late", "1", "READY")]
    (figures,) = told["statistics"]["model_stats"]
    assert int(figures["inference_count"]) > int(figures["execution_count"]) > 10
    assert {"cache_hit", "cache_miss"} < set(figures["inference_stats"])


@pytest.mark.parametrize("library", ["http", "grpc"])
def test_tritonclient_infers_one_row_and_many_of_every_type(found: dict[str, Any], library: str) -> None:
    told = found[library]
    scores = told["scores"]
    for name, values in scores.items():  # the baskets are whole numbers and a half, the same in 32 bits
        basket, rows, _ = name.split()
        assert len(values) == int(rows)
        like = "FP64" if basket[:2] == "FP" else "INT64"
        assert values == scores[f"{like} 200 False"][: int(rows)]
    whole = told["whole"]
    assert whole["request"] == "r7"
    assert whole["score"] == scores["FP64 3 False"]
    assert len(set(whole["id"])) == 3
    assert all("no_entity" in text for text in whole["reasons"])
    assert whole["flags"] == ["", "", ""]
    assert told["unasked"] is None
    assert told["version"] == scores["FP64 1 False"]
    assert told["packed"] == {"gzip": scores["FP64 200 False"], "deflate": scores["FP64 200 False"]}


def test_http_and_grpc_give_the_same_bits(found: dict[str, Any]) -> None:
    assert found["http"]["scores"] == found["grpc"]["scores"]
    first = found["http"]["scores"]["FP64 1 False"]
    assert found["grpc"]["typed"] == first
    assert found["grpc"]["stream"] == [first, found["grpc"]["errors"]["model"][1], first]


def test_what_is_wrong_comes_back_as_the_clients_error(found: dict[str, Any]) -> None:
    http, grpc = found["http"]["errors"], found["grpc"]["errors"]
    statuses = {
        "model": ("404", "NOT_FOUND"), "version": ("404", "NOT_FOUND"), "missing": ("400", "INVALID_ARGUMENT"),
        "type": ("400", "INVALID_ARGUMENT"), "rows": ("413", "INVALID_ARGUMENT"), "output": ("400", "INVALID_ARGUMENT"),
        "large": ("413", "RESOURCE_EXHAUSTED"), "load": ("400", "UNIMPLEMENTED"), "unload": ("400", "UNIMPLEMENTED"),
        "metadata": ("404", "NOT_FOUND"), "trace": ("404", "UNIMPLEMENTED"),
    }  # fmt: skip
    assert {name: status for name, (status, _) in http.items()} == {name: code for name, (code, _) in statuses.items()}
    assert {name: status for name, (status, _) in grpc.items()} == {
        name: f"StatusCode.{code}" for name, (_, code) in statuses.items()
    }
    for name in set(statuses) - {"large", "trace"}:  # those two are said by gRPC itself
        assert http[name][1] == grpc[name][1]


def test_messages_that_are_nearly_right_never_make_the_server_fail(found: dict[str, Any]) -> None:
    assert found["fuzzed"]["OK"] > 20
    assert set(found["fuzzed"]) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


def test_the_declared_messages_have_the_published_numbers() -> None:
    code = """
import sys
from tritonclient.grpc import model_config_pb2, service_pb2
from trimtab.serving.inference.messages import build_messages

def compare(ours, theirs):
    by_name = {field.name: field for field in theirs.fields}
    for field in ours.fields:
        other = by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field
        assert (field.containing_oneof is None) == (other.containing_oneof is None), field
        if field.message_type is not None:
            compare(field.message_type, other.message_type)
        if field.enum_type is not None:
            theirs_by_name = {value.name: value.number for value in other.enum_type.values}
            assert {v.name: v.number for v in field.enum_type.values}.items() <= theirs_by_name.items()

built = build_messages()
raw, whole = built.pop("RawInferRequest").DESCRIPTOR, built["ModelInferRequest"].DESCRIPTOR  # one message, read twice
assert [(f.number, f.is_repeated) for f in raw.fields] == [(f.number, f.is_repeated) for f in whole.fields]
for name, made in built.items():
    compare(made.DESCRIPTOR, (getattr(service_pb2, name, None) or getattr(model_config_pb2, name)).DESCRIPTOR)
    sys.stdout.write(name + " ")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {*build_messages()} - {"RawInferRequest"}


def test_a_port_that_is_taken_is_named_before_anything_starts(start_server: Any, tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        with pytest.raises(Unavailable, match=f"gRPC on 127.0.0.1:{server.port}: cannot be listened on"):
            GrpcServer(None, print, GrpcListener(port=server.port))  # type: ignore[arg-type]
    finally:
        server.stop()


STREAM = """
import sys
import grpc

channel = grpc.insecure_channel(sys.argv[1])
live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

def requests():
    yield b""
    sys.stdin.readline()  # and then nothing for long

answers = stream(requests())
next(answers)
print("open", flush=True)
for call in (lambda: next(answers), lambda: live(b"", timeout=60)):
    try:
        call()
        print("OK", flush=True)
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
"""


def test_both_ways_in_close_at_once_and_a_stream_that_idles_holds_up_no_end(tmp_path: Path) -> None:
    server = Serving(tmp_path)
    url, address = server.words
    command = [sys.executable, "-c", STREAM, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "open\n"
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as under_way:
            head = b"POST /v1/models/late/predict HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            under_way.sendall(head + b"content-length: 9\r\n\r\n")
            assert under_way.recv(4_096) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it has it
            under_way.sendall(b"[")
            server.process.terminate()
            assert [client.stdout.readline() for _ in range(2)] == ["UNAVAILABLE\n"] * 2
            assert server.process.poll() is None  # HTTP has a request under way yet
            under_way.sendall(b"no JSON!")
            assert under_way.recv(4_096).startswith(b"HTTP/1.1 400")
        assert server.process.communicate(timeout=60)[1] == ""  # long before its time to end is over
        assert server.process.returncode == 0
        client.stdin.close()


PACKED = """
import sys
import grpc
import numpy as np
import tritonclient.grpc as triton

sys.path.insert(0, sys.argv[1])
from inference_client import inputs

with triton.InferenceServerClient(sys.argv[2]) as client:
    for name in ("gzip", "deflate", None):
        print("OK", client.infer("late", inputs(triton, 2), compression_algorithm=name).as_numpy("score").size)
bomb = bytes(100_000_000)
options = [("grpc.max_send_message_length", -1)]
for packed in (grpc.Compression.Gzip, grpc.Compression.Deflate):
    with grpc.insecure_channel(sys.argv[2], options, packed) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for call in (lambda: infer(bomb), lambda: next(stream(iter([bomb])))):
            try:
                call()
                print("OK")
            except grpc.RpcError as error:
                print("bomb", error.code().name)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell what memory was used")
def test_a_message_that_is_unpacked_to_more_than_is_taken_is_not_unpacked(tmp_path: Path) -> None:
    server = Serving(tmp_path)
    try:
        before = most_memory_bytes(server.process.pid)
        command = [sys.executable, "-c", PACKED, str(HERE), server.words[1]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        grown = most_memory_bytes(server.process.pid) - before
    finally:
        code, complaints = server.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*["OK 2"] * 3, *["bomb RESOURCE_EXHAUSTED"] * 4]
    assert grown < 50_000_000  # a bomb is 100 MB, and 0.1 MB packed
    assert code == 0, complaints


def most_memory_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


TAKEN = """
import socket, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from conftest import Shop
from trimtab.core.errors import Unavailable
from trimtab.serving.http.server.server import serve
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.grpc_server import GrpcListener, GrpcServer
from trimtab.serving.inference.rest import mount_inference

shop = Shop(Path(sys.argv[2]))
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
service = HttpService([shop.endpoint], shop.log)
service.lifecycle.server = GrpcServer(mount_inference(service), service.count, GrpcListener(port=port))
with socket.create_server(("127.0.0.1", port)):  # somebody takes it before it begins
    try:
        serve(service, port=0)
    except Unavailable as error:
        print(error)
shop.close()
"""


def test_a_port_that_is_taken_at_the_last_moment_is_told_as_any_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKEN, str(HERE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot be listened on (Address already in use). Stop what uses port" in done.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EADDRINUSE, "taken"),
            "Stop what uses port 80, or choose another (--grpc-port; 0 takes a free one).",
        ),
        (OSError(errno.EACCES, "denied"), "This user may not use port 80: choose one above 1023 (--grpc-port)."),
        (OSError(errno.EADDRNOTAVAIL, "not here"), "Give an address of this machine (--host)."),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "Give an address of this machine (--host)."),
    ],
)
def test_what_helps_is_said_of_an_address_that_cannot_be_listened_on(error: OSError, said: str) -> None:
    assert listen_advice(error, 80, "--grpc-port") == said


def test_an_address_of_another_machine_is_told_as_such() -> None:
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(Unavailable, match=rf"{host}:0: cannot be listened on \(.*\)\. Give an address of this"):
            listen(host, 0)
        with pytest.raises(Unavailable, match=rf"gRPC on {host}:1: cannot be listened on \(.*\)\. Give an address"):
            check_free(host, 1, shared=False)
