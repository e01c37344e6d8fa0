"""Parameter searches: how a model declares ranges and a budget, and what is found (trials, chosen parameters)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash
from trimtab.core.shown import count_of
from trimtab.core.time import duration_us, format_duration

Value: TypeAlias = bool | int | float | str | None
_FOLDS = (1, 20)
_FORM = 'tt.search({"depth": tt.integer(3, 12)}, trials=50)'


class Integer(msgspec.Struct, frozen=True, tag="integer"):
    """A parameter that is a whole number. `integer()` makes one."""

    low: int
    high: int
    log: bool = False

    def holds(self, value: Value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


class Number(msgspec.Struct, frozen=True, tag="number"):
    """A parameter that is a number. `number()` makes one."""

    low: float
    high: float
    log: bool = False

    def holds(self, value: Value) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    """A parameter that is one of several values without an order. `choice()` makes one."""

    options: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        return any(type(value) is type(one) and value == one for one in self.options)


Space: TypeAlias = Integer | Number | Choice


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of an estimator to search for, and the budget of the search. `search()` makes one."""

    spaces: dict[str, Space]
    trials: int
    time_us: int | None
    seed: int
    prune: bool
    folds: int

    @property
    def hash(self) -> str:
        """The hash of what the results of trials depend on: all of this declaration except the budget."""
        return content_hash([list(self.spaces.items()), self.seed, self.prune, self.folds])

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Return whether `values` has an allowed value for each parameter."""
        return values.keys() == self.spaces.keys() and all(self.spaces[n].holds(v) for n, v in values.items())


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The best parameters that a search found."""

    values: dict[str, Value]
    search: str  # the hash of the search
    trial: int
    until_us: int  # the search used no label that became known later


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One set of parameters and its result. `value` is the model's own metric; smaller is better."""

    format: Literal[1] = 1
    number: int  # beginning with 0
    values: dict[str, Value]
    state: Literal["done", "pruned", "failed"]
    value: float | None  # the metric over all predicted rows; None: the trial failed
    folds: tuple[float, ...]  # the metric on each part of the rows
    rows: tuple[int, ...]  # the number of rows of each part
    took_s: float
    error: str = ""

    @property
    def so_far(self) -> list[float]:
        """The metric over the rows of the first part, of the first two parts, and so on."""
        losses = accumulate(value * rows for value, rows in zip(self.folds, self.rows, strict=True))
        return [loss / rows for loss, rows in zip(losses, accumulate(self.rows), strict=True)]


def integer(low: int, high: int, *, log: bool = False) -> Integer:
    """Declare a parameter that is a whole number from `low` to `high`, both included.

    With `log`, it is searched on a logarithmic scale: 1 to 10 counts as much as 10 to 100.

    Raises:
        Misuse: A bound is not a whole number, the range is empty, or `log` is set and a bound is below 1.

    >>> integer(7, 63, log=True)
    Integer(low=7, high=63, log=True)
    """
    if any(isinstance(one, bool) or not isinstance(one, int) for one in (low, high)) or low >= high:
        raise Misuse(
            f"integer({low!r}, {high!r}): give two whole numbers, the lower one first, such as integer(3, 12)."
        )
    if log and low < 1:
        raise Misuse(f"integer({low}, {high}, log=True): the lower bound must be at least 1.")
    return Integer(low, high, log)


def number(low: float, high: float, *, log: bool = False) -> Number:
    """Declare a parameter that is a number from `low` to `high`. With `log`, it is searched on a logarithmic scale.

    Raises:
        Misuse: A bound is not finite, the range is empty, or `log` is set and a bound is 0 or negative.

    >>> number(0.01, 0.3, log=True)
    Number(low=0.01, high=0.3, log=True)
    """
    real = all(not isinstance(x, bool) and isinstance(x, int | float) and math.isfinite(x) for x in (low, high))
    if not real or low >= high:
        raise Misuse(f"number({low!r}, {high!r}): give two numbers, the lower one first, such as number(0.01, 0.3).")
    if log and low <= 0:
        raise Misuse(f"number({low}, {high}, log=True): the lower bound must be above 0.")
    return Number(float(low), float(high), log)


def choice(*options: Value) -> Choice:
    """Declare a parameter that is one of several texts, numbers, True, False or None.

    Raises:
        Misuse: There are fewer than two options, two of them are equal, or one has another type.

    >>> choice("gbdt", "dart")
    Choice(options=('gbdt', 'dart'))
    """
    plain = all(
        one is None or isinstance(one, str | int) or (isinstance(one, float) and math.isfinite(one)) for one in options
    )
    if not plain or len(options) < 2 or len({(type(one).__name__, str(one)) for one in options}) < len(options):
        raise Misuse(f"choice{options!r}: give two or more different texts or numbers, such as choice('gbdt', 'dart').")
    return Choice(options)


