"""Aggregates: one figure over an entity's events."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.expressions import Expression, col
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_us
from trimtab.events.definitions import Source

AggregateKind = Literal["latest", "count", "sum", "mean", "min", "max"]

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


def latest(column: str | Expression, *, max_age: str | int | None = None) -> Aggregate:
    """The value of an entity's newest event; older than `max_age` is null with reason `expired`."""
    return Aggregate(kind="latest", of=value_of(column), max_age_us=None if max_age is None else duration_us(max_age))


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


def value_of(column: str | Expression) -> Expression:
    """The expression that a column's name, or an expression, stands for."""
    return col(column) if isinstance(column, str) else column


def check_aggregate(what: str, aggregate: Aggregate, source: Source) -> None:
    """Refuse what cannot be computed from the source; `what` names the feature.

    Raises:
        Misuse: A column that does not exist or has the wrong type, an impossible window.
    """
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


def _windowed(
    kind: AggregateKind,
    column: str | Expression | None,
    over: str | int | None,
    where: Expression | None,
    hop: str | int | None,
) -> Aggregate:
    over_us = None if over is None else duration_us(over)
    hop_us = 0 if over_us is None else default_hop_us(over_us) if hop is None else duration_us(hop)
    of = None if column is None else value_of(column)
    return Aggregate(kind=kind, of=of, where=where, over_us=over_us, hop_us=hop_us)
