"""The layout of a view's windows in a state: which windows share tiles, and where in a tile each feature's sums are.

A tile holds the sums over the events of one hop (one step of a window). Its fields are: the number of rows; then the
numbers of values and the sums of the series that features need.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from trimtab.features.aggregates import Aggregate, Kind
from trimtab.features.formulas import steps_of, weights
from trimtab.features.online.packed.series import Series
from trimtab.features.online.packed.sketches import SketchPlan

Extreme: TypeAlias = tuple[int, Literal["min", "max"]]  # the index of the series, and which extreme

FEW = 6  # `less_expired` first looks only at the 6 oldest tiles: since the last event, usually fewer left the window


class Feature:
    """One feature: the values that it is computed from, and their places in a state."""

    def __init__(self, index: int, name: str, aggregate: Aggregate, series: Series, sums: Sequence[int]) -> None:
        self.index = index
        self.name = name
        self.aggregate = aggregate
        self.series = series.index
        self.real = series.real
        self.sums = sums  # indexes of the series whose sums the feature needs
        self.count_at = 0  # among the fields of a tile: the index of the number of values (0: the number of rows)
        self.sums_at: tuple[int, ...] = ()  # among the fields of a tile: the indexes of the sums
        self.exponents_at: tuple[int, ...] = ()  # the indexes of the exponents of these sums in `EntityState.exponents`
        self.stack = 0  # for min and max: the index of its stack of extremes
        self.sketch: SketchPlan | None = None
        self.weights: tuple[float, ...] = ()  # the weight of a tile for each age in hops
        if aggregate.traits.decays:
            assert aggregate.over_us is not None  # `decayed_sum()` always sets a window
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
        """The value of the feature for a window without values."""
        if not self.kind.zero:
            return None
        return 0.0 if self.kind.dtype == "float" or (self.kind.dtype == "total" and self.real) else 0


class Window:
    """The features that have the same window."""

    def __init__(self, over_us: int, until_us: int) -> None:
        self.over_us = over_us
        self.until_us = until_us
        self.features: list[Feature] = []


class Group:
    """Windows that use the same tiles.

    These are all windows with the hop `hop_us`; if it is 0, all unlimited windows.
    """

    def __init__(self, hop_us: int) -> None:
        self.hop_us = hop_us
        self.windows: list[Window] = []  # sorted, longest first
        self.over_us = 0  # the length of the longest window
        # the fields of a tile that follow the first field (the number of rows). (series, True): the sum of a series;
        # (series, False): the number of its values
        self.fields: list[tuple[int, bool]] = []
        # given the numbers of a block (see `tiles.Block`), returns all fields of a tile, also the number of rows
        self.fields_of: Callable[[Sequence[Any]], tuple[Any, ...]] = _rows_alone
        self.sum_places: tuple[int, ...] = ()
        self.extremes: list[Extreme] = []
        self.width = 1
        self.zeros = [0]
        self.few = struct.Struct("")  # how the first `FEW` tiles are encoded if each sum fits in 8 bytes
        self.tiles: dict[int, struct.Struct] = {}  # how a tile is encoded, by the number of words per sum

    def add(self, feature: Feature, over_us: int, until_us: int, series: Series) -> None:
        """Add a feature to the window that it belongs to."""
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
        """Fix which numbers of a block become fields of a tile. Call this after all features were added.

        `series` is the number of series in a block.
        """
        self.few = struct.Struct(f"<{FEW * (1 + self.width)}q")
        if self.fields:
            self.fields_of = itemgetter(0, *(1 + i + (series if is_sum else 0) for i, is_sum in self.fields))

    def packing(self, words: int) -> struct.Struct:
        """Return how a tile is encoded: its beginning, and its fields.

        Each sum takes `words` words of 8 bytes.
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
