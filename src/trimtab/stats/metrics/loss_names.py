"""The names of losses, and the kind of predictions that each is for. This module does not load NumPy."""

import math
from typing import Literal, TypeAlias

from trimtab.core.errors import Misuse

Loss: TypeAlias = str  # one of `LOSSES` or `CLASS_LOSSES`, or a name from `pinball` or `ndcg_loss`
LossKind = Literal["binary", "multiclass", "regression", "count", "quantile", "ranking"]

LOSSES = ("log_loss", "brier", "squared_error", "absolute_error", "poisson_deviance")
# losses of rows that have one probability for each class
CLASS_LOSSES = ("multi_log_loss", "multi_brier", "error_rate")
PROBABILITIES = ("log_loss", "brier")
PROBABILITY_LOSSES = (*PROBABILITIES, *CLASS_LOSSES)
_OPEN, _OPEN_NDCG, _CLOSE = "pinball(", "ndcg_loss(", ")"


def pinball(quantile: float) -> Loss:
    """Return the name of a loss whose mean is smallest if a quantile is predicted.

    With `pinball(0.9)`, for example, one label in ten exceeds the best prediction.

    Args:
        quantile: The quantile, above 0 and below 1.

    Raises:
        Misuse: The quantile is not between 0 and 1.

    >>> pinball(0.9)
    'pinball(0.9)'
    """
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0.0 < quantile < 1.0:
        raise Misuse(f"pinball: needs a quantile above 0 and below 1 such as 0.9, found {quantile!r}.")
    return f"{_OPEN}{float(quantile)!r}{_CLOSE}"


def quantile_of(metric: Loss) -> float | None:
    """Return the quantile of a pinball loss, or None for any other loss.

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


def ndcg_loss(top: int = 10) -> Loss:
    """Return the name of the loss of a ranked list: 1 minus the NDCG of its first `top` positions, in [0, 1].

    Args:
        top: How many positions count, at least 1: as many as people look at.

    Raises:
        Misuse: `top` is not a whole number of at least 1.

    >>> ndcg_loss(10)
    'ndcg_loss(10)'
    """
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise Misuse(f"ndcg_loss: needs a whole number of positions of at least 1 such as 10, found {top!r}.")
    return f"{_OPEN_NDCG}{top}{_CLOSE}"


def top_of(metric: Loss) -> int | None:
    """Return k of the loss `ndcg_loss(k)`: how many positions of a list count. None: any other loss.

    >>> top_of("ndcg_loss(5)"), top_of("brier")
    (5, None)
    """
    digits = metric.removeprefix(_OPEN_NDCG).removesuffix(_CLOSE)
    if metric != f"{_OPEN_NDCG}{digits}{_CLOSE}" or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits) if str(int(digits)) == digits != "0" else None


def loss_kind(metric: Loss) -> LossKind:
    """Return the kind of predictions that a loss is for.

    Raises:
        Misuse: There is no loss of this name.

    >>> loss_kind("brier"), loss_kind("poisson_deviance"), loss_kind("pinball(0.9)"), loss_kind("ndcg_loss(10)")
    ('binary', 'count', 'quantile', 'ranking')
    """
    if metric in PROBABILITIES:
        return "binary"
    if metric in CLASS_LOSSES:
        return "multiclass"
    if metric == "poisson_deviance":
        return "count"
    if metric in LOSSES:
        return "regression"
    if quantile_of(metric) is not None:
        return "quantile"
    if top_of(metric) is not None:
        return "ranking"
    names = ", ".join((*CLASS_LOSSES, *LOSSES))
    raise Misuse(
        f"metric {metric!r}: must be one of {names}, pinball(q) with q between 0 and 1, or ndcg_loss(k) with k of at "
        "least 1."
    )
