"""The Open Inference Protocol over gRPC, at its own port but in the event loop of the HTTP service."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeAlias
from urllib.parse import unquote

import msgspec

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.serving.access_keys import Role
from trimtab.serving.http.predict.predicting import INLINE_BYTES
from trimtab.serving.http.requests.request_record import CURRENT, RequestRecord, begun
from trimtab.serving.http.requests.room import Share, no_room
from trimtab.serving.http.server.server import listen_advice
from trimtab.serving.inference.grpc_conversion import GrpcForm, parsed_message, varint
from trimtab.serving.inference.inferring import NO_LOADING, InferenceService
from trimtab.serving.inference.messages import build_messages
from trimtab.serving.observe.log_throttle import ThrottledLogger
from trimtab.serving.problems import problem_of

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
_NOT_SUPPORTED = ("RepositoryModelLoad", "RepositoryModelUnload")
_INFER_RESPONSE = b"\x12"  # the tag of `infer_response` in a `ModelStreamInferResponse`
_DECODED = 10  # the memory that is reserved to decode a message, in bytes for each of its bytes
_SHOWN = 1_000  # the maximum number of characters in an error text, because it is sent in a header
_logger = logging.getLogger(__name__)

Certificate: TypeAlias = tuple[bytes, bytes]  # the private key, and the certificate with its chain, both in PEM format
Count: TypeAlias = Callable[[str, str, str], object]  # called to count a request, with route, status and model
_Answer: TypeAlias = Callable[[Any], Awaitable[Any]]


class GrpcListener(msgspec.Struct, frozen=True):
    """The address at which a gRPC server listens, and its options."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 means any free port
    certificate: Certificate | None = None  # if given, only TLS connections are accepted
    shared: bool = False  # whether other processes listen at the same port
    announce: Callable[[str], object] | None = None  # called with the address when requests are accepted


