"""Where a service takes events in, whatever they come as: in a thread, counted, and waited for if that is asked."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from trimtab.core.errors import NotFound, Unavailable
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.http.requests.wire import Scope, asked_timeout
from trimtab.serving.http.routes.pushing import Push, Pushed, WaitApplied, wait_asked
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.problems import InvalidField


class Taken(NamedTuple):
    """What became of the events of one request."""

    source: str
    pushed: Pushed
    rows: int


class EventDoor:
    """Takes events into the log.

    Args:
        push: What takes them; None: nothing does in this process.
        wait_applied: Waits for the views; None: none are applied here.
        threads: Where it is done.
        metrics: Where they are counted.
        limits: How long views are waited for.
    """

    def __init__(
        self, push: Push | None, wait_applied: WaitApplied | None, *, threads: Threads, metrics: Metrics, limits: Limits
    ) -> None:
        self._push = push
        self._wait_applied = wait_applied
        self._threads = threads
        self._wait_s = limits.wait_applied_s
        self._counted = metrics.counter("trimtab_events_total", "Events pushed over HTTP.", ("source", "fate"))

    def wait_until(self, scope: Scope) -> float | None:
        """Until when (`monotonic`) a request wants the views waited for, if its query says `wait=applied`.

        That is as long as this service waits, or until nobody waits for the answer any more (`X-Timeout-Ms`).

        Raises:
            NotFound: No events are taken here.
            Misuse: The query says anything else, or the header no time.
            Unavailable: No views are applied here.
        """
        if self._push is None:
            raise NotFound("events: this server takes none. Push them where the event log is.")
        wait, timeout_s = wait_asked(scope["query_string"]), asked_timeout(scope)
        if not wait:
            return None
        if self._wait_applied is None:
            raise Unavailable("wait=applied: no views are applied in this process. Leave it out.")
        return monotonic() + (self._wait_s if timeout_s is None else min(timeout_s, self._wait_s))

    async def take(self, work: Callable[[Push], Taken], what: str, *, until_s: float | None) -> Taken:
        """What became of the events that `work` reads and pushes, in a thread; they are safe, and counted.

        Args:
            work: Reads and pushes them.
            what: What one of them is, in messages: "event".
            until_s: The views are to have them by then (`monotonic`), too; None: whenever they do.

        Raises:
            InvalidField: None was taken; the first one's fault is named.
            Unavailable: The events are safe, but the views behind.
            Refused: Too much is under way (429).
        """
        taken: Taken = await self._threads.work(work, self._push)
        pushed = taken.pushed
        self._counted.add(taken.source, "accepted", by=pushed.accepted)
        self._counted.add(taken.source, "quarantined", by=pushed.quarantined)
        if until_s is not None and pushed.accepted and self._wait_applied is not None:
            left_s = round(max(0.0, until_s - monotonic()), 3)
            await self._threads.wait(self._wait_applied, {pushed.partition: pushed.position}, left_s)
        if pushed.problems and not pushed.accepted:
            first = pushed.problems[0]
            raise InvalidField(
                f"none of {taken.rows} {what}s was taken; all are in quarantine. {what.capitalize()} {first.row}: "
                f"{first.field} is {first.reason} (found {first.found}).",
                field=first.field,
                pointer=f"$[{first.row}].{first.field}",
            )
        return taken
