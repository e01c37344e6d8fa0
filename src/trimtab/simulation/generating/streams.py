"""Generate a history for a declared model, with seasons, shifts and late labels, and the best possible predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, duration_us, parse_time_us
from trimtab.events.definitions import Source
from trimtab.simulation.generating.stream_arguments import check_arguments, delays_us, is_finite
from trimtab.simulation.generating.stream_labels import Outcomes, outcomes
from trimtab.training.definitions import Model

Floats = NDArray[np.float64]
ShiftKind = Literal["concept", "covariate", "prior"]
_VALUES = 6  # how many different values a text column has
_LIST = 5  # how many rows a list has
_MEASURED_WEIGHT = 0.8  # the default weight of the first two columns of measurements


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the generated data that begins on some day. `shift()` makes and checks one."""

    kind: ShiftKind
    day: float  # the day on which it begins, counted from the end of the history
    over_us: int  # the time from the beginning until the full size; 0: the change is sudden
    size: float
    # a column of the request, or for "concept" a "source.column"; None: the request's first column that has a weight
    column: str | None

    @property
    def said(self) -> str:
        """The shift in a few words, for reports."""
        return f"{self.kind} shift"


def shift(
    kind: ShiftKind, day: float, *, over: str | int = 0, size: float | None = None, column: str | None = None
) -> Shift:
    """Declare a change in the generated data.

    Args:
        kind: "concept": a column affects the label differently. "covariate": a column has other values, with the same
            effect on the label. "prior": the label is more frequent or larger, whatever the columns are.
        day: The day on which the change begins, counted from the end of the history.
        over: How long the change takes to reach its full size, such as "14d". 0: it is sudden.
        size: The size, by default 1. "concept": 1 reverses the effect of the column, 0.5 removes it. "covariate": the
            number of standard deviations by which the values move. "prior": what is added to the score of each row
            (logits for a probability).
        column: A column of the request, or for "concept" also "source.column". By default the first column of the
            request that has a weight. It is not used for "prior".

    Raises:
        Misuse: The kind does not exist, `day` or `size` is not finite, `size` is 0, `over` is no duration, or "prior"
            has a column.

    >>> shift("concept", 40, over="14d").size
    1.0
    """
    if kind not in ("concept", "covariate", "prior"):
        raise Misuse(f"shift: kind={kind!r}. Needed: concept, covariate or prior.")
    over_us = duration_us(over) if over else 0
    if not is_finite(day):
        raise Misuse(f"shift: found day={day!r}, needed a finite number.")
    if size is not None and not (is_finite(size) and size):
        raise Misuse(f"shift: found size={size!r}, needed a finite number other than 0.")
    if kind == "prior" and column is not None:
        raise Misuse(f"shift: found column={column!r}, but a prior shift concerns no column. Leave it out.")
    return Shift(kind=kind, day=day, over_us=over_us, size=1.0 if size is None else size, column=column)


class Truth(msgspec.Struct, frozen=True, eq=False):
    """The best possible prediction for each request, without the random effect of the day, which no model can know."""

    keys: NDArray[Any]  # the key of each request, shape (rows,)
    at_us: NDArray[np.int64]
    best: Floats  # the best predictions, shape (rows,); for several classes (rows, classes)

    def best_of(self, keys: Sequence[object]) -> Floats:
        """Return the best possible predictions for the requests with the given keys.

        Raises:
            Misuse: There is no generated request with one of the keys.
        """
        place = {key: row for row, key in enumerate(self.keys.tolist())}
        lost = next((key for key in keys if key not in place), None)
        if lost is not None:
            raise Misuse(f"stream: no request has the key {lost!r}.")
        return self.best[np.array([place[key] for key in keys], np.int64)]


