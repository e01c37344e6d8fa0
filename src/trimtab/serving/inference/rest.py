"""The protocol over HTTP: everything under `/v2`.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready | /config | /stats], /v2/models/stats
    POST /v2/models/{model}[/versions/{version}]/infer
    POST /v2/repository/index

Every error is `{"error": "..."}`.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.serving.http.requests.room import check_decoded, decoded_bytes
from trimtab.serving.http.requests.wire import (
    Headers,
    Receive,
    Reply,
    Scope,
    asked_timeout,
    problem_reply,
    share_back,
    whole_body,
)
from trimtab.serving.inference.binary import compressed, decompressed, encoding_of, read_infer, write_inferred
from trimtab.serving.inference.inferring import INLINE_BYTES, NO_LOADING, InferenceService
from trimtab.serving.problems import Problem, Refused, decode_problem

PREFIX = "/v2"
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|config|stats|infer))?")
_LOADING = re.compile(r"/v2/repository/models/[^/]+/(?:load|unload)")
_INDEX = "/v2/repository/index"
_DESCRIBED = (PREFIX, "/v2/health/live", "/v2/health/ready", "/v2/models/stats")
_OCTETS = b"application/octet-stream"
_LENGTH = b"inference-header-content-length"
_NUMBER = re.compile(rb"[0-9]{1,15}")
_WORTH_BYTES = 1_024  # a smaller answer is not compressed
_UNPACKED = 16  # times as large as its compressed form a body may well be
_encode = msgspec.json.Encoder().encode


def is_inference(path: str) -> bool:
    """Whether a path is one of the protocol's."""
    return path.startswith("/v2/") or path == PREFIX


def asked_model(path: str) -> str:
    """The model that a path names, whether there is one or not; empty when it names none."""
    match = _MODEL.fullmatch(path.rstrip("/"))
    return "" if match is None else match[1]


def methods_of(path: str) -> tuple[str, ...]:
    """The methods that are answered at an address of the protocol; none where nothing is.

    >>> methods_of("/v2/models/late/infer"), methods_of("/v2/models/late"), methods_of("/v2/trace")
    (('POST',), ('GET', 'HEAD'), ())
    """
    path = path.rstrip("/")
    match = _MODEL.fullmatch(path)
    if (match and match[3] == "infer") or path == _INDEX or _LOADING.fullmatch(path):
        return ("POST",)
    return ("GET", "HEAD") if match or path in _DESCRIBED else ()


class IndexAsked(msgspec.Struct, frozen=True):
    """The body of a question for the index."""

    ready: bool = False


def failure_reply(error: BaseException, path: str) -> Reply:
    """What is answered to a request that failed, at an address of the protocol as that has it."""
    reply = problem_reply(error, path)
    if not is_inference(path):
        return reply
    problem = msgspec.json.decode(reply.body, type=Problem)
    return Reply(reply.status, _encode({"error": problem.detail}), headers=reply.headers)


