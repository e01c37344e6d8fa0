"""Deliver alerts: one process at a time turns new signals into messages to receivers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from trimtab.app.state.definitions import Definitions
from trimtab.app.state.lease import Lease
from trimtab.app.state.loop_turn import last_activity
from trimtab.app.system import System
from trimtab.core.alert_settings import AlertKind, AlertsSettings, HeartbeatReceiver, Receiver
from trimtab.core.errors import Misuse, NotFound, TrimtabError
from trimtab.core.ids import TimeIds
from trimtab.core.records import Signal
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US, duration_us, format_time
from trimtab.monitoring.alerts.alert_records import Alert, Message, alert_of, title_of, wants
from trimtab.monitoring.alerts.alerts import (
    KEY,
    KIND,
    AlertState,
    Plan,
    Rules,
    SignalChange,
    plan_alerts,
    read_signals,
    take_in,
)
from trimtab.monitoring.alerts.mutes import muted, mutes
from trimtab.monitoring.alerts.outbox import KIND as OUTBOX
from trimtab.monitoring.alerts.outbox import Outbox, Sent
from trimtab.monitoring.alerts.receivers.sending import send
from trimtab.monitoring.signals import standing_signals
from trimtab.store.ports import Put, Remove

_logger = logging.getLogger(__name__)
LEASE = "alerts"
_ROUND_S = 45.0  # how long `look` waits for deliveries, then for heartbeats; more than any timeout of one message
_TICKED_US = DAY_US  # if a training loop has not run for this long, no heartbeat is sent


class TriedReceiver(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a test alert to one receiver."""

    receiver: str
    kind: str
    ok: bool
    said: str  # what the receiver answered, or what went wrong
    took_s: float