class GrpcServer:
    """A gRPC server for the methods of the protocol.

    Raises:
        Misuse: grpcio is not installed.
        Unavailable: The port is taken, or the address does not belong to this machine. `start` may raise this error as
            well.
    """

    def __init__(self, service: InferenceService, count: Count, listener: GrpcListener) -> None:
        check_free(listener.host, listener.port, listener.shared)
        self.port = listener.port
        self._listener = listener
        self._service = service
        self._parts = service.parts
        self._count = count
        self._throttled = ThrottledLogger(_logger)
        self._messages = _built()
        self._forms: dict[str, GrpcForm] = {}  # by model
        self._ending = asyncio.Event()

    async def start(self) -> None:
        """Begin to accept requests."""
        import grpc

        listener = self._listener
        check_free(listener.host, self.port, listener.shared)  # a plain socket gives a better error message than gRPC

        body_bytes = self._parts.limits.body_bytes
        options = [
            # since grpcio 1.83, this limit also applies to the decompressed message
            ("grpc.max_receive_message_length", body_bytes),
            ("grpc.so_reuseport", int(listener.shared)),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        address = f"[{listener.host}]:{self.port}" if ":" in listener.host else f"{listener.host}:{self.port}"
        try:
            if listener.certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([listener.certificate])
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # the port was taken in the meantime
            raise _taken(listener.host, self.port, error) from error
        await self._server.start()
        if listener.announce is not None:
            listener.announce(f"{address.rpartition(':')[0]}:{self.port}")

    async def stop(self, grace_s: float) -> None:
        """Finish running requests within `grace_s`. New requests are refused, and idle streams are ended."""
        self._ending.set()
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
            "ModelInfer": ("predict", self._not_loaded),  # never called: `_unary` handles this method itself
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, right, answer))
            for name, (right, answer) in unary.items()
        }
        return {**handlers, "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer)}

    def _unary(self, name: str, right: Role | None, answer: _Answer) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Make a gRPC method that takes and returns bytes, and turns errors into gRPC statuses."""
        read = self._messages[f"{name}Request"].FromString

        async def outcome(sent: bytes, context: Any) -> bytes | tuple[Any, str]:
            """Return the response, or the gRPC status and text of an error."""
            model = ""
            with self._request(name, context) as request_state:
                try:
                    self._admit(context, right, request_state)
                    if name == "ModelInfer":
                        message = await self._read_infer(sent, request_state)
                        model = message.model_name
                        answered = await self._model_infer(message, sent, request_state)
                    else:
                        response = await answer(await self._read(read, sent, request_state))
                        answered = response.SerializeToString()
                except Exception as error:
                    return self._failed(name, error, request_state, model)
                request_state.ended(200, "OK", len(answered))
            self._count("grpc", "OK", model)
            return answered

        async def handle(sent: bytes, context: Any) -> bytes:
            found = await outcome(sent, context)
            sent = b""  # free the message: gRPC may keep the error of `abort`, and with it this frame
            if isinstance(found, tuple):
                await self._service.refusal_turn()
                await context.abort(*found)
            return found  # type: ignore[return-value]  # abort raises

        return handle

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the requests of a stream one after another. Only a request that is not admitted ends the stream."""
        name = "ModelStreamInfer"
        while (sent := await self._next(requests, context)) is not None:
            with self._request(name, context, again=True) as request_state:
                try:
                    # each request of a stream counts against the key's rate
                    self._admit(context, "predict", request_state)
                except Exception as error:
                    code, text = self._failed(name, error, request_state)
                    await context.abort(code, text)
                answered = await self._streamed(sent, request_state, context)
            yield answered

    async def _streamed(self, sent: bytes, request_state: _Request, context: Any) -> bytes:
        """Return the response to one request of a stream."""
        response, model, request_id = self._messages["ModelStreamInferResponse"], "", ""
        try:
            message = await self._read_infer(sent, request_state)
            model, request_id = message.model_name, message.id
            inferred = await self._model_infer(message, sent, request_state)
            answered = _INFER_RESPONSE + varint(len(inferred)) + inferred
            self._count("grpc", "OK", model)
            request_state.ended(200, "OK", len(answered))
        except Exception as error:
            text = self._failed("ModelStreamInfer", error, request_state, model)[1]
            await self._service.refusal_turn()
            of = self._messages["ModelInferResponse"](id=request_id)  # tells the client which request failed
            answered = response(error_message=text, infer_response=of if request_id else None).SerializeToString()
        return answered

    async def _read_infer(self, sent: bytes, request_state: _Request) -> Any:
        """Parse the bytes of a request for predictions."""
        if len(sent) > INLINE_BYTES:
            self._service.check_room()  # checked before any work on the message
        return await self._read(self._messages["RawInferRequest"].FromString, sent, request_state)

    async def _read(self, read: Callable[[bytes], Any], sent: bytes, request_state: _Request) -> Any:
        """Parse the bytes of a message when there is memory for it."""
        if not request_state.share.add(len(sent)):
            raise no_room()
        await request_state.share.decode(_DECODED * len(sent), self._parts.limits.body_timeout_s)
        if len(sent) > INLINE_BYTES:
            return await self._parts.threads.work(parsed_message, read, sent)
        return parsed_message(read, sent)

    @contextmanager
    def _request(self, name: str, context: Any, *, again: bool = False) -> Iterator[_Request]:
        """Yield the state of one request. After the block, pass the record of the request to the telemetry.

        Args:
            name: The name of the gRPC method.
            again: Whether the request belongs to a stream. Then its id is not sent back: all requests of a stream share
                the trailing metadata.
        """
        received_s, timeout_s = perf_counter(), context.time_remaining()  # read both at the same time
        telemetry, record, sent = self._parts.telemetry, None, context.invocation_metadata()
        named = any(one == "x-request-id" for one, _ in sent)
        headers = _headers(sent) if named or telemetry is not None or self._parts.access.asks else []
        if named or telemetry is not None:
            record = begun(telemetry, received_s, "gRPC", f"/{SERVICE}/{name}", headers, _client(context.peer()))
        if record is not None:
            record.route = "grpc"
            if not again:
                context.set_trailing_metadata((("x-request-id", record.request_id),))
        if record is not None or again:
            CURRENT.set(record)
        request_state = _Request(received_s, timeout_s, headers, record, self._parts.room.share())
        try:
            yield request_state
        finally:
            request_state.share.close()
            if record is not None and self._parts.telemetry is not None:
                self._parts.telemetry.end(record, record.status, record.size_bytes)

    async def _next(self, requests: AsyncIterator[bytes], context: Any) -> bytes | None:
        """Return the next request of a stream, or None at its end. If the server is ending, abort the stream."""
        coming = asyncio.ensure_future(anext(requests, None))
        leaving = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
        finally:
            coming.cancel()
            leaving.cancel()
        code, text = self._failed(
            "ModelStreamInfer", Unavailable("the server is stopping. Send the request again soon."), None
        )
        await context.abort(code, text)
        return None

    async def _server_live(self, request: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _server_ready(self, request: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=not await self._service.not_ready())

    async def _server_metadata(self, request: Any) -> Any:
        return self._message("ServerMetadataResponse", self._service.server_metadata())

    async def _model_ready(self, request: Any) -> Any:
        try:
            ready = await self._service.model_ready(request.name, request.version)
        except NotFound:  # not an error here, because clients poll until the model is ready
            ready = False
        return self._messages["ModelReadyResponse"](ready=ready)

    async def _model_metadata(self, request: Any) -> Any:
        return self._message("ModelMetadataResponse", await self._service.metadata(request.name, request.version))

    async def _model_config(self, request: Any) -> Any:
        return self._message(
            "ModelConfigResponse", {"config": await self._service.config(request.name, request.version)}
        )

    async def _model_statistics(self, request: Any) -> Any:
        statistics = await self._service.statistics(request.name, request.version)
        return self._message("ModelStatisticsResponse", {"model_stats": statistics})

    async def _repository_index(self, request: Any) -> Any:
        return self._message("RepositoryIndexResponse", {"models": self._service.index(ready=request.ready)})

    async def _not_loaded(self, request: Any) -> Any:
        raise Misuse(NO_LOADING)

    async def _model_infer(self, message: Any, sent: bytes, request_state: _Request) -> bytes:
        model = message.model_name
        predictor = self._service.predictor(model)
        self._service.check_room(model)
        form = self._forms.get(model)
        if form is None:
            form = self._forms[model] = GrpcForm(self._service, predictor, self._messages)
        received_s, timeout_s, large = request_state.received_s, request_state.timeout_s, len(sent) > INLINE_BYTES
        body, record = (message, sent), request_state.record
        answered: bytes = await predictor.take_in_turn(body, received_s, timeout_s, record, form, large=large)
        return answered

    # -- messages -----------------------------------------------------------------------------------------------

    def _message(self, name: str, content: Any) -> Any:
        """Make a message with the fields of a Struct or dict."""
        from google.protobuf.json_format import ParseDict

        return ParseDict(msgspec.to_builtins(content), self._messages[name]())

    def _admit(self, context: Any, right: Role | None, request_state: _Request) -> None:
        if right is not None and self._parts.access.asks:
            request_state.is_by(self._parts.access.admit(request_state.headers, right))

    def _failed(self, name: str, error: Exception, request_state: _Request | None, model: str = "") -> tuple[Any, str]:
        """Return the gRPC status and text for an error, and count it. Log it if the service is at fault."""
        import grpc

        problem = problem_of(error, name)
        if problem.status == 500:
            self._throttled.error(f"gRPC {name} failed", error, of=model)
        code = _CODES.get(problem.status, "INTERNAL")
        if name in _NOT_SUPPORTED and problem.status == 400:
            code = "UNIMPLEMENTED"
        self._count("grpc", code, model)
        if request_state is not None:
            request_state.ended(problem.status, code, 0)
        return grpc.StatusCode[code], problem.detail[:_SHOWN]


class _Request:
    """A request that is being handled, with its record if the telemetry needs one."""

    __slots__ = ("headers", "received_s", "record", "share", "timeout_s")

    def __init__(
        self,
        received_s: float,
        timeout_s: float | None,
        headers: list[tuple[bytes, bytes]],
        record: RequestRecord | None,
        share: Share,
    ) -> None:
        self.received_s = received_s  # the time (`perf_counter`) when the request arrived
        self.timeout_s = timeout_s  # the time limit in seconds after the arrival
        self.headers = headers
        self.share = share  # counts the memory of the request's message
        self.record = record

    def is_by(self, who: str) -> None:
        """Set the name of the client's key."""
        if self.record is not None:
            self.record.key = who

    def ended(self, status: int, code: str, size_bytes: int) -> None:
        """Set how the request ended, as HTTP status and as gRPC status."""
        if self.record is not None:
            self.record.status, self.record.grpc, self.record.size_bytes = status, code, size_bytes


def _built() -> dict[str, Any]:
    try:
        import grpc  # noqa: F401  # imported here, so that a missing grpcio is an error before anything starts

        return build_messages()
    except ImportError as error:
        raise Misuse(f'gRPC: {error.name} is not installed. Run: pip install "trimtab[grpc]"') from error


def _client(peer: str) -> tuple[str, int] | None:
    """Return the address and port of a client from gRPC's text for it, or None.

    >>> _client("ipv4:127.0.0.1:5000"), _client("ipv6:%5B::1%5D:5000"), _client("unix:")
    (('127.0.0.1', 5000), ('::1', 5000), None)
    """
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return (address.strip("[]"), int(port)) if port.isdecimal() else None


def _headers(given: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in given]


def check_free(host: str, port: int, shared: bool) -> None:
    """Raise an error if a port is taken, before anything is started.

    With `shared`, other processes may listen at the port if they share it as well.
    """
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
