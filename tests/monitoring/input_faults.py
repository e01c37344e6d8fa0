"""Faults by name: what each does to a `World` between two times, and what must then be said of what."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from input_world import World

from trimtab.core.time import DAY_US, HOUR_US

Doing = Callable[[World, int, int], None]


class Fault(msgspec.Struct, frozen=True):
    """What is done, and the signal that has to come: one of its kinds, of a subject."""

    name: str
    do: Doing
    kinds: tuple[str, ...]
    subject: str
    after_us: int = DAY_US  # the red comes at most so long after the beginning, and goes so long after the end


def _visits(world: World, since_us: int, until_us: int, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    mine = world.rows(since_us, until_us)
    values = world.visits[name]
    changed = change(values[mine])
    if changed.dtype != values.dtype and values.dtype != object:
        values = values.astype(changed.dtype)
    values[mine] = changed
    world.visits[name] = values


def feed_stops(world: World, since_us: int, until_us: int) -> None:
    gone = (world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us)
    world.weather = {name: values[~gone] for name, values in world.weather.items()}


def feed_is_late(world: World, since_us: int, until_us: int) -> None:
    mine = (world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us)
    world.weather["known_us"][mine] += 8 * HOUR_US


def feed_clock(world: World, since_us: int, until_us: int) -> None:
    mine = (world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us)
    world.weather["read_at"][mine] -= 5 * HOUR_US


def feed_ahead(world: World, since_us: int, until_us: int) -> None:
    mine = (world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us)
    world.weather["read_at"][mine] += 2 * HOUR_US


def fahrenheit(world: World, since_us: int, until_us: int) -> None:
    mine = (world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us)
    world.weather["temp"][mine] = world.weather["temp"][mine] * 1.8 + 32.0


def absurd_reading(world: World, since_us: int, until_us: int) -> None:
    (mine,) = np.nonzero((world.weather["known_us"] >= since_us) & (world.weather["known_us"] < until_us))
    world.weather["wind"][mine[::20]] = 1_048.0


def new_category(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "site", lambda values: np.array([f"{v}-eu" for v in values], object))


def new_text(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "channel", lambda values: np.array([v.upper() for v in values], object))


def new_code(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "code", lambda values: np.full(len(values), 299))


def half_null(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "price", lambda v: np.where(world.rng.random(len(v)) < 0.5, np.nan, v))


def all_null(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "distance", lambda values: np.full(len(values), np.nan))


def cents(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "price", lambda values: 100.0 * values)


def miles(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "distance", lambda values: values * 3.28084)


def stuck(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "items", lambda values: np.full(len(values), 2))


def absurd(world: World, since_us: int, until_us: int) -> None:
    _visits(world, since_us, until_us, "age", lambda v: np.where(world.rng.random(len(v)) < 0.05, 9_999.0, v))


def swapped(world: World, since_us: int, until_us: int) -> None:
    mine = world.rows(since_us, until_us)
    ages, distances = world.visits["age"][mine], world.visits["distance"][mine]
    world.visits["age"][mine], world.visits["distance"][mine] = distances, ages


def traffic_stops(world: World, since_us: int, until_us: int) -> None:
    _keep(world, ~world.rows(since_us, until_us))


def doubled(world: World, since_us: int, until_us: int) -> None:
    _repeat(world, world.rows(since_us, until_us))
    world.visits["visit_id"] = np.array([f"d{n:07d}" for n in range(len(world.at_us))], object)
    world.sales = world._sales()


def repeated(world: World, since_us: int, until_us: int) -> None:
    _repeat(world, world.rows(since_us, until_us))


def _keep(world: World, rows: np.ndarray) -> None:
    world.at_us = world.at_us[rows]
    world.visits = {name: values[rows] for name, values in world.visits.items()}


def _repeat(world: World, rows: np.ndarray) -> None:
    order = np.sort(np.concatenate([np.arange(len(rows)), np.flatnonzero(rows)]))
    world.at_us = world.at_us[order]
    world.visits = {name: values[order] for name, values in world.visits.items()}


def _sold(world: World, since_us: int, until_us: int) -> np.ndarray:
    return (world.sales["known_us"] >= since_us) & (world.sales["known_us"] < until_us)


def one_class(world: World, since_us: int, until_us: int) -> None:
    world.sales["bought"][_sold(world, since_us, until_us)] = 0.0


def turned_labels(world: World, since_us: int, until_us: int) -> None:
    mine = _sold(world, since_us, until_us)
    world.sales["bought"][mine] = 1.0 - world.sales["bought"][mine]


def labels_stop(world: World, since_us: int, until_us: int) -> None:
    gone = _sold(world, since_us, until_us)
    world.sales = {name: values[~gone] for name, values in world.sales.items()}


def half_of_the_labels(world: World, since_us: int, until_us: int) -> None:
    gone = _sold(world, since_us, until_us) & (world.rng.random(len(world.sales["known_us"])) < 0.5)
    world.sales = {name: values[~gone] for name, values in world.sales.items()}


def only_fast_labels(world: World, since_us: int, until_us: int) -> None:
    asked = dict(zip(world.visits["visit_id"].tolist(), world.at_us.tolist(), strict=True))
    age_us = world.sales["known_us"] - np.array([asked.get(key, 0) for key in world.sales["visit_id"].tolist()])
    gone = _sold(world, since_us, until_us) & (age_us > 5 * HOUR_US)
    world.sales = {name: values[~gone] for name, values in world.sales.items()}


_LABELS_US = 3 * DAY_US  # a day is closed when its labels were waited for, and a fault may begin in the middle of one
FAULTS = (
    Fault("feed_stops", feed_stops, ("feed_stopped", "nulls"), "source weather"),
    Fault("feed_is_late", feed_is_late, ("feed_late", "feed_stopped", "feed_clock"), "source weather"),
    Fault("feed_clock", feed_clock, ("feed_clock", "feed_late"), "source weather"),
    Fault("feed_ahead", feed_ahead, ("feed_clock",), "source weather"),
    Fault("absurd_reading", absurd_reading, ("range",), "column weather.wind"),
    Fault("fahrenheit", fahrenheit, ("units",), "column sky.temp"),
    Fault("new_category", new_category, ("new_values",), "column site"),
    Fault("new_text", new_text, ("new_values",), "column channel"),
    Fault("new_code", new_code, ("new_values",), "column code"),
    Fault("half_null", half_null, ("nulls",), "column price"),
    Fault("all_null", all_null, ("nulls",), "column distance"),
    Fault("cents", cents, ("units",), "column price"),
    Fault("miles", miles, ("units",), "column distance"),
    Fault("stuck", stuck, ("constant",), "column items"),
    Fault("absurd", absurd, ("range",), "column age"),
    Fault("swapped", swapped, ("swapped",), "columns distance and age"),
    Fault("traffic_stops", traffic_stops, ("traffic_stopped",), "traffic"),
    Fault("doubled", doubled, ("traffic_doubled", "duplicates"), "traffic"),
    Fault("repeated", repeated, ("duplicates",), "traffic"),
    Fault("one_class", one_class, ("one_class",), "labels of sales", _LABELS_US),
    Fault("turned_labels", turned_labels, ("label_shift",), "labels of sales", _LABELS_US),
    Fault("labels_stop", labels_stop, ("feed_stopped", "labels_missing"), "source sales", _LABELS_US),
    Fault("half_of_the_labels", half_of_the_labels, ("labels_missing",), "labels of sales", _LABELS_US),
    Fault("only_fast_labels", only_fast_labels, ("labels_missing",), "labels of sales", _LABELS_US),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
GROUPS = (  # faults that do not hide each other
    ("feed_stops", "half_null", "new_code", "absurd", "one_class"),
    ("feed_clock", "all_null", "new_text", "stuck", "turned_labels"),
    ("fahrenheit", "cents", "repeated", "labels_stop"),
    ("feed_ahead", "miles", "new_category", "half_of_the_labels"),
    ("feed_is_late", "swapped", "only_fast_labels"),
    ("doubled", "absurd_reading"),
    ("traffic_stops",),
)
