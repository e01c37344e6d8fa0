"""The results of reading an experiment: units, checks, effects, and the recommendation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from trimtab.core.shown import Shown, count_of
from trimtab.experiments.reading.looks import Look, MetricReading, shown_effect
from trimtab.experiments.records import Phase

Act = Literal["blocked", "wait", "ship", "stop", "keep running", "cannot be seen", "no difference shown"]


class RatioCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the sample-ratio check. It may be repeated every day: its error rate is that of all repetitions."""

    holds: bool
    p: float | None  # None: not checked
    text: str
    slices: list[str] = []  # the slices in which the units are not split as declared, the clearest first


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """The share of a variant's predictions that have their label, and the control's share."""

    variant: str
    labelled: int
    missing: int
    # in both shares, each day has the same weight, so it does not matter if a variant gets more units on later days
    share: float
    control_share: float
    differs: bool  # whether the difference to the control is more than noise

    def bounds(
        self, low: float | None, high: float | None, means: tuple[float, float], limit: float | None
    ) -> tuple[float, float] | None:
        """Return an effect's interval, widened by what the surplus of labels in one variant can hide.

        The surplus labels are taken to be the highest or the lowest values of their variant (the bounds of Lee,
        2009). None: the shares agree, a bound is unknown, or the metric's values have no upper limit.

        Args:
            low: The lower end of the interval of the difference; None: unknown.
            high: The upper end.
            means: The means of the control and of the variant.
            limit: The largest possible value; the smallest is 0.
        """
        most = max(self.share, self.control_share)
        surplus = abs(self.share - self.control_share) / most if most else 0.0
        if not self.differs or limit is None or low is None or high is None:
            return None
        if surplus == 1.0:
            return -limit, limit
        mean = means[1] if self.share > self.control_share else means[0]
        least = max(0.0, (mean - surplus * limit) / (1.0 - surplus)) - mean
        greatest = min(limit, mean / (1.0 - surplus)) - mean
        if self.share > self.control_share:
            return low + least, high + greatest
        return low - greatest, high - least


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    act: Act
    text: str
    variant: str | None = None  # the variant that the act is about
    days_more: int | None = None  # about how many more days are needed at this rate
    smallest: float | None = None  # the smallest effect that the experiment can show by its end, as a share


class VariantReading(msgspec.Struct, frozen=True, kw_only=True):
    """The units of one variant on the days that count."""

    name: str
    units: int
    wanted: float  # the declared share of the participants
    found: float | None  # the share that was found; None without units
    testers: int  # units with an override, which are in no other count
    not_shown: dict[str, int]  # by reason: units that got another variant than this one, but count for it
    by_day: dict[str, int] = {}  # by day: the units that were first exposed then


class SliceReading(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of one variant on a primary metric in one slice."""

    slice: str  # such as "country=DE"
    metric: str
    variant: str
    look: Look
    adjusted_p: float | None  # after Holm's correction over all slices


class Reading(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """All that an experiment says up to a time."""

    experiment: str
    generation: int
    phase: Phase
    started_at_us: int
    ended_at_us: int | None
    winner: str | None  # the variant with which it was concluded
    until_us: int | None  # the end of the newest closed day; None: no day is closed
    hash: str  # of the definition, which was decided before the start
    decided_before: dict[str, str]
    guarantee: str
    days: int  # closed days that count
    excluded: dict[str, str]  # by day: why it does not count
    marks: dict[str, list[str]]  # by day: what else happened
    variants: list[VariantReading]
    ratio: RatioCheck
    completeness: list[Completeness]
    metrics: list[MetricReading]
    slices: list[SliceReading]
    crossed: int  # units that were exposed to another variant than their first, also on days that do not count
    not_eligible: dict[str, int]  # units that took no part because a feature was missing, by feature and reason
    # by metric and variant: events or labels that came after their day was closed; 0: some were corrected or deleted
    late: dict[str, dict[str, int]]
    withheld: str | None  # why no effect is shown; None if effects are shown
    decision: Recommendation
    notes: list[str] = []  # what else a person should know, such as that the planned time is over

    def lines(self) -> Iterator[str]:
        """Yield the decision, and the newest effect on each metric."""
        won = "" if self.winner is None else f", winner {self.winner}"
        yield f"{self.experiment}: {self.phase}{won}, {shown_days(self)}"
        yield self.decision.text
        yield from self.notes
        for one in self.metrics:
            yield f"  {one.variant}, {one.role}: {shown_effect(one)}: {one.verdict}"


def shown_days(reading: Reading) -> str:
    """Return how many closed days a reading has, as text: "5 closed days", or "5 of 7 closed days count"."""
    days, left_out = reading.days, len(reading.excluded)
    return f"{days} of {days + left_out} closed days count" if left_out else count_of(days, "closed day")
