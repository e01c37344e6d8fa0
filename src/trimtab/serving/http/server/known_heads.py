"""Heads of predict requests that were read before. Clients send the same head again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.http.requests.wire import JSON_TYPE, TIMEOUT, timeout_of

_HEAD_END = b"\r\n\r\n"
_MOST = 4_096  # most heads that are kept for all connections; beyond, all are dropped and learned again
_LONGEST_BYTES = 2_048
_SPECIAL = frozenset((  # a request with such a header goes through ASGI; ids differ from request to request
    b"expect", b"upgrade", b"transfer-encoding", b"content-encoding", b"x-request-id", b"traceparent",
    b"origin", b"sec-fetch-site",  # browsers send these headers; ASGI checks which site's page sent the request
))  # fmt: skip


class KnownHead(NamedTuple):
    """The facts that were read from a head."""

    predictor: Predictor
    headers: list[tuple[bytes, bytes]]
    timeout_s: float | None
    length: int  # length of the body


class KnownHeads:
    """The heads that any connection of a service may send again.

    Args:
        predictors: The predictors of the models that are served.
        body_bytes: The largest body.
    """

    def __init__(self, predictors: Iterable[Predictor], body_bytes: int) -> None:
        self._by_path: Mapping[bytes, Predictor] = {one.path.encode(): one for one in predictors}
        self._body_bytes = body_bytes
        self._known: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """Return the known head and the body of one whole request, or None for any other data."""
        at = data.find(_HEAD_END) + len(_HEAD_END)
        known = self._known.get(data[:at])
        return None if known is None or len(data) != at + known.length else (known, data[at:])

    def learn(self, data: bytes, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Store the head of `data` if it asks for a prediction and nothing special.

        `data` is one whole request over HTTP/1.1.
        """
        predictor = self._by_path.get(url)
        at = data.find(_HEAD_END) + len(_HEAD_END)
        if predictor is None or method != b"POST" or at > _LONGEST_BYTES:
            return
        timeout_s, length, hosts = None, 0, 0
        for name, value in headers:
            if name in _SPECIAL or (name == b"content-type" and value != JSON_TYPE):
                return
            if name == b"connection" and value.lower() != b"keep-alive":
                return
            if name == TIMEOUT:
                if timeout_s is not None or (timeout_s := timeout_of(value)) is None:
                    return
            elif name == b"content-length":
                length = int(value)
            hosts += name == b"host"
        if hosts != 1 or len(data) != at + length or length > self._body_bytes:
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[data[:at]] = KnownHead(predictor, headers, timeout_s, length)
