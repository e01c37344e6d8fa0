"""Skew: used feature values against the same values computed again, bit for bit, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import numpy as np

from trimtab.core.expressions.nodes import Expression
from trimtab.stats.association import share_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.features.definitions import Join
    from trimtab.features.feature_set import FeatureSet

# Checks stored before D0037 was amended may also name "online_state".
Cause = Literal["online_state", "definition", "platform", "history_changed", "pruned", "code", "clock", "unknown"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
EXPLAINED: frozenset[Cause] = frozenset(("platform", "history_changed", "pruned"))  # expected, not red # D37
LAST_BITS = 4  # so many floats apart may platforms be
_BY_PLATFORM = frozenset(("log", "log1p", "exp", "**", "python"))  # operators whose last bits machines disagree on


class Share(msgspec.Struct, frozen=True):
    """The share of values that differ, with its 95 % interval."""

    values: int
    mismatches: int
    low: float
    high: float

    @property
    def estimate(self) -> float:
        """The share itself; NaN of nothing."""
        return self.mismatches / self.values if self.values else math.nan


def share(mismatches: int, values: int) -> Share:
    """The share of values that differ, with Wilson's interval; of no values nothing is known: [0, 1].

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
    """A mask of values or reasons that differ, shape (rows, inputs).

    Args:
        used: What a model was shown, float64 (rows, inputs); null is NaN, whichever NaN.
        used_reasons: Their reason codes, uint8.
        again: The same, computed again.
        again_reasons: Their reason codes.

    >>> found = np.zeros((1, 2), "u1")
    >>> differences(np.array([[0.0, np.nan]]), found, np.array([[-0.0, np.nan]]), found)
    array([[ True, False]])
    """
    bits, again_bits = (np.ascontiguousarray(m, "<f8").view(np.uint64) for m in (used, again))
    same = (bits == again_bits) | (np.isnan(used) & np.isnan(again))
    found: NDArray[np.bool_] = ~same | (used_reasons != again_reasons)
    return found


def floats_apart(first: float, second: float) -> float:
    """The number of floats between two, infinity where one is no number.

    >>> floats_apart(1.0, 1.0 + 2**-52), floats_apart(1.0, math.nan)
    (1.0, inf)
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        return 0.0 if first == second or (first != first and second != second) else math.inf
    a, b = (int(np.array(x, np.float64).view(np.int64)) for x in (first, second))
    a, b = (x if x >= 0 else -(x & 2**63 - 1) for x in (a, b))
    return float(abs(a - b))


class Dependencies:
    """The columns and features that each feature of a set is computed from, transitively.

    Args:
        features: The set.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._joins = {join.name: join for join in features.joins}

    def of(self, feature: str) -> frozenset[str]:
        """The view features that a feature is or is computed from, as `view.feature`."""
        return frozenset(name for name in self._closure(feature) if self._join_of(name) is not None)

    def sources(self, feature: str) -> frozenset[str]:
        """The sources whose events it depends on."""
        joins = (self._join_of(name) for name in self._closure(feature))
        return frozenset(join.view.source.name for join in joins if join is not None)

    def operators(self, feature: str) -> frozenset[str]:
        """The operators of all expressions on the way."""
        return frozenset().union(*(_operators(e) for name in self._closure(feature) for e in self._expressions(name)))

    def may_differ_by_platform(self, feature: str) -> bool:
        """True when two machines, or two versions of NumPy, may disagree on its last bits."""
        return bool(self.operators(feature) & _BY_PLATFORM)

    def runs_code(self, feature: str) -> bool:
        """True when a plain Python function takes part."""
        return "python" in self.operators(feature)

    def _closure(self, feature: str) -> set[str]:
        """The feature and every feature that it needs, also for the keys of views."""
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
    """Findings about one value that differs."""

    used: float
    again: float
    same_reason: bool
    clock_behind: bool = False  # the time lies below the greatest append time in P
    other_definitions: bool = False  # definitions that are not the version's give what was used
    history_changed: bool = False  # records of its source that counted are gone
    pruned: bool = False  # it looks at events that are kept no longer, as [retention] says
    unsteady: bool = False  # computed twice in a row it differs
    code_alone: bool = False  # all that a Python function was given is as it was
    other_platform: bool = False  # the version names another NumPy or processor than this machine's


def cause_of(evidence: Evidence, *, platform_sensitive: bool) -> Cause:
    """The first cause that the evidence speaks for, else "unknown".

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