class Alerting:
    """Turns signals into messages and delivers them.

    Any number of processes may call `look` at any time.

    Args:
        environment: The values of `$NAME` in the settings. By default, these are the environment variables of the
            process.
    """

    def __init__(self, system: System, environment: Mapping[str, str] | None = None) -> None:
        self._system = system
        self._environment = os.environ if environment is None else environment
        self._catalog = system.state.catalog
        self._clock = system.clock
        self._ids = TimeIds(system.clock)
        self._beaten_s: dict[str, float] = {}  # the monotonic time at which each heartbeat was last sent
        self._looking = threading.Lock()
        self.outbox = Outbox(self._catalog, self._clock, duration_us(self.settings.keep))

    @property
    def settings(self) -> AlertsSettings:
        return self._system.config.alerts

    def look(self) -> None:
        """Put new alerts into the outbox, and deliver as many as the receivers accept.

        The call returns at once if there is nothing to do. It waits at most 45 seconds for deliveries, and as long for
        heartbeats. If another thread or process is delivering alerts, this call delivers none.

        Raises:
            Unavailable: The catalogue cannot be read or written now, or the clock jumped ahead, which would end mutes
                too early.
            Conflict: This process lost its lease (the right to deliver), and another process wrote meanwhile. No alert
                was sent.
        """
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._system.state.check_clock()
            threads = self._beat()
            if not self.settings.receivers:
                self._forget()
            elif self._is_due():
                lease = Lease(self._catalog, LEASE, self._system.state_folder)
                if lease.take():
                    try:
                        self._collect()
                        _wait(self.outbox.deliver(self.settings.addressees, self._send))
                    finally:
                        lease.release()
            _wait(threads)
        finally:
            self._looking.release()

    def test(self, receiver: str | None = None) -> list[TriedReceiver]:
        """Send a test alert to one receiver or to all receivers, without using the outbox.

        Raises:
            NotFound: There is no receiver of this name.
        """
        receivers = self.settings.receivers
        if receiver is not None and receiver not in receivers:
            raise NotFound(
                f"alert receiver {receiver!r} is not declared. Declared receivers: {', '.join(receivers) or 'none'}."
            )
        names = list(receivers) if receiver is None else [receiver]
        return [self._tested(name, receivers[name]) for name in names]

    def state(self) -> AlertState:
        """Return the alert state as `look` would find it now, with the incidents that are not over."""
        state, entries = read_signals(self._catalog, self._stored()[0])
        return take_in(state, entries, duration_us(self.settings.flapping))

    def plan(self) -> tuple[Plan, AlertState | None, int]:
        """Return what `look` would send now, the state that is stored now (None: there is none), and its revision."""
        before, revision = self._stored()
        now_us = self._clock.now_us()
        found = mutes(self._catalog)
        state, entries = read_signals(self._catalog, before)
        rules = Rules(
            settings=self.settings,
            wanted=self._wanted,
            muted=lambda signal: muted(signal, found, now_us),
            stands={one.id for one in standing_signals(self._catalog)},
        )
        return plan_alerts(take_in(state, entries, rules.flapping_us), rules, now_us), before, revision

    def _is_due(self) -> bool:
        plan, before, _ = self.plan()
        return plan.state != before or bool(self.outbox.due(self.settings.addressees))

    def _collect(self) -> None:
        """Store the new alert state and the resulting messages in one write."""
        plan, before, revision = self.plan()
        if plan.state == before:
            return
        now_us = self._clock.now_us()
        puts = [self.outbox.put(name, message, now_us) for name, message in self._messages(plan, now_us)]
        self._catalog.write([Put(KIND, KEY, msgspec.json.encode(plan.state), revision), *puts])

    def _messages(self, plan: Plan, now_us: int) -> list[tuple[str, Message]]:
        """Return the messages that a plan sends.

        Each receiver gets at most one message with new alerts, and one digest: a message with the alerts that waited
        because the weekly limit had been reached.
        """
        found = []
        limit = self.settings.pages_per_week
        used_up = [
            f"{model}: the weekly limit of immediate alerts is reached ({limit}, {severity}). Others wait for a digest."
            for model, severity in plan.exhausted
        ]
        for name, receiver in self.settings.addressees.items():
            news = [self._alert(one) for one in plan.alerts if wants(receiver, one.what, one.incident.signal)]
            notes = [note for note in used_up if note.partition(":")[0] in {one.model for one in news}]
            if news:
                found.append((name, self._message("alerts", news, notes, now_us)))
            held = [self._alert(one) for one in plan.digest if wants(receiver, one.what, one.incident.signal)]
            if held:
                said = f"Held back, because the weekly limit of immediate alerts ({limit}) was reached."
                found.append((name, self._message("digest", held, [said], now_us)))
        return found

    def _message(self, kind: str, alerts: list[Alert], notes: list[str], now_us: int) -> Message:
        name = self._system.config.project.name
        return Message(
            key=self._ids("alert"),
            kind="digest" if kind == "digest" else "alerts",
            project=name,
            at=format_time(now_us),
            title=title_of(alerts, name, digest=kind == "digest"),
            notes=notes,
            alerts=alerts,
        )

    def _alert(self, change: SignalChange) -> Alert:
        signal = change.incident.signal
        deployment = self._system.definitions.deployments.get(signal.model)
        return alert_of(
            signal,
            change.what,
            version=self._version_name(signal),
            owner=None if deployment is None else deployment.owner,
            returned=change.incident.returned,
        )

    def _version_name(self, signal: Signal) -> str:
        try:
            return self._system.registry.get(signal.version).name if signal.version else ""
        except (NotFound, Misuse):  # a backup without this version was restored
            return signal.version[:12]

    def _wanted(self, what: AlertKind, signal: Signal) -> bool:
        return any(wants(receiver, what, signal) for receiver in self.settings.addressees.values())

    def _send(self, receiver: Receiver, message: Message) -> Sent:
        return send(receiver, message, folder=self._system.config.folder, environment=self._environment)

    def _tested(self, name: str, receiver: Receiver) -> TriedReceiver:
        now = format_time(self._clock.now_us())
        project = self._system.config.project.name
        message = Message(
            key=self._ids("alert"),
            kind="test",
            project=project,
            at=now,
            title=f"{project}: a test alert",
            notes=[f"This tests whether alerts reach the receiver {name!r}. There is nothing to do."],
            alerts=[],
        )
        began_s = time.monotonic()
        sent = self._send(receiver, message)
        took_s = round(time.monotonic() - began_s, 3)
        return TriedReceiver(receiver=name, kind=kind_of(receiver), ok=sent.ok, said=sent.said, took_s=took_s)

    def _beat(self) -> list[threading.Thread]:
        """If the project is healthy, send the heartbeats that are due."""
        now_s = time.monotonic()
        due = {
            name: one
            for name, one in self.settings.heartbeats.items()
            if now_s >= self._beaten_s.get(name, -1e9) + duration_us(one.every) / 1e6
        }
        if not due or self._is_unwell():
            return []
        threads = []
        for name, one in due.items():
            self._beaten_s[name] = now_s
            work = threading.Thread(target=self._beat_one, args=(name, one), name=f"trimtab-beat-{name}", daemon=True)
            work.start()
            threads.append(work)
        return threads

    def _beat_one(self, name: str, receiver: HeartbeatReceiver) -> None:
        nothing = Message(key="", kind="test", project="", at="", title="", notes=[], alerts=[])
        self.outbox.note(name, self._send(receiver, nothing))

    def _is_unwell(self) -> bool:
        """Return whether a training loop failed or did not run for a day, or whether alerts to a receiver fail."""
        now_us, addressees = self._clock.now_us(), self.settings.addressees
        ticks = [last_activity(self._catalog, name) for name in self._system.definitions.deployments]
        failing = any(tick is not None and tick.last_error is not None for tick in ticks)
        late = any(tick is not None and now_us - (tick.last_tick_us or now_us) > _TICKED_US for tick in ticks)
        states = self.outbox.states()
        return failing or late or any(states[name].failing_since_us for name in states if name in addressees)

    def _stored(self) -> tuple[AlertState | None, int]:
        record = self._catalog.get(KIND, KEY)
        return (None, 0) if record is None else (msgspec.json.decode(record.body, type=AlertState), record.revision)

    def _forget(self) -> None:
        """Remove the stored state and all waiting messages, because no receiver is declared.

        If a receiver is declared later, it gets the signals that are open at that time.
        """
        kept = [self._catalog.get(KIND, KEY), *self._catalog.find(OUTBOX)]
        gone = [Remove(one.kind, one.key) for one in kept if one is not None]
        if gone:
            self._catalog.write(gone)


