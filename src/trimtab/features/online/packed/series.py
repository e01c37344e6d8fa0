"""Series: the values that events give to the features of a view. Features that need the same values share a series."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The value of one expression for each event; None where the condition (`where`) does not hold."""

    def __init__(self, index: int, content: str, aggregate: Aggregate, columns: Mapping[str, Dtype], what: str) -> None:
        self.index = index
        self.content = content  # a hash of the expression and of the condition
        self.dtype: Dtype = "bool" if aggregate.of is None else aggregate.of.dtype(columns, what)
        self.real = self.dtype == "float"
        self.summed = False  # whether a feature needs its sum
        self.sum_place = 0  # if floats are summed: the index of the sum's exponent in a state
        self.every = aggregate.of is None and aggregate.where is None  # whether it counts all rows
        self.value = None if self.every else _value(aggregate, columns, what)
        self.reads = set[str]().union(*(e.columns() for e in (aggregate.of, aggregate.where) if e is not None))
        self.column = _plain_column(aggregate, columns)  # the index of the column, if the value is simply a column


class DerivedSeries:
    """The values of another series as floats, or their squares. Only their sums are needed."""

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
    """Computes the value that an event gives to each series.

    A value that cannot be computed is None, and its error is returned, too.

    Args:
        stated: The series that are computed from the event.
        derived: For each further series: the index of its original series, and whether values are squared.
    """

    def __init__(self, stated: Sequence[Series], derived: Sequence[tuple[int, bool]], columns: tuple[str, ...]) -> None:
        self.plain = all(s.every or s.column is not None for s in stated)
        # equal for views of one source that compute the same values
        self.content = tuple(series.content for series in stated), tuple(derived)
        self._stated = stated
        self._derived = derived
        self._columns = columns
        read = set[str]().union(*(series.reads for series in stated))
        self._read = [i for i, name in enumerate(columns) if name in read] or [0]  # indexes of the columns

    def of(self, values: Sequence[Any]) -> tuple[Sequence[Contribution], Mapping[int, str]]:
        """Return the value of each series for one event, and the errors of failed series, by index of the series."""
        before = failures.count
        try:
            given = self._given(values)
        except Exception:  # a value does not have the type of its column
            return self._one_by_one(values)
        return (given, _NONE) if failures.count == before else self._one_by_one(values)

    def of_many(
        self, rows: Sequence[Sequence[Any]]
    ) -> tuple[Iterable[Sequence[Contribution]], dict[int, Mapping[int, str]]]:
        """Return for each of many events what `of` returns: the values, and by index of the event, the errors.

        All events are computed together. If that fails, they are computed one by one.
        """
        before = failures.count
        try:
            given = self._columnwise(rows) if rows else []
            if failures.count == before:
                return given, {}
        except Exception:  # a value does not have the type of its column, so compute events one by one
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

    def _columnwise(self, rows: Sequence[Sequence[Any]]) -> Iterable[Sequence[Contribution]]:
        """Compute all events together, series by series."""
        columns = list(zip(*rows, strict=True))
        some, names = [columns[i] for i in self._read], [self._columns[i] for i in self._read]
        named = [] if self.plain else [dict(zip(names, values, strict=True)) for values in zip(*some, strict=True)]
        given: list[Sequence[Any]] = []
        for series in self._stated:
            if series.value is None:
                given.append([True] * len(rows))
            elif series.column is None:
                given.append(list(map(series.value, named)))
            elif series.real:
                least, greatest = -GREATEST, GREATEST
                given.append(
                    [v if v is None else v + 0.0 if least <= v <= greatest else None for v in columns[series.column]]
                )
            else:
                given.append(columns[series.column])
        for of, squared in self._derived:
            reals = [value if value is None else float(value) for value in given[of]]
            given.append([value if value is None else value * value for value in reals] if squared else reals)
        return zip(*given, strict=True)

    def _one_by_one(self, values: Sequence[Any]) -> tuple[list[Contribution], dict[int, str]]:
        row = dict(zip(self._columns, values, strict=True))
        given: list[Contribution] = []
        errors: dict[int, str] = {}
        for series in self._stated:
            before, value = failures.count, None
            try:
                value = True if series.value is None else series.value(row)
            except Exception as error:  # a value may not have the type of its column
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
    """All series of a view: first those that features are computed from, then those derived from them for sums."""

    def __init__(self) -> None:
        self.of_features: list[Series] = []  # the series of each feature
        self.stated: dict[str, Series] = {}  # the series that features are computed from, by content
        # for each derived series, the index of the original one, and whether it is squared
        self.derived: list[tuple[int, bool]] = []
        self.all: list[Series | DerivedSeries] = []
        self.names: list[list[str]] = []  # for each of the series in `stated`, the names of its features
        self.real_sums: list[int] = []  # indexes of the series with a sum of floats
        self.summed: tuple[bool, ...] = ()  # for each series: whether it is summed
        self.ones: tuple[int, ...] = ()  # a 1 for each series
        self.values: EventValues

    def of(self, name: str, aggregate: Aggregate, view: View) -> Series:
        """Return the series of a feature, which is shared by all features that need the same values."""
        content = content_hash((aggregate.of, aggregate.where))
        if content not in self.stated:
            what = f"view {view.name!r}, feature {name!r}"
            self.stated[content] = Series(len(self.stated), content, aggregate, view.source.columns, what)
            self.all.append(self.stated[content])
            self.names.append([])
        series = self.stated[content]
        self.names[series.index].append(name)
        self.of_features.append(series)
        return series

    def sums(self, kind: Kind, series: Series) -> tuple[int, ...]:
        """Return the indexes of the series whose sums an aggregate needs. First call `of` for all features."""
        return tuple(self._sum(one, series) for one in kind.sums)

    def compile(self, columns: tuple[str, ...]) -> None:
        """Set up what depends on all series together."""
        self.values = EventValues(list(self.stated.values()), self.derived, columns)
        self.real_sums = [s.index for s in self.all if s.summed and s.real]
        for place, index in enumerate(self.real_sums):
            self.all[index].sum_place = place
        self.summed = tuple(series.summed for series in self.all)
        self.ones = (1,) * len(self.all)

    def _sum(self, what: str, series: Series) -> int:
        """Return the index of the series to sum: `series` itself, its values as floats, or their squares."""
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
        assert aggregate.of is not None  # otherwise the series counts all rows
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
    """Return a column's value in the form in which an expression gets it."""
    if real and value is not None:
        return value + 0.0 if -GREATEST <= value <= GREATEST else None
    result: Contribution = value
    return result
