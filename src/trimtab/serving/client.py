"""A thin client of `trimtab serve`: the project's verbs over HTTP, with its answers and its errors."""

from __future__ import annotations

import datetime as dt
import http.client
import io
import math
import os
import random
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import SplitResult, quote, urlencode, urlsplit
from weakref import WeakSet

import msgspec

from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.serving.answer.served import Answer
from trimtab.serving.failures import Late, ModelFailed, NotApplied
from trimtab.serving.problems import TYPE_PREFIX, InvalidField, Problem, Refused

if TYPE_CHECKING:
    from trimtab.serving.http.routes.operations import EntityFeatures, Labelled, ModelShown

T = TypeVar("T")
Row = Mapping[str, Any]

_RETRIES = 3
_FIRST_PAUSE_S = 0.05  # before the second try; twice as long before each further one
_LONGEST_PAUSE_S = 5.0  # that is made because a server asks for it
_SLACK_S = 0.25  # that an answer may take on its way after its deadline
_IDLE_AT_MOST = 16  # connections kept
_LONGEST_MS = 600_000  # that a service is told to have
_JSON = "application/json"
_HUNG_UP = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_BY_TYPE: dict[str, type[TrimtabError]] = {  # of problems; what they are in process
    "late": Late,
    "model-failed": ModelFailed,
    "not-applied": NotApplied,
}
_BY_STATUS: dict[int, type[TrimtabError]] = {
    400: Misuse,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    429: Unavailable,
    503: Unavailable,
    504: Late,
}
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_GIVE = "Give numbers, texts, truth values, None and datetimes."


class PushProblem(msgspec.Struct, frozen=True):
    """Why one row went to quarantine."""

    row: int
    field: str
    reason: str
    found: str


class PushedRows(msgspec.Struct, frozen=True, kw_only=True):
    """What became of pushed rows: the accepted ones are safe in the log."""

    accepted: int
    quarantined: int
    problems: tuple[PushProblem, ...] = ()  # the first hundred
    absent: tuple[str, ...] = ()  # declared columns that some row left out: null now


def connect(url: str, *, key: str | None = None, timeout_s: float = 30.0, cafile: str | None = None) -> Client:
    """A client of the service at `url`; nothing is asked yet.

    Args:
        url: What `trimtab serve` prints: "http://127.0.0.1:8117".
        key: An API key, where the service needs one.
        timeout_s: How long a call may take with all its tries; the service is told (`X-Timeout-Ms`). To look up the
            address of a host is not held to it: the system takes as long as it takes.
        cafile: A PEM file with the certificates to trust, where they are none that the system knows: the service's
            own, or one of those that it was signed with.

    Raises:
        Misuse: The URL or the time is none.
    """
    return Client(url, key=key, timeout_s=timeout_s, cafile=cafile)


