"""A view compiled for online use: what to take from an event, what to keep of it, what to read of that."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.features.aggregates import DECAYED, FOLDED, SPREADS, ZERO_WHEN_EMPTY, Aggregate
from trimtab.features.definitions import View
from trimtab.features.formulas import steps_of, weights
from trimtab.features.online.packed.series import DerivedSeries, EventValues, Series

Row: TypeAlias = list[Any]  # what a view keeps of an event, by the places below
EVENT_AT, KNOWN_AT, PARTITION, POSITION, UNTIL, ID, GIVES, FAILS = range(8)
# GIVES: one a series; None in a tombstone. FAILS: the series whose value failed; most rows end before it. # D156
Name: TypeAlias = str | int | tuple[str | int, ...]  # of an entity or an event
Extreme: TypeAlias = tuple[int, Literal["min", "max"]]  # of which series, which end

FEW = 6  # tiles that have left since the last event, mostly, are no more
_LONGEST_BYTES = 160  # of an entity or id inside a key; longer ones go by their hash
_moment = struct.Struct(">Q").pack


class FoldPlan:
    """What the tiles of a group keep of one series beside sums; see `folds.py`."""

    def __init__(self, index: int, kind: str, series: int, hop_us: int, keyed: bool) -> None:
        self.index = index
        self.kind = kind
        self.series = series
        self.hop_us = hop_us  # 0: one fold for the whole lifetime
        self.keyed = keyed
        self.over_us = 0  # of the longest window
        self.keep = 1
        self.prunes = not keyed and hop_us > 0 and kind in ("last", "count_distinct")

    def start_of(self, at_us: int) -> int:
        """The start of the tile of a moment."""
        return at_us - at_us % self.hop_us if self.hop_us else 0


COUNT, SUM, MEAN, WHOLE_SUM, WHOLE_MEAN, EXTREME, SPREAD, FOLDED_VALUE, NO_WINDOW = range(9)  # how a value is read


class Feature:
    """Where the figures of one feature lie."""

    def __init__(self, index: int, name: str, aggregate: Aggregate, series: Series, sums: Sequence[int]) -> None:
        self.index = index
        self.name = name
        self.kind = aggregate.kind
        self.max_age_us = aggregate.max_age_us
        self.series = series.index
        self.real = series.real
        self.sums = sums  # the series whose sums it needs
        self.place = aggregate.place
        self.count_at = 0  # places in a tile's fields
        self.sum_at = 0
        self.square_at = 0
        self.sum_place = 0
        self.square_place = 0
        self.stack = 0  # place among the stacks of extremes
        self.fold: FoldPlan | None = None
        self.weights: tuple[float, ...] = ()  # of tiles by their age in hops
        self.how = NO_WINDOW
        if aggregate.kind in DECAYED:
            assert aggregate.over_us is not None  # `decayed_sum()` gives a window
            steps = steps_of(aggregate.over_us, aggregate.hop_us)
            self.weights = weights(aggregate.hop_us, aggregate.half_life_us, steps)
        self.empty: int | float | None = 0 if aggregate.kind in ZERO_WHEN_EMPTY else None
        if aggregate.kind == "decayed_sum" or (aggregate.kind == "sum" and self.real):
            self.empty = 0.0

    def read(self) -> FeatureRead:
        """What a read needs of it first, side by side."""
        match self.kind:
            case "count":
                self.how = COUNT
            case "sum":
                self.how = SUM if self.real else WHOLE_SUM
            case "mean":
                self.how = MEAN if self.real else WHOLE_MEAN
            case "var" | "std":
                self.how = SPREAD
            case _:
                self.how = EXTREME if self.fold is None else FOLDED_VALUE
        return self.index, self.how, self.count_at, self.sum_at, self.sum_place, self


FeatureRead: TypeAlias = tuple[int, int, int, int, int, Feature]  # index, how; places of count, sum, exponent


class Window:
    """The features over one stretch of time."""

    def __init__(self, over_us: int, until_us: int) -> None:
        self.over_us = over_us
        self.until_us = until_us
        self.features: list[Feature] = []
        self.decayed: list[Feature] = []
        self.reads: list[FeatureRead] = []  # of `features`
        self.is_plain = True  # nothing but a stretch of tiles up to the newest one is read


WindowRead: TypeAlias = tuple[int, int, int, bool, list[FeatureRead], Window]
# place among its group's, length, where it begins; then what a read needs of the window first, side by side


class Group:
    """Windows that share one row of tiles: those of one hop, or (`hop_us` 0) those that never end."""

    def __init__(self, hop_us: int) -> None:
        self.hop_us = hop_us
        self.windows: list[Window] = []  # the longest first
        self.over_us = 0  # of the longest window
        self.fields: list[tuple[int, bool]] = []  # after the count of rows: of which series; its sum, else its count
        self.fields_of: Callable[[Sequence[Any]], tuple[Any, ...]] = _rows_alone  # a tile's fields of a block's figures
        self.sum_places: tuple[int, ...] = ()
        self.extremes: list[Extreme] = []
        self.width = 1
        self.zeros = [0]
        self.few = struct.Struct("")  # the first few packed tiles, where no sum takes more than one word
        self.tiles: dict[int, struct.Struct] = {}  # by words a sum: how a tile is packed

    def add(self, feature: Feature, over_us: int, until_us: int, series: Series) -> None:
        window = next((w for w in self.windows if (w.over_us, w.until_us) == (over_us, until_us)), None)
        if window is None:
            window = Window(over_us, until_us)
            self.windows.append(window)
            self.windows.sort(key=lambda w: -w.over_us)
            self.over_us = self.windows[0].over_us
        (window.decayed if feature.weights else window.features).append(feature)
        feature.count_at = 0 if series.every else self._field(series.index, False)
        if feature.sums:
            feature.sum_at = self._field(feature.sums[0], True)
            feature.square_at = self._field(feature.sums[-1], True)
        elif (feature.kind == "min" or feature.kind == "max") and feature.fold is None:
            extreme: Extreme = (series.index, feature.kind)
            if extreme not in self.extremes:
                self.extremes.append(extreme)
            feature.stack = self.extremes.index(extreme)
        self.width = 1 + len(self.fields)
        self.zeros = [0] * self.width
        fields = {field: place for place, field in enumerate(self.fields, 1)}
        self.sum_places = tuple(place for (_, is_sum), place in fields.items() if is_sum)

    def compile(self, series: int) -> None:
        """Say which figures of a block of so many series are a tile's fields, once all features are added."""
        self.few = struct.Struct(f"<{FEW * (1 + self.width)}q")
        if self.fields:
            self.fields_of = itemgetter(0, *(1 + i + (series if is_sum else 0) for i, is_sum in self.fields))

    def packing(self, words: int) -> struct.Struct:
        """How a tile lies in bytes when a sum takes `words` of 8 bytes: start, count of rows, fields."""
        if words not in self.tiles:
            wide = "q" if words == 1 else f"{8 * words}s"
            self.tiles[words] = struct.Struct("<qq" + "".join(wide if is_sum else "q" for _, is_sum in self.fields))
        return self.tiles[words]

    def _field(self, series: int, is_sum: bool) -> int:
        if (series, is_sum) not in self.fields:
            self.fields.append((series, is_sum))
        return 1 + self.fields.index((series, is_sum))


