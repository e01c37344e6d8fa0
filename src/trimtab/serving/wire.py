"""ASGI at its barest: the body in, bounded in size and time; a response out in two messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import msgspec

from trimtab.serving.problems import PROBLEM_TYPE, Problem, Refused, problem_of

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = b"application/json"


class Gone(ConnectionError):
    """The asker hung up before the request was complete."""


async def whole_body(message: Message, scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body, of which `message` is the first part.

    Raises:
        Refused: It is larger than `limit_bytes` (413), or did not arrive in time (408).
        Gone: The asker hung up.
    """
    if message["type"] != "http.request":
        raise Gone
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        try:
            async with asyncio.timeout(timeout_s):
                body = await _rest(body, scope, receive, limit_bytes)
        except TimeoutError:
            raise Refused(408, f"body: incomplete after {timeout_s:g} s. Send it faster, or less of it.") from None
    if len(body) > limit_bytes:
        raise _too_large(f"{len(body)} bytes", limit_bytes)
    return body


def check_media_type(scope: Scope, allowed: tuple[bytes, ...]) -> bytes:
    """The request's media type, one of `allowed`; the first of them when it has none.

    Raises:
        Refused: It is another one (415).
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value in allowed:
                return value  # type: ignore[no-any-return]  # a header's value is bytes
            found: bytes = value.partition(b";")[0].strip().lower()
            if found not in allowed:
                names = " or ".join(a.decode() for a in allowed)
                raise Refused(415, f"content-type {found.decode('latin-1')!r}: needed is {names}.")
            return found
    return allowed[0]


async def respond(
    send: Send, status: int, body: bytes, media_type: bytes = JSON_TYPE, headers: Headers = (), *, head: bool = False
) -> None:
    """Send a whole response; without its body when `head`."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head else body})


async def respond_problem(send: Send, scope: Scope, error: Exception) -> Problem:
    """Send the problem detail of an error; what was sent."""
    problem = problem_of(error, scope["path"])
    headers: Headers = error.headers if isinstance(error, Refused) else ()
    if problem.status in (429, 503):
        headers = (*headers, (b"retry-after", b"1"))
    await respond(send, problem.status, _encode(problem), PROBLEM_TYPE, headers, head=scope["method"] == "HEAD")
    return problem


async def _rest(body: bytes, scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise _too_large(f"{int(value)} bytes", limit_bytes)
    parts, size = [body], len(body)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit_bytes:
            raise _too_large(f"more than {limit_bytes} bytes", limit_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(found: str, limit_bytes: int) -> Refused:
    return Refused(
        413, f"body: {found}; the limit is {limit_bytes}. Send it in parts.", headers=((b"connection", b"close"),)
    )


_encode = msgspec.json.Encoder().encode
