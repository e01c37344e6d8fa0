"""A reader of labels for tests: it looks them up in an index that the test fills."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.features.labels import LabelIndex
from trimtab.feedback.outcomes import KnownLabels


class IndexedLabels:
    """A `LabelReader` that looks up labels in a `LabelIndex`. The caller keeps the index up to date."""

    def __init__(self, index: LabelIndex) -> None:
        self._index = index

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        found = self._index.join(keys.to_list(), at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)
