"""The Open Inference Protocol over HTTP: all addresses under `/v2`. Errors have the form `{"error": "..."}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, Unavailable
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.arms.endpoint import Answered
from trimtab.serving.http.predict.predicting import INLINE_BYTES
from trimtab.serving.http.requests.http_request import HttpRequest, as_json
from trimtab.serving.http.requests.request_record import CURRENT, RawHeaders
from trimtab.serving.http.requests.room import check_decoded, decoded_bytes
from trimtab.serving.http.requests.wire import JSON_TYPE, Headers, Reply, problem_reply, share_back, timeout_of_request
from trimtab.serving.http.routes.address import Address, Application
from trimtab.serving.http.service import HttpService
from trimtab.serving.inference.binary import (
    Binary,
    compressed,
    decompressed,
    encoding_of,
    one_row,
    read_infer,
    write_inferred,
)
from trimtab.serving.inference.inferring import NO_LOADING, InferBody, InferenceService, InferForm
from trimtab.serving.problems import Problem, decode_problem

_PREFIX = "/v2"
_TAG = "open inference protocol"
_MODEL = "/v2/models/{model}[/versions/{version}]"
_OCTETS = b"application/octet-stream"
_LENGTH = b"inference-header-content-length"
_NUMBER = re.compile(rb"[0-9]{1,15}")
_WORTH_BYTES = 1_024  # smaller responses are not compressed
_UNPACKED = 16  # the assumed ratio of decompressed to compressed size, to decide whether a thread decompresses
_HINT = (
    "See /v2, /v2/models/NAME, /v2/models/NAME/infer, /v2/repository/index; traces, logging and shared memory have no "
    "addresses."
)
_JSON = Binary()
_encode = msgspec.json.Encoder().encode


class IndexRequest(msgspec.Struct, frozen=True):
    """The body of a request for the index of models."""

    ready: bool = False


def mount_inference(service: HttpService) -> InferenceService:
    """Add the addresses of the protocol to a service."""
    inference = InferenceService(service.predictors, service.parts, service.not_ready)
    for model, predictor in service.predictors.items():
        form = InferForm(inference, predictor)
        service.quick[form.path] = predictor, partial(_quick_form, inference, model)
    service.mount(Application(inference, ADDRESSES, _HINT, prefix=_PREFIX, error_reply=_error_reply, slashes=True))
    return inference


def _error_reply(error: BaseException, path: str) -> Reply:
    """Return the response for an error, in the protocol's form."""
    reply = problem_reply(error, path)
    problem = msgspec.json.decode(reply.body, type=Problem)
    return Reply(reply.status, _encode({"error": problem.detail}), headers=reply.headers)


async def _server(service: InferenceService, request: HttpRequest) -> Reply:
    return as_json(service.server_metadata())


async def _live(service: InferenceService, request: HttpRequest) -> Reply:
    return as_json({"live": True})


async def _ready(service: InferenceService, request: HttpRequest) -> Reply:
    if missing := await service.not_ready():
        raise Unavailable(f"not ready: {missing}")
    return as_json({"ready": True})


async def _model(service: InferenceService, request: HttpRequest) -> Reply:
    return as_json(await service.metadata(*request.names.values()))


async def _model_ready(service: InferenceService, request: HttpRequest) -> Reply:
    model, version = request.names.values()
    if not await service.model_ready(model, version):
        raise Unavailable(f"model {model!r}: {service.predictor(model).endpoint.missing}")
    return as_json({"name": model, "ready": True})


async def _config(service: InferenceService, request: HttpRequest) -> Reply:
    return as_json(await service.config(*request.names.values()))


async def _statistics(service: InferenceService, request: HttpRequest) -> Reply:
    return as_json({"model_stats": await service.statistics(*request.names.values())})


async def _index(service: InferenceService, request: HttpRequest) -> Reply:
    body = await _body(service, request)
    try:
        wanted = msgspec.json.decode(body, type=IndexRequest) if body else IndexRequest()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, body) from error
    return as_json(service.index(ready=wanted.ready))


async def _not_loaded(service: InferenceService, request: HttpRequest) -> Reply:
    raise Misuse(NO_LOADING)


