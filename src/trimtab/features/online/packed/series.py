"""Series: the values that events give to a view's features. Features of equal values share one series."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import repeat
from typing import Any, TypeAlias

from trimtab.core.columns.data import Dtype
from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.expressions.failed import failures
from trimtab.core.expressions.nodes import GREATEST, Expression
from trimtab.core.hashing import content_hash
from trimtab.features.aggregates import Aggregate, Kind
from trimtab.features.definitions import View

_logger = logging.getLogger(__name__)
Contribution: TypeAlias = float | int | bool | str | None


class Series:
    """One value of an event: the value of an expression if a condition holds.

    Features of the same value share the series.
    """

    def __init__(self, index: int, aggregate: Aggregate, columns: Mapping[str, Dtype], what: str) -> None:
        self.index = index
        self.dtype: Dtype = "bool" if aggregate.of is None else aggregate.of.dtype(columns, what)
        self.real = self.dtype == "float"
        self.summed = False  # whether some feature needs the sum
        self.sum_place = 0  # index among the exponents of float sums
        self.every = aggregate.of is None and aggregate.where is None  # whether the series counts every row
        self.value = None if self.every else _value(aggregate, columns, what)
        self.column = _plain_column(aggregate, columns)  # index of the column if the value is a plain column


class DerivedSeries:
    """The values of another series as floats, or the squares of these floats. Only their sums are used."""

    def __init__(self, index: int, of: Series, squared: bool) -> None:
        self.index = index
        self.of = of.index
        self.squared = squared
        self.dtype: Dtype = "float"
        self.real = self.summed = True
        self.sum_place = 0
        self.every = False
        self.column: int | None = None


class EventValues:
    """Evaluates what the values of an event contribute to each series.

    A contribution that cannot be computed is None, and its error is reported.

    Args:
        stated: The series that are evaluated from the event.
        derived: For each derived series, the index of the series it is made from, and whether its values are squared.
        columns: The columns of the source.
    """

    def __init__(self, stated: Sequence[Series], derived: Sequence[tuple[int, bool]], columns: tuple[str, ...]) -> None:
        self.plain = all(s.every or s.column is not None for s in stated)
        self._stated = stated
        self._derived = derived
        self._columns = columns

    def of(self, values: Sequence[Any]) -> tuple[list[Contribution], Mapping[int, str]]:
        """Return the contributions of one event, with None for none, and the errors of failed series by index."""
        before = failures.count
        try:
            given = self._given(values)
        except Exception:  # a value has another type than its column
            return self._one_by_one(values)
        return (given, _NONE) if failures.count == before else self._one_by_one(values)

    def of_many(
        self, rows: Sequence[Sequence[Any]]
    ) -> tuple[Iterable[list[Contribution]], dict[int, Mapping[int, str]]]:
        """Evaluate many events: return the contributions of each, and the errors by the index of the event.

        The events are evaluated together, and one by one only if something failed.
        """
        before = failures.count
        try:
            given = self._columnwise(rows) if self.plain and rows else [self._given(values) for values in rows]
            if failures.count == before:
                return given, {}
        except Exception:  # a value has another type than its column; evaluate each event alone
            _logger.debug("events: values do not fit their columns", exc_info=True)
        found = [self._one_by_one(values) for values in rows]
        return [gives for gives, _ in found], {n: errors for n, (_, errors) in enumerate(found) if errors}

    def _given(self, values: Sequence[Any]) -> list[Contribution]:
        if self.plain:
            given = [True if s.column is None else _as_read(values[s.column], s.real) for s in self._stated]
        else:
            row = dict(zip(self._columns, values, strict=True))
            given = [True if s.value is None else s.value(row) for s in self._stated]
        return self._with_derived(given) if self._derived else given

    def _columnwise(self, rows: Sequence[Sequence[Any]]) -> Iterable[list[Contribution]]:
        """Evaluate series of plain columns column by column, which is faster."""
        columns = list(zip(*rows, strict=True))
        given: list[Iterable[Contribution]] = []
        for series in self._stated:
            if series.column is None:
                given.append(repeat(True, len(rows)))
            elif series.real:
                least, greatest = -GREATEST, GREATEST
                given.append(
                    [v if v is None else v + 0.0 if least <= v <= greatest else None for v in columns[series.column]]
                )
            else:
                given.append(columns[series.column])
        found = map(list, zip(*given, strict=True))
        return map(self._with_derived, found) if self._derived else found

    def _one_by_one(self, values: Sequence[Any]) -> tuple[list[Contribution], dict[int, str]]:
        row = dict(zip(self._columns, values, strict=True))
        given: list[Contribution] = []
        errors: dict[int, str] = {}
        for series in self._stated:
            before, value = failures.count, None
            try:
                value = True if series.value is None else series.value(row)
            except Exception as error:  # as above
                errors[series.index] = f"{type(error).__name__}: {error}"
            if failures.count != before:
                errors[series.index] = failures.error
            given.append(value)
        return self._with_derived(given), errors

    def _with_derived(self, given: list[Contribution]) -> list[Contribution]:
        for of, squared in self._derived:
            value: Any = given[of]
            if value is not None:
                value = float(value)
                value = value * value if squared else value
            given.append(value)
        return given


class ViewSeries:
    """The series of one view: first those that its features state, then those that are derived from them for sums."""

    def __init__(self) -> None:
        self.of_features: list[Series] = []  # the series of each feature
        self.stated: dict[str, Series] = {}  # the series that features state, by content
        self.derived: list[tuple[int, bool]] = []  # the index of the original series, and whether it is squared
        self.all: list[Series | DerivedSeries] = []
        self.names: list[list[str]] = []  # the names of the features of each stated series
        self.real_sums: list[int] = []  # indexes of the series with a sum of floats
        # For each series: index, whether summed, whether extremes are kept.
        self.uses: tuple[tuple[int, bool, bool], ...] = ()
        self.ones: tuple[int, ...] = ()  # one for each series
        self.values: EventValues

    def of(self, name: str, aggregate: Aggregate, view: View) -> Series:
        """Return the series of a feature. Features of equal values share a series."""
        content = content_hash((aggregate.of, aggregate.where))
        if content not in self.stated:
            what = f"view {view.name!r}, feature {name!r}"
            self.stated[content] = Series(len(self.stated), aggregate, view.source.columns, what)
            self.all.append(self.stated[content])
            self.names.append([])
        series = self.stated[content]
        self.names[series.index].append(name)
        self.of_features.append(series)
        return series

    def sums(self, kind: Kind, series: Series) -> tuple[int, ...]:
        """Return the indexes of the series whose sums an aggregate needs. All stated series must exist by then."""
        return tuple(self._sum(one, series) for one in kind.sums)

    def compile(self, ranked: Set[int], columns: tuple[str, ...]) -> None:
        """Set up everything that depends on all series.

        `ranked` has the indexes of the series of which extremes are kept.
        """
        self.values = EventValues(list(self.stated.values()), self.derived, columns)
        self.real_sums = [s.index for s in self.all if s.summed and s.real]
        for place, index in enumerate(self.real_sums):
            self.all[index].sum_place = place
        self.uses = tuple((s.index, s.summed, s.index in ranked) for s in self.all)
        self.ones = (1,) * len(self.all)

    def _sum(self, what: str, series: Series) -> int:
        squared = what == "square"
        if what == "value" or (series.real and not squared):
            series.summed = True
            return series.index
        if (series.index, squared) not in self.derived:
            self.derived.append((series.index, squared))
            self.all.append(DerivedSeries(len(self.all), series, squared))
        return len(self.stated) + self.derived.index((series.index, squared))


_NONE: Mapping[int, str] = {}


def _value(aggregate: Aggregate, columns: Mapping[str, Dtype], what: str) -> Callable[[Mapping[str, Any]], Any]:
    def compiled(expression: Expression) -> Callable[[Mapping[str, Any]], Any]:
        return compile_row(expression, columns, what)

    if aggregate.where is None:
        assert aggregate.of is not None  # otherwise the series counts every row
        return compiled(aggregate.of)
    where = compiled(aggregate.where)
    if aggregate.of is None:
        return lambda row: True if where(row) else None
    of = compiled(aggregate.of)
    return lambda row: of(row) if where(row) else None


def _plain_column(aggregate: Aggregate, columns: Mapping[str, Dtype]) -> int | None:
    if aggregate.of is None or aggregate.of.op != "col" or aggregate.where is not None:
        return None
    return list(columns).index(str(aggregate.of.params[0]))


def _as_read(value: Any, real: bool) -> Contribution:
    """Return a column's value in the form in which an expression reads it."""
    if real and value is not None:
        return value + 0.0 if -GREATEST <= value <= GREATEST else None
    result: Contribution = value
    return result
