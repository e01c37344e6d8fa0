"""Unmodified tritonclient, in a process of its own: `inference_client.py URL GRPC`.

Its gevent must not meet the tests. It asks the shop's model the same over HTTP and gRPC, and prints what came back as
one JSON object.
"""

from __future__ import annotations

import json
import queue
import random
import sys
import time
from typing import Any

import grpc as wire
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

NOW_US = time.time_ns() // 1_000


def tensor(library: Any, name: str, datatype: str, values: np.ndarray) -> Any:
    made = library.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def texts(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], object)


def inputs(library: Any, rows: int, *, basket: str = "FP64", column: bool = False) -> list[Any]:
    kinds = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}
    shape = (rows, 1) if column else (rows,)
    return [
        tensor(library, "id", "BYTES", texts(*(f"c{i}" for i in range(rows))).reshape(shape)),
        tensor(library, "user", "BYTES", texts(*["ann"] * rows).reshape(shape)),
        tensor(library, "basket", basket, (10.5 + np.arange(rows)).astype(kinds[basket]).reshape(shape)),
        tensor(library, "kind", "BYTES", texts(*["web"] * rows).reshape(shape)),
        tensor(library, "at", "INT64", np.full(shape, NOW_US)),
    ]


def error_of(call: Any) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return ["none", ""]


def listed(message: Any) -> Any:
    """What a call of either library gives, as JSON has it."""
    if isinstance(message, dict | list):
        return message
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


def told(library: Any, client: Any) -> dict[str, Any]:
    """Everything that a client can be told."""
    score = [library.InferRequestedOutput("score")]
    out: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready("late"), client.is_model_ready("late", "1")],
        "absent_ready": [client.is_model_ready("nobody"), client.is_model_ready("late", "9")],
        "server": listed(client.get_server_metadata()),
        "metadata": listed(client.get_model_metadata("late")),
        "config": listed(client.get_model_config("late")),
        "index": listed(client.get_model_repository_index()),
    }
    whole = client.infer("late", inputs(library, 3), request_id="r7", parameters={"tag": "x"})
    out["whole"] = {
        "request": whole.get_response()["id"] if library is triton_http else whole.get_response().id,
        **{name: [_plain(v) for v in whole.as_numpy(name)] for name in ("score", "id", "reasons", "flags")},
    }
    out["scores"] = {
        f"{basket} {rows} {column}": client.infer(
            "late", inputs(library, rows, basket=basket, column=column), outputs=score
        )
        .as_numpy("score")
        .tolist()
        for basket in ("FP64", "FP32", "INT64", "INT32")
        for rows, column in ((1, False), (3, False), (3, True), (200, False))
    }
    out["unasked"] = client.infer("late", inputs(library, 1), outputs=score).as_numpy("id")
    out["version"] = client.infer("late", inputs(library, 1), model_version="1").as_numpy("score").tolist()
    wrong = [library.InferRequestedOutput("probs")]
    nothing = np.zeros(100_000)
    out["errors"] = {
        "model": error_of(lambda: client.infer("nobody", inputs(library, 1))),
        "version": error_of(lambda: client.infer("late", inputs(library, 1), model_version="9")),
        "missing": error_of(lambda: client.infer("late", inputs(library, 1)[:-1])),
        "type": error_of(
            lambda: client.infer(
                "late", [*inputs(library, 1)[1:], tensor(library, "id", "FP32", np.zeros(1, np.float32))]
            )
        ),
        "rows": error_of(lambda: client.infer("late", inputs(library, 2_001))),
        "large": error_of(lambda: client.infer("late", [tensor(library, "basket", "FP64", nothing)])),
        "output": error_of(lambda: client.infer("late", inputs(library, 1), outputs=wrong)),
        "load": error_of(lambda: client.load_model("late")),
        "unload": error_of(lambda: client.unload_model("late")),
        "metadata": error_of(lambda: client.get_model_metadata("nobody")),
        "trace": error_of(lambda: client.get_trace_settings()),
    }
    if library is triton_http:
        packed = {
            name: client.infer(
                "late", inputs(library, 200), request_compression_algorithm=name, response_compression_algorithm=name
            )
            for name in ("gzip", "deflate")
        }
    else:
        packed = {
            name: client.infer("late", inputs(library, 200), compression_algorithm=name) for name in ("gzip", "deflate")
        }
        out["stream"] = streamed(client)
        out["typed"] = typed(client)
    out["packed"] = {name: answer.as_numpy("score").tolist() for name, answer in packed.items()}
    out["statistics"] = listed(client.get_inference_statistics("late"))
    return out


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else float(value)


