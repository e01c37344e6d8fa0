"""Read encoded states with one generated Python function for each view. # D113

What a read has to do only depends on the view: where the fields (counts and sums) are, which of them each feature
needs, and how the feature is computed from them. `reader` generates code for exactly this, without the loops and
decisions of a general function. If a state has unsealed rows (rows that are not yet added to sums, see `state.py`),
they are first sealed in a copy, so that all states can be read in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import add
from typing import Any, TypeAlias

from trimtab.core.codegen import define
from trimtab.features.aggregates import AggregateKind
from trimtab.features.exact_rows import UNITS, fits, rounded
from trimtab.features.formulas import deviation, variance
from trimtab.features.frames import REASONS
from trimtab.features.online.packed import sketches
from trimtab.features.online.packed.groups import Feature, Group, Window
from trimtab.features.online.packed.keys import EVENT_AT, FAILS, GIVES, KNOWN_AT, Row, floor
from trimtab.features.online.packed.plan import ViewPlan
from trimtab.features.online.packed.state import FORMAT, EntityState, decode, fitting
from trimtab.features.online.packed.tiles import fields_between, first_start, less_expired, tiles_between

Reader: TypeAlias = Callable[[bytes | None, int, list[Any], list[int]], None]
# A function of the encoded state, the time of the read (not before the state's append time), and two lists into which
# it writes values and reasons.

FOUND, NO_ENTITY, NOT_YET, OUTSIDE, EXPIRED, NULL, _, FAILED = range(len(REASONS))
_NEVER_US = 2**62  # after all events


def reader(plan: ViewPlan, at: int) -> Reader:
    """Generate the function that writes a view's features into `values` and `reasons`, beginning at index `at`.

    The function only writes reasons other than "found" (0), so the caller has to set all reasons to 0 before.

    >>> from trimtab.features import aggregates as d
    >>> from trimtab.features.definitions import view
    >>> from trimtab.events.definitions import source
    >>> visits = source("visits", time="at", columns={"user": str})
    >>> plan = ViewPlan(view("recent", source=visits, by="user", features={"n": d.count(over="1d")}))
    >>> values, reasons = [None], [0]
    >>> reader(plan, 0)(None, 0, values, reasons)
    >>> values, reasons
    ([0], [1])
    """
    names: dict[str, Any] = {
        "plan": plan, "at": at, "decode": decode, "fitting": fitting, "sealed": _sealed, "unknown": _unknown,
        "first_start": first_start, "less_expired": less_expired, "fields_between": fields_between,
        "tiles_between": tiles_between, "sketch_values": sketches.read, "first_in": _first_in, "floor": floor,
        "variance": variance, "deviation": deviation, "decayed": _decayed, "rounded": rounded, "fits": fits,
        "null_of": _null_of, "added": _added, "UNITS": UNITS, "starts": _Starts(plan.groups),
        **{f"feature{n}": feature for n, feature in enumerate(plan.features)},
        **{f"group{n}": group for n, group in enumerate(plan.groups)},
        **{f"sketch{n}": sketch for n, sketch in enumerate(plan.sketches)},
    }  # fmt: skip
    read: Reader = define("read", _lines(plan, at), names, about=f"read of view {plan.name}")
    return read


def _lines(plan: ViewPlan, at: int) -> Iterator[str]:
    yield "def read(packed, t_us, values, reasons):"
    yield f"  if packed is None: unknown(plan, {NO_ENTITY}, values, reasons, at); return"
    yield "  state = decode(packed)"
    yield f"  if state[0] != {FORMAT} or state[1] != {plan.tag} or state[2]: state = fitting(plan, state)"
    yield "  if state[5] or not state[4]:"  # some rows are unsealed, or no row was ever sealed
    yield "    state = sealed(plan, state, t_us, values, reasons, at)"
    yield "    if state is None: return"
    others = ", sketches" if plan.sketches else ""
    yield f"  _, _, _, s_us, _, _, latest, exponents, tiles, life{others} = state"
    if plan.latest:
        yield from _latest(plan.latest, at)
    if plan.groups:
        lows = [f"low{g}_{w}" for g, group in enumerate(plan.groups) for w in range(len(group.windows))]
        yield "  lows = starts.lows"
        yield "  if not lows[0] <= t_us < lows[1]: lows = starts.begin(t_us)"
        yield f"  _, _, {', '.join(lows)} = lows"
        yield f"  {', '.join(f'tiles{g}' for g in range(len(plan.groups)))}, = tiles"
    for g, group in enumerate(plan.groups):
        yield f"  newest, current, totals, past, _, stacks = tiles{g}"
        for w, window in enumerate(group.windows):
            yield from _window(group, window, g, w, at)
    if plan.life is not None:
        features = plan.life.windows[0].features
        yield "  fields, extremes = life"
        yield from (f"  f{place} = fields[{place}]" for place in _places(features))
        yield from _values(features, at, "  ", "0", str(_NEVER_US), "extremes[{}]")


def _latest(features: Sequence[Feature], at: int) -> Iterator[str]:
    yield "  if latest:"
    yield "    row = latest[-1]"
    yield f"    gives = row[{GIVES}]"
    if any(feature.max_age_us is not None for feature in features):
        yield f"    age_us = t_us - row[{EVENT_AT}]"
    for feature in features:
        place, indent = at + feature.index, "    "
        if feature.max_age_us is not None:
            yield f"    if age_us > {feature.max_age_us}: values[{place}] = None; reasons[{place}] = {EXPIRED}"
            yield "    else:"
            indent = "      "
        yield f"{indent}value = values[{place}] = gives[{feature.series}]"
        yield f"{indent}if value is None: reasons[{place}] = null_of(row, {feature.series})"
    yield "  else:"
    for feature in features:
        yield f"    values[{at + feature.index}] = None; reasons[{at + feature.index}] = {EXPIRED}"


def _window(group: Group, window: Window, g: int, w: int, at: int) -> Iterator[str]:
    low, high, places = f"low{g}_{w}", str(_NEVER_US), _places(window.features)
    yield f"  if newest is None or newest < {low}:"
    for feature in window.features:
        place = at + feature.index
        yield f"    values[{place}] = {feature.empty!r}; reasons[{place}] = {OUTSIDE}"
    yield "  else:"
    yield "    if past:"
    yield f"      total = totals[{w}]"
    yield f"      left_us = s_us - {window.over_us}"
    yield f"      if left_us < {low} and first_start(past)[0] < {low}:"
    yield f"        total = less_expired(group{g}, tiles{g}, total, left_us, {low})"
    if window.until_us:
        high = "high"
        yield "      total = added(total, current)"
        yield "    else: total = current"
        yield f"    high = floor(t_us - {window.until_us}, {group.hop_us})"
        yield f"    total = fields_between(group{g}, tiles{g}, total, {low}, high)"
        yield from (f"    f{place} = total[{place}]" for place in places)
    else:
        yield from (f"      f{place} = total[{place}] + current[{place}]" for place in places)
        yield "    else:"
        yield from (f"      f{place} = current[{place}]" for place in places)
    if any(feature.weights for feature in window.features):
        yield f"    between = tiles_between(group{g}, tiles{g}, {low}, {high})"
        yield f"    now = t_us // {group.hop_us}"
    yield from _values(window.features, at, "    ", low, high, f"first_in(stacks[{{}}], {low})")


def _values(features: Sequence[Feature], at: int, indent: str, low: str, high: str, extreme: str) -> Iterator[str]:
    """Yield the code that computes values and reasons of features from the fields of their window."""
    for index in sorted({feature.sketch.index for feature in features if feature.sketch is not None}):
        yield f"{indent}merged{index} = None"  # several features may use the same merged sketch
    for feature in features:
        place = at + feature.index
        what, count = f"values[{place}]", f"f{feature.count_at}"
        yield f"{indent}if not {count}: {what} = {feature.empty!r}; reasons[{place}] = {NULL} if f0 else {OUTSIDE}"
        yield f"{indent}else:"
        if feature.sketch is not None:
            lines = _sketch(feature, what, place, low, high)
        elif feature.kind.online == "extreme":
            lines = iter([f"{what} = {extreme.format(feature.stack)}"])
        else:
            lines = _OF_SUMS[feature.aggregate.kind](feature, what, place)
        yield from (f"{indent}  {line}" for line in lines)


def _sketch(feature: Feature, what: str, place: int, low: str, high: str) -> Iterator[str]:
    assert feature.sketch is not None
    n, rank = feature.sketch.index, feature.aggregate.place
    yield f"if merged{n} is None: merged{n} = sketch_values(sketch{n}, sketches[{n}], {low}, {high})"
    yield f"if {rank} <= len(merged{n}): {what} = merged{n}[{rank - 1}]"
    yield f"else: {what} = None; reasons[{place}] = {NULL}"


def _count(feature: Feature, what: str, place: int) -> Iterator[str]:
    yield f"{what} = f{feature.count_at}"


def _sum(feature: Feature, what: str, place: int) -> Iterator[str]:
    total = f"f{feature.sums_at[0]}"
    if feature.real:
        yield from _rounded(feature)
        yield f"{what} = v"
    else:
        yield f"if fits({total}): {what} = {total}"
        yield f"else: {what} = None; reasons[{place}] = {FAILED}"


def _mean(feature: Feature, what: str, place: int) -> Iterator[str]:
    if feature.real:
        yield from _rounded(feature)
        yield f"{what} = v / f{feature.count_at} + 0.0"
    else:  # first round the sum to a float, as for sums of floats; dividing the integers would round differently
        yield f"{what} = float(f{feature.sums_at[0]}) / f{feature.count_at} + 0.0"


def _rounded(feature: Feature) -> Iterator[str]:
    total = f"f{feature.sums_at[0]}"
    yield f"e = exponents[{feature.exponents_at[0]}]"
    yield f"v = {total} * UNITS[e] if e < {len(UNITS)} else rounded({total}, e)"


def _spread(feature: Feature, what: str, place: int) -> Iterator[str]:
    formula = "variance" if feature.aggregate.kind == "var" else "deviation"
    sums = [
        f"rounded(f{at}, exponents[{exponent}])"
        for at, exponent in zip(feature.sums_at, feature.exponents_at, strict=True)
    ]
    yield f"if f{feature.count_at} < 2: {what} = None; reasons[{place}] = {NULL}"
    yield f"else: {what} = {formula}(f{feature.count_at}, {', '.join(sums)})"


def _decays(feature: Feature, what: str, place: int) -> Iterator[str]:
    yield f"{what} = decayed(feature{feature.index}, between, now, exponents)"


_OF_SUMS: dict[AggregateKind, Callable[[Feature, str, int], Iterator[str]]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "var": _spread,
    "std": _spread,
    "decayed_sum": _decays,
    "decayed_mean": _decays,
}


def _places(features: Sequence[Feature]) -> list[int]:
    """Return the indexes of the fields of a window that features need."""
    return sorted({0}.union(*({feature.count_at, *feature.sums_at} for feature in features)))


class _Starts:
    """The beginnings of a view's windows. They are computed again when any of them moves by a hop (step)."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._windows = [(window.over_us, group.hop_us) for group in groups for window in group.windows]
        self.lows: tuple[int, ...] = (0, 0)  # from when and until when the beginnings are valid, then the beginnings

    def begin(self, t_us: int) -> tuple[int, ...]:
        """Return the beginnings at a time."""
        lows = [floor(t_us - over_us, hop_us) for over_us, hop_us in self._windows]
        since = max(low + over_us for low, (over_us, _) in zip(lows, self._windows, strict=True))
        until = min(low + over_us + hop_us for low, (over_us, hop_us) in zip(lows, self._windows, strict=True))
        self.lows = since, until, *lows  # assigned in one step, because other threads may be reading
        return since, until, *lows


