"""The rules of alerts: which changes of signals are sent now, later in a digest, or not at all.  # D0183"""

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

KIND, KEY = "alerts", "state"  # the kind and the key of the catalogue record that holds an `AlertState`
WEEK_US = 7 * DAY_US
_LISTED_US = 4 * WEEK_US  # how long records of pages (messages sent immediately) are kept, to show how many there were
Budget: TypeAlias = tuple[str, Severity]  # a model and a severity, for which the number of pages is limited


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What receivers of alerts count as one event: a signal, even if it ends and soon returns.

    If the signal returns within the time `flapping` (a setting) after its end, the incident goes on. Otherwise its end
    is sent, and it is over. Without a recorded end, the time begins when the signal was last found; nothing is sent.
    """

    signal: Signal  # the signal, as its monitor last found it
    seen_us: int  # the time of the newest journal entry in which the signal is open
    returned: int = 0
    told: Literal["", "info", "red"] = ""  # the highest severity that was sent; "": nothing was sent yet
    held_us: int | None = None  # since when the incident waits to be sent in a digest; None: it does not wait
    held_as: Literal["", "info", "red"] = ""  # the severity of the signal when it began to wait

    @property
    def waits(self) -> bool:
        """Whether the incident waits for the digest. One that began to wait as info stops when it becomes red."""
        return self.held_us is not None and (self.held_as == "red" or self.signal.severity == "info")

    @property
    def news(self) -> AlertKind | None:
        """What is to be sent about the incident: it began, or it became red. None: nothing is to be sent."""
        if not self.told:
            return "begun"
        return "graver" if self.told == "info" and self.signal.severity == "red" else None


class Page(msgspec.Struct, frozen=True):
    """A record that a message was sent immediately, not in a digest. The number of such messages is limited."""

    model: str
    severity: Severity
    at_us: int


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the journal of signals was read, and the incidents that are not over."""

    cursor: int = 0  # the sequence number of the last journal entry that was read
    incidents: dict[str, Incident] = {}  # by model, kind and subject of the signal
    # incidents whose end was not sent yet, although a new incident with the same name has begun
    over: list[Incident] = []
    pages: list[Page] = []

    def spent(self, now_us: int, *, days: int = 7) -> Counter[Budget]:
        """Return for each model and severity the number of pages in the last `days` days."""
        return Counter((one.model, one.severity) for one in self.pages if one.at_us > now_us - days * DAY_US)


class SignalChange(msgspec.Struct, frozen=True):
    """A change of a signal that is to be sent."""

    incident: Incident
    what: AlertKind


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what is sent, apart from the signals themselves."""

    settings: AlertsSettings
    wanted: Callable[[AlertKind, Signal], bool]  # whether any receiver wants such a change
    muted: Callable[[Signal], bool]
    stands: Collection[str]  # the ids of the signals that have not ended according to their monitors

    @property
    def flapping_us(self) -> int:
        return duration_us(self.settings.flapping)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent, and the state afterwards."""

    state: AlertState
    alerts: list[SignalChange] = []
    digest: list[SignalChange] = []
    exhausted: list[Budget] = []  # the limits on pages that this plan reaches


def read_signals(catalog: Catalog, state: AlertState | None) -> tuple[AlertState, list[Entry]]:
    """Return the state, and the journal entries that are new.

    Without a state (at the first call), each signal that has not ended becomes an incident.
    """
    if state is not None:
        return state, _entries(catalog, state.cursor)
    entries = _entries(catalog, 0)
    cursor = entries[-1].sequence if entries else 0
    begun = {_name(one): Incident(signal=one, seen_us=one.raised_at_us) for one in standing_signals(catalog)}
    return AlertState(cursor=cursor, incidents=begun), []


def take_in(state: AlertState, entries: Iterable[Entry], flapping_us: int) -> AlertState:
    """Return the state after reading journal entries: signals that began, became red, ended or returned."""
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
    """Decide what is to be sent now. This function itself stores and sends nothing.

    Args:
        state: The state that `take_in` returned.
        rules: The settings, the receivers and the mutes.
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
        assert one.news is not None  # incidents in `fresh` have news
        alerts.append(SignalChange(one, one.news))
        if not _is_quiet(one, rules, now_us):  # otherwise the message also says that the signal has ended
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
    """Return the names of incidents to send now, the list of pages including these, and the limits that this reaches.

    All incidents of one model and severity in `fresh` count as one page together. Incidents that no receiver
    wants do not count.
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
    """Return the plan. If one incident has waited long enough, add a digest of all incidents that wait."""
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
    """Return whether the signal ended so long ago that its return would be a new incident (setting `flapping`).

    Some monitors do not record the end of a signal. For these, the time at which it was last found counts.
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
    """Return a name without the version: the same fault in the next version belongs to the same incident."""
    return f"{signal.model}/{signal.kind}/{signal.subject}"


def _entries(catalog: Catalog, after: int) -> list[Entry]:
    found: list[Entry] = []
    while entries := catalog.journal(JOURNAL, after=after):
        found += entries
        after = entries[-1].sequence
    return found
