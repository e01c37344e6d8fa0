"""Aggregates (count, sum, latest, ...): a table of their kinds, and the functions that declare them."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import Expression, col
from trimtab.core.shown import shown
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_us, format_duration
from trimtab.events.definitions import Source

__all__ = [  # the functions that declare aggregates
    "count", "count_distinct", "decayed_mean", "decayed_sum", "first", "last", "last_n", "latest", "max", "mean", "min",
    "std", "sum", "top_k", "var",
]  # fmt: skip

AggregateKind = Literal[
    "latest", "count", "sum", "mean", "min", "max", "var", "std", "first", "last", "count_distinct", "top",
    "decayed_sum", "decayed_mean",
]  # fmt: skip
Duration: TypeAlias = str | int


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of one kind of aggregate.

    A new kind needs a row in `KINDS`, an offline kernel in `offline/kernels/table.py`, and online either a sketch in
    `online/packed/sketches.py` or a value from sums in `online/read/reader.py`. Its function is added to `__all__`.
    """

    # "value": the type of the values; "total": the same, but int for bool
    dtype: Literal["int", "float", "value", "total"]
    zero: bool = False  # whether an empty window gives 0, and not null
    numeric: bool = False  # whether it only accepts numbers and bools
    # the form in which an online state has its values
    online: Literal["latest", "sums", "extreme", "sketch"] = "sketch"
    # the sums in an online state: "value": of the values, "float": of the values as floats, "square": of their squares
    sums: tuple[Literal["value", "float", "square"], ...] = ()
    decays: bool = False  # whether older values have a smaller weight
    # the function that declares several places at once (1st, 2nd, ...; see `Aggregate.place`): `last_n` or `top_k`
    places: str = ""
    # called by `Aggregate.explains_loss` with its arguments `used` and `left`, and with `Aggregate.keep`
    explains_loss: Callable[[float, float, int], bool] = lambda used, left, keep: True


def _null_or(holds: Callable[[float, float], bool]) -> Callable[[float, float, int], bool]:
    return lambda used, left, keep: left != left or holds(used, left)


_not_null = _null_or(lambda used, left: used == used)

KINDS: dict[AggregateKind, Kind] = {
    "latest": Kind(dtype="value", online="latest"),
    "count": Kind(dtype="int", zero=True, online="sums", explains_loss=lambda used, left, keep: used >= left),
    "sum": Kind(dtype="total", zero=True, numeric=True, online="sums", sums=("value",)),
    "mean": Kind(dtype="float", numeric=True, online="sums", sums=("value",), explains_loss=_not_null),
    "min": Kind(dtype="value", numeric=True, online="extreme", explains_loss=_null_or(lambda used, left: used <= left)),
    "max": Kind(dtype="value", numeric=True, online="extreme", explains_loss=_null_or(lambda used, left: used >= left)),
    "var": Kind(dtype="float", numeric=True, online="sums", sums=("float", "square")),
    "std": Kind(dtype="float", numeric=True, online="sums", sums=("float", "square")),
    "first": Kind(dtype="value", explains_loss=_not_null),
    "last": Kind(dtype="value", places="last_n", explains_loss=_not_null),
    "count_distinct": Kind(  # exact below `keep`, and otherwise an estimate
        dtype="int", zero=True, explains_loss=lambda used, left, keep: used >= builtins.min(left, keep)
    ),
    "top": Kind(dtype="value", places="top_k"),
    "decayed_sum": Kind(dtype="float", zero=True, numeric=True, online="sums", sums=("float",), decays=True),
    "decayed_mean": Kind(dtype="float", numeric=True, online="sums", sums=("float",), decays=True),
}

MOST_PLACES = 100  # the largest number of places for `last_n` and `top_k`
MOST_KEPT = 4_096  # the largest number of hashes for `count_distinct`
MOST_STEPS = 10_000  # the largest number of hops in a decayed window, because a table has a weight for each hop
# the largest number of half-lives in a decayed window, because the weights of older values are too small for a float
MOST_HALF_LIVES = 1_000

_HOPS_US = [  # the usual steps of windows, from a second to a day
    *(n * unit for unit in (SECOND_US, MINUTE_US) for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_US for n in (1, 2, 3, 4, 6, 12)),
    DAY_US,
]
_SHOWN = 100  # the number of characters of a value that a message shows
_STEPS = 32  # by default, a half-life has at least this many hops
_HALF_LIVES = 10  # the default length of a decayed window


