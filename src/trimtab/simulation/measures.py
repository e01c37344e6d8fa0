"""The metrics that a replay reports of each kind of model: one table, from probabilities to rankings."""

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
    """Labelled rows and what was answered to them."""

    labels: Floats  # shape (rows,)
    scores: Floats  # shape (rows,), of several classes (rows, classes)
    lists: Ints | None = None  # of rankings: the list of each row


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a kind of model: a function of the mean of its units, or of all rows together."""

    name: str
    lower_is_better: bool = True
    goal: float | None = None  # where the best value is, of one that should be neither low nor high
    units: Callable[[Judged], tuple[Floats, Ints]] | None = None  # values, and a row of each; None: of all rows
    of_mean: Callable[[Any], Any] = lambda mean: mean
    of_all: Callable[[Floats, Floats], float | None] = lambda labels, scores: None

    def value(self, rows: Judged) -> float | None:
        """The metric of some rows; None where they do not define it."""
        if self.units is None:
            return self.of_all(rows.labels, rows.scores)
        values, _ = self.units(rows)
        return float(self.of_mean(values.mean())) if values.size else None

    def difference(
        self, one: Judged, other: Judged, blocks: NDArray[Any], *, seed: int, repeats: int
    ) -> Interval | None:
        """Metric of one less that of the other on the same rows, from draws of whole blocks; None where undefined.

        Args:
            one: Rows as one scenario answered them.
            other: The same rows as the other did.
            blocks: The block of each row, shape (rows,).
            seed: Of the draws.
            repeats: How many draws.

        Raises:
            Misuse: Fewer than two blocks.
        """
        if self.units is None:
            try:
                return paired_difference(
                    "auc", one.labels, one.scores, other.scores, blocks, seed=seed, repeats=repeats
                )
            except Misuse:
                block_draws(blocks, repeats, seed)  # says what is wrong with the blocks
                return None
        (a, rows), (b, _) = self.units(one), self.units(other)
        place, counts = block_draws(blocks[rows], repeats, seed)
        size = counts @ np.bincount(place)
        means = [self.of_mean((counts @ np.bincount(place, weights=values)) / size) for values in (a, b)]
        return percentiles(means[0] - means[1], 0.95)


def measures(metric: Loss) -> tuple[Measure, ...]:
    """The metrics of a model that is judged by `metric`: its own first, then what people read of its kind.

    Raises:
        Misuse: There is no loss of this name.

    >>> [one.name for one in measures("log_loss")], [one.name for one in measures("squared_error")]
    (['log_loss', 'auc'], ['squared_error', 'root_mean_squared_error', 'mean_absolute_error'])
    >>> [one.name for one in measures("pinball(0.9)")], [one.name for one in measures("ndcg_loss(10)")]
    (['pinball(0.9)', 'coverage', 'mean_absolute_error'], ['ndcg_loss(10)'])
    """
    return (_loss(metric), *(one for one in _FURTHER[loss_kind(metric)](metric) if one.name != metric))


def _loss(metric: Loss) -> Measure:
    """The mean loss itself."""
    return Measure(name=metric, units=lambda rows: unit_losses(metric, rows.labels, rows.scores, rows.lists))


def _by_row(values: Callable[[Judged], Floats]) -> Callable[[Judged], tuple[Floats, Ints]]:
    """Units that are rows."""

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
    """The share of labels at or below the answer, which should be the quantile."""
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
