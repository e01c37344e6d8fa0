"""A made-up shop: visits by hour of day and weekday, a season, nights without traffic, weather that lags, and sales.

Faults are put into the visits, the weather or the sales before predictions are made of them by the project's own
offline features; nothing of what is tested is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, parse_time_us
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import latest, mean
from trimtab.features.definitions import label, request, view
from trimtab.features.labels import LabelIndex
from trimtab.features.offline.evaluation import evaluate
from trimtab.feedback.days import day_quality
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.registry import Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.testing.builders import a_gate_record
from trimtab.training import Model, build_training_set, fit, model, save_training_set

BEGIN_US = parse_time_us("2024-01-01T00:00:00Z")  # a Monday
SITES = ("north", "south", "west")
WAIT_US = DAY_US

Table = dict[str, Any]
Fault = Callable[["World"], None]


def make_model(extra: int) -> Model:
    more = [f"n{i}" for i in range(extra)]
    visit = request(
        "visit",
        key="visit_id",
        time="at",
        columns={
            "visit_id": str,
            "at": Time,
            "site": str,
            "channel": str,
            "price": float,
            "distance": float,
            "age": float,
            "code": int,
            "items": int,
            **dict.fromkeys(more, float),
        },
    )
    weather = source("weather", time="read_at", columns={"site": str, "read_at": Time, "temp": float, "wind": float})
    sales = source("sales", time="sold_at", key="visit_id", columns={"visit_id": str, "sold_at": Time, "bought": float})
    sky = view(
        "sky",
        source=weather,
        by="site",
        features={"temp": latest("temp", max_age="3h"), "wind_6h": mean("wind", over="6h")},
    )
    columns = {name: col(name) for name in ("price", "distance", "age", "code", "items", *more)}
    return model(
        "shop",
        request=visit,
        features=[sky, {"site": col("site").category(), "hour": col("at").hour(), **columns}],
        label=label(sales, key="visit_id", value=col("bought"), wait="1d"),
        estimator=LogisticRegression,
        metric="log_loss",
    )


class World:
    """The shop's history and future, up to `days` after the training rows end.

    Args:
        seed: Of everything.
        days: After the training.
        before: Days of training rows.
        per_day: Visits.
        extra: Further columns of numbers, some of them with long tails or missing at times.
    """

    def __init__(self, seed: int, *, days: int = 10, before: int = 42, per_day: int = 2_000, extra: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.model = make_model(extra)
        self.begin_us = BEGIN_US + int(self.rng.integers(0, 300)) * DAY_US
        self.cut_us = self.begin_us + before * DAY_US
        self.end_us = self.cut_us + days * DAY_US
        self.at_us = self._times(before + days, per_day)
        self.visits = self._visits(extra)
        self.weather = self._weather()
        self.sales = self._sales()

    def rows(self, since_us: int, until_us: int = NEVER_US) -> NDArray[np.bool_]:
        return (self.at_us >= since_us) & (self.at_us < until_us)

    def _times(self, days: int, per_day: int) -> NDArray[np.int64]:
        hours = np.arange(days * 24)
        of_day = np.clip(np.sin((hours % 24 - 6) / 18 * np.pi), 0.0, None)  # nobody comes at night
        of_day[hours % 24 < 6] = 0.0
        weekday = (hours // 24 + self.begin_us // DAY_US + 3) % 7
        growth = 1 + 0.004 * hours / 24
        holiday = np.where(hours // 24 == int(self.rng.integers(45, 60)), 0.4, 1.0)
        wanted = of_day * np.where(weekday >= 5, 0.6, 1.0) * growth * holiday
        wanted *= per_day / (of_day[:24].sum()) * self.rng.lognormal(0.0, 0.08, len(hours))
        counts = self.rng.poisson(wanted)
        at_us = self.begin_us + np.repeat(hours, counts) * HOUR_US + self.rng.integers(0, HOUR_US, counts.sum())
        return np.sort(at_us)

    def _visits(self, extra: int) -> Table:
        rng, count = self.rng, len(self.at_us)
        day = (self.at_us - self.begin_us) / DAY_US
        season = np.sin(2 * np.pi * (self.at_us / DAY_US) / 365)
        night = (self.at_us // HOUR_US % 24) < 9
        evening = np.where(self.at_us // HOUR_US % 24 >= 18, 0.5, 0.2)
        age = rng.normal(40 + 3 * season, 12, count).clip(18, 90)
        age[rng.random(count) < np.where(night, 0.25, 0.05)] = np.nan
        table: Table = {
            "visit_id": np.array([f"v{n:07d}" for n in range(count)], object),
            "at": self.at_us,
            "site": np.array(SITES, object)[rng.integers(0, 3, count)],
            "channel": np.where(rng.random(count) < evening, "app", "web").astype(object),
            "price": np.exp(rng.normal(3.0 + 0.3 * season + 0.001 * day, 0.8, count)),
            "distance": rng.gamma(2.0, 6.0, count) + 0.1,
            "age": age,
            "code": np.array([200, 301, 404])[rng.choice(3, count, p=[0.9, 0.07, 0.03])],
            "items": rng.poisson(2.0 + season, count),
        }
        new = rng.random(count) < 0.02 * (day / day.max())  # further channels come up now and then
        table["channel"][new] = np.array([f"partner{n}" for n in rng.integers(0, 30, new.sum())], object)
        for n in range(extra):
            values = rng.normal(season * (n % 3) / 2 + n % 7, 1.0 + n % 2, count)
            values = np.exp(values / 2) if n % 4 == 1 else np.round(values, 1) if n % 4 == 2 else values
            if n % 5 == 3:
                values[rng.random(count) < 0.1 + 0.1 * night] = np.nan
            table[f"n{n}"] = values
        return table

    def _weather(self) -> Table:
        hours = np.arange(self.begin_us - DAY_US, self.end_us, HOUR_US)
        read_us = np.repeat(hours, 3)
        season = 10 * np.sin(2 * np.pi * (read_us / DAY_US) / 365)
        daily = 5 * np.sin(2 * np.pi * (read_us % DAY_US) / DAY_US)
        temp = (
            12 + season + daily + np.repeat(self._walk(len(hours), 0.9, 1.0), 3) + self.rng.normal(0, 1, len(read_us))
        )
        return {
            "site": np.array(SITES * len(hours), object),
            "read_at": read_us,
            "temp": temp,
            "wind": self.rng.gamma(3.0, 3.0, len(read_us)),
            "known_us": read_us + self.rng.integers(5 * MINUTE_US, 25 * MINUTE_US, len(read_us)),
        }

    def _walk(self, count: int, memory: float, size: float) -> NDArray[np.float64]:
        steps, found = self.rng.normal(0, size, count), np.zeros(count)
        for n in range(1, count):
            found[n] = memory * found[n - 1] + steps[n]
        return found

    def _sales(self) -> Table:
        logit = -1.2 + 0.6 * (np.log(self.visits["price"]) - 3.0)
        bought = (self.rng.random(len(self.at_us)) < 1 / (1 + np.exp(-logit))).astype(float)
        sold_us = self.at_us + self.rng.integers(MINUTE_US, 10 * HOUR_US, len(self.at_us))
        there = self.rng.random(len(self.at_us)) < 0.95
        return {
            "visit_id": self.visits["visit_id"][there],
            "sold_at": sold_us[there],
            "bought": bought[there],
            "known_us": sold_us[there],
        }

    def frame(self, name: str) -> EventFrame:
        """The events of a source, in the order in which they became known."""
        table = self.weather if name == "weather" else self.sales
        time = "read_at" if name == "weather" else "sold_at"
        order = np.argsort(table["known_us"], kind="stable")
        declared = self.model.features.views[0].source if name == "weather" else self.model.label.source
        columns = _columns({key: value[order] for key, value in table.items() if key != "known_us"}, declared.columns)
        count = len(order)
        return EventFrame(
            name,
            columns,
            table[time][order].astype(np.int64),
            table["known_us"][order].astype(np.int64),
            np.full(count, NEVER_US),
            np.zeros(count, bool),
            np.zeros(count, np.int16),
            np.arange(1, count + 1),
            ("p0",),
        )

    def requests(self) -> Columns:
        return _columns(self.visits, self.model.request.columns)


def _columns(table: Table, dtypes: Any) -> Columns:
    out = {}
    for name, dtype in dtypes.items():
        values = table[name]
        if dtype == "float":
            missing = np.isnan(values.astype(float))
            out[name] = Column("float", values.astype(float), None if not missing.any() else ~missing)
        elif dtype == "str":
            there = np.array([value is not None for value in values.tolist()], bool)
            out[name] = Column("str", values, None if there.all() else there)
        else:
            out[name] = Column(dtype, values.astype(np.int64))
    return Columns(out)


class Shop:
    """The living end: a registered version of the training rows, and a monitor that is given hour by hour."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.clock = VirtualClock(world.cut_us)
        self.catalog = store.open(f"sqlite://{folder}/catalog.db", "catalog")
        self.blob = store.open(f"file://{folder}/blobs", "blob")
        self.registry = Registry(self.catalog, self.blob, clock=self.clock, actor="test")
        self.version = self._registered()
        self.profiles = Profiles(self.catalog, self.blob, self.clock)
        self.signals: list[Signal] = []

    def _registered(self) -> Version:
        world = self.world
        mine = world.rows(0, world.cut_us)
        frames = {name: world.frame(name) for name in ("weather", "sales")}
        rows = build_training_set(
            world.model, world.requests().take(mine), frames, cut_us=world.cut_us, positions={"p0": 1}
        )
        made = self.registry.register(fit(world.model, rows), training_set=save_training_set(rows, self.blob))
        gate = a_gate_record(model="shop", candidate=made.id, judged_at_us=world.cut_us)
        self.registry.put_gate(gate)
        self.registry.move("shop", CHAMPION, made.id, gate=gate, why="test")
        return made

    def monitor(self) -> InputMonitor:
        self.frames = {name: self.world.frame(name) for name in ("weather", "sales")}
        return InputMonitor(
            self.catalog,
            self.world.model,
            profiles=self.profiles,
            registry=self.registry,
            frame_of=self.frames.__getitem__,
            now_us=self.clock.now_us(),
        )

    def predictions(self) -> list[Prediction]:
        """What is asked after the training, as it would be logged."""
        world = self.world
        mine = np.flatnonzero(world.rows(world.cut_us))
        requests, at_us = world.requests().take(mine), world.at_us[mine]
        frames = {name: world.frame(name) for name in ("weather", "sales")}
        features = evaluate(world.model.features, requests, at_us, frames)
        _, encoding = self.profiles.inputs_of(self.version)
        values, codes = encoding.matrix(features.values), features.codes(encoding.names)
        packed = zip(*(column.to_list() for column in requests.by_name.values()), strict=True)
        return [
            Prediction(
                id=f"{at:018d}-{n:07d}",
                request_id=row[0],
                model="shop",
                version=self.version.id,
                arm="champion",
                mode="live",
                made_at_us=at,
                at_us=at,
                positions={},
                score=0.25,
                request=msgspec.msgpack.encode(row),
                values=values[n].astype("<f8").tobytes(),
                reasons=codes[n].tobytes(),
            )
            for n, (row, at) in enumerate(zip(packed, at_us.tolist(), strict=True))
        ]

    def closed_days(self) -> dict[int, DayQuality]:
        """The days that close, by the moment when they do."""
        world = self.world
        index = LabelIndex(world.model.label)
        index.update(self.frames["sales"])
        mine = np.flatnonzero(world.rows(world.cut_us))
        at_us, keys = world.at_us[mine], world.visits["visit_id"][mine].tolist()
        labels = index.join(keys, at_us, at_us + WAIT_US).values
        scores = np.full(len(mine), float(np.nanmean(labels[at_us < world.cut_us + DAY_US])))
        days = day_quality("shop", "log_loss", self.version.id, at_us, scores, labels)
        return {day.day_us + DAY_US + WAIT_US: day for day in days}

    def run(self, monitor: InputMonitor | None = None, *, every_h: int = 1) -> list[Signal]:
        """Give the monitor every hour, or every few, until the end; all signals there ever were, as they ended."""
        monitor, every_us = monitor or self.monitor(), every_h * HOUR_US
        asked, closing = self.predictions(), self.closed_days()
        ends = np.array([p.made_at_us for p in asked])
        begin = 0
        for now_us in range(self.world.cut_us + every_us, self.world.end_us, every_us):
            look_us = now_us + 6 * MINUTE_US
            self.clock.advance_to(look_us)
            end = int(np.searchsorted(ends, look_us))
            monitor.add(asked[begin:end])
            begin = end
            closed = [day for at_us, day in closing.items() if now_us - every_us < at_us <= now_us]
            monitor.look(look_us, closed)
        from trimtab.monitoring.signals import every_signal

        return every_signal(self.catalog)