# with omit_defaults, hashes stay the same when a field is added
class Aggregate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value computed from the events of an entity: an aggregate of an expression over a time window."""

    kind: AggregateKind
    of: Expression | None = None  # None: `count()` of all events
    where: Expression | None = None
    over_us: int | None = None  # None: the window is unlimited; always None for `latest`
    hop_us: int = 0
    max_age_us: int | None = None  # only for `latest`
    until_us: int = 0  # the window ends this long before the request; its end is rounded down to a hop (step)
    place: int = 1  # for `last` and `top`: 1 is the newest or the most frequent value
    keep: int = 0  # for `count_distinct`: how many hashes are kept
    half_life_us: int = 0  # for `decayed_sum` and `decayed_mean`

    @property
    def traits(self) -> Kind:
        """The row of `KINDS` for this kind."""
        return KINDS[self.kind]

    @property
    def window_us(self) -> int | None:
        """The length of the window, or for `latest` the largest age; None: there is no limit."""
        return self.max_age_us if self.traits.online == "latest" else self.over_us

    @property
    def reach_us(self) -> int | None:
        """An upper bound of the age of the events in the window of a request; None: there is no limit."""
        return None if self.window_us is None else self.window_us + self.hop_us + self.until_us

    def dtype(self, columns: Mapping[str, Dtype]) -> Dtype:
        """Return the type of the aggregate's value, given the types of the source's columns."""
        declared = self.traits.dtype
        if declared == "int" or declared == "float":
            return declared
        if self.of is None:
            return "int"
        dtype = self.of.dtype(columns, self.kind)
        return "int" if declared == "total" and dtype == "bool" else dtype

    def explains_loss(self, used: float, left: float) -> bool:
        """Return whether lost events explain that a window gives `left` now, but gave `used` before. NaN is null.

        >>> count().explains_loss(7.0, 5.0), count().explains_loss(4.0, 5.0)
        (True, False)
        """
        return self.traits.explains_loss(used, left, self.keep)


class Several(msgspec.Struct, frozen=True, kw_only=True):
    """The same aggregate for places 1 to n. If it is declared as `x`, a view has the features `x_1` to `x_n`."""

    of: Aggregate
    n: int


def latest(column: str | Expression, *, max_age: Duration | None = None) -> Aggregate:
    """Declare the value of an entity's newest event. If the event is older than `max_age`, this is null ("expired")."""
    return Aggregate(kind="latest", of=value_of(column), max_age_us=None if max_age is None else duration_us(max_age))


