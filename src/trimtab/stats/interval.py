"""An estimate with its confidence interval."""

import msgspec

from trimtab.core.errors import Misuse


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its confidence bounds. An infinite bound means no limit on that side.

    >>> Interval(estimate=-0.004, low=float("-inf"), high=-0.001, level=0.95).below(0.0)
    True
    """

    estimate: float
    low: float
    high: float
    level: float  # the confidence level, e.g. 0.95: the share of such intervals that contain the true value

    def __post_init__(self) -> None:
        check_level(self.level)

    def below(self, value: float) -> bool:
        """Return whether the whole interval lies below `value`."""
        return self.high < value

    def above(self, value: float) -> bool:
        """Return whether the whole interval lies above `value`."""
        return self.low > value


def check_level(level: float) -> None:
    """Refuse a confidence level that is not between 0 and 1.

    Raises:
        Misuse: The level is not above 0 and below 1 (perhaps a percentage).
    """
    if not 0.0 < level < 1.0:
        raise Misuse(f"confidence level: needs a share between 0 and 1 such as 0.95, found {level}.")
