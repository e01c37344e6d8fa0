"""Rules of alerts: which changes of signals are sent now, wait for the digest, or are not sent.  # D0183"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Literal, TypeAlias

import msgspec

from trimtab.core.alert_settings import AlertKind, AlertsSettings, Severity
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, duration_us
from trimtab.monitoring.signals import JOURNAL, standing_signals
from trimtab.store.ports import Catalog, Entry

KIND, KEY = "alerts", "state"  # kind and key of the record in the catalogue
WEEK_US = 7 * DAY_US
_LISTED_US = 4 * WEEK_US  # how long pages are kept, for the rate that is shown
Budget: TypeAlias = tuple[str, Severity]  # the model and the severity of a page


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A signal from its beginning until its end was sent, including all its returns within the time of flapping."""

    signal: Signal  # the signal as it was last found
    seen_us: int  # when the journal last recorded that the signal stands
    returned: int = 0
    told: Literal["", "info", "red"] = ""  # the highest severity that was sent
    held_us: int | None = None  # the time since which the incident waits for the digest
    held_as: Literal["", "info", "red"] = ""  # the severity of the signal when the wait began

    @property
    def waits(self) -> bool:
        """Return whether the incident may wait for the digest: not if it was held back as info and is red by now."""
        return self.held_us is not None and (self.held_as == "red" or self.signal.severity == "info")

    @property
    def news(self) -> AlertKind | None:
        """The change of the incident that is still to be sent; None if all changes were sent."""
        if not self.told:
            return "begun"
        return "graver" if self.told == "info" and self.signal.severity == "red" else None


class Page(msgspec.Struct, frozen=True):
    """One message about a beginning or a worsening; pages are what a budget counts."""

    model: str
    severity: Severity
    at_us: int


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """The position in the journal of signals, and the incidents that are not over."""

    cursor: int = 0
    incidents: dict[str, Incident] = {}  # incidents by model, kind and subject
    over: list[Incident] = []  # incidents that another incident of the same name has replaced
    pages: list[Page] = []

    def spent(self, now_us: int, *, days: int = 7) -> Counter[Budget]:
        """Pages of the newest days by model and severity, as a budget counts them."""
        return Counter((one.model, one.severity) for one in self.pages if one.at_us > now_us - days * DAY_US)


class SignalChange(msgspec.Struct, frozen=True):
    """One change of a signal that is sent now."""

    incident: Incident
    what: AlertKind


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything apart from the signals that decides what is sent."""

    settings: AlertsSettings
    wanted: Callable[[AlertKind, Signal], bool]  # returns whether any receiver gets a change
    muted: Callable[[Signal], bool]
    stands: Collection[str]  # ids of the signals that stand according to their monitors

    @property
    def flapping_us(self) -> int:
        return duration_us(self.settings.flapping)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a look: the new state, and the alerts to send."""

    state: AlertState
    alerts: list[SignalChange] = []
    digest: list[SignalChange] = []
    exhausted: list[Budget] = []  # the budgets that this look has used up


def read_signals(catalog: Catalog, state: AlertState | None) -> tuple[AlertState, list[Entry]]:
    """The state, and the newer journal entries; at the first look, signals that stand count as just begun."""
    if state is not None:
        return state, _entries(catalog, state.cursor)
    entries = _entries(catalog, 0)
    cursor = entries[-1].sequence if entries else 0
    begun = {_name(one): Incident(signal=one, seen_us=one.raised_at_us) for one in standing_signals(catalog)}
    return AlertState(cursor=cursor, incidents=begun), []


def take_in(state: AlertState, entries: Iterable[Entry], flapping_us: int) -> AlertState:
    """The state after some journal entries: signals began, became red, ended, or came back."""
    incidents, over, cursor = dict(state.incidents), list(state.over), state.cursor
    for entry in entries:
        cursor = entry.sequence
        signal = msgspec.json.decode(entry.body, type=Signal)
        name = _name(signal)
        before = incidents.get(name)
        if signal.ended_at_us is not None:
            if before is not None and before.signal.id == signal.id:
                incidents[name] = msgspec.structs.replace(before, signal=signal)
        elif before is None:
            incidents[name] = Incident(signal=signal, seen_us=entry.at_us)
        elif before.signal.ended_at_us is None and before.signal.id == signal.id:
            incidents[name] = msgspec.structs.replace(before, signal=signal, seen_us=entry.at_us)
        elif entry.at_us - (before.signal.ended_at_us or before.seen_us) < flapping_us:
            incidents[name] = msgspec.structs.replace(
                before, signal=signal, seen_us=entry.at_us, returned=before.returned + 1
            )
        else:
            over += [before] if before.told or before.held_us is not None else []
            incidents[name] = Incident(signal=signal, seen_us=entry.at_us)
    return msgspec.structs.replace(state, cursor=cursor, incidents=incidents, over=over)


