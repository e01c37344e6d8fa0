"""The losses by name, before any number is computed: names travel through definitions, records and gates."""

import math
from typing import Literal, TypeAlias

from trimtab.core.errors import Misuse

Loss: TypeAlias = str  # one of `LOSSES`, or what `pinball` gives
LossKind = Literal["binary", "regression", "count", "quantile"]  # what the labels and scores of a loss are

LOSSES = ("log_loss", "brier", "squared_error", "absolute_error", "poisson_deviance")
PROBABILITIES = ("log_loss", "brier")
_OPEN, _CLOSE = "pinball(", ")"


def pinball(quantile: float) -> Loss:
    """The name of the loss whose best answer is a quantile of the label: `pinball(0.9)` is exceeded one time in ten.

    Args:
        quantile: Above 0 and below 1.

    Raises:
        Misuse: It is not.

    >>> pinball(0.9)
    'pinball(0.9)'
    """
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0.0 < quantile < 1.0:
        raise Misuse(f"pinball: needs a quantile above 0 and below 1 such as 0.9, found {quantile!r}.")
    return f"{_OPEN}{float(quantile)!r}{_CLOSE}"


def quantile_of(metric: Loss) -> float | None:
    """The quantile of a pinball loss, None of every other.

    >>> quantile_of("pinball(0.9)"), quantile_of("brier")
    (0.9, None)
    """
    if not (metric.startswith(_OPEN) and metric.endswith(_CLOSE)):
        return None
    try:
        found = float(metric[len(_OPEN) : -len(_CLOSE)])
    except ValueError:
        return None
    return found if math.isfinite(found) and 0.0 < found < 1.0 else None


def loss_kind(metric: Loss) -> LossKind:
    """What is foretold: the chance of a class, a number, a count or a quantile.

    Raises:
        Misuse: There is no loss of this name.

    >>> loss_kind("brier"), loss_kind("poisson_deviance"), loss_kind("pinball(0.9)")
    ('binary', 'count', 'quantile')
    """
    if metric in PROBABILITIES:
        return "binary"
    if metric == "poisson_deviance":
        return "count"
    if metric in LOSSES:
        return "regression"
    if quantile_of(metric) is not None:
        return "quantile"
    raise Misuse(f"metric {metric!r}: is none of {', '.join(LOSSES)} or pinball(q) with q between 0 and 1.")
