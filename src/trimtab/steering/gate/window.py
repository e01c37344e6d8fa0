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
    lists: NDArray[np.int64] | None = None  # the list of each row of a ranking; then `at_us` is when its list began

    def losses(self, metric: Loss, scores: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The loss of each unit, and the index of one row of each unit; a unit is a row, or in a ranking a list."""
        return unit_losses(metric, self.labels, scores, self.lists)

    def by_unit(self, part: Part, units: NDArray[np.int64]) -> Part:
        """The units of a slice; in a ranking, the lists of which at least one row is in the slice."""
        if self.lists is None:
            return part
        return Part(part.name, np.isin(self.lists[units], self.lists[part.here]))
