"""Receivers over HTTP: webhooks, Slack's and those like it, and heartbeats."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from trimtab.core.alert_settings import HeartbeatReceiver, SlackReceiver, WebhookReceiver
from trimtab.core.errors import Misuse
from trimtab.monitoring.alerts.alert_records import Message, lines
from trimtab.monitoring.alerts.outbox import Sent
from trimtab.monitoring.alerts.receivers.secrets import Secrets

KEY, SIGNATURE = "Idempotency-Key", "X-Trimtab-Signature"
_SHOWN = 200  # characters of an answer that are shown
_SLACK = 30_000  # characters of a message; it takes 40,000


def send_webhook(receiver: WebhookReceiver, message: Message, secrets: Secrets) -> Sent:
    """POST the message as JSON, signed where a secret is set."""
    body = msgspec.json.encode(message)
    headers = {name: secrets.filled(value) for name, value in receiver.headers.items()}
    headers |= {"Content-Type": "application/json", KEY: message.key}
    if receiver.secret is not None:
        headers[SIGNATURE] = signature(secrets.filled(receiver.secret), body)
    return _asked("POST", secrets.filled(receiver.url), body, headers, receiver.timeout_s)


def send_slack(receiver: SlackReceiver, message: Message, secrets: Secrets) -> Sent:
    """POST the message as one text, as Slack, Mattermost and Discord (its address with /slack) take it."""
    text = "\n".join([f"*{_escaped(message.title)}*", *map(_escaped, lines(message))])
    text = text if len(text) <= _SLACK else f"{text[:_SLACK]}\n… see: trimtab alert list"
    headers = {"Content-Type": "application/json", KEY: message.key}
    body = msgspec.json.encode({"text": text})
    return _asked("POST", secrets.filled(receiver.url), body, headers, receiver.timeout_s)


def send_heartbeat(receiver: HeartbeatReceiver, secrets: Secrets) -> Sent:
    """GET the address."""
    return _asked("GET", secrets.filled(receiver.url), None, {}, receiver.timeout_s)


def signature(secret: str, body: bytes) -> str:
    """The signature of a body: what a receiver compares with the header, in constant time.

    >>> signature("key", b"{}")[:14]
    'sha256=a777724'
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _asked(method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> Sent:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise Misuse("its url in the environment is no address that begins with http:// or https://. Set it again.")
    request = urllib.request.Request(url, body, {"User-Agent": "trimtab", **headers}, method=method)
    watched = _Watched()
    opener = urllib.request.build_opener(_Http(watched), _Https(watched), _NoRedirects)
    late = threading.Timer(timeout_s, watched.cut)
    late.daemon = True
    late.start()
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return Sent(True, _shown(answer.status, answer.read(_SHOWN)))
    except urllib.error.HTTPError as error:
        return _refused(error)
    except (OSError, http.client.HTTPException) as error:
        if watched.late or isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            return Sent(False, f"{parts.hostname} gave no answer within {timeout_s:g} s")
        return Sent(False, f"{parts.hostname}: {_reason(error)}")
    finally:
        late.cancel()


def _refused(error: urllib.error.HTTPError) -> Sent:
    with error:
        body = b""
        with suppress(OSError, http.client.HTTPException):
            body = error.read(_SHOWN)
    wait = error.headers.get("Retry-After", "")
    said = f"it answered {_shown(error.code, body)}"
    if 300 <= error.code < 400:
        said += ". It redirects: give the final address as url"
    return Sent(False, said, float(wait) if wait.isdecimal() else 0.0)


def _shown(status: int, body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return f"{status} {text}".strip()


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(reason) or type(reason).__name__


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _Watched:
    """The connections of one request, cut when its time is over: one that trickles renews every timeout of sockets."""

    def __init__(self) -> None:
        self.late = False
        self._sockets: list[socket.socket] = []

    def add(self, connected: socket.socket) -> None:
        self._sockets.append(connected)

    def cut(self) -> None:
        self.late = True
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched = watched

    def http_open(self, req: urllib.request.Request) -> Any:
        watched = self._watched

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                watched.add(self.sock)

        return self.do_open(Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched = watched

    def https_open(self, req: urllib.request.Request) -> Any:
        watched = self._watched

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                watched.add(self.sock)

        return self.do_open(Connection, req)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An alert goes to the address in the settings, or nowhere: a redirected POST would become a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None
