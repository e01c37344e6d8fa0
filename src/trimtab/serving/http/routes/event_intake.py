"""Push events and labels into the log in a thread, count them, and optionally wait until they are applied."""

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
        push: Appends events to the log. None if this process accepts no events.
        wait_applied: Waits until events are applied to the online features. None if this process cannot know.
    """

    def __init__(self, push: Push | None, wait_applied: WaitApplied | None, parts: Parts) -> None:
        self._push = push
        self._wait_applied = wait_applied
        self._threads = parts.threads
        self._wait_s = parts.limits.wait_applied_s
        self._counted = parts.metrics.counter("trimtab_events_total", "Events pushed over HTTP.", ("source", "fate"))

    def wait_until(self, request: HttpRequest) -> float | None:
        """Return the time (`monotonic`) until which to wait for events to be applied; None: do not wait.

        A request waits if its query has `wait=applied`: until its time limit (`X-Timeout-Ms`), but no longer than
        `Limits.wait_applied_s`.

        Raises:
            NotFound: This server accepts no events.
            Misuse: The query is neither empty nor `wait=applied`, or the header is not a valid time.
            Unavailable: This process cannot wait for events to be applied.
        """
        if self._push is None:
            raise NotFound("events: this server accepts no events. Push them to the server that has the event log.")
        wait, timeout_s = request.query(("wait",)).get("wait"), timeout_of_request(request.scope)
        if wait is None:
            return None
        if wait != "applied":
            raise Misuse(f"query wait={wait!r} is unknown. Give wait=applied, or leave wait out.")
        if self._wait_applied is None:
            raise Unavailable("wait=applied: this process applies no events to online features. Leave wait out.")
        return monotonic() + (self._wait_s if timeout_s is None else min(timeout_s, self._wait_s))

    async def take(self, work: Callable[[Push], Taken], what: str, *, until_s: float | None) -> Taken:
        """Read and push the events of a request in a thread, and count them.

        Args:
            work: Reads and pushes the events.
            what: The word for one of the events in error messages: "event" or "label".
            until_s: The time (`monotonic`) until which to wait for the events to be applied to the online features;
                None: do not wait.

        Raises:
            InvalidField: No event was accepted. The message names the first problem.
            Unavailable: The events are safe, but they are not applied to the online features yet.
            Refused: Too many requests use threads (429).
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
