"""Feature values of many requests, each with the reason why it is null or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.columns.data import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reason = Literal["found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable", "failed"]
# in the order of the reason codes; "unavailable": the value could not be read when it was needed
REASONS: tuple[Reason, ...] = (
    "found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable", "failed"
)  # fmt: skip
UNAVAILABLE = REASONS.index("unavailable")
FAILED = REASONS.index("failed")
NO_VIEW = 255  # the code of a transform (a feature that is not from a view) that did not fail


class FeatureFrame(msgspec.Struct, frozen=True, eq=False):
    """The feature values of requests: one row for each request, in order.

    `values` has a column for each feature, named `view.feature` or after the transform. `reasons` has an array of codes
    (uint8, indexes into `REASONS`) for each feature of a view. `failed` has a boolean array for each transform that
    failed in some row: True where it failed.
    """

    values: Columns
    reasons: Mapping[str, NDArray[Any]]
    failed: Mapping[str, NDArray[Any]] = {}

    def codes(self, names: Sequence[str]) -> NDArray[Any]:
        """Return the reason codes of features as predictions log them: uint8, shape (rows, names)."""
        import numpy as np

        out = np.full((self.values.rows, len(names)), NO_VIEW, np.uint8)
        for place, name in enumerate(names):
            if name in self.reasons:
                out[:, place] = self.reasons[name]
            elif name in self.failed:
                out[self.failed[name], place] = FAILED
        return out

    def take(self, rows: NDArray[Any] | slice) -> FeatureFrame:
        """Return the given rows. `rows` is an array of indexes, a boolean mask or a slice."""
        return FeatureFrame(
            self.values.take(rows),
            {name: codes[rows] for name, codes in self.reasons.items()},
            {name: rows_failed[rows] for name, rows_failed in self.failed.items()},
        )

    @staticmethod
    def concat(parts: Sequence[FeatureFrame]) -> FeatureFrame:
        """Return one frame with the rows of all parts, which have the same features."""
        import numpy as np

        names = {name for part in parts for name in part.failed}
        none = [np.zeros(part.values.rows, bool) for part in parts]
        return FeatureFrame(
            Columns.concat([part.values for part in parts]),
            {name: np.concatenate([part.reasons[name] for part in parts]) for name in parts[0].reasons},
            {n: np.concatenate([part.failed.get(n, no) for part, no in zip(parts, none, strict=True)]) for n in names},
        )