def alert_after_tick(system: System) -> None:
    """Deliver the alerts of a tick, unless a serving process does so.

    Failures are only logged, because the tick itself succeeded.
    """
    try:
        if not system.config.alerts.receivers or not system.views.followed():
            system.part(Alerting).look()
    except TrimtabError as error:
        _logger.warning("alerts: %s", error)


def kind_of(receiver: Receiver) -> str:
    """Return the kind of a receiver, as the settings name it.

    >>> from trimtab.core.alert_settings import FileReceiver
    >>> kind_of(FileReceiver(path="alerts.jsonl"))
    'file'
    """
    return str(receiver.__struct_config__.tag)


def check_receivers(settings: AlertsSettings, definitions: Definitions, file: Path) -> None:
    """Check that the models of receivers are deployed.

    Raises:
        Misuse: A receiver names a model that is not deployed.
    """
    for name, receiver in settings.addressees.items():
        for model in receiver.models:
            if model not in definitions.deployments:
                known = ", ".join(definitions.deployments) or "none"
                raise Misuse(
                    f"{file}: alerts.receivers.{name}.models: {model!r} is not deployed. Deployed models: {known}."
                )


def _wait(threads: Sequence[threading.Thread]) -> None:
    end_s = time.monotonic() + _ROUND_S
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
