"""Delivery over HTTP: to webhooks, to Slack and services like it, and heartbeats."""

from __future__ import annotations

import hashlib
import hmac
import http.client
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
from trimtab.monitoring.alerts.receivers.context import DeliveryContext

KEY, SIGNATURE = "Idempotency-Key", "X-Trimtab-Signature"
_SHOWN = 200  # how many characters of an answer are shown
_SLACK = 30_000  # the largest number of characters in a message; Slack accepts 40,000


def send_webhook(receiver: WebhookReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Send the message as JSON with POST. If a secret is set, the message is signed."""
    body = msgspec.json.encode(message)
    headers = {name: context.filled(value) for name, value in receiver.headers.items()}
    headers |= {"Content-Type": "application/json", KEY: message.key}
    if receiver.secret is not None:
        headers[SIGNATURE] = signature(context.filled(receiver.secret), body)
    return _request("POST", context.filled(receiver.url), body, headers, receiver.timeout_s)


def send_slack(receiver: SlackReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Send the message as text with POST, as Slack, Mattermost and Discord (at an address with /slack) expect it."""
    text = "\n".join([f"*{_escaped(message.title)}*", *map(_escaped, lines(message))])
    text = text if len(text) <= _SLACK else f"{text[:_SLACK]}\n… see: trimtab alert list"
    headers = {"Content-Type": "application/json", KEY: message.key}
    body = msgspec.json.encode({"text": text})
    return _request("POST", context.filled(receiver.url), body, headers, receiver.timeout_s)


def send_heartbeat(receiver: HeartbeatReceiver, message: Message, context: DeliveryContext) -> Sent:
    """Request the address with GET. The message is not sent."""
    return _request("GET", context.filled(receiver.url), None, {}, receiver.timeout_s)


def signature(secret: str, body: bytes) -> str:
    """Return the signature of a body. A receiver should compare it with the header in constant time.

    >>> signature("key", b"{}")[:14]
    'sha256=a777724'
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _request(method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> Sent:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise Misuse(
            "its url, read from the environment, is not an address that begins with http:// or https://. Set it again."
        )
    request = urllib.request.Request(url, body, {"User-Agent": "trimtab", **headers}, method=method)
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s) as answer:
            return Sent(True, _shown(answer.status, answer.read(_SHOWN)))
    except urllib.error.HTTPError as error:
        return _refused(error)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return Sent(False, f"{parts.hostname} gave no answer within {timeout_s:g} s")
        return Sent(False, f"{parts.hostname}: {str(reason) or type(reason).__name__}")


def _refused(error: urllib.error.HTTPError) -> Sent:
    with error:
        body = b""
        with suppress(OSError, http.client.HTTPException):
            body = error.read(_SHOWN)
    wait = error.headers.get("Retry-After", "")
    said = f"the receiver answered {_shown(error.code, body)}"
    if 300 <= error.code < 400:
        said += ". It redirects: give the final address as url"
    return Sent(False, said, float(wait) if wait.isdecimal() else 0.0)


def _shown(status: int, body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return f"{status} {text}".strip()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: alerts only go to the address in the settings, and a redirect would turn a POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None