class InferenceRest:
    """Answers requests under `/v2`, by asking `service`."""

    def __init__(self, service: InferenceService) -> None:
        self.service = service
        self._limits = service.limits

    async def answer(self, scope: Scope, receive: Receive) -> Reply:
        """The answer to one request.

        Raises:
            Gone: The asker hung up.
            Exception: Whatever is wrong, for `failure_reply`.
        """
        started = scope.get("received_s") or perf_counter()
        path: str = scope["path"].rstrip("/")
        methods = methods_of(path)
        if not methods:
            raise NotFound(
                f"{path[:200]}: nothing is here. See /v2, /v2/models/NAME, /v2/models/NAME/infer, "
                "/v2/repository/index; traces, logging and shared memory have no addresses."
            )
        _allow(scope, *methods)
        if (match := _MODEL.fullmatch(path)) and match[3] == "infer":
            return await self._infer(match[1], match[2] or "", scope, receive, started)
        if path == _INDEX:
            body = await self._body(scope, receive)
            return _json(self.service.index(ready=_index_asked(body).ready))
        if _LOADING.fullmatch(path):
            raise Misuse(NO_LOADING)
        return await self._described(path, match)

    async def _described(self, path: str, match: re.Match[str] | None) -> Reply:
        service = self.service
        if path == PREFIX:
            return _json(service.server_metadata())
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            if missing := await service.not_ready():
                raise Unavailable(f"not ready: {missing}")
            return _json({"ready": True})
        if path == "/v2/models/stats":
            return _json({"model_stats": await service.statistics()})
        assert match is not None  # of the addresses that come here
        model, version, what = match[1], match[2] or "", match[3]
        if what == "config":
            return _json(await service.config(model, version))
        if what == "stats":
            return _json({"model_stats": await service.statistics(model, version)})
        if what == "ready":
            if not await service.model_ready(model, version):
                raise Unavailable(f"model {model!r}: no version serves here.")
            return _json({"name": model, "ready": True})
        return _json(await service.metadata(model, version))

    async def _infer(self, model: str, version: str, scope: Scope, receive: Receive, started: float) -> Reply:
        length, accepted = None, ""
        for name, value in scope["headers"]:
            if name == _LENGTH:
                if not _NUMBER.fullmatch(value):
                    raise Misuse(f"inference-header-content-length: {value[:60].decode('latin-1')!r} is no length.")
                length = int(value)
            elif name == b"accept-encoding":
                accepted = value.decode("latin-1")
        timeout_s = asked_timeout(scope)
        body_sent = await self._body(scope, receive)
        self.service.check_room(model)  # before any work on it
        if len(body_sent) > INLINE_BYTES:
            predictor = self.service.predictor(model)
            read = await predictor.read(started, timeout_s, read_infer, model, version, body_sent, length)
        else:
            read = read_infer(model, version, body_sent, length)
        inferred = await self.service.infer(read.asked, started, timeout_s)
        finish = self.service.threads.wait if inferred.late else self.service.threads.go_on
        if len(body_sent) > INLINE_BYTES or inferred.outputs[0].shape[0] > self._limits.rows_inline:
            body, head_bytes = await finish(write_inferred, inferred, read)
        else:
            body, head_bytes = write_inferred(inferred, read)
        headers: Headers = ()
        if head_bytes is not None:
            headers = ((_LENGTH, b"%d" % head_bytes),)
        encoding = encoding_of(accepted) if len(body) >= _WORTH_BYTES else None
        if encoding is not None:
            if len(body) > INLINE_BYTES:
                body = await finish(compressed, body, encoding)
            else:
                body = compressed(body, encoding)
            headers = (*headers, (b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
        return Reply(200, body, _OCTETS if head_bytes is not None else b"application/json", headers)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limits = self._limits
        body = await whole_body(scope, receive, limits.body_bytes, limits.body_timeout_s)
        for name, value in scope["headers"]:
            if name == b"content-encoding":
                encoding = value.decode("latin-1").strip().lower()
                if len(body) * _UNPACKED > INLINE_BYTES:
                    body, decoded = await self.service.threads.work(_unpacked, body, encoding, limits.body_bytes)
                else:
                    body, decoded = _unpacked(body, encoding, limits.body_bytes)
                check_decoded(decoded, len(body))
                share_back(scope)
                if (share := scope.get("share")) is not None:
                    await share.decode(decoded, limits.body_timeout_s)
        return body


def _unpacked(body: bytes, encoding: str, limit_bytes: int) -> tuple[bytes, int]:
    """A body as it was before it was compressed, and about how much memory it takes once decoded."""
    body = decompressed(body, encoding, limit_bytes)
    return body, decoded_bytes(body)


def _json(answer: Any) -> Reply:
    return Reply(200, _encode(answer))


def _index_asked(body: bytes) -> IndexAsked:
    if not body:
        return IndexAsked()
    try:
        return msgspec.json.decode(body, type=IndexAsked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise decode_problem(error, body) from error


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        allowed = ", ".join(methods)
        raise Refused(
            405, f"{scope['method']} is not for this address. Use {allowed}.", headers=((b"allow", allowed.encode()),)
        )