def _sealed(
    plan: ViewPlan, state: list[Any], t_us: int, values: list[Any], reasons: list[int], at: int
) -> list[Any] | None:
    """Return a state in which the rows that count at `t_us` are sealed.

    If nothing counts, write the values and reasons, and return None.
    """
    rows: list[Row] = state[5]
    entity = EntityState(plan, state)
    if entity.as_of(t_us):
        sketched = [entity.sketches] if plan.sketches else []
        return [*state[:3], t_us, 1, [], entity.latest_rows, entity.exponents, entity.tiles, entity.life, *sketched]
    _unknown(plan, NOT_YET if any(row[KNOWN_AT] <= t_us for row in rows) else NO_ENTITY, values, reasons, at)
    return None


def _unknown(plan: ViewPlan, reason: int, values: list[Any], reasons: list[int], at: int) -> None:
    """Write the values and reasons of an entity without any event that counts."""
    for i, feature in enumerate(plan.features, at):
        values[i] = feature.empty
        reasons[i] = reason


def _null_of(row: Row, series: int) -> int:
    """Return the code of the reason why a row has no value of a series."""
    return FAILED if len(row) > FAILS and series in row[FAILS] else NULL


def _added(one: list[int], other: list[int]) -> list[int]:
    return list(map(add, one, other))


def _first_in(stack: list[Any], low: int) -> Any:
    """Return the extreme of a window that begins at `low`."""
    for i in range(0, len(stack), 2):
        if stack[i] >= low:
            return stack[i + 1]
    return None


def _decayed(feature: Feature, tiles: list[list[int]], now: int, exponents: list[int]) -> float:
    """Return a decayed sum or mean, given the tiles. `now` is the number of whole hops (steps) since 1970. # D14"""
    weighted = weight = 0.0
    weights, hop_us = feature.weights, feature.aggregate.hop_us
    count_at, sum_at, exponent = feature.count_at, feature.sums_at[0], exponents[feature.exponents_at[0]]
    for start, *fields in tiles:
        w = weights[now - start // hop_us]
        weighted += w * rounded(fields[sum_at], exponent)
        weight += w * fields[count_at]
    return (weighted if feature.aggregate.kind == "decayed_sum" else weighted / weight) + 0.0