class ViewPlan:
    """A view, compiled."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.name = view.name
        self.cursor_name = cursor_name(view.hash)
        self.id = bytes.fromhex(self.cursor_name)
        self.tag = int.from_bytes(self.id[:4], "big")
        self.inclusive = view.boundary == "inclusive"
        self.keyed = view.source.key is not None
        self.columns = tuple(view.source.columns)
        self.entity_of = entity_of([self.columns.index(name) for name in view.by])
        self.series: list[Series | DerivedSeries] = []
        self._stated: list[Series] = []  # those that are not derived from others
        self.derived: list[tuple[int, bool]] = []  # of the last series: from which one, whether squared
        self.folds: list[FoldPlan] = []
        self.groups: list[Group] = []
        self.life: Group | None = None
        self.latest: list[Feature] = []
        self.features: list[Feature] = []
        self._compile(view)
        self.values = EventValues(self._stated, self.derived, self.columns)
        self.real_sums = [s.index for s in self.series if s.summed and s.real]
        for place, index in enumerate(self.real_sums):
            self.series[index].sum_place = place
        for feature in self.features:
            if feature.sums:
                feature.sum_place = self.series[feature.sums[0]].sum_place
                feature.square_place = self.series[feature.sums[-1]].sum_place
        for group in [*self.groups, *filter(None, [self.life])]:
            for window in group.windows:
                window.reads = [feature.read() for feature in window.features]
                window.is_plain = not window.until_us and not window.decayed
            group.compile(len(self.series))
        ranked = {index for group in [*self.groups, *filter(None, [self.life])] for index, _ in group.extremes}
        self.uses = tuple((s.index, s.summed, s.index in ranked) for s in self.series)  # of series: summed, ranked
        self.real_fields = [self._sum_fields(index) for index in self.real_sums]  # where a float sum lies: group, place
        self.ones = (1,) * len(self.series)
        self.windowed = bool(self.groups or self.life)
        self.forever = bool(self.latest) or self.life is not None
        self.longest_us = max([group.over_us for group in self.groups], default=0)
        self.windows_at: tuple[int, int, list[list[WindowRead]]] = (0, 0, [])  # from, until; of each group its windows
        self.lows: tuple[int, ...] = (0, 0)  # see `begin_lows`
        self.state_prefix = b"v" + self.id
        self.index_prefix = b"i" + self.id  # keyed: id -> its versions; else: event time and id of what was applied
        self.rows_prefix = b"r" + self.id  # keyed: entity, event time falling, id

    def expired(self, event_at_us: int, s_us: int) -> bool:
        """Whether no window can cover an event at `event_at_us` any more at `s_us` or later."""
        if self.forever or event_at_us >= s_us - self.longest_us:
            return False
        return all(event_at_us < floor(s_us - g.over_us, g.hop_us) for g in self.groups)

    def index_key(self, event_at_us: int, event_id: str) -> bytes:
        """Where a view without versions notes that it has applied an event, so as to know it again."""
        return self.index_from(event_at_us) + name_bytes(event_id)

    def index_from(self, event_at_us: int) -> bytes:
        """What such keys of one event time begin with: they lie behind those of all earlier ones."""
        return self.index_prefix + _moment(event_at_us + 2**63)

    def begin_windows(self, t_us: int) -> list[list[WindowRead]]:
        """The windows of each group as they lie at a moment; they lie so until the first of them leaves a hop."""
        since, until, groups = 0, 2**62, []
        for group in self.groups:
            windows: list[WindowRead] = []
            for place, window in enumerate(group.windows):
                low = floor(t_us - window.over_us, group.hop_us)
                since, until = max(since, low + window.over_us), min(until, low + window.over_us + group.hop_us)
                windows.append((place, window.over_us, low, window.is_plain, window.reads, window))
            groups.append(windows)
        self.windows_at = since, until, groups
        return groups

    def begin_lows(self, t_us: int) -> tuple[int, ...]:
        """From when until when windows lie as they do at a moment, then where each begins, those of all groups."""
        windows = [(window.over_us, group.hop_us) for group in self.groups for window in group.windows]
        lows = [floor(t_us - over_us, hop_us) for over_us, hop_us in windows]
        since = max(low + over_us for low, (over_us, _) in zip(lows, windows, strict=True))
        until = min(low + over_us + hop_us for low, (over_us, hop_us) in zip(lows, windows, strict=True))
        self.lows = since, until, *lows  # at once: others may be reading
        return since, until, *lows

    def give(self, row: Row, values: Sequence[Any]) -> Mapping[int, str]:
        """Let a row give what its event's values come to; the errors of series that failed, by number."""
        row[GIVES], errors = self.values.of(values)
        if errors:
            row.append([*errors])
        return errors

    def features_of(self, series: int) -> list[str]:
        """The features of the value that is this series."""
        return self._named[series]

    def _sum_fields(self, series: int) -> list[tuple[int, int]]:
        places = [(at, group.fields) for at, group in enumerate(self.groups)]
        return [(at, 1 + fields.index((series, True))) for at, fields in places if (series, True) in fields]

    def _compile(self, view: View) -> None:
        stated: dict[str, Series] = {}
        of_feature: list[Series] = []
        for name, aggregate in view.features.items():
            what = f"view {view.name!r}, feature {name!r}"
            content = content_hash((aggregate.of, aggregate.where))
            if content not in stated:
                stated[content] = Series(len(stated), aggregate, view.source.columns, what)
            of_feature.append(stated[content])
        self._stated = list(stated.values())
        self.series = list(self._stated)
        named = list(zip(view.features, of_feature, strict=True))
        self._named = [[name for name, series in named if series is one] for one in self._stated]
        groups: dict[int, Group] = {}
        for index, ((name, aggregate), series) in enumerate(zip(view.features.items(), of_feature, strict=True)):
            sums = self._sums(aggregate, series)
            feature = Feature(index, f"{view.name}.{name}", aggregate, series, sums)
            self.features.append(feature)
            if aggregate.kind == "latest":
                self.latest.append(feature)
                continue
            feature.fold = self._fold(aggregate, series)
            if aggregate.over_us is None:
                self.life = self.life or Group(0)
                self.life.add(feature, 0, 0, series)
            else:
                hop_us = aggregate.hop_us or 1  # exact: every microsecond is a tile
                group = groups.setdefault(hop_us, Group(hop_us))
                group.add(feature, aggregate.over_us, aggregate.until_us, series)
        self.groups = [groups[hop] for hop in sorted(groups)]

    def _sums(self, aggregate: Aggregate, series: Series) -> tuple[int, ...]:
        """The series whose sums an aggregate needs."""
        if aggregate.kind in ("sum", "mean"):
            series.summed = True
            return (series.index,)
        if aggregate.kind in SPREADS:
            return self._float_sum(series), self._derived(series, True)
        return (self._float_sum(series),) if aggregate.kind in DECAYED else ()

    def _float_sum(self, series: Series) -> int:
        """The series whose sum is that of the values as floats."""
        if series.real:
            series.summed = True
            return series.index
        return self._derived(series, False)

    def _derived(self, series: Series, squared: bool) -> int:
        if (series.index, squared) not in self.derived:
            self.derived.append((series.index, squared))
            self.series.append(DerivedSeries(len(self.series), series, squared))
        return len(self._stated) + self.derived.index((series.index, squared))

    def _fold(self, aggregate: Aggregate, series: Series) -> FoldPlan | None:
        """What tiles keep for an aggregate beside sums; aggregates of one series share it."""
        extreme = aggregate.kind in ("min", "max") and aggregate.until_us
        if aggregate.kind not in FOLDED and not extreme:
            return None
        hop_us = 0 if aggregate.over_us is None else aggregate.hop_us or 1
        like = aggregate.kind, series.index, hop_us
        for fold in self.folds:
            same = aggregate.kind != "count_distinct" or fold.keep == aggregate.keep
            if (fold.kind, fold.series, fold.hop_us) == like and same:
                break
        else:
            fold = FoldPlan(len(self.folds), *like, self.keyed)
            self.folds.append(fold)
        fold.keep = max(fold.keep, aggregate.place, aggregate.keep)
        fold.over_us = max(fold.over_us, aggregate.over_us or 0)
        fold.prunes &= not aggregate.until_us
        return fold


