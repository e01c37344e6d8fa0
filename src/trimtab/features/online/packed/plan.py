"""A view, compiled for online use: the values that its events give, and what a state keeps of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import View
from trimtab.features.online.packed.groups import Feature, Group
from trimtab.features.online.packed.keys import GIVES, KeySpace, Row, cursor_name, entity_of, floor
from trimtab.features.online.packed.series import EventValues, Series, ViewSeries
from trimtab.features.online.packed.sketches import SketchPlan


class ViewPlan:
    """A compiled view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.id = bytes.fromhex(cursor_name(view.hash))
        self.tag = int.from_bytes(self.id[:4], "big")
        self.inclusive = view.boundary == "inclusive"
        self.keyed = view.source.key is not None
        self.columns = tuple(view.source.columns)
        self.entity_of = entity_of([self.columns.index(name) for name in view.by])
        self.keys = KeySpace.of(self.id, 0)
        self.series = ViewSeries()
        self.features: list[Feature] = []
        self.latest: list[Feature] = []
        self.groups: list[Group] = []
        self.life: Group | None = None
        self.sketches: list[SketchPlan] = []
        self._compile()
        self.longest_us = max([group.over_us for group in self.groups], default=0)

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def cursor_name(self) -> str:
        """The name of the view in the record of positions."""
        return self.id.hex()

    @property
    def values(self) -> EventValues:
        """Computes the value that an event gives to each series, from which features are then computed."""
        return self.series.values

    @property
    def windowed(self) -> bool:
        """True if the view has a feature that is not a latest value."""
        return bool(self.groups) or self.life is not None

    @property
    def forever(self) -> bool:
        """True if the view has a latest value, even one with `max_age`, or a feature with an unlimited window."""
        return bool(self.latest) or self.life is not None

    def expired(self, event_at_us: int, s_us: int) -> bool:
        """Return whether an event at `event_at_us` is in no window of any request at `s_us` or later."""
        if self.forever or event_at_us >= s_us - self.longest_us:
            return False
        return all(event_at_us < floor(s_us - g.over_us, g.hop_us) for g in self.groups)

    def earliest_us(self, s_us: int) -> int:
        """Return the earliest event time that is in any window at `s_us`."""
        return min([floor(s_us - group.over_us, group.hop_us) for group in self.groups])

    def give(self, row: Row, values: Sequence[Any]) -> Mapping[int, str]:
        """Compute a row's value for each series, given the event's values. Return the errors of failed series."""
        row[GIVES], errors = self.series.values.of(values)
        if errors:
            row.append([*errors])
        return errors

    def sums_in(self, series: int) -> list[tuple[int, int]]:
        """Return where the sum of a series is: a group's index, and the sum's index among the fields of its tiles."""
        places = [(at, group.fields) for at, group in enumerate(self.groups)]
        return [(at, 1 + fields.index((series, True))) for at, fields in places if (series, True) in fields]

    def _compile(self) -> None:
        view, groups = self.view, dict[int, Group]()
        for index, (name, aggregate) in enumerate(view.features.items()):
            series = self.series.of(name, aggregate, view)
            self.features.append(Feature(index, f"{view.name}.{name}", aggregate, series, ()))
        for feature, series in zip(self.features, self.series.of_features, strict=True):
            aggregate = feature.aggregate
            feature.sums = self.series.sums(aggregate.traits, series)
            if aggregate.traits.online == "latest":
                self.latest.append(feature)
                continue
            feature.sketch = self._sketch(aggregate, series)
            if aggregate.over_us is None:
                self.life = self.life or Group(0)
                self.life.add(feature, 0, 0, series)
            else:
                hop_us = aggregate.hop_us or 1  # an exact window (hop 0) has a tile for each microsecond with events
                group = groups.setdefault(hop_us, Group(hop_us))
                group.add(feature, aggregate.over_us, aggregate.until_us, series)
        self.groups = [groups[hop] for hop in sorted(groups)]
        every = [*self.groups, *([] if self.life is None else [self.life])]
        for group in every:
            group.compile(len(self.series.all))
        self.series.compile(self.columns)
        for feature in self.features:
            feature.exponents_at = tuple(self.series.all[index].sum_place for index in feature.sums)

    def _sketch(self, aggregate: Aggregate, series: Series) -> SketchPlan | None:
        """Return the sketch that an aggregate needs in addition to sums (see `sketches.py`); None: no sketch.

        Aggregates of the same kind, series and hop share a sketch.
        """
        online = aggregate.traits.online
        if online != "sketch" and not (online == "extreme" and aggregate.until_us):
            return None
        hop_us = 0 if aggregate.over_us is None else aggregate.hop_us or 1
        like = aggregate.kind, series.index, hop_us, aggregate.keep
        sketch = next((one for one in self.sketches if one.like == like), None)
        if sketch is None:
            sketch = SketchPlan(len(self.sketches), *like, self.keyed)
            self.sketches.append(sketch)
        sketch.include(aggregate)
        return sketch