class Stream(msgspec.Struct, frozen=True, eq=False):
    """Generated data: a history, and the days after it. `stream()` makes them."""

    model: str
    tables: dict[str, Columns]  # the tables of events, by source name
    truth: Truth
    shifts: tuple[Shift, ...]
    start_us: int  # the time at which the history ends and the replay begins
    until_us: int

    def day_us(self, day: float) -> int:
        """Return the time at which a day begins. Days are counted from the end of the history."""
        return self.start_us + round(day * DAY_US)

    def shifts_from(self, start_us: int) -> list[Shift]:
        """Return the shifts, with their days counted from another time."""
        earlier = (self.start_us - start_us) / DAY_US
        return [msgspec.structs.replace(one, day=one.day + earlier) for one in self.shifts]


def stream(
    model: Model,
    *,
    seed: int = 1,
    start: str = "2024-01-01T00:00:00Z",
    history: int = 45,
    days: int = 120,
    per_day: int = 500,
    weights: Mapping[str, float] | None = None,
    columns: Mapping[str, tuple[float, float]] | None = None,
    season: float = 0.0,
    week: float = 0.0,
    holidays: Sequence[float] = (),
    day_sd: float = 0.15,
    shifts: Sequence[Shift] = (),
    delay: tuple[str, str] | None = None,
    missing: float = 0.0,
) -> Stream:
    """Generate a history and the days after it for a declared model. The best possible predictions are known, too.

    Floats in requests are normally distributed, and texts have six values. A source of a view has one event per hour
    for each value of the columns by which the view is looked up. The floats in its events change slowly. The label
    depends on a score: a weighted sum of the floats in the request and the newest measurements of the sources. For a
    probability the score is its logit, and for a number its mean. The rate of a count grows with it, and so does, on
    average, the relevance of a row in a ranking.

    Args:
        model: The model. Data are generated for its request, its sources and its label.
        seed: The seed. The same seed gives the same data, bit for bit.
        start: When the history begins, as ISO 8601.
        history: How many days come before the first prediction.
        days: How many days come after the history.
        per_day: How many requests there are per day.
        weights: For columns of the request and for "source.column", how much the score rises for each standard
            deviation. By default, 1.2, 0.8, -0.5, and then 0.3 and -0.2 in turn for the request's columns, and 0.8 for
            the first two measurements.
        columns: The mean and the standard deviation of columns of the request; by default 0 and 1.
        season: How far the score rises and falls over a year.
        week: How far the score rises and falls over a week. Unless it is 0, there are also a fifth fewer requests on
            Saturdays and Sundays.
        holidays: Days, counted from the end of the history (negative: before it), with a third of the requests and a
            score that is lower by 0.5.
        day_sd: The standard deviation of a random effect of each day that no model can know. The effects of
            neighbouring days have a correlation of 0.4.
        shifts: Changes in the data, made with `shift()`.
        delay: The shortest and the longest time until a label becomes known, at most the wait for labels. By default
            36 and 47 hours or, if the wait is shorter, such shares of it as these are of two days.
        missing: The share of requests that never get a label.

    Raises:
        Misuse: A weight or a shape belongs to no column of floats, the label cannot be generated (its value must be a
            column, or a comparison of a column with a number), an argument is out of range, or a shift begins too late.
    """
    check_arguments(
        model, seed=seed, history=history, days=days, per_day=per_day, weights=weights, columns=columns, season=season,
        week=week, holidays=holidays, day_sd=day_sd, missing=missing,
    )  # fmt: skip
    least_us, most_us = delays_us(model, delay)
    if not isinstance(shifts, list | tuple) or not all(isinstance(one, Shift) for one in shifts):
        raise Misuse(f"stream: found shifts={shifts!r}, needed a list of what shift() returned.")
    plan = _Plan(model, weights)
    for one in shifts:
        if one.day >= days:
            raise Misuse(f"stream: the {one.said} of day {one.day:g} begins after the last of {days} days.")
    shifts = [msgspec.structs.replace(one, column=plan.column_of(one)) for one in shifts]
    rng = np.random.default_rng(seed)
    begin_us = parse_time_us(start) // DAY_US * DAY_US
    spans = history + days
    at_us = _times(rng, begin_us, spans, per_day, history, week, holidays)
    if model.task == "ranking":  # all rows of a list belong to one request time
        at_us = np.repeat(at_us[::_LIST], _LIST)[: len(at_us)]
    day = (at_us - begin_us) / DAY_US - history
    requests = _requests(rng, model, at_us, columns or {})
    effects = _day_effects(rng, spans, day_sd)[(at_us - begin_us) // DAY_US]
    for one in shifts:
        if one.kind == "covariate":
            _move(requests, one, day, columns or {})
    sources, levels = _sources(rng, plan, requests, at_us, begin_us, spans)
    score = np.zeros(len(at_us)) + _known(rng, at_us, day, season, week, holidays)
    for name, weight in plan.weights.items():
        mean, sd = (columns or {}).get(name, (0.0, 1.0))
        values = levels[name] if name in levels else (requests[name].values - mean) / sd
        turned = sum(one.size * grown(one, day) for one in shifts if one.kind == "concept" and one.column == name)
        score = score + weight * (1.0 - 2.0 * turned) * values
    for one in shifts:
        if one.kind == "prior":
            score = score + one.size * grown(one, day)
    found = outcomes(rng, model, score, effects)
    there = rng.random(len(at_us)) >= missing
    known_us = at_us + rng.integers(least_us // MINUTE_US, most_us // MINUTE_US + 1, len(at_us)) * MINUTE_US
    label = _label_events(rng, model, found, requests, known_us, there)
    tables = {**sources, model.request.name: Columns(requests), model.label.source.name: label}
    truth = Truth(requests[model.request.key].values, at_us, found.best)
    start_us = begin_us + history * DAY_US
    return Stream(model.name, tables, truth, tuple(shifts), start_us, begin_us + spans * DAY_US)


def grown(one: Shift, day: Floats) -> Floats:
    """Return for some days how much of a change is reached: 0 before it begins, 1 at its full size."""
    if not one.over_us:
        return np.asarray(day >= one.day, np.float64)
    return np.clip((day - one.day) * DAY_US / one.over_us, 0.0, 1.0)


class _Plan:
    """The columns that affect the label, each with its weight, and the sources to generate."""

    def __init__(self, model: Model, given: Mapping[str, float] | None) -> None:
        request, label = model.request, model.label
        # for each source: its definition, the request's columns by which its view is looked up, and its own key columns
        self.sources: dict[str, tuple[Source, tuple[str, ...], tuple[str, ...]]] = {}
        for join in model.features.joins:
            if join.view.source.name not in (label.source.name, request.name):
                self.sources.setdefault(join.view.source.name, (join.view.source, join.by, join.view.by))
        numbers = [name for name, dtype in request.columns.items() if dtype == "float"]
        measured = [
            f"{name}.{of}"
            for name, (source, _, _) in self.sources.items()
            for of, dtype in source.columns.items()
            if dtype == "float"
        ]
        usual = dict(zip(numbers, [1.2, 0.8, -0.5] + [0.3, -0.2] * len(numbers), strict=False))
        usual |= dict.fromkeys(measured[:2], _MEASURED_WEIGHT)
        self.weights = usual if given is None else dict(given)
        lost = [name for name in self.weights if name not in (*numbers, *measured)]
        if lost or not self.weights:
            raise Misuse(
                f"stream of {model.name!r}: found weights of {', '.join(lost) or 'no column'}. Needed: weights of "
                f"columns of floats. The model has {', '.join((*numbers, *measured)) or 'none, so declare one'}."
            )
        self._first = next((name for name in self.weights if name in numbers), next(iter(self.weights)))

    def column_of(self, one: Shift) -> str | None:
        """Return the column that a change concerns; None: it concerns none."""
        if one.kind == "prior":
            return None
        name = self._first if one.column is None else one.column
        if name not in self.weights:
            raise Misuse(f"shift: column {name!r} has no weight. These columns have one: {', '.join(self.weights)}.")
        return name


def _times(
    rng: np.random.Generator,
    begin_us: int,
    spans: int,
    per_day: int,
    history: int,
    week: float,
    holidays: Sequence[float],
) -> NDArray[np.int64]:
    share = np.ones(spans)
    weekday = (begin_us // DAY_US + np.arange(spans) + 3) % 7
    if week:
        share[weekday >= 5] = 0.8
    free = [int(day) + history for day in holidays if 0 <= int(day) + history < spans]
    share[free] = 1 / 3
    counts = np.maximum(np.round(per_day * share), 1).astype(np.int64)
    starts = begin_us + np.repeat(np.arange(spans), counts) * DAY_US
    return np.sort(starts + rng.integers(0, 24 * 60, int(counts.sum())) * MINUTE_US)


def _requests(
    rng: np.random.Generator, model: Model, at_us: NDArray[np.int64], shapes: Mapping[str, tuple[float, float]]
) -> dict[str, Column]:
    request, count = model.request, len(at_us)
    found: dict[str, Column] = {}
    for name, dtype in request.columns.items():
        if name == request.key:
            numbers = np.arange(count)
            found[name] = Column("int", numbers) if dtype == "int" else column("str", [f"r{n:08d}" for n in numbers])
        elif name == model.group:
            found[name] = column("str", [f"l{n // _LIST:07d}" for n in range(count)])
        elif dtype == "time":
            found[name] = Column("time", at_us + (request.lead_us if name == request.time else 0))
        elif dtype == "float":
            mean, sd = shapes.get(name, (0.0, 1.0))
            found[name] = Column("float", mean + sd * rng.normal(size=count))
        else:
            found[name] = _noise(rng, dtype, name, at_us)
    return found


def _move(requests: dict[str, Column], one: Shift, day: Floats, shapes: Mapping[str, tuple[float, float]]) -> None:
    name = str(one.column)
    if name not in requests:
        raise Misuse(f"shift: {name!r} is no column of the request. A covariate shift needs one.")
    sd = shapes.get(name, (0.0, 1.0))[1]
    requests[name] = Column("float", requests[name].values + sd * one.size * grown(one, day))


def _sources(
    rng: np.random.Generator,
    plan: _Plan,
    requests: Mapping[str, Column],
    at_us: NDArray[np.int64],
    begin_us: int,
    spans: int,
) -> tuple[dict[str, Columns], dict[str, Floats]]:
    """Return the events of each source of a view, and each request's newest measurement of each "source.column"."""
    tables: dict[str, Columns] = {}
    levels: dict[str, Floats] = {}
    hours = spans * 24 + 1  # with the hour at which the stream ends
    for name, (source, by, own) in plan.sources.items():
        view_by = by if all(one in requests for one in by) else ()
        own = own if view_by else ()
        who = _entities(requests, view_by)
        times = np.repeat(begin_us + np.arange(hours) * HOUR_US, len(who))
        made: dict[str, Column] = {}
        for of, dtype in source.columns.items():
            if of == source.time:
                made[of] = Column("time", times)
            elif of in own:
                made[of] = column(dtype, [one[own.index(of)] for one in who] * hours)
            elif dtype == "float":
                walk = _walks(rng, hours, len(who))
                made[of] = Column("float", walk.reshape(-1))
                place = {one: n for n, one in enumerate(who)}
                keys = zip(*(requests[one].to_list() for one in view_by), strict=True) if view_by else ()
                rows = np.array([place[one] for one in keys] if view_by else [0] * len(at_us), np.int64)
                newest = np.clip((at_us - source.delay_us - begin_us - 1) // HOUR_US, 0, hours - 1)
                levels[f"{name}.{of}"] = walk[newest, rows]
            elif of == source.key:
                numbers = np.arange(len(times))
                made[of] = Column("int", numbers) if dtype == "int" else column("str", [f"{n:09d}" for n in numbers])
            else:
                made[of] = _noise(rng, dtype, of, times)
        tables[name] = Columns(made)
    return tables, levels


def _entities(requests: Mapping[str, Column], by: Sequence[str]) -> list[tuple[Any, ...]]:
    if not by:
        return [()]
    return sorted(set(zip(*(requests[one].to_list() for one in by), strict=True)))


def _noise(rng: np.random.Generator, dtype: Any, name: str, times: NDArray[np.int64]) -> Column:
    count = len(times)
    if dtype == "time":
        return Column("time", times)
    if dtype == "bool":
        return Column("bool", rng.random(count) < 0.5)
    if dtype == "int":
        return Column("int", rng.poisson(3.0, count))
    if dtype == "float":
        return Column("float", rng.normal(size=count))
    return column("str", [f"{name}{n}" for n in rng.integers(0, _VALUES, count)])


def _walks(rng: np.random.Generator, hours: int, count: int) -> Floats:
    """Return random series with variance 1 and a correlation of 0.95 between neighbouring hours."""
    steps = rng.normal(size=(hours, count))
    for n in range(1, hours):
        steps[n] = 0.95 * steps[n - 1] + math.sqrt(1 - 0.95**2) * steps[n]
    return steps


def _day_effects(rng: np.random.Generator, spans: int, sd: float) -> Floats:
    found = rng.normal(size=spans + 40)
    for n in range(1, spans + 40):
        found[n] = 0.4 * found[n - 1] + math.sqrt(1 - 0.4**2) * found[n]
    return sd * found[40:]


def _known(
    rng: np.random.Generator,
    at_us: NDArray[np.int64],
    day: Floats,
    season: float,
    week: float,
    holidays: Sequence[float],
) -> Floats:
    """Return the part of the score that depends on the calendar, plus a constant (-0.5), which makes "yes" rarer."""
    phase = rng.random()
    found = season * np.sin(2 * np.pi * (day / 365 + phase))
    found = found + week * np.cos(2 * np.pi * ((at_us // DAY_US + 3) % 7) / 7)
    free = np.isin(np.floor(day).astype(np.int64), np.array([int(one) for one in holidays], np.int64))
    return np.where(free, found - 0.5, found) - 0.5


def _label_events(
    rng: np.random.Generator,
    model: Model,
    found: Outcomes,
    requests: Mapping[str, Column],
    known_us: NDArray[np.int64],
    there: NDArray[np.bool_],
) -> Columns:
    source, made = model.label.source, dict[str, Column]()
    for name, dtype in source.columns.items():
        if name == source.time:
            made[name] = Column("time", known_us)
        elif name == model.label.key:
            made[name] = requests[model.request.key]
        elif name == found.column:
            made[name] = found.values
        elif name in requests:
            made[name] = requests[name]
        else:
            made[name] = _noise(rng, dtype, name, known_us)
    return Columns(made).take(there)


def stream_of(text: str, model: Model, seed: int) -> Stream:
    """Return the generated data that a text from the command line describes.

    Args:
        text: Words such as "days=100 per_day=500 season=0.3 concept=40 covariate=60+14". The number of a shift is the
            day on which it begins. A number after "+" is how many days it takes to reach its full size.

    Raises:
        Misuse: A word is unknown, or its value is no number, or not a whole one where this is needed.
    """
    given: dict[str, Any] = {}
    shifts: list[Shift] = []
    for word in text.split():
        name, _, value = word.partition("=")
        day, _, over = value.partition("+")
        if name in given:
            raise Misuse(f"stream: {name}= is given twice. Leave one out.")
        try:
            if name in ("concept", "covariate", "prior"):
                shifts.append(shift(name, float(day), over=f"{int(over)}d" if over else 0))  # type: ignore[arg-type]
            elif name in ("history", "days", "per_day"):
                given[name] = int(value)
            elif name in ("season", "week", "day_sd", "missing"):
                given[name] = float(value)
            elif name == "holidays":
                given[name] = [float(one) for one in value.split(",")]
            else:
                raise Misuse(
                    f"stream: {word!r} is none of history=, days=, per_day=, season=, week=, day_sd=, missing=, "
                    "holidays=10,20, concept=, covariate= and prior= (first day, then + how many days it takes: 40+14)."
                )
        except Misuse:  # is a ValueError, too
            raise
        except ValueError as error:
            raise Misuse(
                f"stream: {word!r} needs a number; for history=, days=, per_day= and after +, a whole one."
            ) from error
    return stream(model, seed=seed, shifts=shifts, **given)
