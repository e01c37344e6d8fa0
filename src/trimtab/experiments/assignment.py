"""Assign units to variants by their hash; docs/experiments.md specifies the rule."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.shown import shown
from trimtab.core.time import parse_time_us
from trimtab.experiments.definitions import Experiment, Switchback
from trimtab.experiments.records import Allocation, ExperimentState, Exposure
from trimtab.experiments.unit_hash import UnitHash

BUCKETS = 10_000
ROUTED = "routed"  # the flag of predictions for requests that an experiment passed on to another deployment
# flags of predictions, if an experiment over versions selects requests by features: whether their unit is eligible
ELIGIBLE, FEATURE_MISSING = "eligible", "feature_missing"
Reason = Literal[
    "assigned", "override", "holdout", "other slots", "not eligible", "feature missing", "not in share",
    "carry-over gap", "day is closed", "planned end", "no unit", "not started", "paused", "stopped", "concluded",
]  # fmt: skip
# units with these reasons get the control, also those that were exposed to another variant before
FALLBACKS = ("not eligible", "paused", "not in share")
_pack: Any = msgspec.msgpack.Encoder().encode
_as_json: Any = msgspec.json.Encoder().encode


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The variant of a unit, and whether the unit takes part in the experiment."""

    experiment: str
    variant: str
    value: Any  # the declared value of the variant
    takes_part: bool  # whether the unit was assigned to its variant, or is a tester
    reason: Reason


