"""An overview of alerts: receivers, signals, mutes, and the number of pages in a week with its limit."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from trimtab.app.alerts.alerting import Alerting, kind_of
from trimtab.app.system import System
from trimtab.core.alert_settings import CommandReceiver, EmailReceiver, FileReceiver, HeartbeatReceiver, Receiver
from trimtab.core.shown import Shown, count_of
from trimtab.core.time import SECOND_US, format_time
from trimtab.monitoring.alerts.alerts import AlertState, Incident
from trimtab.monitoring.alerts.mutes import Mute, muted, mutes
from trimtab.monitoring.alerts.outbox import DROPPED_US, Queued, ReceiverState

_WEEKS = 4


class ReceiverOverview(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one receiver."""

    name: str
    kind: str  # "gone" if the receiver is not declared any more
    to: str  # the address, without secrets
    severity: str
    models: list[str]
    waiting: int  # the number of alerts that are not delivered yet
    oldest: str | None  # since when the oldest alert waits
    delivered: int  # the number of messages delivered
    delivered_at: str | None
    failing_since: str | None
    error: str
    next_try: str | None
    dropped: int  # the number of alerts that were not delivered in time, or whose receiver was removed
    dropped_at: str | None


class IncidentOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A signal and its alert. The signal is open or ended less than `flapping` (a setting) ago, or its alert waits."""

    what: str  # "late_flight/no_labels"
    severity: str
    found: str
    ended: str | None  # when the signal ended
    told: bool  # whether an alert was put into the outbox
    held: bool  # whether the alert waits for the digest, because the weekly limit of alerts was reached
    muted: bool
    returned: int  # how often the signal began again soon after it had ended, which causes no new alert


class BudgetOverview(msgspec.Struct, frozen=True, kw_only=True):
    """The number of pages about a model at one severity, and its limit. Alerts that are sent together are one page."""

    model: str
    severity: str
    pages: int  # the number of pages in the last seven days
    of: int  # the largest number of pages that are sent in seven days; further alerts wait for the digest
    a_week: float  # the mean number of pages a week, over the last four weeks
    held: int  # the number of alerts beyond the limit, which wait for the digest (one message about all of them)


class AlertOverview(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The alerts of a project at one time."""

    at: str
    receivers: list[ReceiverOverview]
    signals: list[IncidentOverview]
    mutes: list[Mute]
    budgets: list[BudgetOverview]

    def lines(self) -> list[str]:
        """The overview as lines of text."""
        if not self.receivers:
            return ["No receiver is declared, so signals cause no alerts. See docs/alerts.md, [alerts.receivers.NAME]."]
        out = [f"as of {self.at}", "receivers"]
        for one in self.receivers:
            only = f" of {', '.join(one.models)}" if one.models else ""
            wanted = "all" if one.severity == "info" else one.severity
            what = f"{wanted} signals{only}; {one.delivered:,} delivered" if one.severity else one.kind
            newest = f", the newest at {one.delivered_at}" if one.delivered_at else ""
            out.append(f"  {one.name}  {one.kind} {one.to}  {what}{newest}")
            out += [f"    RED  {line}" for line in _failing(one)]
            again = f"; next try at {one.next_try}" if one.next_try else ""
            out += [f"    {one.waiting} waiting, the oldest since {one.oldest}{again}"] if one.waiting else []
        out.append("signals" if self.signals else "no signal is open")
        for signal in self.signals:
            flags = [word for word in ("muted", "held") if getattr(signal, word)]
            flags += [] if signal.told or flags else ["no alert sent"]
            flags += [f"came back {count_of(signal.returned, 'time')}"] if signal.returned else []
            flags += [f"ended {signal.ended}"] if signal.ended else []
            said = f" ({', '.join(flags)})" if flags else ""
            out.append(f"  {signal.severity:4}  {signal.what} since {signal.found}{said}")
        for mute in self.mutes:
            out.append(f"muted: {mute.what} until {_time(mute.until_us)} by {mute.by}: {mute.why}")
        for budget in self.budgets:
            held = f", {budget.held} held back for the digest" if budget.held else ""
            out.append(
                f"pages: {budget.model} {budget.severity}: {budget.pages} of at most {budget.of} in seven days, "
                f"{budget.a_week:.1f} a week over {_WEEKS} weeks{held}"
            )
        return out