def search(
    spaces: Mapping[str, Space],
    *,
    trials: int = 50,
    time: str | int | None = None,
    seed: int = 0,
    prune: bool = True,
    folds: int = 3,
) -> Search:
    """Declare a search for an estimator's parameters. Each trial is judged by fits that walk forward in time.

    Args:
        spaces: The name of each searched argument of the estimator's function, with an `integer`, `number` or `choice`.
        trials: How many sets of parameters to try.
        time: How long all trials together may take, such as "10m". A trial that runs at the end is still completed.
            None: no limit.
        seed: The seed. With the same data and number of trials, it leads to the same parameters, even if the search is
            interrupted.
        prune: Whether to stop a trial early if it is worse than the median of earlier trials.
        folds: How many parts the newer half of the rows is divided into. Each part is predicted by a fit on earlier
            rows.

    Raises:
        Misuse: There are no parameters, one of `spaces` is no search space, or another argument is invalid.
    """
    if not isinstance(spaces, Mapping) or not spaces:
        raise Misuse(f"search: {spaces!r} names no parameter. Needed: {_FORM}.")
    for name, space in spaces.items():
        if not isinstance(name, str) or not isinstance(space, Integer | Number | Choice):
            raise Misuse(
                f"search: {name!r}: {space!r} is not a search space. Needed: tt.integer(low, high), tt.number(low, "
                "high) or tt.choice(one, another)."
            )
    for what, given, low, high in (("trials", trials, 1, 100_000), ("folds", folds, *_FOLDS), ("seed", seed, 0, 2**31)):
        if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
            raise Misuse(f"search: {what}={given!r}. Needed: a whole number from {low} to {high}.")
    if not isinstance(prune, bool):
        raise Misuse(f"search: prune={prune!r}. Needed: True or False.")
    time_us = None if time is None else duration_us(time)
    if time_us is not None and time_us <= 0:
        raise Misuse(f'search: time={time!r} must be above 0. Give e.g. "10m".')
    return Search(spaces=dict(spaces), trials=trials, time_us=time_us, seed=seed, prune=prune, folds=folds)


def with_budget(declared: Search, *, trials: int | None, time: str | int | None) -> Search:
    """Return the search with another number of trials or another time. It begins with the same trials.

    Args:
        trials: The number of trials; None: as declared.
        time: The time; None: as declared.

    Raises:
        Misuse: The budget is invalid.
    """
    given = search(declared.spaces, trials=declared.trials if trials is None else trials, time=time)
    time_us = declared.time_us if time is None else given.time_us
    return msgspec.structs.replace(declared, trials=given.trials, time_us=time_us)


def checked_search(name: str, given: Search | None, estimator: Callable[..., Any]) -> Search | None:
    """Check that the estimator's function has the searched parameters as arguments, and needs no others.

    Raises:
        Misuse: `given` was not made by `tt.search(...)`, or the function needs other arguments, or lacks a parameter.
    """
    if given is not None and not isinstance(given, Search):
        raise Misuse(f"model {name!r}: search={given!r}. Needed: {_FORM}.")
    taken = _arguments(estimator)
    if taken is None:
        return given
    wanted = {} if given is None else given.spaces
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    named = {n: one for n, one in taken.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    needed = [n for n, one in named.items() if one.default is one.empty and n not in wanted]
    unknown = [] if anything else [n for n in wanted if n not in named or named[n].kind is named[n].POSITIONAL_ONLY]
    if needed:
        raise Misuse(
            f"model {name!r}: its estimator function needs {', '.join(needed)}, but "
            + ("the model declares no search" if given is None else f"search only looks for {', '.join(wanted)}")
            + f". Give each a default, or search for it: search={_FORM}."
        )
    if unknown:
        raise Misuse(
            f"model {name!r}: search looks for {', '.join(unknown)}, but the estimator function takes "
            f"{', '.join(named) or 'no argument'}. Write estimator=lambda {', '.join(wanted)}: ..."
        )
    return given


def defaults(given: Search, estimator: Callable[..., Any]) -> dict[str, Value] | None:
    """Return the function's default for each parameter; None if a default is missing or not an allowed value."""
    taken = _arguments(estimator) or {}
    own = {n: taken[n].default for n in given.spaces if n in taken and taken[n].default is not inspect.Parameter.empty}
    return own if given.holds(own) else None


def lacking(given: Search, estimator: Callable[..., Any]) -> list[str]:
    """Return the searched parameters for which the estimator's function has no default."""
    taken = _arguments(estimator) or {}
    return [n for n in given.spaces if n in taken and taken[n].default is inspect.Parameter.empty]


def parameters_text(values: Mapping[str, Value]) -> str:
    """Return parameters as one line of text."""
    return ", ".join(f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in values.items())


def budget_text(given: Search) -> str:
    """Return the budget of a search as text."""
    return count_of(given.trials, "trial") + ("" if given.time_us is None else f" or {format_duration(given.time_us)}")


def _arguments(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # the function is written in C, so its arguments are not known
        return None
