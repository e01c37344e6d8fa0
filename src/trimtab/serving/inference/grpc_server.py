"""The protocol over gRPC, in the event loop of the HTTP service, on a port of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeAlias
from urllib.parse import unquote

import msgspec

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.serving.access_keys import Role
from trimtab.serving.http.requests.access import Access
from trimtab.serving.http.requests.request_record import CURRENT, RequestRecord, Watch, begun
from trimtab.serving.http.requests.room import Share, no_room
from trimtab.serving.http.server.server import listen_advice
from trimtab.serving.inference.inferring import (
    INLINE_BYTES,
    NO_LOADING,
    Infer,
    InferenceService,
    Inferred,
    check_parameters,
)
from trimtab.serving.inference.messages import build_messages
from trimtab.serving.inference.tensors import InputTensor
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.problems import Refused, problem_of

SERVICE = "inference.GRPCInferenceService"
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_NOT_DONE = ("RepositoryModelLoad", "RepositoryModelUnload")  # they say why
_MOST_FIELDS = 10_000  # of a message, without those within others
_DECODED = 10  # bytes of memory for a byte of a message
_SHOWN = 1_000  # characters of an error: it travels in a header
_logger = logging.getLogger(__name__)

Certificate: TypeAlias = tuple[bytes, bytes]  # PEM: the private key, and the certificate with its chain
Count: TypeAlias = Callable[[str, str, str], object]  # of requests, by route, status and model
_Answer: TypeAlias = Callable[[Any], Awaitable[Any]]


class GrpcServer:
    """Takes requests of the protocol over gRPC.

    Args:
        service: What is asked.
        access: Who may ask what.
        count: Counts requests, as route `grpc`.
        watch: Is told of every request and what became of it.
        host: The address to listen on.
        port: 0 takes a free one.
        certificate: With it only TLS is spoken.
        shared: Whether other processes listen on the same port.
        announce: Called with the address ("127.0.0.1:8001") when requests are taken.

    Raises:
        Misuse: grpcio is not installed.
        Unavailable: The port is taken, or the address is not this machine's; also from `start`.
    """

    def __init__(
        self,
        service: InferenceService,
        *,
        access: Access,
        count: Count,
        watch: Watch | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: Certificate | None = None,
        shared: bool = False,
        announce: Callable[[str], object] | None = None,
    ) -> None:
        self.port = port
        self._service = service
        self._access = access
        self._count = count
        self._throttled = ThrottledLogger(_logger)
        self._watch = watch
        self._host = host
        self._certificate = certificate
        self._shared = shared
        self._announce = announce
        self._messages = _built()
        self._leaving = asyncio.Event()
        check_free(host, port, shared)

    async def start(self) -> None:
        """Take requests from now on."""
        import grpc

        check_free(self._host, self.port, self._shared)  # once more: it says so in the system's words

        body_bytes = self._service.limits.body_bytes
        options = [
            ("grpc.max_receive_message_length", body_bytes),  # unpacked, too: from grpcio 1.83 on
            ("grpc.so_reuseport", int(self._shared)),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        address = f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"
        try:
            if self._certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([self._certificate])
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # somebody took it since
            raise _taken(self._host, self.port, error) from error
        await self._server.start()
        if self._announce is not None:
            self._announce(f"{address.rpartition(':')[0]}:{self.port}")

    async def stop(self, grace_s: float) -> None:
        """Finish what is under way, for at most `grace_s`; new requests are refused, and streams that idle end."""
        self._leaving.set()
        await self._server.stop(grace_s)

    # -- methods ------------------------------------------------------------------------------------------------

    def _handlers(self) -> dict[str, Any]:
        import grpc

        unary: dict[str, tuple[Role | None, _Answer]] = {
            "ServerLive": (None, self._server_live),
            "ServerReady": (None, self._server_ready),
            "ServerMetadata": ("read", self._server_metadata),
            "ModelReady": ("read", self._model_ready),
            "ModelMetadata": ("read", self._model_metadata),
            "ModelConfig": ("read", self._model_config),
            "ModelStatistics": ("read", self._model_statistics),
            "RepositoryIndex": ("read", self._repository_index),
            "RepositoryModelLoad": ("read", self._not_loaded),
            "RepositoryModelUnload": ("read", self._not_loaded),
            "ModelInfer": ("predict", self._not_loaded),  # answered by itself
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, right, answer))
            for name, (right, answer) in unary.items()
        }
        return {**handlers, "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer)}

    def _unary(self, name: str, right: Role | None, answer: _Answer) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """A method from bytes to bytes; whatever goes wrong becomes a status."""
        read = self._messages[f"{name}Request"].FromString

        async def outcome(sent: bytes, context: Any) -> bytes | tuple[Any, str]:
            """The answer, or the status and text of what went wrong."""
            model = ""
            with self._telling(name, context) as asked:
                try:
                    self._admit(context, right, asked)
                    if name == "ModelInfer":
                        self._service.check_room()  # before any work on it
                    request = await self._read(read, sent, asked)
                    if name == "ModelInfer":
                        model = request.model_name
                        response = await self._model_infer(request, asked, len(sent))
                    else:
                        response = await answer(request)
                    answered: bytes = response.SerializeToString()
                except Exception as error:
                    return self._failed(name, error, asked, model)
                asked.ended(200, "OK", len(answered))
            self._count("grpc", "OK", model)
            return answered

        async def handle(sent: bytes, context: Any) -> bytes:
            found = await outcome(sent, context)
            sent = b""  # gRPC may keep the error of an abort for long, and this frame with it
            if isinstance(found, tuple):
                await self._service.refusal_turn()
                await context.abort(*found)
            return found  # type: ignore[return-value]  # abort raises

        return handle

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Requests one after another on one connection; one that fails does not end the stream."""
        name = "ModelStreamInfer"
        while (sent := await self._next(requests, context)) is not None:
            with self._telling(name, context, again=True) as asked:
                try:
                    self._admit(context, "predict", asked)  # each counts against the rate of the key
                except Exception as error:
                    code, text = self._failed(name, error, asked)
                    await context.abort(code, text)
                answered = await self._streamed(sent, asked, context)
            yield answered

    async def _streamed(self, sent: bytes, asked: _Asked, context: Any) -> bytes:
        """What is answered to one request of a stream."""
        response, model, request_id = self._messages["ModelStreamInferResponse"], "", ""
        try:
            request = await self._read(self._messages["ModelInferRequest"].FromString, sent, asked)
            model, request_id = request.model_name, request.id
            inferred = await self._model_infer(request, asked, len(sent))
            answered: bytes = response(infer_response=inferred).SerializeToString()
            self._count("grpc", "OK", model)
            asked.ended(200, "OK", len(answered))
        except Exception as error:
            text = self._failed("ModelStreamInfer", error, asked, model)[1]
            await self._service.refusal_turn()
            of = self._messages["ModelInferResponse"](id=request_id)  # so that its asker knows which failed
            answered = response(error_message=text, infer_response=of if request_id else None).SerializeToString()
        return answered

    async def _read(self, read: Callable[[bytes], Any], sent: bytes, asked: _Asked) -> Any:
        """The message in some bytes, once there is room for it."""
        if not asked.share.add(len(sent)):
            raise no_room()
        await asked.share.decode(_DECODED * len(sent), self._service.limits.body_timeout_s)
        if len(sent) > INLINE_BYTES:
            return await self._service.threads.work(_parsed, read, sent)
        return _parsed(read, sent)

    @contextmanager
    def _telling(self, name: str, context: Any, *, again: bool = False) -> Iterator[_Asked]:
        """One request, of which the watch is told when it has ended, whatever became of it.

        Args:
            name: Of its method.
            context: What gRPC knows of it.
            again: Whether it is one of several of a stream, which have their trailing metadata in common.
        """
        received_s, timeout_s = perf_counter(), context.time_remaining()  # together: the one counts from the other
        headers = _headers(context.invocation_metadata())
        exchange = begun(self._watch, received_s, "gRPC", f"/{SERVICE}/{name}", headers, _client(context.peer()))
        if exchange is not None:
            exchange.route = "grpc"
            if not again:
                context.set_trailing_metadata((("x-request-id", exchange.request_id),))
        CURRENT.set(exchange)
        asked = _Asked(received_s, timeout_s, headers, exchange, self._service.room.share())
        try:
            yield asked
        finally:
            asked.share.close()
            if exchange is not None and self._watch is not None:
                self._watch.end(exchange, exchange.status, exchange.size_bytes)

    async def _next(self, requests: AsyncIterator[bytes], context: Any) -> bytes | None:
        """The next request of a stream, None at its end; a stream of a server that ends is ended."""
        coming = asyncio.ensure_future(anext(requests, None))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
        finally:
            coming.cancel()
            leaving.cancel()
        code, text = self._failed("ModelStreamInfer", Unavailable("the server ends. Ask again in a moment."), None)
        await context.abort(code, text)
        return None

    async def _server_live(self, request: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _server_ready(self, request: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=not await self._service.not_ready())

    async def _server_metadata(self, request: Any) -> Any:
        return self._told("ServerMetadataResponse", self._service.server_metadata())

    async def _model_ready(self, request: Any) -> Any:
        try:
            ready = await self._service.model_ready(request.name, request.version)
        except NotFound:  # what is not here is not ready: clients ask in a loop until it is
            ready = False
        return self._messages["ModelReadyResponse"](ready=ready)

    async def _model_metadata(self, request: Any) -> Any:
        return self._told("ModelMetadataResponse", await self._service.metadata(request.name, request.version))

    async def _model_config(self, request: Any) -> Any:
        return self._told("ModelConfigResponse", {"config": await self._service.config(request.name, request.version)})

    async def _model_statistics(self, request: Any) -> Any:
        statistics = await self._service.statistics(request.name, request.version)
        return self._told("ModelStatisticsResponse", {"model_stats": statistics})

    async def _repository_index(self, request: Any) -> Any:
        return self._told("RepositoryIndexResponse", {"models": self._service.index(ready=request.ready)})

    async def _not_loaded(self, request: Any) -> Any:
        raise Misuse(NO_LOADING)

    async def _model_infer(self, request: Any, asked: _Asked, size_bytes: int) -> Any:
        threads, large = self._service.threads, size_bytes > INLINE_BYTES
        infer = await threads.go_on(_asked_for, request, size_bytes) if large else _asked_for(request, size_bytes)
        inferred = await self._service.infer(infer, asked.received_s, asked.timeout_s)
        finish = threads.wait if inferred.late else threads.go_on
        return await finish(self._inferred, inferred) if large else self._inferred(inferred)

    # -- messages -----------------------------------------------------------------------------------------------

    def _told(self, name: str, told: Any) -> Any:
        """The message that says what a struct of the same field names says."""
        from google.protobuf.json_format import ParseDict

        return ParseDict(msgspec.to_builtins(told), self._messages[name]())

    def _inferred(self, inferred: Inferred) -> Any:
        response = self._messages["ModelInferResponse"](
            model_name=inferred.model, model_version=inferred.version, id=inferred.id
        )
        for name, value in inferred.parameters.items():
            setattr(response.parameters[name], _choice(value), value)
        for tensor in inferred.outputs:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            response.raw_output_contents.append(tensor.raw())
        return response

    def _admit(self, context: Any, right: Role | None, asked: _Asked) -> None:
        if right is not None and self._access.asks:
            asked.is_by(self._access.admit(asked.headers, right))

    def _failed(self, name: str, error: Exception, asked: _Asked | None, model: str = "") -> tuple[Any, str]:
        """The status of an error, counted, and in the process's log when it is our fault."""
        import grpc

        problem = problem_of(error, name)
        if problem.status == 500:
            self._throttled.error(f"gRPC {name} failed", error, of=model)
        code = _CODES.get(problem.status, "INTERNAL")
        if name in _NOT_DONE and problem.status == 400:
            code = "UNIMPLEMENTED"
        self._count("grpc", code, model)
        if asked is not None:
            asked.ended(problem.status, code, 0)
        return grpc.StatusCode[code], problem.detail[:_SHOWN]


class _Asked:
    """One request, and its exchange where somebody wants to be told of it."""

    __slots__ = ("_exchange", "headers", "received_s", "share", "timeout_s")

    def __init__(
        self,
        received_s: float,
        timeout_s: float | None,
        headers: list[tuple[bytes, bytes]],
        exchange: RequestRecord | None,
        share: Share,
    ) -> None:
        self.received_s = received_s  # `perf_counter` when it came
        self.timeout_s = timeout_s  # how long after that an answer is of use
        self.headers = headers
        self.share = share  # of the room for bodies
        self._exchange = exchange

    def is_by(self, who: str) -> None:
        """Say who asks."""
        if self._exchange is not None:
            self._exchange.key = who

    def ended(self, status: int, code: str, size_bytes: int) -> None:
        """Say how it ended: the status that HTTP has for it, and gRPC's."""
        if self._exchange is not None:
            self._exchange.status, self._exchange.grpc, self._exchange.size_bytes = status, code, size_bytes


def _built() -> dict[str, Any]:
    try:
        import grpc  # noqa: F401  # asked for here, so that a missing one is told before anything starts

        return build_messages()
    except ImportError as error:
        raise Misuse(f'gRPC: {error.name} is not installed. pip install "trimtab[grpc]"') from error


def _parsed(read: Callable[[bytes], Any], sent: bytes) -> Any:
    from google.protobuf.message import DecodeError

    _check_fields(sent)
    try:
        return read(sent)
    except DecodeError as error:
        raise Misuse(f"message: cannot be read ({error}). Send what the protocol declares.") from error


def _check_fields(sent: bytes) -> None:
    """Refuse a message of very many fields: each may take a hundred times its size once it is read."""
    at, count = 0, 0
    while at < len(sent):
        tag, at = _varint(sent, at)
        kind, count = tag & 7, count + 1
        if count > _MOST_FIELDS:
            raise Refused(413, f"message: more than {_MOST_FIELDS} fields. Send its rows in parts.")
        if kind == 2:
            size, at = _varint(sent, at)
            at += size
        elif kind == 0:
            _, at = _varint(sent, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return  # groups: nothing that is declared has them


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    found = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at, found, shift = at + 1, found | (byte & 127) << shift, shift + 7
        if byte < 128:
            break
    return found, at


def _asked_for(request: Any, size_bytes: int) -> Infer:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Misuse(f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs. Send one for each, in order.")
    return Infer(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters=_parameters(request.parameters),
        inputs=[_tensor(tensor, raw[n] if raw else None) for n, tensor in enumerate(request.inputs)],
        outputs=[_output(one) for one in request.outputs],
        size_bytes=size_bytes,
    )


def _tensor(tensor: Any, raw: bytes | None) -> InputTensor:
    _parameters(tensor.parameters, refuse=True)
    data = None
    if tensor.HasField("contents"):
        if raw is not None:
            raise Misuse(f"input {tensor.name[:60]!r}: has both contents and raw_input_contents. Send one of them.")
        field = _CONTENTS.get(tensor.datatype)
        if field is None:
            raise Misuse(
                f"input {tensor.name[:60]!r}: datatype {tensor.datatype[:20]!r} has no contents. Send it in "
                "raw_input_contents."
            )
        data = list(getattr(tensor.contents, field))
    elif raw is None and 0 in tensor.shape:
        data = []  # nothing to send
    return InputTensor(tensor.name, tensor.datatype, list(tensor.shape), raw, data)


def _output(output: Any) -> str:
    _parameters(output.parameters, refuse=True)
    name: str = output.name
    return name


def _parameters(given: Mapping[str, Any], *, refuse: bool = False) -> dict[str, Any]:
    """Parameters as values; `refuse` those at once that would have to be heeded."""
    out = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise Misuse(f"parameter {name[:60]!r}: has no value. Give a text, a number, true or false.")
        out[name] = getattr(value, choice)
    if refuse:
        check_parameters(out)
    return out


def _choice(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value < 2**63 else "uint64_param"
    return "string_param" if isinstance(value, str) else "double_param"


def _client(peer: str) -> tuple[str, int] | None:
    """Address and port of who asks, as gRPC writes them.

    >>> _client("ipv4:127.0.0.1:5000"), _client("ipv6:%5B::1%5D:5000"), _client("unix:")
    (('127.0.0.1', 5000), ('::1', 5000), None)
    """
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return (address.strip("[]"), int(port)) if port.isdecimal() else None


def _headers(given: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in given]


def check_free(host: str, port: int, shared: bool) -> None:
    """Refuse a port that is taken before anything else is started; a `shared` one may be others' that share it, too."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
    except OSError as error:
        raise _taken(host, port, error) from error


def _taken(host: str, port: int, why: OSError | RuntimeError) -> Unavailable:
    error = why if isinstance(why, OSError) else OSError(str(why))
    advice = listen_advice(error, port, "--grpc-port")
    return Unavailable(f"gRPC on {host}:{port}: cannot be listened on ({error.strerror or error}). {advice}")
