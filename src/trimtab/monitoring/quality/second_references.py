"""The second reference of a version: the reference of an earlier version, until the new version has met it."""

from __future__ import annotations

import msgspec

from trimtab.monitoring.quality.watches import CALIBRATION, MetricValue, Watch, fresh, from_zero


def healthy_of(before: Watch | None, *, goes_on: bool = False) -> dict[str, MetricValue]:
    """Return the second reference of the next watch: the present watch's second one, or else its own reference.

    `goes_on`: keep the evidence up to now.
    """
    if before is None:
        return {}
    # a calibration gap that is closer to 0 than that of the earlier version is not worse
    own = {kind: from_zero(one) if kind == CALIBRATION else one for kind, one in before.figures.items()}
    figures = before.healthy or own
    return figures if goes_on else fresh(figures)


def not_below_zero(healthy: dict[str, MetricValue]) -> dict[str, MetricValue]:
    """Return the second reference of a version that repairs a change: its mean excess loss is at least 0.

    If the scores of the earlier version were too unsure, its mean is below 0. A version with exactly the loss that its
    scores lead one to expect (0) is not worse than that. Whether the loss itself is higher than before the change is
    checked separately (`earlier_levels`).
    """
    return {
        kind: msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, mean=max(one.spec.mean, 0.0)))
        if one.excess
        else one
        for kind, one in healthy.items()
    }


def healthy_cap_of(before: Watch | None) -> float | None:
    """Return the cap of losses that belongs to `healthy_of(before)`; None without a present watch."""
    if before is None:
        return None
    return before.healthy_cap or before.loss_cap if before.healthy else before.loss_cap
