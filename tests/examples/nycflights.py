"""The flights' features again, straight from the package's CSV files, with loops and the standard library only.

Nothing of trimtab and nothing of the example's loader is used here (but for `log1p`, whose last bit is NumPy's): times,
windows and reasons are written down a second time, from what the definitions are meant to say.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile
from zoneinfo import ZoneInfo

import numpy as np

US = dt.timedelta(microseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
WINDOWS = {"3h": (3 * HOUR, MINUTE), "1d": (DAY, 10 * MINUTE), "7d": (7 * DAY, HOUR)}  # length, and step of its tail
ROLLING = {
    "delay_3h": ("mean", "delay", "3h"),
    "delay_1d": ("mean", "delay", "1d"),
    "late_7d": ("mean", "late", "7d"),
    "landings_1d": ("count", "delay", "1d"),
    "worst_3h": ("max", "arr_delay", "3h"),
}
Answer = tuple[Any, str | None]  # value, and reason where a view gives it


class Flight(NamedTuple):
    """One line of flights.csv."""

    id: str
    carrier: str
    origin: str
    dest: str
    tailnum: str | None
    scheduled: int
    distance: float
    landed: int | None  # None: cancelled, diverted, or at a place without a time zone
    arr_delay: float | None


class Raw:
    """The files, read once."""

    def __init__(self, data: Path) -> None:
        zones = {r["faa"]: r["tzone"] for r in _rows(data / "airports.csv") if r["tzone"] not in ("NA", "\\N", "")}
        self.flights = [_flight(r, zones) for r in _rows(data / "flights.csv.zip")]
        self.without_zone = sum(f.arr_delay is not None and f.landed is None for f in self.flights)
        self.planes = {r["tailnum"]: r for r in _rows(data / "planes.csv")}
        self.weather: dict[str, list[tuple[int, dict[str, str]]]] = {}
        for row in _rows(data / "weather.csv"):
            self.weather.setdefault(row["origin"], []).append((_moment(row["time_hour"]), row))
        for observations in self.weather.values():
            observations.sort(key=lambda o: o[0])
        self.landings: dict[tuple[str, str], list[Flight]] = {}
        landed = sorted((f for f in self.flights if f.landed is not None), key=lambda f: (f.landed, f.id))
        for flight in landed:
            for by in ("origin", "carrier", "dest", "tailnum"):
                entity = getattr(flight, by)
                if entity is not None:
                    self.landings.setdefault((by, entity), []).append(flight)
        self.times = {entity: [_landed(f) for f in flights] for entity, flights in self.landings.items()}

    def answer(self, flight: Flight, feature: str) -> Answer:
        """The value and the reason of one feature as of the flight's scheduled departure."""
        t = flight.scheduled
        view, _, name = feature.partition(".")
        match view:
            case "sky":
                return self._sky(flight.origin, name, t)
            case "plane":
                return self._plane(flight.tailnum, name, t)
            case "leg":
                return self._leg(flight.tailnum, t)
            case "origin" | "carrier" | "dest" if name:
                return self._rolling(view, getattr(flight, view), name, t)
            case "hour":
                return (EPOCH + t * US).astimezone(ZoneInfo("America/New_York")).hour, None
            case "weekday":
                return (EPOCH + t * US).weekday(), None
            case "log_distance":
                return float(np.log1p(flight.distance)), None
        return getattr(flight, feature), None

    def _sky(self, origin: str, name: str, t: int) -> Answer:
        known = bisect_right(self.weather[origin], t - HOUR, key=itemgetter(0))
        if known == 0:
            return None, "no_entity"
        at, row = self.weather[origin][known - 1]
        if t - at > 3 * HOUR:
            return None, "expired"
        return (None, "null") if row[name] == "NA" else (float(row[name]), "found")

    def _plane(self, tailnum: str | None, name: str, t: int) -> Answer:
        row = self.planes.get(tailnum or "")
        if row is None:
            return None, "no_entity"
        text = row["year" if name == "built" else "seats"]
        return (None, "null") if text == "NA" else (int(text), "found")

    def _leg(self, tailnum: str | None, t: int) -> Answer:
        flights, times = self._of("tailnum", tailnum)
        end = bisect_left(times, t)
        if end == 0:
            return None, "not_yet" if bisect_right(times, t) else "no_entity"
        newest = flights[end - 1]
        return (None, "expired") if t - _landed(newest) > DAY else (_value(newest, "delay"), "found")

    def _rolling(self, by: str, entity: str, name: str, t: int) -> Answer:
        kind, of, window = ROLLING[name]
        empty = 0 if kind == "count" else None
        flights, times = self._of(by, entity)
        length, step = WINDOWS[window]
        first, end = bisect_left(times, (t - length) // step * step), bisect_left(times, t)
        if end == 0:
            return empty, "not_yet" if bisect_right(times, t) else "no_entity"
        values = [_value(f, of) for f in flights[first:end]]
        if not values:
            return empty, "outside_window"
        if kind == "count":
            return len(values), "found"
        return (max(values) if kind == "max" else math.fsum(values) / len(values)), "found"

    def _of(self, by: str, entity: str | None) -> tuple[list[Flight], list[int]]:
        """The landings of an entity and their times, in order."""
        return self.landings.get((by, entity or ""), []), self.times.get((by, entity or ""), [])


def _rows(file: Path) -> Iterator[dict[str, str]]:
    if file.suffix == ".zip":
        with ZipFile(file) as archive, archive.open("flights.csv") as raw:
            yield from csv.DictReader(io.TextIOWrapper(raw, "utf-8"))
    else:
        with file.open(encoding="utf-8", newline="") as text:
            yield from csv.DictReader(text)


def _flight(row: dict[str, str], zones: dict[str, str]) -> Flight:
    scheduled = _moment(row["time_hour"]) + int(row["minute"]) * MINUTE
    delay = None if row["arr_delay"] == "NA" else float(row["arr_delay"])
    zone = zones.get(row["dest"])
    landed = None
    if delay is not None and zone is not None:
        landed = _arrival(row, scheduled, ZoneInfo(zone)) + round(delay) * MINUTE
    return Flight(
        f"{row['time_hour']}|{row['carrier']}|{row['flight']}",
        row["carrier"],
        row["origin"],
        row["dest"],
        None if row["tailnum"] in ("NA", "") else row["tailnum"],
        scheduled,
        float(row["distance"]),
        landed,
        delay,
    )


def _arrival(row: dict[str, str], scheduled: int, zone: ZoneInfo) -> int:
    """The scheduled arrival: local HHMM at the destination, on the first local day that puts it after departure."""
    hours, minutes = divmod(int(row["sched_arr_time"]), 100)
    day = dt.datetime(int(row["year"]), int(row["month"]), int(row["day"]))
    for later in range(3):
        wall = day + dt.timedelta(days=later, hours=hours, minutes=minutes)
        arrival = _us(wall.replace(tzinfo=zone, fold=1 if _ambiguous(wall, zone) else 0))
        if arrival > scheduled:
            return arrival
    raise AssertionError(f"no arrival after departure: {row}")


def _ambiguous(wall: dt.datetime, zone: ZoneInfo) -> bool:
    """Whether the clock showed this twice: then the second time is meant."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None
    assert second is not None
    return first > second


_cached: dict[str, int] = {}


def _moment(text: str) -> int:
    if text not in _cached:
        _cached[text] = _us(dt.datetime.fromisoformat(text))
    return _cached[text]


def _us(moment: dt.datetime) -> int:
    return (moment - EPOCH) // US


def _landed(flight: Flight) -> int:
    assert flight.landed is not None
    return flight.landed


def _value(flight: Flight, of: str) -> float:
    assert flight.arr_delay is not None
    match of:
        case "late":
            return float(flight.arr_delay >= 30)
        case "delay":
            return min(max(flight.arr_delay, -30.0), 120.0)
    return flight.arr_delay