def count(
    column: str | Expression | None = None,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the number of events in the window. With `column`, only events with a value in it are counted."""
    return _windowed("count", column, over, where, hop, until)


def sum(  # hides Python's `sum` in this file; users write tt.sum
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the exact sum over the window, rounded once. It is 0 for an empty window."""
    return _windowed("sum", column, over, where, hop, until)


def mean(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the mean over the window: the exact sum divided by the number of values. An empty window gives null."""
    return _windowed("mean", column, over, where, hop, until)


def var(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the sample variance (divided by n - 1) over the window. It is null for fewer than 2 values.

    The relative error is about 1e-16 * (mean / std)**2. If values are far from 0 and differ little, subtract a constant
    first: `tt.var(tt.col("x") - 1e6)`.
    """
    return _windowed("var", column, over, where, hop, until)


def std(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the sample standard deviation over the window. It is null for fewer than 2 values."""
    return _windowed("std", column, over, where, hop, until)


def min(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the smallest value in the window. It is null for an empty window."""
    return _windowed("min", column, over, where, hop, until)


def max(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the largest value in the window. It is null for an empty window."""
    return _windowed("max", column, over, where, hop, until)


def first(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the oldest value in the window that is not null, of any type. It is null if there is none."""
    return _windowed("first", column, over, where, hop, until)


def last(
    column: str | Expression,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the newest value in the window that is not null, of any type. It is null if there is none.

    (`latest`, in contrast, is the value of the newest event, even if this value is null.)
    """
    return _windowed("last", column, over, where, hop, until)


def last_n(
    column: str | Expression,
    n: int,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Several:
    """Declare the n newest values (1 to 100) in the window. Named `x`, they are features `x_1` (newest) to `x_n`."""
    return Several(of=_windowed("last", column, over, where, hop, until), n=n)


def count_distinct(
    column: str | Expression,
    *,
    over: Duration | None = None,
    k: int = 256,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the number of distinct values in the window.

    Below k (3 to 4,096), the number is exact. Otherwise it is estimated from the k smallest 64-bit hashes of the
    values, with a relative standard error of about 1 / sqrt(k - 2), which is 6.3 % for k=256.
    """
    found = _windowed("count_distinct", column, over, where, hop, until)
    return msgspec.structs.replace(found, keep=k)


def top_k(
    column: str | Expression,
    k: int,
    *,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Several:
    """Declare the k most frequent values in the window, for k from 1 to 100.

    If this is declared as `x`, the view has the features `x_1` (the most frequent value) to `x_k`. Equally frequent
    values are sorted by value. If the window has more than 1,024 distinct values, only the 1,024 with the smallest
    hashes are counted. Otherwise the result is exact.
    """
    return Several(of=_windowed("top", column, over, where, hop, until), n=k)


def decayed_sum(
    column: str | Expression,
    *,
    half_life: Duration,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the sum of values whose weight halves with each `half_life` of age. It is 0 for an empty window.

    Ages are counted in whole hops. By default, a hop is the largest usual step up to 1/32 of the half-life, or of
    the window if that is shorter. Values older than `over` are left out. The default of `over` is 10 half-lives (a
    weight of 0.001).
    """
    return _decayed("decayed_sum", column, half_life, over, where, hop, until)


def decayed_mean(
    column: str | Expression,
    *,
    half_life: Duration,
    over: Duration | None = None,
    where: Expression | None = None,
    hop: Duration | None = None,
    until: Duration = 0,
) -> Aggregate:
    """Declare the mean of values whose weight halves with each `half_life` of age. It is null for an empty window."""
    return _decayed("decayed_mean", column, half_life, over, where, hop, until)


def default_hop_us(over_us: int) -> int:
    """Return the default hop (step) of a window: the largest usual step up to 1/128 of the window.

    If that is below one second, the result is 0, which means that the window moves continuously.

    >>> default_hop_us(duration_us("7d")) == duration_us("1h")
    True
    """
    return _usual_step_us(over_us // 128)


def value_of(column: str | Expression) -> Expression:
    """Return the expression for a column's name. Return a given expression unchanged."""
    return col(column) if isinstance(column, str) else column


def expanded(what: str, features: Mapping[str, Aggregate | Several]) -> dict[str, Aggregate]:
    """Return the features of a view. Each place of `Several` becomes a feature with its own name.

    Raises:
        Misuse: The number of places is out of range, or two features have the same name. `what` names the view in the
            message.

    >>> sorted(expanded("example", {"x": last_n("x", 2)}))
    ['x_1', 'x_2']
    """
    out: dict[str, Aggregate] = {}
    for name, given in features.items():
        several = {name: given}
        if isinstance(given, Several):
            n, kind = given.n, given.of.traits.places
            if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_PLACES:
                raise Misuse(f"{what}, feature {name!r}: {kind} of {shown(n)} values. Give 1 to {MOST_PLACES}.")
            several = {f"{name}_{i}": msgspec.structs.replace(given.of, place=i) for i in range(1, n + 1)}
        for one, aggregate in several.items():
            if one in out:
                some = name if isinstance(given, Several) else one.rpartition("_")[0]
                raise Misuse(f"{what}: two features are called {one!r}; {some!r} declares {some}_1, ... Rename one.")
            out[one] = aggregate  # type: ignore[assignment]  # `check_aggregate` refuses anything else
    return out


def check_aggregate(what: str, aggregate: Aggregate, source: Source) -> None:
    """Refuse an aggregate that cannot be computed from a source. `what` names the feature in errors.

    Raises:
        Misuse: A column does not exist or has the wrong type, or the window is impossible.
    """
    if not isinstance(aggregate, Aggregate):
        raise Misuse(f"{what}: {shown(aggregate)} is not an aggregate. Use tt.latest, tt.count, tt.mean, ...")
    _check_window(what, aggregate)
    _check_expressions(what, aggregate)
    if aggregate.where is not None and aggregate.where.dtype(source.columns, what) != "bool":
        raise Misuse(f"{what}: where= is not a truth value. Write a comparison.")
    dtype = "int" if aggregate.of is None else aggregate.of.dtype(source.columns, what)
    if aggregate.traits.numeric and dtype not in ("float", "int", "bool"):
        raise Misuse(f"{what}: {aggregate.kind} cannot be computed from a {dtype}. Give a number or a comparison.")
    keep: Any = aggregate.keep
    if aggregate.kind == "count_distinct" and not (type(keep) is int and 3 <= keep <= MOST_KEPT):
        raise Misuse(f"{what}: count_distinct with k={shown(keep)}. Give 3 to {MOST_KEPT}; larger is more exact.")


def _check_expressions(what: str, aggregate: Aggregate) -> None:
    """Refuse anything but expressions where expressions are needed."""
    of: Any = aggregate.of
    where: Any = aggregate.where
    if of is None and aggregate.kind != "count":
        raise Misuse(f"{what}: {aggregate.kind} needs values, found None. Give a column's name or an expression.")
    if of is not None and not isinstance(of, Expression):
        raise Misuse(
            f"{what}: {aggregate.kind} of {shown(of)[:_SHOWN]}, which is neither a column's name nor an expression."
        )
    if where is not None and not isinstance(where, Expression):
        hint = f"tt.col({where!r})" if isinstance(where, str) else 'a comparison, such as tt.col("x") > 0'
        raise Misuse(f"{what}: where={shown(where)[:_SHOWN]} is not an expression. Write {hint}.")


def _check_window(what: str, aggregate: Aggregate) -> None:
    over_us, until_us, hop_us = aggregate.over_us, aggregate.until_us, aggregate.hop_us
    if aggregate.traits.decays and not aggregate.half_life_us:
        raise Misuse(f"{what}: half_life=0 gives every value the weight 0. Give a duration above 0.")
    if over_us == 0:
        raise Misuse(f"{what}: over=0 is an empty window. For the whole lifetime, give no over=.")
    if over_us is None:
        if until_us or hop_us:
            raise Misuse(f"{what}: {'until' if until_us else 'hop'}= needs over=: say where the window begins.")
        return
    if until_us >= over_us:
        raise Misuse(
            f"{what}: until={format_duration(until_us)} must be less than over={format_duration(over_us)}, because "
            "the window is the time between them."
        )
    if hop_us > over_us - until_us:
        between = "its window" if not until_us else "its window (from over= to until=)"
        raise Misuse(f"{what}: hop={hop_us} us is longer than {between} of {over_us - until_us} us.")
    if aggregate.traits.decays:
        _check_decay(what, over_us, hop_us, aggregate.half_life_us)


def _check_decay(what: str, over_us: int, hop_us: int, half_life_us: int) -> None:
    if not hop_us:
        raise Misuse(f"{what}: hop=0, but values decay in steps of a hop. Leave hop out, or give a duration above 0.")
    if over_us > MOST_STEPS * hop_us or over_us > MOST_HALF_LIVES * half_life_us:
        raise Misuse(
            f"{what}: over={format_duration(over_us)} is {over_us // hop_us} hops and {over_us // half_life_us} "
            f"half-lives; allowed are {MOST_STEPS} and {MOST_HALF_LIVES}. Give a shorter window or a longer hop."
        )


def _windowed(
    kind: AggregateKind,
    column: str | Expression | None,
    over: Duration | None,
    where: Expression | None,
    hop: Duration | None,
    until: Duration,
) -> Aggregate:
    over_us = None if over is None else duration_us(over)
    until_us = duration_us(until)
    hop_us = 0 if hop is None else duration_us(hop)
    if over_us is not None and hop is None:
        hop_us = default_hop_us(over_us - until_us)
    of = None if column is None else value_of(column)
    if isinstance(of, Expression) and of.is_category and KINDS[kind].dtype == "int":
        of = of.args[0]  # count the texts themselves, and not the numbers that stand for them
    return Aggregate(kind=kind, of=of, where=where, over_us=over_us, hop_us=hop_us, until_us=until_us)


def _decayed(
    kind: AggregateKind,
    column: str | Expression,
    half_life: Duration,
    over: Duration | None,
    where: Expression | None,
    hop: Duration | None,
    until: Duration,
) -> Aggregate:
    half_life_us = duration_us(half_life)
    span_us = half_life_us if over is None else builtins.min(half_life_us, duration_us(over) - duration_us(until))
    step_us = span_us // _STEPS
    hop_us = (_usual_step_us(step_us) or builtins.max(step_us, 1)) if hop is None else duration_us(hop)
    unit_us = builtins.max(hop_us, 1)
    over_us = -(-half_life_us * _HALF_LIVES // unit_us) * unit_us if over is None else duration_us(over)
    found = _windowed(kind, column, over_us, where, hop_us, until)
    return msgspec.structs.replace(found, half_life_us=half_life_us)


def _usual_step_us(most_us: int) -> int:
    """Return the largest usual step that is at most `most_us`; 0 if there is none."""
    return next((hop for hop in reversed(_HOPS_US) if hop <= most_us), 0)
