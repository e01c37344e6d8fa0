"""What people declare: aggregates, views, requests and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from trimtab.core.columns import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions import Expression, col
from trimtab.core.hashing import content_hash
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_us
from trimtab.events.definitions import Source, check_name, source

AggregateKind = Literal["latest", "count", "sum", "mean", "min", "max"]
Boundary = Literal["before", "inclusive"]

_HOPS_US = [
    *(n * unit for unit in (SECOND_US, MINUTE_US) for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_US for n in (1, 2, 3, 4, 6, 12)),
    DAY_US,
]


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over an entity's events: what, of which value, over which window."""

    kind: AggregateKind
    of: Expression | None = None  # None: `count()` of rows
    where: Expression | None = None
    over_us: int | None = None  # None: lifetime (and always for `latest`)
    hop_us: int = 0
    max_age_us: int | None = None  # `latest` only


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Features of one entity from one source. Make one with `view()`."""

    name: str
    source: Source
    by: str  # the source's column that holds the entity; requests carry a column of the same name
    features: dict[str, Aggregate]
    boundary: Boundary = "before"

    @property
    def hash(self) -> str:
        """The content address of this definition, its source's columns included."""
        return content_hash(self)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A question asked of a model. Make one with `request()`."""

    source: Source  # a request type is also a source: its history can be ingested
    lead_us: int = 0  # how long before its time it is asked

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def hash(self) -> str:
        """The content address of this definition."""
        return content_hash(self)

    @property
    def key(self) -> str:
        assert self.source.key is not None  # `request()` requires it
        return self.source.key

    @property
    def key_dtype(self) -> Literal["str", "int"]:
        return "int" if self.columns[self.key] == "int" else "str"

    @property
    def time(self) -> str:
        return self.source.time

    @property
    def columns(self) -> dict[str, Dtype]:
        return self.source.columns


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about a request, from later events of a source. Make one with `label()`."""

    source: Source
    key: str  # the column of `source` that holds the request's key
    value: Expression
    wait_us: int


def latest(column: str | Expression, *, max_age: str | int | None = None) -> Aggregate:
    """The value of an entity's newest event; older than `max_age` is null with reason `expired`."""
    return Aggregate(kind="latest", of=_value(column), max_age_us=None if max_age is None else duration_us(max_age))


def count(
    column: str | Expression | None = None,
    *,
    over: str | int | None = None,
    where: Expression | None = None,
    hop: str | int | None = None,
) -> Aggregate:
    """How many events (or how many with a value in `column`) fell in the window."""
    return _windowed("count", column, over, where, hop)


def sum(  # the field's word for it, used as tt.sum
    column: str | Expression,
    *,
    over: str | int | None = None,
    where: Expression | None = None,
    hop: str | int | None = None,
) -> Aggregate:
    """The exact sum over the window, rounded once; 0 for an empty one."""
    return _windowed("sum", column, over, where, hop)


def mean(
    column: str | Expression,
    *,
    over: str | int | None = None,
    where: Expression | None = None,
    hop: str | int | None = None,
) -> Aggregate:
    """The exact sum divided by the number of values; null for an empty window."""
    return _windowed("mean", column, over, where, hop)


def min(
    column: str | Expression,
    *,
    over: str | int | None = None,
    where: Expression | None = None,
    hop: str | int | None = None,
) -> Aggregate:
    """The smallest value in the window; null for an empty one."""
    return _windowed("min", column, over, where, hop)


def max(
    column: str | Expression,
    *,
    over: str | int | None = None,
    where: Expression | None = None,
    hop: str | int | None = None,
) -> Aggregate:
    """The greatest value in the window; null for an empty one."""
    return _windowed("max", column, over, where, hop)


def default_hop_us(over_us: int) -> int:
    """The largest usual step not above 1/128 of the window; 0 (exact) below one second.

    >>> default_hop_us(duration_us("7d")) == duration_us("1h")
    True
    """
    return next((hop for hop in reversed(_HOPS_US) if hop * 128 <= over_us), 0)


