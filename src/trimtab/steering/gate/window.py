"""The rows that a gate judges on."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.losses import Loss
from trimtab.steering.gate.slices import Part

Floats = NDArray[np.float64]


class Window(msgspec.Struct, frozen=True, eq=False):
    """The rows that a gate judges on: the newest labelled rows that neither candidate nor champion has seen."""

    start_us: int
    end_us: int
    at_us: NDArray[Any]  # int64, shape (rows,)
    labels: Floats
    # for a ranking, the index of each row's list; `at_us` is then the time at which the list began
    lists: NDArray[np.int64] | None = None

    def losses(self, metric: Loss, scores: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Return the loss of each unit, and the index of one of its rows. A unit is a row, or for a ranking a list."""
        return unit_losses(metric, self.labels, scores, self.lists)

    def by_unit(self, part: Part, units: NDArray[np.int64]) -> Part:
        """Convert a slice of rows to a slice of units, the form in which losses are compared.

        `units` has the index of one row of each unit, as `losses` returns it. A list is in the slice if at least one of
        its rows is.
        """
        if self.lists is None:
            return part
        return Part(part.name, np.isin(self.lists[units], self.lists[part.here]))