class HttpForm(InferForm):
    """Requests over HTTP, read as their headers say (length of the JSON, accepted compression), and their responses.

    Raises:
        Misuse: The header with the length of the JSON is not a number.
    """

    def __init__(self, service: InferenceService, model: str, version: str, headers: RawHeaders) -> None:
        super().__init__(service, service.predictor(model), version)
        self._json_bytes: int | None = None
        self._encoding: str | None = None
        for name, value in headers:
            if name == _LENGTH:
                if not _NUMBER.fullmatch(value):
                    raise Misuse(
                        f"inference-header-content-length: {value[:60].decode('latin-1')!r} is not a number of bytes."
                    )
                self._json_bytes = int(value)
            elif name == b"accept-encoding":
                self._encoding = encoding_of(value.decode("latin-1"))

    def read(self, answerer: Answerer, body: bytes) -> InferBody:
        if self._json_bytes is None and (given := one_row(body)) is not None:
            quick = self.quick(answerer, *given)
            if quick is not None:
                return quick
        infer, binary = read_infer(self.model, self.version, body, self._json_bytes)
        return msgspec.structs.replace(self.checked(answerer, infer), form=binary)

    def write(self, answerer: Answerer, request: InferBody, prepared: Sequence[Answered]) -> bytes | Reply:
        body, json_bytes = write_inferred(self.inferred(answerer, request, prepared), request.form or _JSON)
        if json_bytes is None and (self._encoding is None or len(body) < _WORTH_BYTES):
            return body
        headers: Headers = () if json_bytes is None else ((_LENGTH, b"%d" % json_bytes),)
        if self._encoding is not None and len(body) >= _WORTH_BYTES:
            body = compressed(body, self._encoding)
            headers = (*headers, (b"content-encoding", self._encoding.encode()), (b"vary", b"accept-encoding"))
        return Reply(200, body, JSON_TYPE if json_bytes is None else _OCTETS, headers)


def _quick_form(service: InferenceService, model: str, headers: RawHeaders) -> HttpForm | None:
    """Return the form of requests with these headers, or None if the headers are wrong."""
    with suppress(Misuse):
        return HttpForm(service, model, "", headers)
    return None


async def _infer(service: InferenceService, request: HttpRequest) -> Reply:
    (model, version), scope = request.names.values(), request.scope
    form, timeout_s = HttpForm(service, model, version, scope["headers"]), timeout_of_request(scope)
    body = await _body(service, request)
    service.check_room(model)  # checked before any work on the request
    predictor = service.predictor(model)
    found = await predictor.take_in_turn(body, request.received_s, timeout_s, CURRENT.get(), form)
    return found if isinstance(found, Reply) else Reply(200, found)


async def _body(service: InferenceService, request: HttpRequest) -> bytes:
    limits, scope = service.parts.limits, request.scope
    body = await request.body()
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower()
            if len(body) * _UNPACKED > INLINE_BYTES:
                body, decoded = await service.parts.threads.work(_unpacked, body, encoding, limits.body_bytes)
            else:
                body, decoded = _unpacked(body, encoding, limits.body_bytes)
            check_decoded(decoded, len(body))
            share_back(scope)
            if (share := scope.get("share")) is not None:
                await share.decode(decoded, limits.body_timeout_s)
    return body


def _unpacked(body: bytes, encoding: str, limit_bytes: int) -> tuple[bytes, int]:
    """Return the decompressed body, and an estimate of the memory that it takes when decoded."""
    body = decompressed(body, encoding, limit_bytes)
    return body, decoded_bytes(body)


def _described(path: str, handler: Any, operation: str, summary: str) -> Address:
    """Return a row of the table of addresses for a route that returns a description."""
    gives = {"type": "object"}
    return Address("GET", path, "read", handler, operation, summary, _TAG, gives, query=None, **_SHARED)


_SHARED: Any = {"route": "inference", "errors": "InferenceError"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": ["BOOL", "INT64", "FP64", "BYTES", "INT32", "FP32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
    "required": ["name", "shape", "datatype"],
}
_INFER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["inputs"],
}
# other fields of this body are ignored
_INDEX: dict[str, Any] = {"type": "object", "properties": {"ready": {"type": "boolean"}}}

ADDRESSES = (
    _described("/v2", _server, "v2_server", "About the server"),
    Address(
        "GET", "/v2/health/live", None, _live, "v2_live", "Check whether the process answers", _TAG, {"type": "object"},
        query=None, **_SHARED,
    ),
    Address(
        "GET", "/v2/health/ready", None, _ready, "v2_ready", "Check whether the service is ready", _TAG,
        {"type": "object"}, query=None, **_SHARED,
    ),
    Address(
        "POST", f"{_MODEL}/infer", "predict", _infer, "v2_infer", "Predict from tensors of columns; answers are logged",
        _TAG, {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": _BINARY},
        {"required": True, "content": {"application/json": {"schema": _INFER}, "application/octet-stream": _BINARY}},
        headers=("X-Timeout-Ms",), query=None, **_SHARED,
    ),
    _described("/v2/models/stats", _statistics, "v2_all_stats", "The statistics of all models"),
    _described(_MODEL, _model, "v2_model", "The inputs and outputs of a model"),
    _described(f"{_MODEL}/ready", _model_ready, "v2_model_ready", "Check whether a model answers"),
    _described(f"{_MODEL}/config", _config, "v2_config", "The configuration of a model"),
    _described(f"{_MODEL}/stats", _statistics, "v2_stats", "The statistics of a model"),
    Address(
        "POST", "/v2/repository/index", "read", _index, "v2_index", "All deployed models", _TAG,
        {"type": "array", "items": {"type": "object"}},
        {"required": False, "content": {"application/json": {"schema": _INDEX}}}, query=None, **_SHARED,
    ),
    Address("POST", "/v2/repository/models/{model}/load", "admin", _not_loaded, query=None, **_SHARED),
    Address("POST", "/v2/repository/models/{model}/unload", "admin", _not_loaded, query=None, **_SHARED),
)  # fmt: skip
