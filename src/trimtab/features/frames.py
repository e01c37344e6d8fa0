"""Feature values, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.columns.data import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reason = Literal["found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable", "failed"]
REASONS: tuple[Reason, ...] = (  # in the order of their codes; "unavailable": the value could not be read at the time
    "found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable", "failed"
)  # fmt: skip
UNAVAILABLE = REASONS.index("unavailable")
FAILED = REASONS.index("failed")
NO_VIEW = 255  # the code of a feature that does not come from a view and did not fail


class FeatureFrame(msgspec.Struct, frozen=True, eq=False):
    """The feature values of requests, with one row for each request, in their order.

    `values` has a column for each feature, named `view.feature` or by its transform. `reasons` has a uint8 array of
    codes (indexes into `REASONS`) for each feature that comes from a view. `failed` has a bool array for each transform
    that failed in some rows, and is true in these rows.
    """

    values: Columns
    reasons: Mapping[str, NDArray[Any]]
    failed: Mapping[str, NDArray[Any]] = {}

    def codes(self, names: Sequence[str]) -> NDArray[Any]:
        """Return the reason codes of features as predictions log them: uint8, of shape (rows, names)."""
        import numpy as np

        out = np.full((self.values.rows, len(names)), NO_VIEW, np.uint8)
        for place, name in enumerate(names):
            if name in self.reasons:
                out[:, place] = self.reasons[name]
            elif name in self.failed:
                out[self.failed[name], place] = FAILED
        return out

    def take(self, rows: NDArray[Any] | slice) -> FeatureFrame:
        """Return the frame at `rows` (positions, a boolean mask or a slice)."""
        return FeatureFrame(
            self.values.take(rows),
            {name: codes[rows] for name, codes in self.reasons.items()},
            {name: rows_failed[rows] for name, rows_failed in self.failed.items()},
        )

    @staticmethod
    def concat(parts: Sequence[FeatureFrame]) -> FeatureFrame:
        """Concatenate frames of the same features."""
        import numpy as np

        names = {name for part in parts for name in part.failed}
        none = [np.zeros(part.values.rows, bool) for part in parts]
        return FeatureFrame(
            Columns.concat([part.values for part in parts]),
            {name: np.concatenate([part.reasons[name] for part in parts]) for name in parts[0].reasons},
            {n: np.concatenate([part.failed.get(n, no) for part, no in zip(parts, none, strict=True)]) for n in names},
        )