class Client:
    """Asks one service. Threads and forked children may share it. Close it, or use it in `with`.

    Errors are those of a project: `Misuse` (of one field: with `field` and `pointer`), `NotFound`, `Conflict`,
    `Unavailable` (of it `Late`, `ModelFailed` and `NotApplied`). Any other fault of the service is a `TrimtabError`.
    A call is tried again only where that is safe: when no connection was made, when the service refused it before
    doing anything (429), and what only reads also after 503 or a broken connection.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 30.0, cafile: str | None = None) -> None:
        place = _split(url)
        self._host = place.hostname or ""
        self._port = place.port if place.port is not None else 443 if place.scheme == "https" else 80
        self.url = f"{place.scheme}://{place.netloc}{place.path.rstrip('/')}"
        self._prefix = quote(place.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._tls = _context(cafile) if place.scheme == "https" else None
        self._timeout_s = _check_timeout(timeout_s)
        self._headers = {"accept": _JSON} | ({} if key is None else {"authorization": f"Bearer {_header(key)}"})
        self._idle: list[http.client.HTTPConnection] = []
        self._mutex = threading.Lock()
        self._closed = False
        _clients.add(self)

    # -- verbs --------------------------------------------------------------------------------------------------

    @overload
    def predict(
        self, model: str, rows: Row, *, at: str | int | dt.datetime | None = None, timeout_s: float | None = None
    ) -> Answer: ...

    @overload
    def predict(
        self,
        model: str,
        rows: Sequence[Row],
        *,
        at: str | int | dt.datetime | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]: ...

    def predict(
        self,
        model: str,
        rows: Row | Sequence[Row],
        *,
        at: str | int | dt.datetime | None = None,
        timeout_s: float | None = None,
    ) -> Answer | list[Answer]:
        """The answer to a request row, or the answers to several, in their order; each is logged.

        Args:
            model: A deployed model's name.
            rows: A dict, or a list of them; every declared column must be there.
            at: A moment in the past to answer as of; left out, now.
            timeout_s: How long it may take; left out, the client's.

        Raises:
            NotFound: There is no such model.
            Misuse: A row is not as declared.
            Unavailable: It is too busy, or not ready; `Late` when the time is over, `ModelFailed` when the model
                raised or gave no number.
        """
        one = isinstance(rows, Mapping)
        body: dict[str, Any] = {"request": rows} if one else {"rows": _listed(rows)}
        if at is not None:
            body["at"] = at
        call = _Call("POST", _path("v1", "models", model, "predict"), body, timeout_s)
        if one:
            return self._ask(call, Answer)
        return self._ask(call, _Predictions).predictions

    def push(
        self, source: str, rows: Row | Sequence[Row], *, wait: bool = False, timeout_s: float | None = None
    ) -> PushedRows:
        """Append events; the accepted ones are safe when this returns.

        What was sent is not sent again by itself: in a source with a key that could put an old row in the place of
        a newer one of somebody else. In a source without a key the same rows may be pushed again, and count once.

        Args:
            source: The source's name.
            rows: An event, or a list of them.
            wait: Return once the online features have them, too.
            timeout_s: How long it may take; left out, the client's.

        Raises:
            NotFound: There is no such source.
            Misuse: A column is not declared, or no row was taken.
            NotApplied: The events are safe, and the features behind: do not push them again.
            Unavailable: It is too busy, and nothing was done; or it cannot be asked, or did not answer, and whether the
                events are in the log is not known.
        """
        given = _listed(rows)
        path = _path("v1", "events", source) + ("?wait=applied" if wait else "")
        return self._ask(_Call("POST", path, given, timeout_s), PushedRows)

    def label(
        self, model: str, rows: Row | Sequence[Row], *, wait: bool = False, timeout_s: float | None = None
    ) -> Labelled:
        """Tell what became of requests.

        Args:
            model: A deployed model's name.
            rows: `{"prediction": answer.id, "value": True}`, or `{"request": key, ...}`; a list of such. Instead of
                `value`, `columns` gives several columns of the label's source; `at` says when it happened.
            wait: Return once the online features have them, too.
            timeout_s: How long it may take; left out, the client's.

        Raises:
            NotFound: There is no such model or prediction.
            Misuse: A label is not as declared, or none was taken.
            NotApplied: The labels are safe, and the features behind: do not tell them again.
            Unavailable: It is too busy, or cannot be asked.
        """
        from trimtab.serving.http.routes.operations import Labelled

        given = _listed(rows)
        path = _path("v1", "labels", model) + ("?wait=applied" if wait else "")
        return self._ask(_Call("POST", path, given, timeout_s), Labelled)

    def why(self, prediction_id: str) -> dict[str, Any]:
        """All that led to one prediction: what `trimtab why --json` says.

        Raises:
            NotFound: There is no such prediction.
        """
        return self._get(_path("v1", "predictions", prediction_id) + "?why", dict[str, Any])

    def features(self, entity: str, *key: str | int, model: str | None = None) -> EntityFeatures:
        """The features of one entity as they stand online, with their reasons and their age.

        Args:
            entity: Its name, as views call it.
            key: One value for each of its columns.
            model: Only what this model reads.

        Raises:
            NotFound: No view is about it, or there is no such model.
        """
        from trimtab.serving.http.routes.operations import EntityFeatures

        path = _path("v1", "entities", entity, *map(_key_text, key), "features")
        return self._get(path + ("" if model is None else f"?{urlencode({'model': model})}"), EntityFeatures)

    def models(self) -> list[ModelShown]:
        """The deployed models: which version answers, and where aliases point."""
        from trimtab.serving.http.routes.operations import ModelShown

        return self._get("/v1/models", dict[str, list[ModelShown]])["models"]

    def close(self) -> None:
        """Close its connections."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- asking -------------------------------------------------------------------------------------------------

    def _get(self, path: str, kind: type[T]) -> T:
        return self._ask(_Call("GET", path, None, None), kind)

    def _ask(self, call: _Call, kind: type[T]) -> T:
        """What the service answers, after as many tries as are safe within the time."""
        timeout_s = self._timeout_s if call.timeout_s is None else _check_timeout(call.timeout_s)
        end_s = time.monotonic() + timeout_s
        body = None if call.body is None else _encode(call.body)
        for attempt in range(_RETRIES + 1):
            try:
                return self._try(call, body, end_s, kind)
            except _AgainError as again:
                pause_s = again.after_s or _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)
                if attempt == _RETRIES or pause_s > _LONGEST_PAUSE_S or time.monotonic() + pause_s >= end_s:
                    raise again.error from again.error.__cause__
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _try(self, call: _Call, body: bytes | None, end_s: float, kind: type[T]) -> T:
        connection, sent, reads = self._connection(), False, call.method == "GET"
        try:
            if connection.sock is None:
                self._connect(connection, end_s)
            left_s = _left_s(end_s)  # to connect took some of it
            connection.sock.settimeout(left_s + _SLACK_S)
            connection.response_class = partial(_TimedResponse, end_s=end_s + _SLACK_S)  # type: ignore[assignment]
            sent = True
            whole = _send(connection, call.method, self._prefix + call.path, body, self._sent_headers(body, left_s))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._failed(error, again=reads or not sent) from error
        if response.will_close or not whole:
            connection.close()
        else:
            self._keep(connection)
        if response.status == 200:
            return _decoded(content, kind, self.url)
        problem = _error(response.status, content, f"{self.url}{call.path}")
        if response.status == 429 or (response.status == 503 and reads):
            raise _AgainError(problem, _retry_after_s(response)) from problem
        raise problem

    def _sent_headers(self, body: bytes | None, left_s: float) -> dict[str, str]:
        headers = {**self._headers, "x-timeout-ms": str(min(max(1, round(left_s * 1_000)), _LONGEST_MS))}
        return headers if body is None else {**headers, "content-type": _JSON}

    def _connection(self) -> http.client.HTTPConnection:
        """An idle connection that the service has not closed, or a new one."""
        while True:
            with self._mutex:
                if self._closed:
                    raise Misuse(f"{self.url}: this client is closed. Connect again: tt.connect({self.url!r})")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if connection.sock is not None and not _is_readable(connection):
                return connection
            connection.close()
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port)

    def _connect(self, connection: http.client.HTTPConnection, end_s: float) -> None:
        """Connect by `end_s`: `connection.connect` gives its time to each address of the host anew."""
        connection.sock = _connected(self._host, self._port, end_s)
        if self._tls is not None:
            connection.sock.settimeout(_left_s(end_s))
            connection.sock = self._tls.wrap_socket(connection.sock, server_hostname=self._host)

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._mutex:
            if not self._closed and len(self._idle) < _IDLE_AT_MOST:
                self._idle.append(connection)
                return
        connection.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: what is answered on the connections of the parent belongs to it."""
        self._mutex = threading.Lock()  # a thread of the parent may have held it
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _failed(self, error: Exception, *, again: bool) -> Exception:
        if isinstance(error, TimeoutError):
            return Unavailable(f"{self.url}: no answer in time. Give it more (timeout_s), or ask again.")
        found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        failed = Unavailable(f"{self.url}: cannot be asked ({found}). {self._advice(error)}")
        final = isinstance(error, ssl.SSLError) and not isinstance(error, _HUNG_UP)
        return _AgainError(failed, 0.0) if again and not final else failed

    def _advice(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "Ask by a name that its certificate is for, and name the certificate to trust (cafile=FILE)."
        if isinstance(error, ssl.SSLError) and not isinstance(error, _HUNG_UP):
            return "If it speaks no HTTPS, ask by http://."
        if isinstance(error, http.client.RemoteDisconnected) and self._tls is None:
            return "Is `trimtab serve` running there? Ask by https://, where it has a certificate (serve.tls_cert)."
        return "Is `trimtab serve` running there?"


_clients: WeakSet[Client] = WeakSet()


def _leave_to_parent() -> None:
    for client in _clients:
        client._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class _TimedResponse(http.client.HTTPResponse):
    """A response that has arrived as a whole by `end_s`: the time of a socket begins anew with each byte."""

    def __init__(self, sock: socket.socket, *args: Any, end_s: float, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, end_s))


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, end_s: float) -> None:
        self._raw = raw
        self._sock = sock
        self._end_s = end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s(self._end_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Call(msgspec.Struct, frozen=True):
    method: str
    path: str
    body: Any
    timeout_s: float | None


class _Predictions(msgspec.Struct, frozen=True):
    predictions: list[Answer]


class _AgainError(Exception):
    """What failed may be tried again."""

    def __init__(self, error: TrimtabError, after_s: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


def _connected(host: str, port: int, end_s: float) -> socket.socket:
    """A socket connected to the first address of a host that takes it; those not tried yet share what time is left."""
    address, *others = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    while others:
        with suppress(OSError):
            return _dialled(address, _left_s(end_s) / (1 + len(others)))
        address, *others = others
    return _dialled(address, _left_s(end_s))


def _dialled(address: tuple[Any, ...], timeout_s: float) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> bool:
    """Send a request; whether all of it went: who hangs up meanwhile may have said why."""
    try:
        connection.request(method, path, body, headers)
    except _HUNG_UP:
        return False
    return True


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise Misuse(f"connect: url is a {type(url).__name__}. Give a text such as http://127.0.0.1:8117.")
    try:
        place = urlsplit(url.strip() if "//" in url else f"http://{url.strip()}")
        host = place.hostname or ""
        host.encode("idna"), place.port, place.path.encode()  # each of them raises
    except ValueError as error:
        raise Misuse(f"connect: {url!r}: {error}.") from None
    strange = place.query or place.fragment or "@" in place.netloc or not host.isprintable() or " " in host
    if place.scheme not in ("http", "https") or not host or strange:
        raise Misuse(f"connect: {url!r} is no address of a service. Give one such as http://127.0.0.1:8117.")
    return place


def _path(*parts: str) -> str:
    try:
        return "/" + "/".join(quote(part, safe="@") for part in parts)
    except (TypeError, UnicodeEncodeError) as error:
        raise Misuse(f"{', '.join(map(repr, parts[1:]))}: no names ({error}). Give texts.") from None


def _key_text(value: Any) -> str:
    """A value of an entity's key as it stands in an address."""
    plain = _plain(value) if type(value).__module__ == "numpy" else value
    if not isinstance(plain, str | int):
        raise Misuse(f"key: found a {type(value).__name__}, {value!r}. Give a text or a whole number for each column.")
    return str(plain)


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _check_timeout(timeout_s: float) -> float:
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 86_400:
        raise Misuse(f"timeout_s={timeout_s!r}: give seconds above 0, at most a day.")
    return timeout_s


