"""Intake of events and labels: they are pushed in a thread, counted, and waited for on request."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.requests.http_request import HttpRequest
from trimtab.serving.http.requests.wire import timeout_of_request
from trimtab.serving.http.routes.pushing import Push, WaitApplied
from trimtab.serving.problems import InvalidField

if TYPE_CHECKING:
    from trimtab.events.ingest import Pushed


class Taken(NamedTuple):
    """The result of pushing the events of one request."""

    source: str
    pushed: Pushed
    rows: int


class EventIntake:
    """Pushes events into the log.

    Args:
        push: Appends events. None: this process takes no events.
        wait_applied: Waits for the views. None: this process applies no views.
        parts: The threads, metrics and limits of the service.
    """

    def __init__(self, push: Push | None, wait_applied: WaitApplied | None, parts: Parts) -> None:
        self._push = push
        self._wait_applied = wait_applied
        self._threads = parts.threads
        self._wait_s = parts.limits.wait_applied_s
        self._counted = parts.metrics.counter("trimtab_events_total", "Events pushed over HTTP.", ("source", "fate"))

    def wait_until(self, request: HttpRequest) -> float | None:
        """Return the time (`monotonic`) until which to wait for the views, or None without `wait=applied` in the
        query.

        The time is the request's deadline (`X-Timeout-Ms`), or the longest that this service waits.

        Raises:
            NotFound: This server takes no events.
            Misuse: The query holds anything else, or the header is not a time.
            Unavailable: This process applies no views.
        """
        if self._push is None:
            raise NotFound("events: this server takes none. Push them where the event log is.")
        wait, timeout_s = request.query(("wait",)).get("wait"), timeout_of_request(request.scope)
        if wait is None:
            return None
        if wait != "applied":
            raise Misuse(f"query wait={wait!r} is unknown. The only one is wait=applied.")
        if self._wait_applied is None:
            raise Unavailable("wait=applied: no views are applied in this process. Leave it out.")
        return monotonic() + (self._wait_s if timeout_s is None else min(timeout_s, self._wait_s))

    async def take(self, work: Callable[[Push], Taken], what: str, *, until_s: float | None) -> Taken:
        """Read and push events in a thread, and count them.

        Args:
            work: Reads and pushes the events.
            what: The word for an event in messages: "event".
            until_s: The time (`monotonic`) until which to wait for the views to include the events. None: do not wait.

        Raises:
            InvalidField: No event was accepted. The message names the first problem.
            Unavailable: The events are safe, but the views do not include them yet.
            Refused: Too many requests are in flight (429).
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
