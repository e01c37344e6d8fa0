"""The second reference of a version: that of an earlier version, which is kept until the new one is as good."""

from __future__ import annotations

import msgspec

from trimtab.monitoring.quality.watches import MetricValue, Watch, fresh


def healthy_of(before: Watch | None, *, goes_on: bool = False) -> dict[str, MetricValue]:
    """Return the second reference for the watch after `before`: that of `before` or, if it has none, its own reference.

    `goes_on`: keep the evidence up to now.
    """
    if before is None:
        return {}
    figures = before.healthy or before.figures
    return figures if goes_on else fresh(figures)


def not_below_zero(healthy: dict[str, MetricValue]) -> dict[str, MetricValue]:
    """Return the second reference of a version that repairs a change, with a mean excess loss below 0 raised to 0.

    The mean is below 0 if the earlier version's scores were too unsure. A version whose scores are right has a mean of
    0, and must not count as worse for that. Whether the loss itself is higher than before the change is checked
    separately (`earlier_levels`).
    """
    return {
        kind: msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, mean=max(one.spec.mean, 0.0)))
        if one.excess
        else one
        for kind, one in healthy.items()
    }


def healthy_cap_of(before: Watch | None) -> float | None:
    """Return the cap that is the unit of the losses in `healthy_of(before)`; None if `before` is None."""
    if before is None:
        return None
    return before.healthy_cap or before.loss_cap if before.healthy else before.loss_cap
