"""Feature values with the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.core.columns import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reason = Literal["found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable"]
REASONS: tuple[Reason, ...] = (  # by code; the last: it could not be read when it was asked for
    "found", "no_entity", "not_yet", "outside_window", "expired", "null", "unavailable"
)  # fmt: skip
UNAVAILABLE = REASONS.index("unavailable")


class FeatureFrame(msgspec.Struct, frozen=True, eq=False):
    """Feature values of requests: as many rows, in their order.

    `values` has a column a feature, named `view.feature` or by its transform; `reasons` a uint8 array of codes (the
    index into `REASONS`) for each feature that comes from a view.
    """

    values: Columns
    reasons: Mapping[str, NDArray[Any]]
