"""The connections of the HTTP client: a time limit for each response as a whole, and TLS."""

from __future__ import annotations

import http.client
import io
import ssl
import time
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError

from trimtab.core.errors import Misuse

_CONNECTIONS = 16  # the number of connections that are kept open
_ADDRESSES = 3  # connecting to one address of a host may take a third of the time, so that others can be tried


def connections(place: SplitResult, tls: ssl.SSLContext | None) -> urllib3.HTTPConnectionPool:
    """Return the connections to a service. None is opened yet."""
    host = place.hostname or ""
    if tls is None:
        pool = urllib3.HTTPConnectionPool(host, place.port or 80, maxsize=_CONNECTIONS)
        pool.ConnectionCls = _Timed
        return pool
    secure = urllib3.HTTPSConnectionPool(host, place.port or 443, maxsize=_CONNECTIONS, ssl_context=tls)
    secure.ConnectionCls = _TimedTls
    return secure


def tls_context(cafile: str | None) -> ssl.SSLContext:
    """Return the settings of TLS, with the certificates of a file instead of the system's if one is given.

    Raises:
        Misuse: The file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, TypeError, ValueError) as error:
        raise Misuse(f"connect: cafile {cafile!r} cannot be read: {error}.") from error
    # accept a certificate chain without its root as well, as Python 3.13 does by default
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _Timed(urllib3.connection.HTTPConnection):
    """A connection with a time limit for the whole response. Connecting to one address may take a third of it."""

    def connect(self) -> None:
        allowed_s = self.timeout or 0.0
        self.timeout = allowed_s / _ADDRESSES
        try:
            super().connect()
        except (OSError, HTTPError) as error:  # this may also come from the TLS handshake, before anything was sent
            cause = error.__cause__ if isinstance(error, HTTPError) and error.__cause__ else error
            raise NewConnectionError(self, str(cause)) from cause
        self.timeout = allowed_s
        self.sock.settimeout(allowed_s)

    def request(self, *given: Any, **named: Any) -> None:
        # if the service closes the connection while the request is sent, read the response: it may say why
        with suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
            super().request(*given, **named)

    def response_class(self, sock: Any, **named: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        response = http.client.HTTPResponse(sock, **named)
        response.fp = io.BufferedReader(_TimedReader(response.fp.detach(), sock))
        return response


class _TimedTls(_Timed, urllib3.connection.HTTPSConnection):
    """The same connection over TLS."""


class _TimedReader(io.RawIOBase):
    """Reads a response until a time limit.

    The timeout of a socket cannot limit the whole time, because it starts again with each byte.
    """

    def __init__(self, raw: io.RawIOBase, sock: Any) -> None:
        self._raw, self._sock = raw, sock
        self._end_s = time.monotonic() + sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        super().close()
        self._raw.close()