def view(
    name: str, *, source: Source, by: str, features: Mapping[str, Aggregate], boundary: Boundary = "before"
) -> View:
    """Declare features of the entity in column `by`, computed from a source's events.

    Args:
        name: Lower-case name, unique in the project; a feature is then called `name.feature`.
        source: Where the events come from.
        by: The source's column (str or int) that holds the entity.
        features: Name and aggregate of each feature.
        boundary: "before": an event counts from the microsecond after its time, so that a row's own event can never
            leak into it; "inclusive": from its time on.

    Raises:
        Misuse: A column that does not exist or has the wrong type, an empty or impossible definition.
    """
    what = f"view {name!r}"
    check_name(name, "view")
    if source.columns.get(by) not in ("str", "int"):
        found = source.columns.get(by, f"missing among {', '.join(source.columns)}")
        raise Misuse(f"{what}: by={by!r} must be a column of {source.name!r} of type str or int; it is {found}.")
    if not features:
        raise Misuse(f"{what}: no features. Give at least one aggregate.")
    if boundary not in ("before", "inclusive"):
        raise Misuse(f'{what}: boundary={boundary!r} is neither "before" nor "inclusive".')
    for feature, aggregate in features.items():
        check_name(feature, f"{what}: feature")
        _check_aggregate(f"{what}, feature {feature!r}", aggregate, source)
    return View(name=name, source=source, by=by, features=dict(features), boundary=boundary)


def request(name: str, *, key: str, time: str, columns: Mapping[str, type], lead: str | int = 0) -> Request:
    """Declare a question: its key, its time and what it carries; asked `lead` before its time.

    Raises:
        Misuse: As `source()`.
    """
    return Request(source=source(name, key=key, time=time, columns=columns), lead_us=duration_us(lead))


def label(source: Source, *, key: str, value: Expression | str, wait: str | int) -> Label:
    """Declare the truth: the value of the event of `source` whose `key` is the request's; final after `wait`.

    Raises:
        Misuse: A column that does not exist, or a value that is neither a number nor a truth value.
    """
    if key not in source.columns:
        raise Misuse(f"label: key={key!r} is no column of {source.name!r}: {', '.join(source.columns)}.")
    value = _value(value)
    dtype = value.dtype(source.columns, f"label from {source.name!r}")
    if dtype not in ("float", "int", "bool"):
        raise Misuse(f"label from {source.name!r}: its value is of type {dtype}. Give a number or a comparison.")
    return Label(source=source, key=key, value=value, wait_us=duration_us(wait))


def _value(column: str | Expression) -> Expression:
    return col(column) if isinstance(column, str) else column


def _windowed(
    kind: AggregateKind,
    column: str | Expression | None,
    over: str | int | None,
    where: Expression | None,
    hop: str | int | None,
) -> Aggregate:
    over_us = None if over is None else duration_us(over)
    hop_us = 0 if over_us is None else default_hop_us(over_us) if hop is None else duration_us(hop)
    of = None if column is None else _value(column)
    return Aggregate(kind=kind, of=of, where=where, over_us=over_us, hop_us=hop_us)


def _check_aggregate(what: str, aggregate: Aggregate, source: Source) -> None:
    if not isinstance(aggregate, Aggregate):
        raise Misuse(f"{what}: {aggregate!r} is no aggregate. Use tt.latest, tt.count, tt.mean, ...")
    if aggregate.over_us == 0:
        raise Misuse(f"{what}: over=0 is an empty window. Give a duration, or none for the whole lifetime.")
    if aggregate.over_us is not None and aggregate.hop_us > aggregate.over_us:
        raise Misuse(f"{what}: hop={aggregate.hop_us} us is longer than its window of {aggregate.over_us} us.")
    if aggregate.where is not None and aggregate.where.dtype(source.columns, what) != "bool":
        raise Misuse(f"{what}: where= is not a truth value. Write a comparison.")
    dtype = "int" if aggregate.of is None else aggregate.of.dtype(source.columns, what)
    if aggregate.kind in ("sum", "mean", "min", "max") and dtype not in ("float", "int", "bool"):
        raise Misuse(f"{what}: {aggregate.kind} of a {dtype}. Give a number or a comparison.")