class Assigner:
    """The rule of one experiment, compiled. Processes with the same state assign every unit alike.

    Args:
        definition: The definition that the experiment was started with.
        state: Its state since the start; None: it was not started, and all units get the control.
        holdout: The share of all units that take part in no experiment.
        overrides: The variants of testers, by unit; None: those of the definition.
        allocation: An earlier allocation by which to assign; None: the newest one.
    """

    def __init__(
        self,
        definition: Experiment,
        state: ExperimentState | None,
        *,
        holdout: float = 0.0,
        overrides: Mapping[str, str] | None = None,
        allocation: Allocation | None = None,
    ) -> None:
        self.definition = definition
        self._unit = definition.unit
        self._overrides = dict(definition.overrides if overrides is None else overrides)
        self._where: Callable[[Mapping[str, Any]], Any] | None = None
        if definition.where is not None:
            what = f"experiment {definition.name!r}: where"
            self._where = compile_row(definition.where, {**definition.attributes, **definition.feature_types}, what)
            self._features = sorted(definition.where.columns() & definition.feature_types.keys())
        self._results: dict[tuple[str, Reason], Assignment] = {}
        self._holdout = UnitHash("holdout\0").of_packed
        self._held_out = round(holdout * BUCKETS)
        self._ended: Assignment | None = None
        if state is None:
            self._ended = self._result(definition.control, "not started")
            return
        if allocation is None and state.phase != "running":
            self._ended = self._result(state.winner or definition.control, state.phase)
        now = allocation or state.allocations[-1]
        share = now.share
        # a unit may have been exposed to its variant before
        if (allocation is not None or state.phase == "paused") and not share:
            self._ended = self._result(definition.control, "paused")
            share = max(one.share for one in state.allocations)
        self._slots = begin, end = state.slots
        self._layer = UnitHash(f"layer\0{definition.layer}").of_packed if end - begin < BUCKETS else None
        self._number = UnitHash(f"experiment\0{definition.name}\0{state.generation}").of_packed
        # Units in the experiment's slots take part if their bucket is below the first of these numbers. The second
        # number is for the largest share so far. (`share` is a share of all units.)
        largest = max([share, *(one.share for one in state.allocations if one.from_us <= now.from_us)])
        self._below = [round(one * BUCKETS / (end - begin) * BUCKETS) for one in (share, largest)]
        self._assigned = [one for count, name in now.buckets for one in [self._result(name, "assigned")] * count]
        self._in_gap = [one for count, name in now.buckets for one in [self._result(name, "carry-over gap")] * count]

    def assign(self, row: Mapping[str, Any], at_us: int = 0) -> Assignment:
        """Return the assignment of the unit of a row.

        Args:
            row: The unit's columns, attributes and features, with correct types.
            at_us: The time of the request. Only switchbacks depend on it.
        """
        texts = [value if type(value := row[name]) is str else _text(value) for name in self._unit]
        if None in texts:
            return self._result(self.definition.control, "no unit")
        packed = _pack(texts)
        held_out = self._held_out and self._holdout(packed) % BUCKETS < self._held_out
        if self._ended is not None:  # a winner is for all units except those of the global holdout
            return self._result(self.definition.control, "holdout") if held_out else self._ended
        if self._overrides and (variant := self._overrides.get(joined(texts))) is not None:
            return self._result(variant, "override")
        if held_out:
            return self._result(self.definition.control, "holdout")
        if not self._in_slots(packed):
            return self._result(self.definition.control, "other slots")
        if self._where is not None and (eligible := self._where(row)) is not True:
            missing = eligible is None and any(row[name] is None for name in self._features)
            return self._result(self.definition.control, "feature missing" if missing else "not eligible")
        return self._drawn(packed, row, at_us)

    def _drawn(self, packed: bytes, row: Mapping[str, Any], at_us: int, *, once: bool = False) -> Assignment:
        """Return the assignment of an eligible unit: by the share now or, with `once`, by the largest share so far."""
        assigned = self._assigned
        if (switchback := self.definition.switchback) is not None:
            packed = _pack(self._block(switchback, row, at_us))
            assigned = self._in_gap if at_us % switchback.every_us < switchback.gap_us else assigned
        number = self._number(packed)
        if number % BUCKETS >= self._below[once]:
            return self._result(self.definition.control, "not in share")
        return assigned[number // BUCKETS % BUCKETS]

    def unit(self, row: Mapping[str, Any]) -> str:
        """Return the unit of a row as text, as exposures name it."""
        return joined([_text(row[name]) for name in self.definition.unit])

    def block(self, row: Mapping[str, Any], at_us: int) -> str:
        """Return the block and region of a switchback as text; empty if there is no switchback."""
        switchback = self.definition.switchback
        return "" if switchback is None else joined(self._block(switchback, row, at_us))

    def _block(self, switchback: Switchback, row: Mapping[str, Any], at_us: int) -> list[str | None]:
        return [str(at_us // switchback.every_us), *(_text(row[name]) for name in switchback.by)]

    def exposure(
        self, row: Mapping[str, Any], at_us: int, generation: int, *, reason: str = "", missing: str = ""
    ) -> Exposure | None:
        """Return the exposure of the unit of a row; None if it takes no part, with two exceptions.

        If the unit takes no part only because a feature is missing, the variant is "", so that such units are counted.
        The variant is also "" if the unit is not eligible now, the experiment is paused or its share was lowered, but
        the unit would get another variant than the control otherwise: it may have been exposed to that variant before.

        Args:
            row: As for `assign`.
            at_us: The time at which the unit was exposed to its variant.
            generation: The number of the experiment's start.
            reason: Why the variant was not shown; empty if it was.
            missing: The features without a value, as the reason if the unit takes no part because of them.
        """
        found = self.assign(row, at_us)
        lacks = found.reason == "feature missing" and self._in_share(row, at_us)
        texts = [_text(row[name]) for name in self._unit]
        left = found.reason in FALLBACKS and (found.reason != "not in share" or self._below[1] > self._below[0])
        left = left and joined(texts) not in self._overrides and self._in_slots(_pack(texts))
        if left:
            drawn = self._drawn(_pack(texts), row, at_us, once=True)
            left = drawn.takes_part and drawn.variant != self.definition.control
        if not found.takes_part and not lacks and not left:
            return None
        return Exposure(
            experiment=self.definition.name,
            generation=generation,
            unit=self.unit(row),
            variant="" if lacks or left else found.variant,
            at_us=at_us,
            reason=missing or found.reason if lacks else found.reason if left else reason,
            block=self.block(row, at_us),
            override=found.reason == "override",
            attributes=b""
            if left
            else _pack({name: row[name] for name in (*self.definition.attributes, *self.definition.feature_types)}),
        )

    def _in_slots(self, packed: bytes) -> bool:
        return self._layer is None or self._slots[0] <= self._layer(packed) % BUCKETS < self._slots[1]

    def _in_share(self, row: Mapping[str, Any], at_us: int) -> bool:
        switchback, texts = self.definition.switchback, [_text(row[name]) for name in self._unit]
        number = self._number(_pack(texts if switchback is None else self._block(switchback, row, at_us)))
        return number % BUCKETS < self._below[0]

    def _result(self, variant: str, reason: Reason) -> Assignment:
        found = self._results.get((variant, reason))
        if found is None:
            found = self._results[variant, reason] = Assignment(
                experiment=self.definition.name,
                variant=variant,
                value=self.definition.variants[variant],
                takes_part=reason in ("assigned", "override"),
                reason=reason,
            )
        return found


def share_was_lowered(state: ExperimentState) -> bool:
    """Return whether the share became smaller, also by a pause, so that units which took part get the control."""
    return any(later.share < earlier.share for earlier, later in pairwise(state.allocations))


class PastAssignments:
    """The assignments of one experiment at any time since its start.

    Args:
        definition: The definition that the experiment was started with.
        holdout: The share of all units that take part in no experiment.
        overrides: The variants of testers, by unit; None: those of the definition.
    """

    def __init__(
        self,
        definition: Experiment,
        state: ExperimentState,
        *,
        holdout: float = 0.0,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        given: dict[str, Any] = {"holdout": holdout, "overrides": overrides}
        self._from_us = [one.from_us for one in state.allocations]
        self._assigners = [Assigner(definition, state, allocation=one, **given) for one in state.allocations]
        self._before = Assigner(definition, None, **given)
        if state.ended_at_us is not None:
            self._from_us.append(state.ended_at_us)
            self._assigners.append(Assigner(definition, state, **given))

    def assigner(self, at_us: int) -> Assigner:
        """Return the rule at a time."""
        place = bisect_right(self._from_us, at_us) - 1
        return self._before if place < 0 else self._assigners[place]

    def at(self, row: Mapping[str, Any], at_us: int) -> Assignment:
        """Return the assignment of the unit of a row at a time."""
        return self.assigner(at_us).assign(row, at_us)


def joined(texts: Sequence[str | None]) -> str:
    """Return several values as one text: the value itself if there is one, and otherwise a JSON array.

    >>> joined(["7"]), joined(["DE", "7"])
    ('7', '["DE","7"]')
    """
    if len(texts) == 1:
        return str(texts[0])
    found: str = _as_json(texts).decode()
    return found


def check_row(definition: Experiment, row: object) -> dict[str, Any]:
    """Return a given unit as a row: its columns and the attributes that the experiment reads, with correct types.

    Args:
        row: A mapping, the unit's only value, or a tuple of its values.

    Raises:
        Misuse: A column is missing, or a value has the wrong type. The message names it. Values of the unit may be null
            or "": then the row has no unit.
    """
    what, unit, kinds = f"experiment {definition.name!r}", definition.unit, definition.attributes
    row = dict(zip(unit, row, strict=True)) if isinstance(row, tuple) and len(row) == len(unit) else plain(row)
    if not isinstance(row, Mapping):
        if len(unit) > 1 or not isinstance(row, str | int) or isinstance(row, bool):
            wanted = ", ".join(f"{name!r}: ..." for name in unit)
            raise Misuse(f"{what}: {shown(row)[:100]} is no unit. Give {{{wanted}}}.")
        row = {unit[0]: row}
    region = definition.switchback.by if definition.switchback is not None else ()
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*unit, *region, *sorted(kinds))):
        value = plain(row.get(name))
        if name not in row and name not in kinds:
            part = "unit" if name in unit else "region"
            raise Misuse(f"{what}: {name!r} is missing. It identifies the {part}, so give it as a text or an integer.")
        if name in unit and value == "":
            value = None
        if name in (*unit, *region) and value is not None:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise Misuse(f"{what}: {name!r} is {shown(value)[:100]}. Give a text or an integer.")
            if isinstance(value, str) and not _is_utf8(value):
                raise Misuse(f"{what}: {name!r} is {shown(value)[:100]}, which is no valid Unicode text.")
        if name in kinds:
            if name not in row:
                raise Misuse(f"{what}: the attribute {name!r} ({kinds[name]}) is missing. Give it; null means unknown.")
            value = _checked(value, kinds[name], f"{what}: the attribute {name!r}")
        found[name] = value
    return found


def plain(value: Any) -> Any:
    """Return a NumPy number or text as a Python value, and every other value as it is.

    >>> import numpy as np
    >>> plain(np.int64(7)), plain("x")
    (7, 'x')
    """
    is_scalar = getattr(value, "shape", None) == () and getattr(value, "dtype", None) is not None
    return value.item() if is_scalar and value.dtype.kind in "iufbU" else value


def whole(text: str) -> int | None:
    """Return the whole number of a text; None if Python would write the number otherwise, or if it exceeds 64 bits.

    >>> whole("71"), whole("071"), whole("x")
    (71, None, None)
    """
    try:
        found = int(text)
    except ValueError:
        return None
    return found if -(2**63) <= found < 2**63 and str(found) == text else None


def _checked(value: Any, kind: str, what: str) -> Any:
    if kind == "float" and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Misuse(f"{what} is {shown(value)[:30]}..., which is too large for a float.") from None
    if kind == "time" and value is not None:
        return parse_time_us(value)
    types = {"float": float, "int": int, "bool": bool, "str": str, "time": int}
    if value is not None and type(value) is not types[kind]:
        raise Misuse(f"{what} is {shown(value)[:100]}, but it is declared as {kind}. Give a {kind}.")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise Misuse(f"{what} is {shown(value)[:30]}..., which does not fit in 64 bits.")
    if isinstance(value, str) and not _is_utf8(value):
        raise Misuse(f"{what} is {shown(value)[:100]}, which is no valid Unicode text.")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def first_buckets(weights: Mapping[str, float]) -> list[tuple[int, str]]:
    """Return the buckets of variants at the start: one run of buckets for each, in declared order.

    >>> first_buckets({"control": 0.5, "green": 0.5})
    [(5000, 'control'), (5000, 'green')]
    """
    return [(count, name) for name, count in _counts(weights).items() if count]


def reallocated(buckets: Sequence[tuple[int, str]], weights: Mapping[str, float]) -> list[tuple[int, str]]:
    """Return the buckets under new weights. Only as many buckets as necessary get another variant.

    A variant with too many buckets gives up its last ones. The freed buckets, from the first to the last, go to the
    variants with too few, in declared order.

    >>> reallocated([(5000, "control"), (5000, "green")], {"control": 0.4, "green": 0.6})
    [(4000, 'control'), (6000, 'green')]
    """
    names = [name for count, name in buckets for _ in range(count)]
    too_many = {name: names.count(name) for name in dict.fromkeys(names)}
    wanted: list[str] = []
    for name, count in _counts(weights).items():
        more = count - too_many.get(name, 0)
        too_many[name] = -more
        wanted += [name] * more
    free: list[int] = []
    for at in range(len(names) - 1, -1, -1):
        if too_many[names[at]] > 0:
            too_many[names[at]] -= 1
            free.append(at)
    for at, name in zip(sorted(free), wanted, strict=True):
        names[at] = name
    runs: list[tuple[int, str]] = []
    for name in names:
        if runs and runs[-1][1] == name:
            runs[-1] = runs[-1][0] + 1, name
        else:
            runs.append((1, name))
    return runs


def _counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Return each variant's number of buckets, rounded down. Variants with the largest remainders get one more."""
    exact = {name: weight * BUCKETS for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: ties in declared order
    for name in order[: BUCKETS - sum(counts.values())]:
        counts[name] += 1
    return counts


def free_slots(taken: Mapping[str, tuple[int, int]], wanted: int) -> tuple[int, int] | None:
    """Return a run of `wanted` free buckets of a layer, in the smallest gap that has room for it; None: no gap has.

    >>> free_slots({"one": (0, 6_000)}, 3_000), free_slots({"one": (0, 6_000)}, 5_000)
    ((6000, 9000), None)
    """
    edges = [0, *(edge for run in sorted(taken.values()) for edge in run), BUCKETS]
    gaps = [(end - begin, begin) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end - begin >= wanted]
    return (min(gaps)[1], min(gaps)[1] + wanted) if gaps else None
