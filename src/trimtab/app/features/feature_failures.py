"""Find features that could not be computed for some events, to show them in `trimtab status`."""

from __future__ import annotations

import msgspec

from trimtab.app.system import System
from trimtab.core.errors import TrimtabError
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, format_time
from trimtab.features.online.failures import FeatureFailures
from trimtab.store.ports import Log

_RED_US = DAY_US  # a failure is recent if it is at most this much older than the newest time in the log


class FeatureFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that could not be computed for some events, with the newest of these events."""

    view: str
    feature: str
    source: str
    events: int  # the number of such events since the view was last filled
    event: str  # the id of the last such event
    at: str  # its event time
    error: str
    recent: bool  # whether it was appended within the last day of the log

    @property
    def line(self) -> str:
        """The failure as one line of text, with its remedy."""
        events = count_of(self.events, "event")
        return (
            f"view {self.view!r}, feature {self.feature!r}: its value failed for {events} of source {self.source!r} "
            f"and is null there; the last one is event {self.event!r} of {self.at}: {self.error.rstrip('.')}. "
            "Guard the expression (where=, tt.when) and run: trimtab apply. If the source has a key, the event can be "
            "corrected instead"
        )


def feature_failures(system: System) -> list[FeatureFailure]:
    """Return the failures in all views."""
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
    """Return the number of failed events by view and feature.

    The result is empty if the online features cannot be read.
    """
    try:
        found = system.views.store.failures()
    except TrimtabError:
        return {}  # the error is reported by the readiness check and by `status`
    return {(view, feature): one.count for view, failures in found.items() for feature, one in failures.items()}


def _appended_us(log: Log, failure: FeatureFailures) -> int:
    """Return when the last failed event was appended.

    If that event is no longer in the log, return when it became known.
    """
    if failure.partition in log.positions():
        for record in log.read(failure.partition, failure.position - 1, limit=1):
            if record.position == failure.position:
                return record.appended_at_us
    return failure.known_at_us
