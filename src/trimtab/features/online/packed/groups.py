"""The layout of a view's windows: which windows share tiles, and where the tiles hold the values of features."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from trimtab.features.aggregates import Aggregate, Kind
from trimtab.features.formulas import steps_of, weights
from trimtab.features.online.packed.series import Series
from trimtab.features.online.packed.sketches import SketchPlan

Extreme: TypeAlias = tuple[int, Literal["min", "max"]]  # index of the series, and which extreme

FEW = 6  # oldest tiles to look at first; rarely have more tiles expired since the last event


class Feature:
    """One feature: what it is computed from, and where a state holds these values."""

    def __init__(self, index: int, name: str, aggregate: Aggregate, series: Series, sums: Sequence[int]) -> None:
        self.index = index
        self.name = name
        self.aggregate = aggregate
        self.series = series.index
        self.real = series.real
        self.sums = sums  # indexes of the series whose sums the feature needs
        self.count_at = 0  # index of the count among a tile's fields; `sums_at` has the indexes of the sums
        self.sums_at: tuple[int, ...] = ()
        self.exponents_at: tuple[int, ...] = ()  # indexes of float sums among a state's exponents
        self.stack = 0  # index among the stacks of extremes
        self.sketch: SketchPlan | None = None
        self.weights: tuple[float, ...] = ()  # the weight of a tile by its age in hops
        if aggregate.traits.decays:
            assert aggregate.over_us is not None  # `decayed_sum()` gives a window
            steps = steps_of(aggregate.over_us, aggregate.hop_us)
            self.weights = weights(aggregate.hop_us, aggregate.half_life_us, steps)

    @property
    def kind(self) -> Kind:
        return self.aggregate.traits

    @property
    def max_age_us(self) -> int | None:
        return self.aggregate.max_age_us

    @property
    def empty(self) -> float | int | None:
        """The value of the feature where the window holds no value."""
        if not self.kind.zero:
            return None
        return 0.0 if self.kind.dtype == "float" or (self.kind.dtype == "total" and self.real) else 0


class Window:
    """The features that share one window."""

    def __init__(self, over_us: int, until_us: int) -> None:
        self.over_us = over_us
        self.until_us = until_us
        self.features: list[Feature] = []


class Group:
    """Windows that share one sequence of tiles.

    These are all windows of one hop, or, with `hop_us` 0, all windows that never end.
    """

    def __init__(self, hop_us: int) -> None:
        self.hop_us = hop_us
        self.windows: list[Window] = []  # sorted, the longest first
        self.over_us = 0  # the length of the longest window
        # The fields after the count of rows: index of the series, True for its sum and False for its count.
        self.fields: list[tuple[int, bool]] = []
        # Picks the fields of a tile from the numbers of a block.
        self.fields_of: Callable[[Sequence[Any]], tuple[Any, ...]] = _rows_alone
        self.sum_places: tuple[int, ...] = ()
        self.extremes: list[Extreme] = []
        self.width = 1
        self.zeros = [0]
        self.few = struct.Struct("")  # the first few packed tiles, for sums of one word
        self.tiles: dict[int, struct.Struct] = {}  # the layout of a packed tile, by the number of words in a sum

    def add(self, feature: Feature, over_us: int, until_us: int, series: Series) -> None:
        """Add a feature to its window."""
        window = next((w for w in self.windows if (w.over_us, w.until_us) == (over_us, until_us)), None)
        if window is None:
            window = Window(over_us, until_us)
            self.windows.append(window)
            self.windows.sort(key=lambda w: -w.over_us)
            self.over_us = self.windows[0].over_us
        window.features.append(feature)
        feature.count_at = 0 if series.every else self._field(series.index, False)
        feature.sums_at = tuple(self._field(index, True) for index in feature.sums)
        if feature.kind.online == "extreme" and feature.sketch is None:
            extreme: Extreme = (series.index, "min" if feature.aggregate.kind == "min" else "max")
            if extreme not in self.extremes:
                self.extremes.append(extreme)
            feature.stack = self.extremes.index(extreme)
        self.width = 1 + len(self.fields)
        self.zeros = [0] * self.width
        fields = {field: place for place, field in enumerate(self.fields, 1)}
        self.sum_places = tuple(place for (_, is_sum), place in fields.items() if is_sum)

    def compile(self, series: int) -> None:
        """Fix which numbers of a block are the fields of a tile, once all features are added.

        `series` is the number of series in a block.
        """
        self.few = struct.Struct(f"<{FEW * (1 + self.width)}q")
        if self.fields:
            self.fields_of = itemgetter(0, *(1 + i + (series if is_sum else 0) for i, is_sum in self.fields))

    def packing(self, words: int) -> struct.Struct:
        """Return the layout in bytes of a packed tile: start, count of rows, fields.

        `words` is the number of 8-byte words that a sum takes.
        """
        if words not in self.tiles:
            wide = "q" if words == 1 else f"{8 * words}s"
            self.tiles[words] = struct.Struct("<qq" + "".join(wide if is_sum else "q" for _, is_sum in self.fields))
        return self.tiles[words]

    def _field(self, series: int, is_sum: bool) -> int:
        if (series, is_sum) not in self.fields:
            self.fields.append((series, is_sum))
        return 1 + self.fields.index((series, is_sum))


def _rows_alone(numbers: Sequence[Any]) -> tuple[Any, ...]:
    return (numbers[0],)
