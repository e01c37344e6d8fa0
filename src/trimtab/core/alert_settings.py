"""Settings of alerts: the receivers of messages, and rules for when messages are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.time import MINUTE_US, SECOND_US, duration_us

AlertKind: TypeAlias = Literal["begun", "graver", "ended"]
Severity: TypeAlias = Literal["info", "red"]
KINDS = ("command", "email", "file", "heartbeat", "slack", "webhook")
PORTS = {"starttls": 587, "tls": 465, "none": 25}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNNAMED = "$.alerts.receivers[...]"  # the place of an error in any receiver: msgspec leaves out the receiver's name
_LONGEST_US = 30 * SECOND_US


class _Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    timeout: str = "10s"  # the time limit of one delivery

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        if not 0 < _us("timeout", self.timeout) <= _LONGEST_US:
            raise ValueError(f'timeout = "{self.timeout}": give more than 0 and at most "30s"')

    @property
    def timeout_s(self) -> float:
        return duration_us(self.timeout) / 1e6


class _Routed(_Timed, frozen=True, kw_only=True):
    """The filters of all kinds of receivers."""

    severity: Severity = "red"  # the least severity that is sent
    models: list[str] = []  # the models whose alerts are sent; empty: all models
    tell: tuple[AlertKind, ...] = ("begun", "graver", "ended")  # at which changes of an alert a message is sent

    def _check(self) -> None:
        super()._check()
        if not self.tell:
            raise ValueError('tell is empty: name at least one of "begun", "graver", "ended"')


class WebhookReceiver(_Routed, frozen=True, tag="webhook"):
    """A web address that takes alerts as JSON by POST."""

    url: str
    secret: str | None = None  # the key with which the body is signed (HMAC-SHA256)
    headers: dict[str, str] = {}

    def _check(self) -> None:
        super()._check()
        _check_url(self.url)
        _check_secret("secret", self.secret)
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name):
                raise ValueError(f"headers: {name!r} is not a header name")
            _check_text(f"headers.{name}", value)


class SlackReceiver(_Routed, frozen=True, tag="slack"):
    """A Slack webhook, or another address that takes the same messages."""

    url: str

    def _check(self) -> None:
        super()._check()
        _check_url(self.url)


class EmailReceiver(_Routed, frozen=True, tag="email"):
    """Email addresses, with the SMTP server that sends to them."""

    host: str
    sender: str = msgspec.field(name="from")
    to: list[str]
    security: Literal["starttls", "tls", "none"] = "starttls"
    port: int | None = None  # None: the usual port for `security`
    user: str | None = None
    password: str | None = None

    def _check(self) -> None:
        super()._check()
        _check_text("host", self.host)
        _check_secret("password", self.password)
        if not self.to:
            raise ValueError("to is empty: name at least one address")
        for key, address in [("from", self.sender), *(("to", one) for one in self.to)]:
            _check_text(key, address)
            if "@" not in address and not address.startswith("$"):
                raise ValueError(f"{key}: {address!r} is not an e-mail address such as team@example.com")
        if self.port is not None and not 1 <= self.port <= 65_535:
            raise ValueError(f"port must be 1 to 65535, not {self.port}")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password need each other: give both or neither")
        _check_text("user", self.user or "-")

    @property
    def port_used(self) -> int:
        return PORTS[self.security] if self.port is None else self.port


class FileReceiver(_Routed, frozen=True, tag="file"):
    """A file to which a line of JSON is added for each alert."""

    path: str  # relative to the folder of trimtab.toml

    def _check(self) -> None:
        super()._check()
        if not self.path or "\0" in self.path:
            raise ValueError(f"path: {self.path!r} is not a file name")


class CommandReceiver(_Routed, frozen=True, tag="command"):
    """A program that is started for each alert, with the message as JSON on standard input."""

    command: list[str]  # the program and its arguments; no shell interprets them

    def _check(self) -> None:
        super()._check()
        if not self.command or not self.command[0] or any("\0" in word for word in self.command):
            raise ValueError('command: give the program and its arguments, such as ["./page.sh", "--now"]')


class HeartbeatReceiver(_Timed, frozen=True, tag="heartbeat"):
    """An address that is requested regularly while all is well. If requests stop, the service there raises an alarm."""

    url: str
    every: str = "1min"

    def _check(self) -> None:
        super()._check()
        _check_url(self.url)
        if _us("every", self.every) < SECOND_US:
            raise ValueError(f'every = "{self.every}": give "1s" or more')


Addressee: TypeAlias = WebhookReceiver | SlackReceiver | EmailReceiver | FileReceiver | CommandReceiver
Receiver: TypeAlias = Addressee | HeartbeatReceiver


class AlertsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The receivers of alerts, and rules that limit how often they get messages."""

    # for each model and severity: how many alerts a week are sent immediately; further ones wait for the digest (one
    # message for many)
    pages_per_week: int = 5
    digest: str = "1d"  # how long alerts are collected for a digest
    # a signal that ends and begins again within this time is one alert, so the message about its end waits this long
    flapping: str = "36h"
    keep: str = "3d"  # an alert that cannot be delivered for this long is dropped
    receivers: dict[str, Receiver] = {}

    def __post_init__(self) -> None:
        if self.pages_per_week < 0:
            raise ValueError(f"pages_per_week must be 0 or more, not {self.pages_per_week}")
        for key, least_us in {"digest": MINUTE_US, "flapping": 0, "keep": MINUTE_US}.items():
            if _us(key, getattr(self, key)) < least_us:
                raise ValueError(f'{key} = "{getattr(self, key)}": give "1min" or more')
        for name in self.receivers:
            if not _NAME.fullmatch(name):
                raise ValueError(f"receivers: {name!r} is not a valid name; use up to 40 of a-z, 0-9, - and _")

    @property
    def addressees(self) -> dict[str, Addressee]:
        """The receivers that are not heartbeats."""
        return {name: one for name, one in self.receivers.items() if not isinstance(one, HeartbeatReceiver)}

    @property
    def heartbeats(self) -> dict[str, HeartbeatReceiver]:
        return {name: one for name, one in self.receivers.items() if isinstance(one, HeartbeatReceiver)}