def _rows_alone(figures: Sequence[Any]) -> tuple[Any, ...]:
    return (figures[0],)


def cursor_name(address: str) -> str:
    """Under which name the record of positions has the view of an address: what its keys begin with, too."""
    return address[:16]


def floor(at_us: int, hop_us: int) -> int:
    """The last multiple of `hop_us` not above `at_us`."""
    return at_us - at_us % hop_us


def name_bytes(value: Name) -> bytes:
    """An entity or an id as part of a key: short, and never that of another one."""
    if isinstance(value, str):
        raw = value.encode() if value.isascii() else value.encode("utf-8", "surrogatepass")
        return b"s" + raw if len(raw) <= _LONGEST_BYTES else b"h" + blake2b(raw, digest_size=32).digest()
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise Misuse(f"key {value}: it does not fit 64 bits. Give an integer from -2**63 to 2**63 - 1.")
        return b"i" + (value + 2**63).to_bytes(8, "big")
    parts = [name_bytes(part) for part in value]
    raw = b"t" + b"".join(len(part).to_bytes(1, "big") + part for part in parts)
    return raw if len(raw) <= _LONGEST_BYTES else b"h" + blake2b(raw, digest_size=32).digest()


def entity_of(places: Sequence[int] | Sequence[str]) -> Callable[[Any], Any]:
    """The function from values to their entity: one of them, several, or None where any is null.

    >>> entity_of([1])(["a", 7]), entity_of(["x", "y"])({"x": "a", "y": None})
    (7, None)
    """
    if len(places) == 1:
        return itemgetter(places[0])
    several = itemgetter(*places)

    def entity(values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] = several(values)
        return None if None in found else found

    return entity
