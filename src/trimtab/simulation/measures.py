"""The metrics that a replay reports for each kind of model: for probabilities, numbers, classes and rankings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats import Interval, Loss, auc, loss_kind, paired_difference, quantile_of, row_losses, unit_losses
from trimtab.stats.inference.bootstrap import block_draws, percentiles
from trimtab.stats.metrics.loss_names import LossKind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Judged(msgspec.Struct, frozen=True, eq=False):
    """Labelled rows, with the scores that were given for them."""

    labels: Floats  # shape (rows,)
    scores: Floats  # shape (rows,); for a model of several classes (rows, classes)
    lists: Ints | None = None  # for rankings: the index of each row's list


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A metric: either the mean of a value of each unit (a row or a list), or computed from all rows together."""

    name: str
    lower_is_better: bool = True
    goal: float | None = None  # the best value, if it is neither the smallest nor the largest
    # returns each unit's value, and the index of one of its rows; None: computed from all rows together
    units: Callable[[Judged], tuple[Floats, Ints]] | None = None
    of_mean: Callable[[Any], Any] = lambda mean: mean  # computes the metric from the mean, for example its square root
    of_all: Callable[[Floats, Floats], float | None] = lambda labels, scores: None

    def value(self, rows: Judged) -> float | None:
        """Return the metric of the given rows; None if it is undefined for them."""
        if self.units is None:
            return self.of_all(rows.labels, rows.scores)
        values, _ = self.units(rows)
        return float(self.of_mean(values.mean())) if values.size else None

    def difference(
        self, one: Judged, other: Judged, blocks: NDArray[Any], *, seed: int, repeats: int
    ) -> Interval | None:
        """Return the metric of `one` minus that of `other`, with a bootstrap interval; None if it is undefined.

        Args:
            one: The rows, with the scores of one scenario.
            other: The same rows, with the scores of the other scenario.
            blocks: The block of each row, shape (rows,). A draw of the bootstrap contains whole blocks.
            seed: The seed of the draws.
            repeats: The number of draws.

        Raises:
            Misuse: There are fewer than two blocks.
        """
        if self.units is None:
            try:
                return paired_difference(
                    "auc", one.labels, one.scores, other.scores, blocks, seed=seed, repeats=repeats
                )
            except Misuse:
                block_draws(blocks, repeats, seed)  # raises Misuse if there are too few blocks; otherwise: undefined
                return None
        (a, rows), (b, _) = self.units(one), self.units(other)
        place, counts = block_draws(blocks[rows], repeats, seed)
        size = counts @ np.bincount(place)
        means = [self.of_mean((counts @ np.bincount(place, weights=values)) / size) for values in (a, b)]
        return percentiles(means[0] - means[1], 0.95)


def measures(metric: Loss) -> tuple[Measure, ...]:
    """Return the metrics for a model that is judged by `metric`: `metric` itself, then others for such models.

    Raises:
        Misuse: There is no loss of this name.

    >>> [one.name for one in measures("log_loss")], [one.name for one in measures("squared_error")]
    (['log_loss', 'auc'], ['squared_error', 'root_mean_squared_error', 'mean_absolute_error'])
    >>> [one.name for one in measures("pinball(0.9)")], [one.name for one in measures("ndcg_loss(10)")]
    (['pinball(0.9)', 'coverage', 'mean_absolute_error'], ['ndcg_loss(10)'])
    """
    return (_loss(metric), *(one for one in _FURTHER[loss_kind(metric)](metric) if one.name != metric))


def _loss(metric: Loss) -> Measure:
    """Return the mean of a loss as a metric."""
    return Measure(name=metric, units=lambda rows: unit_losses(metric, rows.labels, rows.scores, rows.lists))


def _by_row(values: Callable[[Judged], Floats]) -> Callable[[Judged], tuple[Floats, Ints]]:
    """Return a function for `units` where each unit is a single row."""

    def units(rows: Judged) -> tuple[Floats, Ints]:
        found = values(rows)
        return found, np.arange(found.size)

    return units


_AUC = Measure(name="auc", lower_is_better=False, of_all=auc)
_ERROR = Measure(
    name="mean_absolute_error", units=_by_row(lambda rows: row_losses("absolute_error", rows.labels, rows.scores))
)
_ROOT = Measure(
    name="root_mean_squared_error",
    units=_by_row(lambda rows: row_losses("squared_error", rows.labels, rows.scores)),
    of_mean=np.sqrt,
)
_WRONG = Measure(name="error_rate", units=_by_row(lambda rows: row_losses("error_rate", rows.labels, rows.scores)))


def _coverage(metric: Loss) -> Measure:
    """Return as a metric the share of labels at or below the prediction, which should equal the quantile."""
    return Measure(
        name="coverage",
        goal=quantile_of(metric),
        units=_by_row(lambda rows: np.asarray(rows.labels <= rows.scores, np.float64)),
    )


_FURTHER: dict[LossKind, Callable[[Loss], tuple[Measure, ...]]] = {
    "binary": lambda metric: (_AUC,),
    "multiclass": lambda metric: (_WRONG,),
    "regression": lambda metric: (_ROOT, _ERROR) if metric != "absolute_error" else (_ROOT,),
    "count": lambda metric: (_ROOT, _ERROR),
    "quantile": lambda metric: (_coverage(metric), _ERROR),
    "ranking": lambda metric: (),
}