def with_receivers_name(error: str, document: Mapping[str, Any], *, strict: bool) -> str:
    """Return an error message about a receiver, with the receiver's name added.

    If the receiver's kind is wrong, the known kinds are added as well.
    """
    if _UNNAMED not in error:
        return error
    for name, given in document["alerts"]["receivers"].items():
        try:
            msgspec.convert(given, Receiver, strict=strict)
        except msgspec.ValidationError:
            kinds = f"; give one of {', '.join(map(repr, KINDS))}" if "kind`" in error else ""
            return error.replace(_UNNAMED, f"$.alerts.receivers.{name}") + kinds
    return error


def _us(key: str, text: str) -> int:
    try:
        return duration_us(text)
    except Misuse as error:
        raise ValueError(f"{key}: {str(error).removeprefix('duration: ')}") from None


def _check_text(key: str, text: str) -> None:
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError(f"{key} is empty, or has spaces at an end or characters that cannot be printed")
    if "$" in text and not Template(text).is_valid():
        raise ValueError(f'{key}: a $ begins the name of an environment variable, "$NAME"; write $$ for a dollar')


def _check_url(url: str) -> None:
    _check_text("url", url)
    if url.startswith("$"):
        return
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            'url: give an address such as "https://hooks.example.com/x", or "$NAME", an environment variable'
        )


def _check_secret(key: str, text: str | None) -> None:
    """Refuse a secret that is written into the file, because the file may be shared. Only "$NAME" is allowed."""
    if text is None:
        return
    template = Template(text)
    if not (text.startswith("$") and template.is_valid() and template.get_identifiers()):
        raise ValueError(
            f'{key} is a secret: put it into an environment variable, and give its name here: {key} = "$NAME"'
        )
