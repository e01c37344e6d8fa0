"""Count the events for which a feature could not be computed; keep the one that became known last. # D156"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from trimtab.features.online.packed.keys import Row
from trimtab.features.online.packed.plan import ViewPlan

_LONGEST = 200  # how many characters of an id or an error are kept


class FeatureFailures(msgspec.Struct, frozen=True, array_like=True):
    """The number of events for which a feature could not be computed, and the one of them that became known last."""

    count: int
    known_at_us: int
    partition: str
    position: int
    event_at_us: int
    event_id: str
    error: str

    def __add__(self, other: FeatureFailures) -> FeatureFailures:
        last = max(self, other, key=_place)
        return msgspec.structs.replace(last, count=self.count + other.count)


class Counts(Counter[str]):
    """The counts of one view (see `ViewApplied`), and the failures of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, FeatureFailures] = {}  # by the name of the feature

    def fail(self, plan: ViewPlan, row: Row, errors: Mapping[int, str]) -> None:
        """Count an event for which some series (values that features are computed from) failed."""
        if not errors:
            return
        event_at_us, known_at_us, partition, position, _, event_id, *_ = row
        self["failed"] += 1
        for series, error in errors.items():
            one = FeatureFailures(
                1, known_at_us, partition, position, event_at_us, event_id[:_LONGEST], error[:_LONGEST]
            )
            more = dict.fromkeys(plan.series.names[series], one)
            self.failures = together(self.failures, more)


def together(one: Mapping[str, FeatureFailures], other: Mapping[str, FeatureFailures]) -> dict[str, FeatureFailures]:
    """Return the sum of two sets of failures, by feature."""
    return {**one, **{name: one[name] + more if name in one else more for name, more in other.items()}}


def _place(failures: FeatureFailures) -> tuple[int, str, int]:
    return failures.known_at_us, failures.partition, failures.position
