"""A random world for experiments: orders that come late, are corrected or deleted, and repeated exposures.

Next to it the same sums, computed from the written records with plain loops.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.records import KIND, Allocation, ArmSums, ExperimentState, Exposure, VariantDay
from trimtab.features.aggregates import Aggregate, count, mean
from trimtab.features.aggregates import sum as total
from trimtab.stats.ab.quantiles import bins_of
from trimtab.store import Put

BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
PROJECT = """
import trimtab as tt

orders = tt.source("orders", key="id", time="at", delay="3h",
    columns={"id": str, "at": tt.Time, "user": str, "shop": int, "amount": float})
"""
UNIT = ("user",)


class Order(msgspec.Struct, frozen=True):
    """One version of an order, as it was written to the log."""

    id: str
    at_us: int
    user: str
    amount: float | None
    known_at_us: int
    deleted: bool = False


class Logged(msgspec.Struct, frozen=True):
    """An exposure and when it was logged."""

    exposure: Exposure
    logged_at_us: int


def opened(folder: Path, clock: VirtualClock) -> tt.Project:
    if not (folder / "project.py").exists():
        folder.mkdir(exist_ok=True)
        (folder / "trimtab.toml").write_text("")
        (folder / "project.py").write_text(PROJECT)
    return tt.open(folder, clock=clock, environment={})


def definition_of(project: tt.Project, **changes: Any) -> Experiment:
    orders = project.definitions.sources["orders"]
    whole: dict[str, Any] = {"source": orders, "by": ("user",)}
    large = tt.col("amount") > 10.0
    made = Experiment(
        name="prices",
        unit=UNIT,
        variants={"old": 1, "new": 2},
        attributes={"country": "str"},
        slices=("country",),
        metrics=(
            Metric(name="spent", kind="mean", value=total("amount"), within_us=2 * DAY_US, before_us=DAY_US, **whole),
            Metric(name="capped", kind="mean", value=total("amount"), within_us=DAY_US, cap=12.5, **whole),
            Metric(name="size", kind="mean", value=mean("amount"), within_us=7 * HOUR_US, **whole),
            Metric(name="bought", kind="proportion", value=count(where=large), within_us=DAY_US,
                   before_us=30 * HOUR_US, **whole),
            Metric(name="basket", kind="ratio", value=total("amount"), denominator=count(), within_us=DAY_US, **whole),
            Metric(name="p90", kind="quantile", quantile=0.9, value=total("amount"), within_us=DAY_US, **whole),
            Metric(name="until", kind="time_to_event", value=count(where=large), within_us=DAY_US, **whole),
        ),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def started(project: tt.Project, definition: Experiment, at_us: int, **changes: Any) -> ExperimentState:
    """Write the record of a started experiment."""
    halves = [(5_000, "old"), (5_000, "new")]
    state = ExperimentState(
        name=definition.name,
        hash=definition.hash,
        definition=msgspec.json.encode(definition),
        generation=1,
        phase="running",
        started_at_us=at_us,
        allocations=[Allocation(from_us=at_us, share=1.0, weights={"old": 0.5, "new": 0.5}, buckets=halves)],
    )
    state = msgspec.structs.replace(state, **changes)
    project.state.catalog.write([Put(KIND, definition.name, msgspec.json.encode(state))])
    return state


class Written:
    """The records of both logs, in the order in which they were written."""

    def __init__(self) -> None:
        self.logged: list[Logged] = []
        self._versions: dict[str, list[Order]] = {}  # by id
        self._ids: dict[str, dict[str, None]] = {}  # by user: the ids of orders that ever were the user's

    def add(self, order: Order) -> None:
        self._versions.setdefault(order.id, []).append(order)
        self._ids.setdefault(order.user, {})[order.id] = None

    def orders(self, user: str, known_by_us: int) -> list[Order]:
        """The orders of a user as they were known at a time."""
        found = []
        for name in self._ids.get(user, ()):
            known = [one for one in self._versions[name] if one.known_at_us <= known_by_us]
            if known and known[-1].user == user and not known[-1].deleted:
                found.append(known[-1])
        return found


class World:
    """Writes random orders and exposures in the order in which they become known, and keeps what it wrote."""

    def __init__(self, project: tt.Project, clock: VirtualClock, rng: random.Random, *, users: int, days: int) -> None:
        self.written = Written()
        self._project = project
        self._clock = clock
        self._actions: list[tuple[int, int, Callable[[], object]]] = []
        span_us = days * DAY_US
        for number in range(users):
            user = f"u{number}"
            base_us = BEGIN_US + rng.randrange(-DAY_US, span_us)
            variant = rng.choice(("old", "new"))
            for _ in range(rng.choice((0, 1, 2, 6))):
                self._exposure(rng, user, variant, base_us + rng.choice((0, 0, 1, rng.randrange(2 * DAY_US))))
            for _ in range(rng.choice((0, 1, 4, 9))):
                self._order(rng, user, base_us)

    def run(self, look: Callable[[], object], every_us: int) -> None:
        """Do everything at its time, and call `look` at times between."""
        next_us = BEGIN_US
        for number, (at_us, _, act) in enumerate(sorted(self._actions, key=lambda one: one[:2])):
            while next_us <= at_us:
                self._clock.advance_to(max(next_us, self._clock.now_us()))
                look()
                next_us += every_us
            self._clock.advance_to(max(at_us, self._clock.now_us()))
            act()
            assert number >= 0

    def _at(self, at_us: int, act: Callable[[], object]) -> None:
        self._actions.append((at_us, len(self._actions), act))

    def _exposure(self, rng: random.Random, user: str, variant: str, at_us: int) -> None:
        country = rng.choice(("DE", "FR", None))
        attributes = b"" if country is None else msgspec.msgpack.encode({"country": country})
        made = Exposure(
            experiment=rng.choice(("prices",) * 9 + ("other",)),
            generation=rng.choice((1,) * 9 + (2,)),
            unit=user,
            variant=variant,
            at_us=at_us,
            reason=rng.choice(("", "", "", "timeout")),
            override=rng.random() < 0.05,
            attributes=attributes,
        )
        late_us = rng.choice((0, 0, 0, HOUR_US, 23 * HOUR_US, 25 * HOUR_US, 4 * DAY_US, -HOUR_US // 2, -2 * HOUR_US))
        for _ in range(rng.choice((1, 1, 2))):  # the same exposure may be logged again
            self._at(at_us + late_us, lambda: self._log(made))
            late_us += rng.choice((0, HOUR_US))

    def _log(self, made: Exposure) -> None:
        log_exposures(self._project.state.exposures, [made])
        self.written.logged.append(Logged(made, self._clock.now_us()))

    def _order(self, rng: random.Random, user: str, base_us: int) -> None:
        name = f"o{len(self._actions)}"
        at_us = base_us + rng.choice((0, DAY_US, 2 * DAY_US, -1, 1, rng.randrange(-2 * DAY_US, 3 * DAY_US)))
        amount = rng.choice((0.1, 0.2, 1e16, 7.0, 10.0, 11.0, -3.3, None, rng.lognormvariate(1, 1)))
        known_us = at_us + rng.choice((0, 0, 0, HOUR_US, 2 * DAY_US, 9 * DAY_US))
        self._at(known_us, lambda: self._push(Order(name, at_us, user, amount, 0)))
        if rng.random() < 0.3:
            moved_us = at_us + rng.choice((0, 0, HOUR_US, -DAY_US))
            later_us = max(known_us, moved_us) + rng.choice((0, 1, DAY_US, 8 * DAY_US))
            gone = rng.random() < 0.4
            self._at(later_us, lambda: self._push(Order(name, moved_us, user, 5.5, 0, gone)))

    def _push(self, order: Order) -> None:
        row = {"id": order.id, "at": order.at_us, "user": order.user, "shop": 1, "amount": order.amount}
        given = {"id": order.id, "_op": "delete"} if order.deleted else row
        assert self._project.push("orders", [given]).accepted == 1
        self.written.add(msgspec.structs.replace(order, known_at_us=self._clock.now_us()))


def expected_day(
    written: Written,
    definition: Experiment,
    state: ExperimentState,
    day_us: int,
    known_by_us: int,
    seen: set[str],
    late_us: int = 0,
) -> tuple[dict[str, VariantDay], dict[str, dict[str, int]]]:
    """One day from the written records, with loops. Units in `seen` are left out, and those of the day are added.

    Orders that became known within `late_us` after the day was closed count, too. The second result is how many these
    are, by metric and variant.
    """
    end_us = 2**62 if state.ended_at_us is None else state.ended_at_us - max(m.within_us for m in definition.metrics)
    first: dict[str, tuple[int, int]] = {}
    for position, one in enumerate(written.logged):
        found, delay_us = one.exposure, one.logged_at_us - one.exposure.at_us
        if (found.experiment, found.generation) != (state.name, state.generation):
            continue
        if not (day_us <= found.at_us < day_us + DAY_US and state.started_at_us <= found.at_us < end_us):
            continue
        if one.logged_at_us > known_by_us or not -HOUR_US <= delay_us <= DAY_US or found.unit in seen:
            continue
        first[found.unit] = min(first.get(found.unit, (2**62, 0)), (found.at_us, position))
    seen.update(first)
    units = [written.logged[position].exposure for _, position in first.values()]
    out, late = {}, {metric.name: {} for metric in definition.metrics}
    closed_us, known_by_us = known_by_us, known_by_us + late_us
    for variant in definition.variants:
        of_variant = [one for one in units if one.variant == variant]
        mine = [one for one in of_variant if not one.override]
        countries: dict[str, list[Exposure]] = {}
        for one in mine:
            if one.attributes:
                countries.setdefault(f"country={msgspec.msgpack.decode(one.attributes)['country']}", []).append(one)
        out[variant] = VariantDay(
            units=len(mine),
            testers=len(of_variant) - len(mine),
            not_shown=dict(sorted(Counter(one.reason for one in mine if one.reason).items())),
            metrics={metric.name: arm(written, metric, mine, known_by_us) for metric in definition.metrics},
            slices={
                name: {metric.name: arm(written, metric, some, known_by_us) for metric in definition.metrics}
                for name, some in sorted(countries.items())
            },
            slice_units={name: len(some) for name, some in sorted(countries.items())},
        )
        for metric in definition.metrics:
            then, now = (sum(events(written, metric, one, us) for one in mine) for us in (closed_us, known_by_us))
            if now > then:
                late[metric.name][variant] = now - then
    return out, {name: counts for name, counts in late.items() if counts}


def events(written: Written, metric: Metric, unit: Exposure, known_by_us: int) -> int:
    """The number of orders of a unit that a metric reads."""
    assert metric.value is not None
    there = [one for one in written.orders(unit.unit, known_by_us) if 0 <= one.at_us - unit.at_us < metric.within_us]
    some = metric.denominator is None and metric.value.where is not None
    return sum(not some or (one.amount is not None and one.amount > 10.0) for one in there)


def arm(written: Written, metric: Metric, units: Sequence[Exposure], known_by_us: int) -> ArmSums:
    rows = [row for unit in units if (row := numbers(written, metric, unit, known_by_us)) is not None]
    sums = {}
    for name in ("y", "yy", "x", "xx", "xy", "d", "dd", "yd"):
        if rows and all(letter in rows[0] for letter in name):
            products = [row[name[0]] * (row[name[1]] if len(name) == 2 else 1.0) for row in rows]
            sums[name] = parts(sum(map(Fraction, products), Fraction(0)))
    bins = Counter(int(bins_of(np.array([row["y"]]))[0]) for row in rows) if metric.kind == "quantile" else {}
    return msgspec.structs.replace(ArmSums(units=len(rows)), **sums, histogram=dict(sorted(bins.items())))


def parts(value: Fraction) -> tuple[float, ...]:
    """The doubles that add up to a fraction: the nearest one, and so on."""
    found = []
    while value:
        found.append(float(value))
        value -= Fraction(found[-1])
    return tuple(found)


def numbers(written: Written, metric: Metric, unit: Exposure, known_by_us: int) -> dict[str, float] | None:
    """The numbers of one unit for one metric; None: it has no value."""
    assert metric.value is not None
    begin_us, end_us = unit.at_us, unit.at_us + metric.within_us
    events = [one for one in written.orders(unit.unit, known_by_us) if begin_us <= one.at_us < end_us]
    if metric.kind == "time_to_event":
        times = [one.at_us - unit.at_us for one in events if one.amount is not None and one.amount > 10.0]
        return {"y": min(times, default=metric.within_us) / 1e6}
    y = valued(metric, metric.value, events)
    if y is None:
        return None
    if metric.denominator is not None:
        return {"y": y, "d": float(len(events))}
    if not metric.before_us:
        return {"y": y}
    past_us = unit.at_us - metric.before_us
    before = [one for one in written.orders(unit.unit, unit.at_us) if past_us <= one.at_us < unit.at_us]
    return {"y": y, "x": valued(metric, metric.value, before) or 0.0}


def valued(metric: Metric, aggregate: Aggregate, events: Sequence[Order]) -> float | None:
    amounts = [one.amount for one in events if one.amount is not None]
    if aggregate.kind == "count":
        found = float(sum(one > 10.0 for one in amounts))
    elif aggregate.kind == "mean" and not amounts:
        return None
    else:
        found = float(sum(map(Fraction, amounts), Fraction(0)))
        found = found / len(amounts) if aggregate.kind == "mean" else found
    if metric.kind == "proportion":
        return float(found != 0.0)
    return found if metric.cap is None else min(found, metric.cap)