def streamed(client: Any) -> list[Any]:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    out: list[Any] = []
    for model in ("late", "nobody", "late"):
        client.async_stream_infer(model, inputs(triton_grpc, 1))
        result, error = answers.get(timeout=60)
        out.append(error.message() if result is None else result.as_numpy("score").tolist())
    client.stop_stream()
    return out


def typed(client: Any) -> list[float]:
    """Contents by their types, as other clients than this one send them."""
    from tritonclient.grpc import service_pb2 as messages

    asked = messages.ModelInferRequest(model_name="late")
    for name, datatype, field, value in (
        ("id", "BYTES", "bytes_contents", b"c0"),
        ("user", "BYTES", "bytes_contents", b"ann"),
        ("basket", "FP64", "fp64_contents", 10.5),
        ("kind", "BYTES", "bytes_contents", b"web"),
        ("at", "BYTES", "bytes_contents", b"2026-01-01T00:00:00Z"),
    ):
        given = asked.inputs.add(name=name, datatype=datatype, shape=[1])
        getattr(given.contents, field).append(value)
    answer = client._client_stub.ModelInfer(asked)
    return np.frombuffer(answer.raw_output_contents[0]).tolist()


def fuzzed(channel: Any, seed: int = 1, rounds: int = 400) -> dict[str, int]:
    """How often each status came back to messages that are nearly right, or not at all."""
    from tritonclient.grpc import service_pb2 as messages

    chance = random.Random(seed)
    good = messages.ModelInferRequest(model_name="late")
    for one in inputs(triton_grpc, 2):
        good.inputs.append(one._get_tensor())
        good.raw_input_contents.append(one._get_content())
    found: dict[str, int] = {}
    methods = ["ModelInfer"] * 6 + ["ModelMetadata", "ModelStatistics", "RepositoryIndex", "ModelConfig", "ServerReady"]
    for number in range(rounds):
        asked = messages.ModelInferRequest()
        asked.CopyFrom(good)
        one = chance.randrange(len(asked.inputs))
        what = number % 8
        if what == 0:
            asked.inputs[one].shape[:] = [
                chance.choice([-1, 0, 1, 3, 2**31, 2**62, -(2**63)]) for _ in range(chance.randrange(4))
            ]
        elif what == 1:
            asked.inputs[one].datatype = chance.choice(["FP64", "FP16", "BYTES", "BF16", "", "INT8", "BOOL", "ü" * 50])
        elif what == 2:
            raw = asked.raw_input_contents[one]
            asked.raw_input_contents[one] = chance.choice(
                [b"", raw[:-1], raw + b"x", b"\xff" * len(raw), chance.randbytes(40)]
            )
        elif what == 3:
            del asked.raw_input_contents[one:]
        elif what == 4:
            asked.inputs[one].contents.fp64_contents.append(float("nan"))
        elif what == 5:
            asked.parameters[chance.choice(["at", "x", "sequence_id", "empty_is_null"])].int64_param = chance.choice(
                [0, 1, -(2**63), 2**63 - 1]
            )
        elif what == 6:
            asked.inputs[one].name = chance.choice(["", "id", "nobody", "\x00", "log_basket"])
        sent = bytearray(asked.SerializeToString())
        if what == 7:
            for _ in range(chance.randrange(1, 6)):
                sent[chance.randrange(len(sent))] = chance.randrange(256)
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{chance.choice(methods)}")
        try:
            call(bytes(sent), timeout=60)
            code = "OK"
        except wire.RpcError as error:
            code = error.code().name
        found[code] = found.get(code, 0) + 1
    return found


def main(url: str, address: str) -> dict[str, Any]:
    with triton_http.InferenceServerClient(url.removeprefix("http://")) as client:
        out = {"http": told(triton_http, client)}
    with triton_grpc.InferenceServerClient(address) as client:
        out["grpc"] = told(triton_grpc, client)
    with wire.insecure_channel(address) as channel:
        out["fuzzed"] = fuzzed(channel)
    return out


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
