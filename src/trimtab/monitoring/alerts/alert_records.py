"""An alert about one signal (a finding of a monitor), and a message that carries alerts to one receiver."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.alert_settings import Addressee, AlertKind, Severity
from trimtab.core.records import Signal
from trimtab.core.time import format_time
from trimtab.monitoring.alerts.runbook import link, todo

_WORDS = {"begun": "", "graver": "NOW ", "ended": "ENDED "}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What people are told about one change of one signal."""

    id: str  # the same for all receivers and all attempts of delivery
    what: AlertKind
    severity: Severity
    kind: str  # the kind of the signal, for example "no_labels"
    model: str
    version: str  # for example "late_flight@7"
    subject: str  # for example "column temp"; empty: the whole model
    owner: str | None
    since: str  # the estimated time at which the change began, ISO 8601
    found: str  # when the monitor found it
    message: str  # what was found, in one sentence
    cause: str | None
    evidence: dict[str, float]
    ended: str | None
    ended_because: str | None
    returned: int  # how often the signal ended and soon came back (see the setting `flapping`)
    todo: str
    docs: str
    look: list[str]  # commands that help to find the cause


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one receiver gets in one delivery."""

    key: str  # the same in every attempt to deliver this message
    kind: Literal["alerts", "digest", "test"]
    project: str
    at: str
    title: str
    notes: list[str]
    alerts: list[Alert]


def alert_of(signal: Signal, what: AlertKind, *, version: str, owner: str | None, returned: int) -> Alert:
    """Return an alert about a signal. If the signal has no owner, `owner` is named."""
    look = ["trimtab status"] + ([f"trimtab quality show {signal.model}"] if signal.model else [])
    return Alert(
        id=f"{signal.id}/{signal.raised_at_us}/{what}",
        what=what,
        severity=signal.severity,
        kind=signal.kind,
        model=signal.model,
        version=version,
        subject=signal.subject,
        owner=signal.owner or owner,
        since=format_time(signal.onset_us),
        found=format_time(signal.raised_at_us),
        message=signal.message,
        cause=signal.cause,
        evidence=signal.evidence,
        ended=None if signal.ended_at_us is None else format_time(signal.ended_at_us),
        ended_because=signal.ended_because,
        returned=returned,
        todo=todo(signal.kind),
        docs=link(signal.kind),
        look=look,
    )


def wants(receiver: Addressee, what: AlertKind, signal: Signal) -> bool:
    """Return whether a receiver wants to know of a change of a signal."""
    grave = signal.severity == "red" or receiver.severity == "info"
    return grave and what in receiver.tell and (not receiver.models or signal.model in receiver.models)


def title_of(alerts: list[Alert], project: str, *, digest: bool = False) -> str:
    """Return a title, such as the subject of an email. If possible, it names an alert that is red and has not ended."""
    if digest:
        return f"{project}: {len(alerts)} alert{'s' * (len(alerts) != 1)} held back"
    first = min(alerts, key=lambda one: (one.what == "ended", one.severity != "red"))
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    return f"{_head(first)}: {_what(first)}{more}"


def lines(message: Message) -> list[str]:
    """Return the text of a message as lines, without its title."""
    out = list(message.notes)
    for alert in message.alerts:
        out += [*([""] if out else []), f"{_head(alert)}: {alert.message}", *(f"  {line}" for line in _details(alert))]
    return out


def _head(alert: Alert) -> str:
    return f"{_WORDS[alert.what]}{alert.severity.upper()} {alert.version or alert.model}"


def _what(alert: Alert) -> str:
    return f"{alert.kind}, {alert.subject}" if alert.subject else alert.kind


def _details(alert: Alert) -> list[str]:
    out = [f"what: {_what(alert)}, since {alert.since[:16]}"]
    if alert.ended is not None:
        out.append(f"ended: {alert.ended[:16]}" + (f", {alert.ended_because}" if alert.ended_because else ""))
    if alert.returned:
        out.append(f"flapping: it ended and came back {alert.returned} time{'s' * (alert.returned != 1)}")
    out += [f"owner: {alert.owner}"] if alert.owner else []
    out += [f"cause: {alert.cause}"] if alert.cause else []
    if alert.evidence:
        out.append("evidence: " + ", ".join(f"{name} {value:.4g}" for name, value in alert.evidence.items()))
    if alert.ended is None:
        out += [f"to do: {alert.todo} ({alert.docs})", f"look: {'; '.join(alert.look)}"]
    return out