def _header(key: str) -> str:
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key.strip():
        raise Misuse("connect: this is no key. Give one that `trimtab keys add` printed.")
    return key


def _context(cafile: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, TypeError, ValueError) as error:
        raise Misuse(f"connect: cafile {cafile!r} cannot be read: {error}.") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # without the root, too; from Python 3.13 on this is usual
    return context


def _is_readable(connection: http.client.HTTPConnection) -> bool:
    """Whether something lies in an idle connection: its end, that is."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _listed(rows: Any) -> list[Row]:
    if isinstance(rows, Mapping):
        return [rows]
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable) or hasattr(rows, "__arrow_c_stream__"):
        raise Misuse(f"rows is a {type(rows).__name__}. Give a dict or a list of dicts.")
    listed = list(rows)
    for place, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise Misuse(f"rows[{place}] is a {type(row).__name__}. Give a dict or a list of dicts.")
    return listed


def _encode(body: Any) -> bytes:
    try:
        return msgspec.json.encode(_sendable(body, "$", ""), enc_hook=_plain)
    except Misuse:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Misuse(f"rows: {error}. {_GIVE}") from error


def _sendable(value: Any, pointer: str, field: str) -> Any:
    """A value as it is encoded.

    What the encoder would write as something else is refused (infinity as null, bytes in base 64, an id as a text);
    only a decimal, which it would write as a text, is the number that it is in process.
    """
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise Misuse(f"{pointer}: the name {name!r} is a {type(name).__name__}. Give texts as names.")
        return {name: _sendable(one, f"{pointer}.{name}", name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(one, f"{pointer}[{place}]", field) for place, one in enumerate(value)]
    try:
        plain = value if isinstance(value, float | dt.date) else _plain(value)
    except (TypeError, ValueError) as error:
        raise InvalidField(f"{pointer}: {error}. {_GIVE}", field=field, pointer=pointer) from None
    if isinstance(plain, float) and math.isinf(plain):
        raise InvalidField(
            f"{pointer}: found {plain}, and JSON has nothing infinite. Give a finite number, or None.",
            field=field,
            pointer=pointer,
        )
    return plain


def _plain(value: Any) -> Any:
    """What JSON has for a decimal, a scalar of NumPy or a moment of pandas."""
    if isinstance(value, Decimal):
        return None if value.is_nan() else float(value)
    if isinstance(value, dt.datetime):  # of a kind of its own; NaT is no moment
        return value.isoformat(timespec="microseconds") if value == value else None
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        kind = value.dtype.kind
        plain = value.astype("datetime64[us]").item() if kind == "M" else value.item()
        if kind not in "mSV":
            return plain
    raise TypeError(f"found a {type(value).__name__}, {value!r}")


def _decoded(content: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except _UNREADABLE as error:
        raise Unavailable(f"{url}: answered what no trimtab of this version does ({error}).") from error


def _error(status: int, content: bytes, where: str) -> TrimtabError:
    """The error that a problem detail stands for."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except _UNREADABLE:
        text = content[:200].decode("utf-8", "replace")
        return Unavailable(f"{where}: answered {status} without saying why: {text!r}. Is it a trimtab service?")
    said = problem.detail
    if problem.field is not None:
        return InvalidField(said, field=problem.field, pointer=problem.pointer or "")
    kind = _BY_TYPE.get(problem.type.removeprefix(TYPE_PREFIX)) or _BY_STATUS.get(status)
    if kind is not None:
        return kind(said)
    return Refused(status, said) if status < 500 else TrimtabError(f"{where}: {said}")


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    given = response.getheader("retry-after") or ""
    return float(given) if given.isdecimal() else 0.0
