"""Keep the heads (request line and headers) of predict requests, because clients send equal heads again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trimtab.serving.http.predict.predicting import Form, MakeForm, Predictor
from trimtab.serving.http.requests.wire import TIMEOUT, timeout_of

_HEAD_END = b"\r\n\r\n"
_MOST = 4_096  # if there are more heads, all are dropped and learned again
_LONGEST_BYTES = 2_048
_SPECIAL = frozenset((  # requests with these headers go through ASGI, for example because an id differs each time
    b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", b"x-request-id", b"traceparent",
    b"origin", b"sec-fetch-site",  # sent by browsers; the ASGI path checks which site the page is from
))  # fmt: skip


class KnownHead(NamedTuple):
    """The contents of a request's head."""

    predictor: Predictor
    form: Form
    headers: list[tuple[bytes, bytes]]
    timeout_s: float | None
    length: int  # the length of the body in bytes


class KnownHeads:
    """The heads of requests that may be sent again on any connection of a service.

    Args:
        by_path: For each path: its predictor, and a function that makes the form of a request from its headers.
    """

    def __init__(self, by_path: Mapping[str, tuple[Predictor, MakeForm]], body_bytes: int) -> None:
        self._by_path = {path.encode(): one for path, one in by_path.items()}
        self._body_bytes = body_bytes
        self._known: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """Return the known head and the body of one complete request, or None for any other data."""
        at = data.find(_HEAD_END) + len(_HEAD_END)
        known = self._known.get(data[:at])
        return None if known is None or len(data) != at + known.length else (known, data[at:])

    def learn(self, data: bytes, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Keep the head of `data`, a complete HTTP/1.1 request, if it is an ordinary predict request."""
        found = self._by_path.get(url)
        at = data.find(_HEAD_END) + len(_HEAD_END)
        if found is None or method != b"POST" or at > _LONGEST_BYTES:
            return
        timeout_s, length, hosts = None, 0, 0
        for name, value in headers:
            if name in _SPECIAL:
                return
            if name == b"connection" and value.lower() != b"keep-alive":
                return
            if name == TIMEOUT:
                if timeout_s is not None or (timeout_s := timeout_of(value)) is None:
                    return
            elif name == b"content-length":
                length = int(value)
            hosts += name == b"host"
        predictor, make_form = found
        form = make_form(headers)
        if form is None or hosts != 1 or len(data) != at + length or length > self._body_bytes:
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[data[:at]] = KnownHead(predictor, form, headers, timeout_s, length)
