"""Checks of the arrivals of labels with two classes: labels of one class that stopped, or that came later."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, format_time
from trimtab.features.definitions import Label
from trimtab.features.labels import positives
from trimtab.monitoring.inputs.checks.feeds import REACH_US, Arrivals, Feed, stopped
from trimtab.monitoring.inputs.checks.findings import Finding

Times: TypeAlias = NDArray[np.int64]
_CLASSES = (("positive", "negative"), ("negative", "positive"))  # each with the other one
_CAUGHT_UP = 0.9  # labels that were lost have come if this share of the usual number is known
_MORE_US = 2 * DAY_US  # in a storm, each flight is late for a day, and holidays have no chargebacks


class Outcomes:
    """When labels of each class became known, in order; made once for each `EventFrame`. Deleted ones do not count."""

    def __init__(self, label: Label, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        frame, positive = arrivals.frame, positives(label, arrivals.frame.columns)
        given = positive.present() & ~frame.deleted
        self._all_us, self.sent_us = dict[str, Times](), dict[str, Times]()  # sent: without those of files
        sent = np.ones(frame.rows, bool) if frame.loaded_h is None else frame.loaded_h == 0
        for name, mine in (("positive", positive.values & given), ("negative", given & ~positive.values)):
            self._all_us[name] = arrivals.known_us[mine[arrivals.order]]
            self.sent_us[name] = arrivals.known_us[(mine & sent)[arrivals.order]]

    def caught_up(self, name: str, since_us: int, until_us: int, now_us: int) -> bool:
        """Return whether labels of a class that did not come between two times have come later.

        This is so if about as many became known since the first time as usually (in the week before). It is never so if
        the gap was less than half of this time: then the labels after it alone come near that number.
        """
        places = np.searchsorted(self._all_us[name], (since_us - 7 * DAY_US, since_us, now_us), side="right")
        in_week, found = np.diff(places).tolist()
        usual = in_week * (now_us - since_us) / (7 * DAY_US)
        return now_us - until_us <= until_us - since_us and 0 < _CAUGHT_UP * usual <= found


def stopped_outcomes(outcomes: Outcomes, now_us: int) -> list[Finding]:
    """Return a finding for a class whose labels stopped, while those of the other class go on coming.

    The time without labels ends with the newest label of the other class. So if the whole source stops, nothing is
    found here. Labels that were loaded from files do not count.
    """
    feed, found = Feed(outcomes.arrivals, now_us), list[Finding]()
    if outcomes.arrivals.loads.until(now_us) is not None:
        return []
    recent = {name: us[(us > now_us - REACH_US) & (us <= now_us)] for name, us in outcomes.sent_us.items()}
    for name, other in _CLASSES:
        newest_us = int(recent[other].max(initial=0))
        said = f"{other.capitalize()} labels go on coming, the newest at {format_time(newest_us)[:16]}"
        one = feed.of_outcome(recent[name], name, f"{said}. Check what sends them.")
        found += stopped(one, newest_us, _MORE_US) if one.enough else []
    return found
