"""Rules of alerts: which changes of signals are sent now, which wait for the digest, which are not sent.  # D0183"""

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
_LISTED_US = 4 * WEEK_US  # how long pages are kept, for the realised rate
Budget: TypeAlias = tuple[str, Severity]  # the model and the severity that it is for


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A signal from its beginning until its end was sent, with all its returns within the time of flapping."""

    signal: Signal  # as it was found last
    seen_us: int  # when the journal last recorded that it stands
    returned: int = 0
    told: Literal["", "info", "red"] = ""  # the highest severity that was sent
    held_us: int | None = None  # since when it waits for the digest
    held_as: Literal["", "info", "red"] = ""  # its severity then

    @property
    def waits(self) -> bool:
        """Return whether it may wait for the digest: not if it was held as info and is red by now."""
        return self.held_us is not None and (self.held_as == "red" or self.signal.severity == "info")

    @property
    def news(self) -> AlertKind | None:
        """The change of it that is still to be sent; None: all were."""
        if not self.told:
            return "begun"
        return "graver" if self.told == "info" and self.signal.severity == "red" else None


class Page(msgspec.Struct, frozen=True):
    """One message about a beginning or a worsening, as the budget counts it."""

    model: str
    severity: Severity
    at_us: int


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """The position in the journal of signals, and the incidents that are not over."""

    cursor: int = 0
    incidents: dict[str, Incident] = {}  # by model, kind and subject
    over: list[Incident] = []  # those that another incident of the same name has replaced
    pages: list[Page] = []

    def spent(self, now_us: int, *, days: int = 7) -> Counter[Budget]:
        """Pages of the newest days by model and severity."""
        return Counter((one.model, one.severity) for one in self.pages if one.at_us > now_us - days * DAY_US)


class SignalChange(msgspec.Struct, frozen=True):
    """One change of a signal that is sent now."""

    incident: Incident
    what: AlertKind


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the signals that decides what is sent."""

    settings: AlertsSettings
    wanted: Callable[[AlertKind, Signal], bool]  # whether any receiver is to get it
    muted: Callable[[Signal], bool]
    stands: Collection[str]  # ids of the signals that stand, by their monitors

    @property
    def flapping_us(self) -> int:
        return duration_us(self.settings.flapping)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a look: the state afterwards, and the alerts to send."""

    state: AlertState
    alerts: list[SignalChange] = []
    digest: list[SignalChange] = []
    exhausted: list[Budget] = []  # budgets that this look has used up


def read_signals(catalog: Catalog, state: AlertState | None) -> tuple[AlertState, list[Entry]]:
    """The state and the journal entries since. At the first look the signals that stand count as having just begun."""
    if state is not None:
        return state, _entries(catalog, state.cursor)
    entries = _entries(catalog, 0)
    cursor = entries[-1].sequence if entries else 0
    begun = {_name(one): Incident(signal=one, seen_us=one.raised_at_us) for one in standing_signals(catalog)}
    return AlertState(cursor=cursor, incidents=begun), []


def take_in(state: AlertState, entries: Iterable[Entry], flapping_us: int) -> AlertState:
    """The state after journal entries: signals began, became red, ended, or came back."""
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
    """Decide what is sent now; nothing is stored or sent here.

    Args:
        state: After `take_in`.
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
        assert one.news is not None  # fresh incidents have news
        alerts.append(SignalChange(one, one.news))
        if not _is_quiet(one, rules, now_us):  # else its end was sent with its beginning
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

    All that begins in one look is one page of its model and severity. What no receiver gets costs nothing.
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
    """The plan with a digest of what was held back, once the oldest of it has waited long enough."""
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
    """Return whether it has been over for longer than the time of flapping.

    For a monitor that records no end of its signals, this is the time since it last found the signal.
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
    """The identity of a signal for people: the same fault of a new version is no news."""
    return f"{signal.model}/{signal.kind}/{signal.subject}"


def _entries(catalog: Catalog, after: int) -> list[Entry]:
    found: list[Entry] = []
    while entries := catalog.journal(JOURNAL, after=after):
        found += entries
        after = entries[-1].sequence
    return found
