import math

import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.stats import AlarmState, learn_alarm, update_alarm
from trimtab.stats.inference.alarm_power import detection_days


def days(rng, count, correlation):
    """Normally distributed values of mean 0 and sd 1 with a lag-1 correlation, after a burn-in."""
    noise = rng.standard_normal(count + 30)
    for i in range(1, noise.size):
        noise[i] = correlation * noise[i - 1] + math.sqrt(1 - correlation**2) * noise[i]
    return noise[30:]


def alarm_day(spec, values):
    state = AlarmState()
    for value in values:
        state = update_alarm(spec, state, float(value))
        if state.alarm_day is not None:
            return state.alarm_day
    return math.inf


@pytest.mark.parametrize("correlation", [0.0, 0.4])
@pytest.mark.parametrize("change", [1.0, 2.0, 6.0])
def test_the_stated_days_are_those_of_simulated_alarms(correlation, change):
    """Within a third, or two days, of the median of simulated alarms; small changes are stated a little too late."""
    rng = np.random.default_rng([7, int(10 * correlation), int(change)])
    found, stated = [], []
    for _ in range(60):
        values = days(rng, 84 + 200, correlation)
        spec = learn_alarm(values[:84], run_length=2_000)
        found.append(alarm_day(spec, values[84:] + change))
        stated.append(detection_days(spec, change))
    assert np.median(stated) == pytest.approx(np.median(found), rel=0.34, abs=2)


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_larger_changes_are_found_no_later_and_tiny_ones_not_at_all(direction):
    spec = learn_alarm(days(np.random.default_rng(1), 84, 0.4), direction=direction)
    stated = [detection_days(spec, change) for change in (0.01, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)]
    assert stated == sorted(stated, reverse=True)
    assert stated[0] == math.inf
    assert 2 <= stated[-1] <= 4


def test_a_change_of_zero_is_refused():
    spec = learn_alarm(days(np.random.default_rng(1), 28, 0.0))
    with pytest.raises(Misuse, match="above 0"):
        detection_days(spec, 0.0)
