"""The power of a quality alarm: the number of days until it finds a change of a given size."""

from __future__ import annotations

import math

import numpy as np

from trimtab.core.errors import Misuse
from trimtab.stats.inference.edetector import HIGH, RUNS, AlarmSide, AlarmSpec, alarm_threshold

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def detection_days(spec: AlarmSpec, change: float, *, most: int = 365) -> float:
    """Return the median number of days until an alarm finds a change, for normally distributed daily values.

    The alarm has two rules, bets and bad days in a row (see `edetector`). The faster one counts. Bets are assumed to
    grow at their expected rate; the result is the day on which they reach the threshold. For bad days in a row, it is
    the first day by which a run of enough days above its bound has occurred with a probability of at least one half.

    Args:
        spec: The alarm, from `learn_alarm`.
        change: How far the daily value moves in the harmful direction, in units of the value; above 0.
        most: The number of days after which the change counts as not found.

    Returns:
        The number of days (not counting days without rows), at least 1; infinity if it would be above `most`.

    Raises:
        Misuse: The change is not above 0.

    Source: Shin, Ramdas & Rinaldo (2023), "E-detectors", for the growth of the bets.

    >>> from trimtab.stats import learn_alarm
    >>> calm = [0.40, 0.42, 0.39, 0.41, 0.40, 0.38, 0.41, 0.43, 0.40, 0.39, 0.41, 0.40, 0.42, 0.38]
    >>> spec = learn_alarm(calm, run_length=365)
    >>> [detection_days(spec, change) for change in (0.001, 0.02, 0.04, 0.1)]
    [inf, 21.0, 10.0, 4.0]
    """
    if not change > 0.0:
        raise Misuse(f"detection_days: the change must be above 0, found {change}.")
    moved = change * (1.0 - spec.correlation) / spec.sd
    return min(rule(spec, side, moved, most) for side in spec.sides for rule in (_days_of_bets, _days_of_runs))


def _days_of_bets(spec: AlarmSpec, side: AlarmSide, moved: float, most: int) -> float:
    """Return the days until the mean of the bets reaches the threshold, if each bet grows at its expected rate."""
    excess = np.clip(moved + _NODES, spec.low, HIGH) - side.baseline
    largest = 0.95 / (side.baseline - spec.low)
    growth = [float(_WEIGHTS @ np.log1p(min(stake, largest) * excess)) for stake in side.stakes]
    threshold = alarm_threshold(spec) + math.log(sum(len(one.stakes) for one in spec.sides))
    if max(growth) <= 0.0:
        return math.inf
    values = [0.0] * len(growth)
    for day in range(1, most + 1):
        values = [(1.0 + value) * math.exp(rate) for value, rate in zip(values, growth, strict=True)]
        if math.log(sum(values)) >= threshold:
            return float(day)
    return math.inf


def _days_of_runs(spec: AlarmSpec, side: AlarmSide, moved: float, most: int) -> float:
    """Return the median number of days until a run of bad days is complete, for the fastest of the lengths `RUNS`."""
    found = math.inf
    for length, bound in zip(RUNS, spec.runs, strict=False):
        probability = 0.5 * math.erfc((bound + max(0.0, side.baseline) - moved) / math.sqrt(2.0))
        # open_runs[n]: the probability that no run is complete yet, and exactly the last n days exceeded the bound
        open_runs = [1.0, *[0.0] * (length - 1)]
        for day in range(1, most + 1):
            open_runs = [sum(open_runs) * (1.0 - probability), *(one * probability for one in open_runs[:-1])]
            if sum(open_runs) <= 0.5:
                found = min(found, float(day))
                break
    return found