def alert_overview(system: System) -> AlertOverview:
    """Return the state of all alerts; see `Project.alerts`."""
    now_us = system.clock.now_us()
    state = system.part(Alerting).state()
    found = [one for one in mutes(system.state.catalog) if now_us < one.until_us]
    return AlertOverview(
        at=_time(now_us) or "",
        receivers=_receivers(system),
        signals=[_incident(name, one, found, now_us) for name, one in state.incidents.items()],
        mutes=found,
        budgets=_budgets(state, system.config.alerts.pages_per_week, now_us),
    )


def red_receivers(system: System) -> list[str]:
    """Return a status line for each receiver that fails, and for each that lost alerts in the last seven days."""
    now_us, states = system.clock.now_us(), system.part(Alerting).outbox.states()
    if not any(one.failing_since_us or one.dropped_us for one in states.values()):
        return []
    recent = {name for name, one in states.items() if now_us - (one.dropped_us or 0) < DROPPED_US}
    lines = []
    for one in _receivers(system):
        shown = one if one.name in recent else msgspec.structs.replace(one, dropped=0)
        lines += [f"alerts: receiver {one.name} ({one.kind}): {line}" for line in _failing(shown)]
    return lines


def _failing(one: ReceiverOverview) -> list[str]:
    out = []
    if one.failing_since is not None and one.kind != "gone":
        waiting = f"; {count_of(one.waiting, 'alert')} wait{'s' * (one.waiting == 1)}" if one.waiting else ""
        out.append(f"failing since {one.failing_since}: {one.error}{waiting}")
    if one.dropped:
        why = "dropped, as the receiver was removed" if one.kind == "gone" else "dropped, not delivered in time"
        out.append(f"{count_of(one.dropped, 'alert')} {why}, the last at {one.dropped_at}")
    return out


def _receivers(system: System) -> list[ReceiverOverview]:
    outbox, declared = system.part(Alerting).outbox, system.config.alerts.receivers
    queued, states = outbox.queued(), outbox.states()
    gone = [name for name, one in states.items() if name not in declared and one.dropped]
    return [
        _receiver(name, declared.get(name), states.get(name, ReceiverState()), queued.get(name, []))
        for name in [*declared, *gone]
    ]


def _receiver(name: str, one: Receiver | None, state: ReceiverState, waiting: list[Queued]) -> ReceiverOverview:
    routed = None if one is None or isinstance(one, HeartbeatReceiver) else one
    return ReceiverOverview(
        name=name,
        kind="gone" if one is None else kind_of(one),
        to="" if one is None else _address(one),
        severity="" if routed is None else routed.severity,
        models=[] if routed is None else routed.models,
        waiting=sum(len(queued.message.alerts) for queued in waiting),
        oldest=_time(waiting[0].made_us) if waiting else None,
        delivered=state.delivered,
        delivered_at=_time(state.delivered_us),
        failing_since=_time(state.failing_since_us),
        error=state.error,
        next_try=_time(state.next_us or None),
        dropped=state.dropped,
        dropped_at=_time(state.dropped_us),
    )


def _address(one: Receiver) -> str:
    """Return a receiver's address with its secrets, such as the path of a webhook, left out."""
    match one:
        case EmailReceiver():
            return ", ".join(one.to)
        case FileReceiver():
            return one.path
        case CommandReceiver():
            return one.command[0]
    if one.url.startswith("$"):
        return one.url
    parts = urlsplit(one.url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _incident(name: str, one: Incident, found: list[Mute], now_us: int) -> IncidentOverview:
    return IncidentOverview(
        what=name.rstrip("/"),
        severity=one.signal.severity,
        found=_time(one.signal.raised_at_us) or "",
        ended=_time(one.signal.ended_at_us),
        told=bool(one.told),
        held=one.held_us is not None,
        muted=muted(one.signal, found, now_us),
        returned=one.returned,
    )


def _budgets(state: AlertState, limit: int, now_us: int) -> list[BudgetOverview]:
    week, month = state.spent(now_us), state.spent(now_us, days=7 * _WEEKS)
    held = [one for one in [*state.incidents.values(), *state.over] if one.held_us is not None]
    waiting = [(one.signal.model, one.signal.severity) for one in held]
    return [
        BudgetOverview(
            model=budget[0],
            severity=budget[1],
            pages=week[budget],
            of=limit,
            a_week=month[budget] / _WEEKS,
            held=waiting.count(budget),
        )
        for budget in sorted({*month, *waiting})
    ]


def _time(us: int | None) -> str | None:
    return None if us is None else format_time(us // SECOND_US * SECOND_US)
