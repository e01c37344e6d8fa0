"""Experiments with a known effect, and how often each rule finds one: the campaign of test_aa.py and of table.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.stats.ab.arms import Arm
from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.sequential import compare_any_time, obrien_fleming

Floats = NDArray[np.float64]
Pair = tuple[Arm, Arm]
LOOKS = 50  # days, each of which ends with a look
DAY_SD, LAG = 0.15, 0.4  # of the effects that all units of a day have in common, in logits


def day_effects(rng: np.random.Generator, sd: float = DAY_SD, days: int = LOOKS) -> Floats:
    """Effects of days with lag-1 correlation, shape (days,)."""
    noise = rng.standard_normal(days)
    found = np.empty(days)
    found[0] = noise[0]
    for day in range(1, days):
        found[day] = LAG * found[day - 1] + math.sqrt(1.0 - LAG * LAG) * noise[day]
    return sd * found


def share(logit: Floats | float) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.asarray(logit)))


BASE = math.log(0.1 / 0.9)


def _binary(units: Floats | int, successes: Floats) -> Arm:
    y = np.asarray(successes, np.float64)
    return Arm(units=np.broadcast_to(np.asarray(units, np.float64), y.shape), y=y, yy=y)


def bernoulli(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """10,000 units of each variant, 200 a day; a tenth of the control succeeds."""
    return _binary(200, rng.binomial(200, 0.1, LOOKS)), _binary(200, rng.binomial(200, 0.1 * (1.0 + lift), LOOKS))


def lognormal(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """10,000 units of each variant with a skewed value, such as a revenue (skewness 6.2)."""
    arms = []
    for factor in (1.0, 1.0 + lift):
        values = factor * np.exp(rng.standard_normal((LOOKS, 200)))
        arms.append(Arm(units=np.full(LOOKS, 200.0), y=values.sum(1), yy=(values**2).sum(1)))
    return arms[0], arms[1]


def day_effect(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """As `bernoulli`, with effects of days that both variants have in common. The traffic varies too."""
    rates = share(BASE + day_effects(rng))
    units = rng.poisson(400 * np.exp(0.3 * rng.standard_normal(LOOKS)))
    shares = rng.binomial(units, 0.5)
    return (
        _binary(units - shares, rng.binomial(units - shares, rates)),
        _binary(shares, rng.binomial(shares, np.minimum(1.0, rates * (1.0 + lift)))),
    )


def clustered(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """Customers with several rows each, whose outcomes resemble one another. The metric is a ratio over the rows."""
    common = day_effects(rng)[:, None]
    arms = []
    for factor in (1.0, 1.0 + lift):
        rows = 1 + rng.poisson(3.0 * rng.exponential(1.0, (LOOKS, 60)))
        rates = np.minimum(1.0, factor * share(BASE + common + rng.standard_normal((LOOKS, 60))))
        y, d = rng.binomial(rows, rates).astype(np.float64), rows.astype(np.float64)
        sums = {"y": y, "yy": y * y, "d": d, "dd": d * d, "yd": y * d}
        arms.append(Arm(units=np.full(LOOKS, 60.0), **{name: value.sum(1) for name, value in sums.items()}))
    return arms[0], arms[1]


def switchback(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """Six times a day all requests change to a variant drawn at random; these blocks and the days have effects."""
    rates = share(BASE + day_effects(rng)[:, None] + DAY_SD * rng.standard_normal((LOOKS, 6)))
    return _switched(rng, rates, rng.random((LOOKS, 6)) < 0.5, 67, lift)


def switched_days(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """Each day has one variant, drawn at random within pairs of days."""
    rates = share(BASE + day_effects(rng))[:, None]
    first = rng.random(LOOKS // 2) < 0.5
    return _switched(rng, rates, np.column_stack([first, ~first]).reshape(LOOKS, 1), 400, lift)


def _switched(rng: np.random.Generator, rates: Floats, treated: NDArray[np.bool_], units: int, lift: float) -> Pair:
    successes = rng.binomial(units, np.where(treated, np.minimum(1.0, rates * (1.0 + lift)), rates))
    return tuple(_binary(units * (of).sum(1), (successes * of).sum(1)) for of in (~treated, treated))  # type: ignore


def days_differ(rng: np.random.Generator, lift: float = 0.0) -> Pair:
    """The effect differs from day to day, with lag-1 correlation; its mean over days is 0 without a lift."""
    rates = share(BASE + day_effects(rng))
    different = np.clip(rates * (1.0 + lift + 0.2 * day_effects(rng, 1.0)), 0.0, 1.0)
    return _binary(200, rng.binomial(200, rates)), _binary(200, rng.binomial(200, different))


class World(msgspec.Struct, frozen=True):
    """How experiments are drawn."""

    name: str
    draw: Callable[..., Pair]
    ratio: bool = False
    days_needed: bool = False  # whether units of a day depend on each other, so that only days are evidence
    stated: bool = True  # whether the promise of the error rate covers it


WORLDS = (
    World("independent units, shares", bernoulli),
    World("independent units, lognormal", lognormal),
    World("day effects", day_effect),
    World("clustered units", clustered, ratio=True),
    World("switchback, 6 blocks a day", switchback, days_needed=True),
    World("switchback by days", switched_days, days_needed=True),
    World("effects that differ by day", days_differ, days_needed=True, stated=False),
)


def naive(control: Arm, treatment: Arm, ratio: bool) -> list[bool]:
    """Whether the z-test of all rows finds an effect at each look, as if it were the only one."""
    n, y = (np.array([np.cumsum(arm.d if ratio else arm.units) for arm in (control, treatment)]) for _ in (0, 1))
    y = np.cumsum([control.y, treatment.y], axis=1)
    yy = y if ratio else np.cumsum([control.yy, treatment.yy], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (yy / n - (y / n) ** 2) / n
        return (np.abs(y[1] / n[1] - y[0] / n[0]) > 1.96 * np.sqrt(variance.sum(0))).tolist()


RULES = (
    "naive z-test at every look",
    "naive z-test once",
    "fixed",
    "fixed, days",
    "sequence",
    "sequence, days",
    "msprt",
    "msprt, days",
    "o'brien-fleming, 5 looks",
    "o'brien-fleming, 5 looks, days",
    "o'brien-fleming, 50 looks",
    "o'brien-fleming, 50 looks, days",
)


def found_by(world: World, pair: Pair, *, any_time: bool = True) -> dict[str, int | None]:
    """The look at which each rule finds an effect first (1 = the first look). None: it finds none.

    Without `any_time`, only the rules that are read once or at planned looks.
    """
    control, treatment = pair
    found: dict[str, int | None] = {}
    plain = naive(control, treatment, world.ratio)
    found["naive z-test at every look"] = _first(plain)
    found["naive z-test once"] = LOOKS if plain[-1] else None
    for days in (False, True):
        more = ", days" if days else ""
        options = {"ratio": world.ratio, "days": days}
        once = compare(control, treatment, **options)
        found[f"fixed{more}"] = LOOKS if not once.low <= 0.0 <= once.high else None
        for rule in ("sequence", "msprt") if any_time else ():
            effects = compare_any_time(control, treatment, rule=rule, **options)
            found[f"{rule}{more}"] = _first(not one.low <= 0.0 <= one.high for one in effects)
        for looks in (5, 50):
            effects = obrien_fleming(control, treatment, looks=looks, planned_blocks=LOOKS, **options)
            at = _first(not one.low <= 0.0 <= one.high for one in effects)
            found[f"o'brien-fleming, {looks} looks{more}"] = None if at is None else at * LOOKS // looks
    return found


def _first(hits: Iterator[bool] | list[bool]) -> int | None:
    return next((look for look, hit in enumerate(hits, 1) if hit), None)


def campaign(
    world: World, runs: int, *, lift: float = 0.0, seed: int = 0, any_time: bool = True
) -> dict[str, list[int | None]]:
    """The looks at which each rule found an effect, one per run."""
    rng = np.random.default_rng([seed, sum(map(ord, world.name)), int(1000 * lift)])
    rows = [found_by(world, world.draw(rng, lift), any_time=any_time) for _ in range(runs)]
    return {rule: [row[rule] for row in rows] for rule in rows[0]}


FEW = (4, 7, 14, 28, 50)


def few_days(world: World, runs: int, *, seed: int = 0) -> dict[int, tuple[float, float]]:
    """The error rate of a reading after some days, and its width in widths of the interval of the units."""
    rng = np.random.default_rng([seed, 77])
    found: dict[int, list[tuple[bool, float]]] = {days: [] for days in FEW}
    for _ in range(runs):
        pair = world.draw(rng)
        for days, rows in found.items():
            arms = [Arm(units=arm.units[:days], y=arm.y[:days], yy=arm.yy[:days]) for arm in pair]
            by_days, by_units = compare(*arms), compare(*arms, days=False)
            rows.append((not by_days.low <= 0.0 <= by_days.high, by_days.high - by_days.low))
            rows[-1] = (rows[-1][0], rows[-1][1] / (by_units.high - by_units.low))
    return {days: tuple(np.mean(rows, axis=0).tolist()) for days, rows in found.items()}
