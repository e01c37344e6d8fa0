"""The outbox: messages that wait to be delivered, and the state of each receiver.  # D0183"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from trimtab.core.alert_settings import Receiver
from trimtab.core.clock import Clock
from trimtab.core.errors import TrimtabError
from trimtab.core.time import DAY_US, MINUTE_US, SECOND_US
from trimtab.monitoring.alerts.alert_records import Message
from trimtab.store.ports import Catalog, Put, Record, Remove, read_record

_logger = logging.getLogger(__name__)
# kinds of catalogue records: waiting messages, and the states of receivers
KIND, STATES = "alert_outbox", "alert_receiver"
FIRST_US, LONGEST_US = 10 * SECOND_US, 15 * MINUTE_US  # the first and the longest pause between two attempts
DROPPED_US = 7 * DAY_US  # after messages were dropped, the receiver's status stays red for this long
_ROUND_S = 10.0  # after this time, a thread sends no more messages; the next call of `deliver` sends the others


class Sent(msgspec.Struct, frozen=True):
    """The outcome of one attempt to deliver a message."""

    ok: bool
    said: str  # what the receiver answered, or what went wrong
    retry_s: float = 0.0  # how long the receiver asks to wait before the next attempt


class Queued(msgspec.Struct, frozen=True):
    """A message that waits to be delivered."""

    made_us: int
    message: Message


class ReceiverState(msgspec.Struct, frozen=True, kw_only=True):
    """How deliveries to one receiver went."""

    delivered: int = 0
    delivered_us: int | None = None  # the time of the last successful delivery; None: there was none
    said: str = ""  # the answer to the last successful delivery
    failing_since_us: int | None = None  # the time of the first failure since the last success; None: there was none
    error: str = ""
    tries: int = 0  # how many attempts in a row failed
    next_us: int = 0  # the earliest time of the next attempt
    dropped: int = 0  # how many alerts were dropped without being delivered
    dropped_us: int | None = None  # the time at which alerts were last dropped; None: none were

    def failed(self, sent: Sent, now_us: int) -> ReceiverState:
        """Return the state after one more failed attempt. Each failure in a row doubles the pause."""
        pause_us = min(LONGEST_US, FIRST_US * 2 ** min(self.tries, 20))
        return msgspec.structs.replace(
            self,
            failing_since_us=self.failing_since_us or now_us,
            error=sent.said,
            tries=self.tries + 1,
            next_us=now_us + max(pause_us, round(min(LONGEST_US, sent.retry_s * SECOND_US))),
        )

    def succeeded(self, sent: Sent, now_us: int) -> ReceiverState:
        return msgspec.structs.replace(
            self,
            delivered=self.delivered + 1,
            delivered_us=now_us,
            said=sent.said,
            failing_since_us=None,
            error="",
            tries=0,
            next_us=0,
        )

    def is_due(self, now_us: int) -> bool:
        """Return whether a message may be sent now: the time of the next attempt has come.

        If that time is further away than the longest pause, the clock was set back, and a message may be sent, too.
        """
        return not now_us < self.next_us <= now_us + LONGEST_US


Send = Callable[[Receiver, Message], Sent]


class Outbox:
    """The messages that wait for each receiver, stored in the catalogue.

    Only one process may call `deliver`: the one that holds the catalogue's lease (a lock that expires) for alerts.

    Args:
        keep_us: A message that is older than this is dropped.
    """

    def __init__(self, catalog: Catalog, clock: Clock, keep_us: int) -> None:
        self._catalog = catalog
        self._clock = clock
        self._keep_us = keep_us
        self._threads: dict[str, threading.Thread] = {}  # by receiver
        self._mutex = threading.Lock()  # protects the states of receivers

    @staticmethod
    def put(receiver: str, message: Message, now_us: int) -> Put:
        """Return the catalogue change that adds a message for a receiver."""
        return Put(KIND, f"{receiver}/{message.key}", msgspec.json.encode(Queued(now_us, message)), 0)

    def queued(self) -> dict[str, list[Queued]]:
        """Return the waiting messages for each receiver, oldest first."""
        found: dict[str, list[Queued]] = {}
        for record in self._records():
            found.setdefault(record.key.partition("/")[0], []).append(_read(record))
        return found

    def states(self) -> dict[str, ReceiverState]:
        """Return the state of each receiver to which anything was ever sent."""
        return {one.key: msgspec.json.decode(one.body, type=ReceiverState) for one in self._catalog.find(STATES)}

    def due(self, receivers: Mapping[str, Receiver]) -> list[str]:
        """Return the receivers for which messages can be delivered or dropped now."""
        now_us, states = self._clock.now_us(), self.states()
        return [
            name
            for name, waiting in self.queued().items()
            if name not in receivers
            or states.get(name, ReceiverState()).is_due(now_us)
            or any(self._is_old(one, now_us) for one in waiting)
        ]

    def deliver(self, receivers: Mapping[str, Receiver], send: Send) -> list[threading.Thread]:
        """Start to deliver messages, with one thread for each receiver, so that no receiver delays another.

        Messages for receivers that are no longer declared are dropped.
        """
        threads = []
        for name in self.due(receivers):
            if (before := self._threads.get(name)) is not None and before.is_alive():
                continue  # its thread is still busy, perhaps because the receiver does not answer
            if name not in receivers:
                self._drop(name, self._records(name), "the receiver is no longer declared")
                continue
            work = threading.Thread(
                target=self._guarded, args=(name, receivers[name], send), name=f"trimtab-alert-{name}", daemon=True
            )
            self._threads[name] = work
            work.start()
            threads.append(work)
        return threads

    def note(self, name: str, sent: Sent) -> None:
        """Store the outcome of a heartbeat, which bypasses the queue. A success is only stored after a failure."""
        if not sent.ok or self._state(name).failing_since_us is not None:
            self._store(name, sent)

    def _guarded(self, name: str, receiver: Receiver, send: Send) -> None:
        try:
            self._empty(name, receiver, send)
        except TrimtabError as error:  # if the catalogue fails, the messages stay in the queue
            _logger.warning("alerts to %s: %s", name, error)
        except Exception:  # this is the outermost loop of the thread
            _logger.exception("alerts to %s failed", name)

    def _empty(self, name: str, receiver: Receiver, send: Send) -> None:
        end_s = time.monotonic() + _ROUND_S
        self._drop_old(name)
        state = self._state(name)
        for record in self._records(name):
            if time.monotonic() >= end_s or not state.is_due(self._clock.now_us()):
                return
            sent = _tried(receiver, _read(record).message, send)
            state = self._store(name, sent, *([Remove(KIND, record.key, record.revision)] if sent.ok else []))
            if not sent.ok:
                _logger.warning("alerts to %s: %s", name, sent.said)

    def _store(self, name: str, sent: Sent, *changes: Remove) -> ReceiverState:
        now_us = self._clock.now_us()
        with self._mutex:  # heartbeats and messages are sent by different threads
            before = self._state(name)
            state = before.succeeded(sent, now_us) if sent.ok else before.failed(sent, now_us)
            self._catalog.write([*changes, Put(STATES, name, msgspec.json.encode(state))])
        return state

    def _drop_old(self, name: str) -> None:
        old = [record for record in self._records(name) if self._is_old(_read(record), self._clock.now_us())]
        self._drop(name, old, f"the message could not be delivered ({self._state(name).error or 'not tried in time'})")

    def _drop(self, name: str, records: list[Record], why: str) -> None:
        if not records:
            return
        count = sum(len(_read(record).message.alerts) for record in records)
        _logger.warning("alerts to %s: %d dropped: %s", name, count, why)
        removed = [Remove(KIND, record.key, record.revision) for record in records]
        with self._mutex:
            state = self._state(name)
            after = msgspec.structs.replace(state, dropped=state.dropped + count, dropped_us=self._clock.now_us())
            self._catalog.write([*removed, Put(STATES, name, msgspec.json.encode(after))])

    def _is_old(self, one: Queued, now_us: int) -> bool:
        return now_us - one.made_us > self._keep_us

    def _records(self, receiver: str = "") -> list[Record]:
        found = self._catalog.find(KIND, receiver and f"{receiver}/")
        return sorted(found, key=lambda record: (_read(record).made_us, record.key))

    def _state(self, name: str) -> ReceiverState:
        return read_record(self._catalog, STATES, name, ReceiverState) or ReceiverState()


def _tried(receiver: Receiver, message: Message, send: Send) -> Sent:
    try:
        return send(receiver, message)
    except Exception as error:  # an error in a library is a failure of this receiver
        _logger.exception("a receiver failed unexpectedly")
        return Sent(False, f"{type(error).__name__}: {error}")


def _read(record: Record) -> Queued:
    return msgspec.json.decode(record.body, type=Queued)
