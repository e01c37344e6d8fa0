"""Sums over the units of a variant, and the effect of one variant compared with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse

FEWEST_OF_STRATUM = 20  # strata in which a variant has fewer units are merged
FloatArray = NDArray[np.float64]
Better = Literal["higher", "lower"]


class Arm(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Sums over the units of one variant by block, the oldest block first. A block has the units of one day.

    The day is that of a unit's first exposure. All arrays have the shape (blocks,), and a block may have no units. A
    unit with several rows, such as a customer with several orders, counts once: its value is the sum over its rows. For
    a ratio such as the mean price of an order, the denominator of a unit is the number of its rows.
    """

    units: FloatArray
    y: FloatArray  # the sum of the units' values; for a ratio, the sum of the numerators
    yy: FloatArray  # the sum of their squares
    x: FloatArray | None = None  # the sum of a covariate that was known before the exposure
    xx: FloatArray | None = None
    xy: FloatArray | None = None
    d: FloatArray | None = None  # the sum of the denominators of a ratio
    dd: FloatArray | None = None
    yd: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = {np.shape(value) for value in msgspec.structs.astuple(self) if value is not None}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise Misuse(f"arm: needs one sum for each block, found the shapes {sorted(shapes)}.")

    def sums(self, name: str) -> FloatArray:
        """Return the sum with a given name, such as "y".

        Raises:
            Misuse: This sum was not collected for the metric.
        """
        found: FloatArray | None = getattr(self, name)
        if found is None:
            needed = "a covariate (x, xx, xy)" if name.startswith("x") else "a denominator (d, dd, yd)"
            raise Misuse(f"comparison: needs sums of {needed}, and the metric has none.")
        return found


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The difference between a treatment and the control after some blocks, with its confidence interval.

    If blocks are days, each day has the same weight in both variants (see `day_weights`). So the difference has no bias
    even if the treatment's share of the units changes from day to day. This is also why `control` and `treatment` can
    differ a little from the plain means.
    """

    control: float  # the mean (or ratio, or quantile); NaN: there is none yet
    treatment: float
    difference: float  # treatment - control
    low: float  # may be minus infinity
    high: float  # may be infinity
    relative: float | None  # difference / |control|; None: control is too close to 0
    relative_low: float | None
    relative_high: float | None
    units: tuple[int, int]  # of the control and of the treatment
    p: float | None  # None: there is none yet. If the rule allows repeated looks, it is valid at every look
    method: str  # such as "day blocks"


def arm_of(values: FloatArray, blocks: NDArray[np.int64], *, count: int, covariate: FloatArray | None = None) -> Arm:
    """Return the sums of one variant from one value per unit.

    Args:
        values: The value of each unit, shape (units,).
        blocks: The block of each unit, from 0 to count - 1, shape (units,).
        count: The number of blocks.
        covariate: A value of each unit from before its exposure, shape (units,).

    >>> arm_of(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), count=2).y
    array([1., 1.])
    """

    def summed(weights: FloatArray | None) -> FloatArray:
        return np.bincount(blocks, weights=weights, minlength=count).astype(np.float64)

    known = {} if covariate is None else {"x": covariate, "xx": covariate**2, "xy": covariate * values}
    return Arm(
        units=summed(None),
        y=summed(values),
        yy=summed(values**2),
        **{name: summed(column) for name, column in known.items()},
    )


def post_stratified(strata: Sequence[tuple[Arm, Arm]], *, fewest: int = FEWEST_OF_STRATUM) -> tuple[Arm, Arm]:
    """Add up the strata (such as countries) of each variant, after removing the differences between strata.

    Each value is lowered by how much the mean of its stratum exceeds the mean of all strata. The interval becomes
    narrower if strata differ, and a variant that by accident got more units of a stratum with high values no longer
    looks better. The mean of a stratum is an average of its two variants' means. The weight of each is the other one's
    share of all units, so it is the same in every stratum: an effect raises all strata alike, and is not removed.

    Args:
        strata: The sums of the control and of the treatment in each stratum, over the same blocks; for means, not for
            ratios. The stratum of a unit was known before its exposure.
        fewest: Strata in which a variant has fewer units are merged into one, with larger strata if necessary until
            both variants have this many. The mean of a small stratum follows its own units, so the interval would be
            too narrow.

    Raises:
        Misuse: There is no stratum.

    Source: Miratrix, Sekhon & Yu (2013), "Adjusting treatment effect estimates by post-stratification".

    >>> low, high = (arm_of(np.array(values), np.array([0, 0]), count=1) for values in ([1.0, 1.5], [5.0, 5.5]))
    >>> control, treatment = post_stratified([(low, low), (high, high)], fewest=2)
    >>> float(control.y[0]), float(control.yy[0] - control.y[0] ** 2 / 4)
    (13.0, 0.25)
    """
    if not strata:
        raise Misuse("post-stratification: needs at least one stratum, found none.")
    group = _groups(np.array([[arm.units.sum() for arm in pair] for pair in strata]), fewest)
    y, n = (np.zeros((group.max() + 1, 2)) for _ in range(2))
    np.add.at(y, group, [[arm.y.sum() for arm in pair] for pair in strata])
    np.add.at(n, group, [[arm.units.sum() for arm in pair] for pair in strata])
    shares = n.sum(0) / max(n.sum(), 1.0)
    middle = y / np.maximum(n, 1.0) @ shares[::-1]
    apart = (middle - middle @ n.sum(1) / max(n.sum(), 1.0))[group]

    def joined(arms: tuple[Arm, ...]) -> Arm:
        def added(values: list[FloatArray | None]) -> FloatArray | None:
            known = [value for value in values if value is not None]
            return np.sum(known, axis=0) if len(known) == len(values) else None

        moved = list(zip(arms, apart, strict=True))
        return Arm(
            units=np.sum([arm.units for arm in arms], axis=0),
            y=np.sum([arm.y - far * arm.units for arm, far in moved], axis=0),
            yy=np.sum([arm.yy - 2.0 * far * arm.y + far**2 * arm.units for arm, far in moved], axis=0),
            x=added([arm.x for arm in arms]),
            xx=added([arm.xx for arm in arms]),
            xy=added([None if arm.xy is None or arm.x is None else arm.xy - far * arm.x for arm, far in moved]),
        )

    control, treatment = zip(*strata, strict=True)
    return joined(control), joined(treatment)


def _groups(units: FloatArray, fewest: int) -> NDArray[np.int64]:
    """Return each stratum's group number, given the units of both variants, shape (strata, 2).

    Strata that are too small are group 0, with larger ones until it is large enough. Each other stratum is a group.
    """
    least = units.min(1)
    order = np.argsort(least, kind="stable")
    together = units[order].cumsum(0).min(1)
    small = int((least < fewest).sum())
    if small:  # how many of the smallest strata have enough units together
        small = max(small, int((together < fewest).sum()) + 1)
    group = np.zeros(units.shape[0], np.int64)
    group[order[small:]] = np.arange(order.size - small) + bool(small)
    return group