def plan_alerts(state: AlertState, rules: Rules, now_us: int) -> Plan:
    """Decide what is sent now. Nothing is stored or sent by this function.

    Args:
        state: The state that `take_in` returned.
        rules: Settings, receivers and mutes.
        now_us: The time of the look.
    """
    kept: dict[str, Incident] = {}
    fresh: dict[str, Incident] = {}
    ended: list[SignalChange] = []
    for name, one in state.incidents.items():
        quiet, muted = _is_quiet(one, rules, now_us), rules.muted(one.signal)
        if one.waits or (muted and (one.told or one.held_us is not None or not quiet)):
            kept[name] = one
        elif one.news is not None and not muted:
            fresh[name] = one
        elif not quiet:
            kept[name] = one
        elif one.told and one.signal.ended_at_us is not None:
            ended.append(SignalChange(one, "ended"))
    paged, pages, exhausted = _within_budget(fresh, state, rules, now_us)
    alerts = []
    for name, one in fresh.items():
        if name not in paged:
            kept[name] = msgspec.structs.replace(one, held_us=one.held_us or now_us, held_as=one.signal.severity)
            continue
        assert one.news is not None  # an incident that has just begun has news
        alerts.append(SignalChange(one, one.news))
        if not _is_quiet(one, rules, now_us):  # otherwise its end was sent together with its beginning
            kept[name] = _as_sent(one)
    waiting = [one for one in state.over if one.held_us is not None or rules.muted(one.signal)]
    before = [one for one in state.over if one not in waiting and one.signal.ended_at_us is not None]
    after = msgspec.structs.replace(state, incidents=kept, over=waiting, pages=pages)
    alerts = [*(SignalChange(one, "ended") for one in before), *alerts, *ended]
    plan = Plan(state=after, alerts=alerts, exhausted=exhausted)
    return _with_digest(plan, rules, now_us)


def _within_budget(
    fresh: dict[str, Incident], state: AlertState, rules: Rules, now_us: int
) -> tuple[set[str], list[Page], list[Budget]]:
    """The names that are sent, the pages to keep, and the budgets that this look has used up.

    All incidents of one model and severity that begin in one look are a single page. Incidents that no receiver gets
    cost nothing.
    """
    spent, limit = state.spent(now_us), rules.settings.pages_per_week
    costly = {name: _budget(one) for name, one in fresh.items() if rules.wanted(one.news or "begun", one.signal)}
    paid = {budget for budget in costly.values() if spent[budget] < limit}
    paged = {name for name in fresh if name not in costly or costly[name] in paid}
    pages = state.pages
    if paid:
        pages = [one for one in state.pages if one.at_us > now_us - _LISTED_US]
        pages += [Page(model, severity, now_us) for model, severity in sorted(paid)]
    return paged, pages, sorted(budget for budget in paid if spent[budget] + 1 == limit)


def _with_digest(plan: Plan, rules: Rules, now_us: int) -> Plan:
    """The plan with a digest of what was held back, if the oldest of it has waited long enough."""
    state = plan.state
    held = [one for one in [*state.over, *state.incidents.values()] if one.held_us is not None]
    held = [one for one in held if not rules.muted(one.signal)]
    since_us = min((one.held_us for one in held if one.held_us is not None), default=now_us)
    if not held or now_us - since_us < duration_us(rules.settings.digest):
        return plan
    incidents = {}
    for name, one in state.incidents.items():
        if one not in held:
            incidents[name] = one
        elif not _is_quiet(one, rules, now_us):
            incidents[name] = _as_sent(one)
    over = [one for one in state.over if one not in held]
    after = msgspec.structs.replace(state, incidents=incidents, over=over)
    digest = [SignalChange(one, one.news or "begun") for one in held]
    return msgspec.structs.replace(plan, state=after, digest=digest)


def _is_quiet(one: Incident, rules: Rules, now_us: int) -> bool:
    """Return whether the signal has been over for longer than the time of flapping.

    If a monitor records no end of its signals, the time since it last found the signal counts.
    """
    ended_us = one.signal.ended_at_us
    if ended_us is None and one.signal.id in rules.stands:
        return False
    return now_us - (one.seen_us if ended_us is None else ended_us) >= rules.flapping_us


def _as_sent(one: Incident) -> Incident:
    return msgspec.structs.replace(one, told=one.signal.severity, held_us=None, held_as="")


def _budget(one: Incident) -> Budget:
    return one.signal.model, one.signal.severity


def _name(signal: Signal) -> str:
    """The identity of a signal for people: the same fault found with a new version is not news."""
    return f"{signal.model}/{signal.kind}/{signal.subject}"


def _entries(catalog: Catalog, after: int) -> list[Entry]:
    found: list[Entry] = []
    while entries := catalog.journal(JOURNAL, after=after):
        found += entries
        after = entries[-1].sequence
    return found
