"""Read request bodies within limits of size and time, and send responses, as ASGI messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from trimtab.serving.failures import NotApplied
from trimtab.serving.http.requests.room import check_decoded, decoded_bytes, no_room
from trimtab.serving.problems import PROBLEM_TYPE, InvalidField, Refused, problem_of

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = b"application/json"
TIMEOUT = b"x-timeout-ms"
HEADERS: Headers = ((b"x-content-type-options", b"nosniff"),)  # the headers of all responses
_LONGEST_MS = 600_000
_SEARCH_S = 10.0
_PAUSES_S = itertools.cycle((b"1", b"2", b"3"))
_ARROW = b"\xff\xff\xff\xff", b"ARROW1"  # how Arrow bodies begin; no JSON does
_CLOSE: Headers = ((b"connection", b"close"),)  # otherwise the rest of a body would be read as a request


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A response."""

    status: int
    body: bytes
    media_type: bytes = JSON_TYPE
    headers: Headers = ()


class Gone(ConnectionError):
    """The client closed the connection before its request was complete."""


class Sent:
    """Sends a response with two additional headers (no caching, and the request's id). Records its status and size.

    Args:
        send: The function for sending, as defined by ASGI.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.status = 0
        self.size_bytes = 0  # bytes of the body that were sent
        self._send = send
        self._headers = ((b"cache-control", b"no-store"), (b"x-request-id", request_id.encode()))

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers]
        else:
            self.size_bytes += len(message.get("body", b""))
        await self._send(message)


async def whole_body(scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """Return the whole body of a request.

    The rest of a refused body is read and discarded. Otherwise a client that is still sending when the connection is
    closed could not read the reason.  # D0167

    Raises:
        Refused: The body is larger than `limit_bytes` or would be far larger when decoded (413), it did not arrive in
            time (408), or there is no memory for it (429).
        Gone: The client closed the connection.
    """
    announced, share = _announced(scope, limit_bytes), scope.get("share")
    parts, size, decoded, more, fits = list[bytes](), 0, 0, True, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                message = await receive()  # the first message may come before any byte of the body
                if message["type"] != "http.request":
                    raise Gone
                part: bytes = message.get("body", b"")
                size += len(part)
                more = message.get("more_body", False)
                fits = fits and (share is None or max(announced, size) > limit_bytes or share.add(len(part)))
                if fits and max(announced, size) <= limit_bytes:
                    parts.append(part)
                    # part by part, so that the event loop is not delayed for long
                    decoded += decoded_bytes(part, binary=parts[0].startswith(_ARROW))
                else:
                    parts.clear()
                    share_back(scope)
    except TimeoutError:
        check_size(max(announced, size), limit_bytes)
        text = f"body: incomplete after {timeout_s:g} s. Send the body faster, or a smaller one."
        raise (Refused(408, text, headers=_CLOSE) if fits else no_room()) from None
    check_size(max(announced, size), limit_bytes)
    if not fits:
        raise no_room()
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    parts.clear()
    check_decoded(decoded, size)
    if share is not None:
        await share.decode(decoded, timeout_s)
    return body


def share_back(scope: Scope) -> None:
    """Free the memory of a request's body when the body is no longer needed."""
    if (share := scope.get("share")) is not None:
        share.close()


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Raise an error if a body is too large (413)."""
    if size_bytes > limit_bytes:
        raise too_large(f"{size_bytes} bytes", limit_bytes)


def check_media_type(scope: Scope, allowed: tuple[bytes, ...]) -> bytes:
    """Return the request's media type, or the first of `allowed` if the request has none.

    Raises:
        Refused: The body has a content encoding, or its media type is not one of `allowed` (415).
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise Refused(
                415,
                f"content-encoding {value[:40].decode('latin-1')!r}: not supported here. Send the body uncompressed.",
            )
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value in allowed:
                return value  # type: ignore[no-any-return]  # header values are bytes
            found: bytes = value.partition(b";")[0].strip().lower()
            if found not in allowed:
                first, *others = (kind.decode() for kind in allowed)
                needed = f"{first} (or {' or '.join(others)})" if others else first
                raise Refused(415, f"content-type {found.decode('latin-1')!r}: send the header content-type: {needed}.")
            return found
    return allowed[0]


def timeout_of(value: bytes) -> float | None:
    """Return the value of a header `X-Timeout-Ms` in seconds, or None if it is not a valid number.

    >>> timeout_of(b"250"), timeout_of(b"soon"), timeout_of(b"0")
    (0.25, None, None)
    """
    try:
        timeout_ms = float(value)
    except ValueError:
        return None
    return timeout_ms / 1_000 if 0 < timeout_ms <= _LONGEST_MS else None


def timeout_of_request(scope: Scope) -> float | None:
    """Return the time limit of a request in seconds (from `X-Timeout-Ms`), or None if it has none.

    Raises:
        InvalidField: The header is not a valid number.
    """
    for name, value in scope["headers"]:
        if name == TIMEOUT:
            timeout_s = timeout_of(value)
            if timeout_s is None:
                raise InvalidField(
                    f"X-Timeout-Ms: {value[:40].decode('latin-1')!r}. Needed: milliseconds above 0, at most "
                    f"{_LONGEST_MS:,}.",
                    field="X-Timeout-Ms",
                )
            return timeout_s
    return None


def search_until(scope: Scope) -> float:
    """Return the time (`perf_counter`) at which a request must end its search (for a prediction).

    This is the time limit of the request, or ten seconds from now if it has none.

    Raises:
        InvalidField: The header `X-Timeout-Ms` is not a valid number.
    """
    timeout_s = timeout_of_request(scope)
    return perf_counter() + (_SEARCH_S if timeout_s is None else timeout_s)


async def respond(send: Send, reply: Reply, *, head: bool = False) -> None:
    """Send a complete response. With `head`, send it without its body."""
    size = b"content-length", b"%d" % len(reply.body)
    headers = [(b"content-type", reply.media_type), *HEADERS, size, *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def problem_reply(error: BaseException, path: str) -> Reply:
    """Return the response for an error at `path`, with a problem detail as its body."""
    problem = problem_of(error, path)
    headers: Headers = error.headers if isinstance(error, Refused) else ()
    if (
        problem.status in (429, 503)
        and not isinstance(error, NotApplied)
        and all(name != b"retry-after" for name, _ in headers)
    ):
        headers = (*headers, retry_after())
    return Reply(problem.status, _encode(problem), PROBLEM_TYPE, headers)


def retry_after() -> tuple[bytes, bytes]:
    """Return the header `Retry-After`.

    Its value alternates between one, two and three seconds, so that clients come back at different times.
    """
    return b"retry-after", next(_PAUSES_S)


def _announced(scope: Scope, limit_bytes: int) -> int:
    """Return the size of a body according to the request's head, or 0 if the head has no size.

    Raises:
        Refused: The body is too large, and the client waits for permission to send it (`Expect: 100-continue`, 413).
    """
    size_bytes, expects = 0, False
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            size_bytes = int(value)
        elif name == b"expect":
            expects = True
    if expects:
        check_size(size_bytes, limit_bytes)
    return size_bytes


def too_large(found: str, limit_bytes: int) -> Refused:
    """Return the error for a body that is too large (413)."""
    return Refused(413, f"body: {found}; the limit is {limit_bytes}. Send it in parts.", headers=_CLOSE)


_encode = msgspec.json.Encoder().encode
