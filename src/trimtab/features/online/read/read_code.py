"""The read of one view as a function of its own, written for the view when it is compiled. # D113

What a read of a state has to do is known once the view is: which fields lie where, which of them each feature needs and
how it makes its value of them. `reader` writes that down as one Python function, without the loops and choices that
`read.read_state` takes at every read. It does the usual: every row sealed, windows up to now, sums, counts, extremes
and latest values. Everything else it leaves to `read_state`, whose values it gives bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from trimtab.core.codegen import define
from trimtab.features.exact_rows import UNITS, fits, rounded
from trimtab.features.online.packed.plan import (
    COUNT,
    EVENT_AT,
    EXTREME,
    GIVES,
    MEAN,
    SPREAD,
    SUM,
    WHOLE_MEAN,
    WHOLE_SUM,
    Feature,
    Group,
    ViewPlan,
    Window,
)
from trimtab.features.online.packed.state import FORMAT, decode, fitting
from trimtab.features.online.packed.tiles import first_start, less_expired
from trimtab.features.online.read.read import (
    EXPIRED,
    FAILED,
    NO_ENTITY,
    NULL,
    OUTSIDE,
    null_of,
    read_decoded,
    spread,
    unknown,
)

Reader: TypeAlias = Callable[[bytes | None, int, list[Any], list[int]], None]
# packed state, moment; values and reasons to write into


def reader(plan: ViewPlan, at: int) -> Reader:
    """The function that does what `read_state(plan, packed, t_us, values, reasons, at)` does.

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
        "plan": plan, "at": at, "decode": decode, "fitting": fitting, "read_decoded": read_decoded,
        "unknown": unknown, "first_start": first_start, "less_expired": less_expired, "first_in": _first_in,
        "spread": spread, "rounded": rounded, "fits": fits, "null_of": null_of, "UNITS": UNITS,
        **{f"feature{n}": feature for n, feature in enumerate(plan.features)},
        **{f"group{n}": group for n, group in enumerate(plan.groups)},
    }  # fmt: skip
    read: Reader = define("read", _lines(plan, at), names, about=f"read of view {plan.name}")
    return read


def _lines(plan: ViewPlan, at: int) -> Iterator[str]:
    yield "def read(packed, t_us, values, reasons):"
    yield f"  if packed is None: unknown(plan, {NO_ENTITY}, values, reasons, at); return"
    yield "  state = decode(packed)"
    yield f"  if state[0] != {FORMAT} or state[1] != {plan.tag} or state[2]: state = fitting(plan, state)"
    if not _is_usual(plan):
        yield "  read_decoded(plan, state, t_us, values, reasons, at)"
        return
    yield "  _, _, _, s_us, known, opens, winners, exponents, tiles, life = state"
    yield "  if opens or not known: read_decoded(plan, state, t_us, values, reasons, at); return"
    if plan.latest:
        yield from _latest(plan.latest, at)
    if plan.groups:
        lows = [f"low{g}_{w}" for g, group in enumerate(plan.groups) for w in range(len(group.windows))]
        yield "  lows = plan.lows"
        yield "  if not lows[0] <= t_us < lows[1]: lows = plan.begin_lows(t_us)"
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
        for feature in features:
            yield from _feature(feature, at, "  ", f"extremes[{feature.stack}]")


def _is_usual(plan: ViewPlan) -> bool:
    groups = [*plan.groups, *([] if plan.life is None else [plan.life])]
    return not plan.folds and all(window.is_plain for group in groups for window in group.windows)


def _latest(features: list[Feature], at: int) -> Iterator[str]:
    yield "  if winners:"
    yield "    winner = winners[-1]"
    yield f"    gives = winner[{GIVES}]"
    if any(feature.max_age_us is not None for feature in features):
        yield f"    age_us = t_us - winner[{EVENT_AT}]"
    for feature in features:
        place, indent = at + feature.index, "    "
        if feature.max_age_us is not None:
            yield f"    if age_us > {feature.max_age_us}: values[{place}] = None; reasons[{place}] = {EXPIRED}"
            yield "    else:"
            indent = "      "
        yield f"{indent}value = values[{place}] = gives[{feature.series}]"
        yield f"{indent}if value is None: reasons[{place}] = null_of(winner, {feature.series})"
    yield "  else:"
    for feature in features:
        yield f"    values[{at + feature.index}] = None; reasons[{at + feature.index}] = {EXPIRED}"


def _window(group: Group, window: Window, g: int, w: int, at: int) -> Iterator[str]:
    low, places = f"low{g}_{w}", _places(window.features)
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
    yield from (f"      f{place} = total[{place}] + current[{place}]" for place in places)
    yield "    else:"
    yield from (f"      f{place} = current[{place}]" for place in places)
    for feature in window.features:
        stack = f"stacks[{feature.stack}]"
        yield from _feature(feature, at, "    ", f"first_in({stack}, {low})")


def _feature(feature: Feature, at: int, indent: str, extreme: str) -> Iterator[str]:
    """Its value and reason from the window's fields."""
    place, count, total = at + feature.index, f"f{feature.count_at}", f"f{feature.sum_at}"
    what, own = f"values[{place}]", f"feature{feature.index}"
    yield f"{indent}if not {count}: {what} = {feature.empty!r}; reasons[{place}] = {NULL} if f0 else {OUTSIDE}"
    yield f"{indent}else:"
    indent += "  "
    if feature.how in (SUM, MEAN):
        yield f"{indent}e = exponents[{feature.sum_place}]"
        yield f"{indent}v = {total} * UNITS[e] if e < {len(UNITS)} else rounded({total}, e)"
    if feature.how == COUNT:
        yield f"{indent}{what} = {count}"
    elif feature.how == SUM:
        yield f"{indent}{what} = v"
    elif feature.how == MEAN:
        yield f"{indent}{what} = v / {count} + 0.0"
    elif feature.how == WHOLE_MEAN:
        yield f"{indent}{what} = float({total}) / {count} + 0.0"
    elif feature.how == WHOLE_SUM:
        yield f"{indent}if fits({total}): {what} = {total}"
        yield f"{indent}else: {what} = None; reasons[{place}] = {FAILED}"
    elif feature.how == EXTREME:
        yield f"{indent}{what} = {extreme}"
    else:
        assert feature.how == SPREAD  # the rest is not usual
        yield f"{indent}v = {what} = spread({own}, {count}, {total}, f{feature.square_at}, exponents)"
        yield f"{indent}if v is None: reasons[{place}] = {NULL}"


def _places(features: list[Feature]) -> list[int]:
    """Which of a window's fields they need."""
    places = {0}
    for feature in features:
        places |= {feature.count_at, *([feature.sum_at, feature.square_at] if feature.sums else [])}
    return sorted(places)


def _first_in(stack: list[Any], low: int) -> Any:
    """The extreme of a window that begins at `low`."""
    for i in range(0, len(stack), 2):
        if stack[i] >= low:
            return stack[i + 1]
    return None
