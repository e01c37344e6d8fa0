"""The rises of a loss that a quality watch can detect, and how many closed days it needs for each of them."""

from __future__ import annotations

import math

from trimtab.monitoring.quality.watches import LOSS, Watch
from trimtab.stats.inference.alarm_power import detection_days
from trimtab.stats.inference.edetector import AlarmState

RISES = (0.1, 0.2, 0.5, 1.0)  # rises of the mean loss, as shares of it
_STEPS = 5  # the number of days per step is the mean over this many of the newest steps
LONGEST_DAYS = 60  # a rise that takes more closed days than that counts as not detectable


def detectable_rises(watch: Watch) -> dict[float, float]:
    """Return for each rise of the loss (0.1: 10 % more) the median number of closed days until an alarm about the rise.

    The days are assumed to vary like the reference days, with a normal distribution. If several days with few rows are
    combined into one, each of them counts. Infinity stands for more than 60 days. The result is empty if the loss is
    not watched, or if the mean loss of the reference days is not known.
    """
    figure, level = watch.figures.get(LOSS), watch.reference_loss
    if figure is None or not level:
        return {}
    each = _days_of_step(figure.state)
    most = max(1, int(LONGEST_DAYS / each))
    return {rise: each * detection_days(figure.spec, rise * level, most=most) for rise in RISES}


def _days_of_step(state: AlarmState) -> float:
    """Return how many days make one step of the newest evidence on average: 1, or more if days have few rows."""
    begun = [step.day for step in state.recent[-_STEPS:]]
    return max(1.0, (state.days + 1 - begun[0]) / len(begun)) if len(begun) == _STEPS else 1.0


def detectable_in_words(watch: Watch) -> str:
    """Return in how many days the smallest detectable rise leads to an alarm, as the end of a sentence.

    All smaller rises are named, too, because otherwise the lack of an alarm would look like good quality. At least two
    rises are named. The text is empty if nothing is known.
    """
    found = detectable_rises(watch)
    if not found:
        return ""
    if all(math.isinf(days) for days in found.values()):
        return f"; not even twice the loss would be detected within {LONGEST_DAYS} closed days"
    stated = []
    for rise, days in found.items():
        count = f"{days:.0f}" if math.isfinite(days) else f"more than {LONGEST_DAYS}"
        stated.append(f"{count} for a rise of {100 * rise:.0f} %")
        if len(stated) > 1 and math.isfinite(days):
            break
    return f"; days until a higher loss would be detected: {', '.join(stated)}"
