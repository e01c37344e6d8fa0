"""Skew: compare the feature values that were used for predictions with the same values computed again, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from trimtab.core.expressions.nodes import Expression
from trimtab.stats.association import share_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.features.definitions import Join
    from trimtab.features.feature_set import FeatureSet

# older stored checks (before a change of D0037) may also have the cause "online_state"
Cause = Literal["online_state", "definition", "platform", "history_changed", "pruned", "code", "clock", "unknown"]
EXPLAINED: frozenset[Cause] = frozenset(("platform", "history_changed", "pruned"))  # expected, so not an alarm # D37
LAST_BITS = 4  # results of two platforms may be this far apart, counted in steps from a float to the next one
# operators whose results may differ in the last bits between machines
_BY_PLATFORM = frozenset(("log", "log1p", "exp", "**", "python"))


class Share(msgspec.Struct, frozen=True):
    """The share of values that differ, with its 95 % interval."""

    values: int
    mismatches: int
    low: float
    high: float

    @property
    def estimate(self) -> float:
        """The share; NaN if there are no values."""
        return self.mismatches / self.values if self.values else math.nan


def share(mismatches: int, values: int) -> Share:
    """Return the share of values that differ, with Wilson's interval. Without values, the interval is [0, 1].

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    >>> found = share(0, 1_000)
    >>> found.low, round(found.high, 4)
    (0.0, 0.0038)
    """
    if not values:
        return Share(0, 0, 0.0, 1.0)
    found = share_interval(mismatches, values)
    return Share(values, mismatches, found.low, found.high)


def differences(
    used: NDArray[Any], used_reasons: NDArray[Any], again: NDArray[Any], again_reasons: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return a boolean array of shape (rows, inputs): where values or reasons differ.

    Args:
        used: The values that the model got, float64, shape (rows, inputs). NaN means null.
        used_reasons: The reason codes of `used`, uint8.
        again: The same values, computed again.
        again_reasons: The reason codes of `again`.

    >>> found = np.zeros((1, 2), "u1")
    >>> differences(np.array([[0.0, np.nan]]), found, np.array([[-0.0, np.nan]]), found)
    array([[ True, False]])
    """
    bits, again_bits = (np.ascontiguousarray(m, "<f8").view(np.uint64) for m in (used, again))
    same = (bits == again_bits) | (np.isnan(used) & np.isnan(again))
    found: NDArray[np.bool_] = ~same | (used_reasons != again_reasons)
    return found


def floats_apart(first: float, second: float) -> float:
    """Return how many neighbouring floats two numbers are apart; infinite if they differ and one is not finite.

    >>> floats_apart(1.0, 1.0 + 2**-52), floats_apart(1.0, math.nan)
    (1.0, inf)
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        return 0.0 if first == second or (first != first and second != second) else math.inf
    a, b = (int(np.array(x, np.float64).view(np.int64)) for x in (first, second))
    a, b = (x if x >= 0 else -(x & 2**63 - 1) for x in (a, b))
    return float(abs(a - b))


class Dependencies:
    """Tells which columns and features each feature of a set is computed from, directly or indirectly."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._joins = {join.name: join for join in features.joins}

    def of(self, feature: str) -> frozenset[str]:
        """Return the features of views that a feature is computed from, as `view.feature`.

        If the feature is itself of a view, it is included.
        """
        return frozenset(name for name in self._closure(feature) if self._join_of(name) is not None)

    def sources(self, feature: str) -> frozenset[str]:
        """Return the sources whose events a feature depends on."""
        joins = (self._join_of(name) for name in self._closure(feature))
        return frozenset(join.view.source.name for join in joins if join is not None)

    def operators(self, feature: str) -> frozenset[str]:
        """Return the operators in all expressions that a feature depends on."""
        return frozenset().union(*(_operators(e) for name in self._closure(feature) for e in self._expressions(name)))

    def may_differ_by_platform(self, feature: str) -> bool:
        """Return whether a feature's last bits may differ between two machines, or two versions of NumPy."""
        return bool(self.operators(feature) & _BY_PLATFORM)

    def runs_code(self, feature: str) -> bool:
        """Return whether a feature depends on a Python function."""
        return "python" in self.operators(feature)

    def _closure(self, feature: str) -> set[str]:
        """Return a feature, with all features that it needs. Features by which views are looked up are included."""
        seen: set[str] = set()
        waiting = [feature]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += self._needs(name)
        return seen

    def _needs(self, name: str) -> Iterable[str]:
        join = self._join_of(name)
        if join is not None:
            return list(join.by)
        return self._features.transforms[name].columns() - {name} if name in self._features.transforms else ()

    def _join_of(self, name: str) -> Join | None:
        view, dot, feature = name.partition(".")
        join = self._joins.get(view) if dot else None
        return join if join is not None and feature in join.view.features else None

    def _expressions(self, name: str) -> list[Expression]:
        join = self._join_of(name)
        if join is not None:
            aggregate = join.view.features[name.partition(".")[2]]
            return [e for e in (aggregate.of, aggregate.where) if e is not None]
        return [self._features.transforms[name]] if name in self._features.transforms else []


def _operators(expression: Expression) -> frozenset[str]:
    return frozenset((expression.op,)).union(*map(_operators, expression.args))


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one value that was computed again, and differs from the value that was used."""

    used: float
    again: float
    same_reason: bool
    # the clock was behind: a record that the prediction could see was appended after the time of the prediction
    clock_behind: bool = False
    other_definitions: bool = False  # the used value results from other definitions than the version's
    history_changed: bool = False  # records of its source that counted for the prediction are missing now
    # events that it needs were deleted, because the setting [retention] keeps them only for a time
    pruned: bool = False
    unsteady: bool = False  # computing it twice in a row gives different values
    code_alone: bool = False  # it depends on a Python function, whose arguments were the same both times
    other_platform: bool = False  # the version was made with another NumPy or processor


def cause_of(evidence: Evidence, *, platform_sensitive: bool) -> Cause:
    """Return the first cause that the evidence supports, or "unknown".

    >>> cause_of(Evidence(used=1.0, again=2.0, same_reason=True, pruned=True), platform_sensitive=False)
    'pruned'
    """
    if evidence.clock_behind:
        return "clock"
    if evidence.other_definitions:
        return "definition"
    if evidence.history_changed:
        return "history_changed"
    if evidence.pruned:
        return "pruned"
    if evidence.unsteady:
        return "code"
    close = evidence.same_reason and floats_apart(evidence.used, evidence.again) <= LAST_BITS
    if platform_sensitive and evidence.other_platform and close:
        return "platform"
    if evidence.code_alone:
        return "code"
    return "unknown"
