"""Features whose value failed for events, as `status` tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import TrimtabError
from trimtab.core.time import DAY_US, format_time

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.features.online.failures import FeatureFailures
    from trimtab.store.ports import Log

_RED_US = DAY_US  # of the log's time after the newest failure


class FeatureFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A feature whose value failed for events, and the last of them."""

    view: str
    feature: str
    source: str
    events: int  # for so many, since the view was filled
    event: str  # the id of the last one
    at: str  # when that happened
    error: str
    recent: bool  # it came within the last day of the log

    @property
    def line(self) -> str:
        """The same for people, with what to do."""
        events = "1 event" if self.events == 1 else f"{self.events:,} events"
        return (
            f"view {self.view!r}, feature {self.feature!r}: its value failed for {events} of source {self.source!r} "
            f"and is null there; the last is {self.event!r} of {self.at}: {self.error.rstrip('.')}. "
            "Guard the expression (where=, tt.when) and run: trimtab apply; or correct the event, if it has a key"
        )


def feature_failures(system: System) -> list[FeatureFailure]:
    """What failed in all views, by view and feature."""
    store = system.views.store
    found = []
    for name, failures in store.failures().items():
        view = store.plans[name].view
        for feature, one in failures.items():
            appended_us = _appended_us(system.state.events, one)
            found.append(
                FeatureFailure(
                    view=view.name,
                    feature=feature,
                    source=view.source.name,
                    events=one.count,
                    event=one.event_id,
                    at=format_time(one.event_at_us),
                    error=one.error,
                    recent=store.s_us - appended_us <= _RED_US,
                )
            )
    return found


def failure_counts(system: System) -> dict[tuple[str, ...], int]:
    """For how many events features failed, by view and feature; nothing while online features cannot be read."""
    try:
        found = system.views.store.failures()
    except TrimtabError:
        return {}  # readiness and `status` say so
    return {(view, feature): one.count for view, failures in found.items() for feature, one in failures.items()}


def _appended_us(log: Log, failure: FeatureFailures) -> int:
    """When the last event came; of one that was truncated from the log, when it became known."""
    if failure.partition in log.positions():
        for record in log.read(failure.partition, failure.position - 1, limit=1):
            if record.position == failure.position:
                return record.appended_at_us
    return failure.known_at_us
