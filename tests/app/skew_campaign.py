"""A project that is treated badly: every aggregate, keys of several columns, joins through features, plain functions;
events late, repeated, corrected, deleted, dated ahead, embargoed; two writers, restarts, clocks that disagree."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import shop

import trimtab as tt
from trimtab.app.inspect.skew_report import SkewReport
from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, SECOND_US

BEGIN_US = shop.NOW_US
PROJECT = """
import math

import trimtab as tt

orders = tt.source("orders", time="at", key="order_id", delay="1min", columns={
    "order_id": str, "customer": str, "store": str, "amount": float, "n": int, "ok": bool, "at": tt.Time})
clicks = tt.source("clicks", time="at", columns={"customer": str, "page": int, "weight": float, "at": tt.Time})
profiles = tt.source("profiles", time="at", key="customer", columns={"customer": str, "home": str, "at": tt.Time})
paid = tt.source("paid", time="at", key="ask_id", columns={"ask_id": str, "good": bool, "at": tt.Time})
asks = tt.request("asks", key="ask_id", time="at", columns={
    "ask_id": str, "customer": str, "store": str, "page": int, "x": float, "at": tt.Time})

MANY = {
    "newest": tt.latest("amount"), "fresh": tt.latest("n", max_age="20s"),
    "rows": tt.count(over="1min"), "values": tt.count("amount", over="30s", hop=0), "ever": tt.count(),
    "sum": tt.sum("amount", over="1min"), "sum_n": tt.sum("n"),
    "mean": tt.mean("amount", over="5min", where=tt.col("ok")),
    "mean_n": tt.mean("n", over="2min"), "low": tt.min("amount", over="90s"), "high": tt.max("n"),
%s}
customer = tt.view("customer", source=orders, by="customer", features=MANY)
pair = tt.view("pair", source=orders, by=["customer", "store"], features=MANY, boundary="inclusive")
pages = tt.view("pages", source=clicks, by="page", features={
    "clicks": tt.count(over="2min"), "weight": tt.sum("weight", over="1min"), "last": tt.latest("weight")})
profile = tt.view("profile", source=profiles, by="customer", features={"home": tt.latest("home")})
store = tt.view("store", source=orders, by="store", features={
    "orders": tt.count(over="10min"), "amount": tt.sum("amount")})


@tt.transform(returns=float)
def spread(high: float, low: float) -> float | None:
    return math.sqrt(abs(high - low)) if high != low else None


def model():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.01)


good = tt.model("good", request=asks, features=[
    customer, pair, pages, profile.join(select=[]), store, store.join("home", by=profile["home"]),
    {"log_sum": tt.col("customer.sum").log1p(), "spread": spread(customer["newest"], customer["low"]),
     "x": tt.col("x"), "home": profile["home"].category(), "ratio": tt.col("home.amount") / tt.col("store.amount")}],
    label=tt.label(paid, key="ask_id", value="good", wait="1h"), estimator=model, metric="log_loss")
tt.deployment(good, gate=tt.beats_champion(calibration=0.9))
"""
LATER = {  # aggregates by the name that the package has for them
    "var": 'tt.var("amount", over="2min")', "std": 'tt.std("amount")',
    "first": 'tt.first("amount", over="1min")', "last": 'tt.last("n", over="1min")',
    "last_n": 'tt.last_n("amount", 3)', "count_distinct": 'tt.count_distinct("store", over="5min")',
    "decayed_sum": 'tt.decayed_sum("amount", half_life="1min")',
    "decayed_mean": 'tt.decayed_mean("amount", half_life="1min")',
}  # fmt: skip


def write_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "trimtab.toml").write_text("")
    more = "".join(f'    "{name}": {text},\n' for name, text in LATER.items() if name in tt.__all__)
    (folder / "project.py").write_text(PROJECT % more)
    return folder


def load(project: Project, seed: int = 0) -> None:
    """A little history to train on."""
    draw = random.Random(seed)
    count, begin_us = 400, BEGIN_US - 30 * DAY_US
    at = sorted(begin_us + draw.randrange(29 * DAY_US) for _ in range(count))
    ids = [f"h{n}" for n in range(count)]
    x = [draw.gauss(0, 1) for _ in range(count)]
    tables: dict[str, dict[str, tuple[Any, list[Any]]]] = {
        "asks": {
            "ask_id": ("str", ids),
            "customer": ("str", [f"c{draw.randrange(4)}" for _ in ids]),
            "store": ("str", [draw.choice("uv") for _ in ids]),
            "page": ("int", [draw.randrange(3) for _ in ids]),
            "x": ("float", x),
            "at": ("time", at),
        },
        "paid": {
            "ask_id": ("str", ids),
            "good": ("bool", [v + draw.gauss(0, 1) > 0 for v in x]),
            "at": ("time", [t + 10 * MINUTE_US for t in at]),
        },
        "orders": {
            "order_id": ("str", [f"o{n}" for n in range(count)]),
            "customer": ("str", [f"c{draw.randrange(4)}" for _ in ids]),
            "store": ("str", [draw.choice("uv") for _ in ids]),
            "amount": ("float", [draw.uniform(-5, 100) for _ in ids]),
            "n": ("int", [draw.randrange(9) for _ in ids]),
            "ok": ("bool", [draw.random() < 0.5 for _ in ids]),
            "at": ("time", [t - MINUTE_US for t in at]),
        },
        "profiles": {
            "customer": ("str", [f"c{n}" for n in range(3)]),
            "home": ("str", ["u", "v", "w"]),
            "at": ("time", [begin_us] * 3),
        },
    }
    for name, columns in tables.items():
        project.ingestor.load(name, Columns.of(columns))


class Events:
    """Seeded rows to push, good and bad."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.orders: list[dict[str, Any]] = []
        self.pushed: list[tuple[str, dict[str, Any]]] = []
        self.count = 0

    def one(self, now_us: int) -> tuple[str, dict[str, Any]]:
        """A source and a row."""
        draw = self.draw
        kind = draw.random()
        if self.pushed and kind < 0.1:
            return draw.choice(self.pushed)  # delivered twice
        if self.orders and kind < 0.25:
            row = draw.choice(self.orders) | {"_op": "delete"}
            if draw.random() < 0.7:
                row = draw.choice(self.orders) | {"amount": self.amount(), "customer": self.customer()}
            return self._kept("orders", self._known(row, now_us))
        if kind < 0.4:
            row = {
                "customer": self.customer(),
                "page": draw.randrange(3),
                "weight": self.amount(),
                "at": self.at(now_us),
            }
            return self._kept("clicks", self._known(row, now_us))
        if kind < 0.5:
            row = {"customer": self.customer(), "home": draw.choice("uvw"), "at": self.at(now_us)}
            return self._kept("profiles", row)
        self.count += 1
        row = {
            "order_id": f"n{self.count}", "customer": self.customer(), "store": draw.choice(["u", "v", "w", None]),
            "amount": self.amount(), "n": draw.randrange(-3, 9), "ok": draw.random() < 0.6, "at": self.at(now_us),
        }  # fmt: skip
        self.orders.append(row)
        return self._kept("orders", self._known(row, now_us))

    def ask(self, now_us: int) -> dict[str, Any]:
        """A request."""
        self.count += 1
        draw = self.draw
        return {
            "ask_id": f"a{self.count}", "customer": draw.choice(["c0", "c1", "c2", "nobody", None]),
            "store": draw.choice(["u", "v", None]), "page": draw.randrange(4),
            "x": draw.choice([None, draw.gauss(0, 1)]), "at": now_us,
        }  # fmt: skip

    def customer(self) -> str | None:
        return self.draw.choice(["c0", "c1", "c2", "c3", None])

    def amount(self) -> float | None:
        draw = self.draw
        return draw.choice([draw.uniform(-5, 100), 0.1, 1e16, -1e16, -0.0, 3.0, None])

    def at(self, now_us: int) -> int:
        draw = self.draw
        kind = draw.random()
        if kind < 0.2:
            return now_us - draw.randrange(10 * MINUTE_US)  # late
        if kind < 0.3:
            return now_us + draw.randrange(2 * MINUTE_US)  # dated ahead
        if kind < 0.35:
            return now_us - draw.randrange(2 * DAY_US)  # very late
        if kind < 0.45:
            return now_us
        return now_us - draw.randrange(SECOND_US)

    def _known(self, row: dict[str, Any], now_us: int) -> dict[str, Any]:
        kind = self.draw.random()
        if kind < 0.15:
            return row | {"_known_at": now_us + self.draw.randrange(MINUTE_US)}  # embargoed
        if kind < 0.2:
            return row | {"_known_at": now_us - self.draw.randrange(MINUTE_US)}
        return row

    def _kept(self, source: str, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self.pushed.append((source, row))
        return source, row


class Campaign:
    """One project, used by two processes' worth of writers whose clocks disagree."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.events = Events(self.draw)
        self.asked = 0
        self.now_us = BEGIN_US
        self.project = self._opened(0)
        self.other = self._opened(90 * SECOND_US)  # its clock is ahead, and so the log's append times are

    def run(self, steps: int) -> SkewReport:
        """Do things, then check every prediction."""
        for _ in range(steps):
            self._step()
        report = self.project.skew(sample=None, scores=True)
        self.close()
        return report

    def close(self) -> None:
        self.project.close()
        self.other.close()

    def _step(self) -> None:
        draw = self.draw
        self.now_us += draw.choice([0, 1, 50_000, SECOND_US, 7 * SECOND_US, 40 * SECOND_US])
        for project, ahead_us in ((self.project, 0), (self.other, 90 * SECOND_US)):
            clock = project.clock
            assert isinstance(clock, VirtualClock)
            clock.advance_to(self.now_us + ahead_us)
        kind = draw.random()
        if kind < 0.5:
            for _ in range(draw.randint(1, 4)):
                source, row = self.events.one(self.now_us)
                draw.choice([self.project, self.project, self.other]).push(source, [row])
        elif kind < 0.85:
            self._ask()
        elif kind < 0.88:
            self._load()
        elif kind < 0.9:
            self.project.materialise()
        elif kind < 0.93:
            self.project.close()
            self.project = self._opened(0)
        elif kind < 0.96:
            self._table()

    def _ask(self) -> None:
        rows = [self.events.ask(self.now_us) for _ in range(self.draw.choice([1, 1, 1, 3]))]
        at = self.now_us - self.draw.randrange(HOUR_US) if self.draw.random() < 0.15 else None
        who = self.draw.choice([self.project, self.project, self.other])
        who.predict("good", rows, at=at)
        self.asked += len(rows)

    def _load(self) -> None:
        """History that is known at its time, behind what was asked."""
        row = self.events.one(self.now_us - 20 * MINUTE_US)[1]
        if "order_id" in row and "_op" not in row:
            source = self.project.definitions.sources["orders"]
            table = {name: (dtype, [row[name]]) for name, dtype in source.columns.items()}
            self.project.ingestor.load("orders", Columns.of(table))

    def _table(self) -> None:
        rows = [self.events.ask(self.now_us - self.draw.randrange(HOUR_US)) for _ in range(4)]
        columns = self.project.definitions.requests["asks"].columns
        table = Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in columns.items()})
        mode: Any = self.draw.choice(["batch", "precomputed"])
        self.project.predict_table("good", table, at=self.draw.choice([None, self.now_us]), mode=mode)
        self.asked += len(rows)

    def _opened(self, ahead_us: int) -> Project:
        return open_project(self.folder, clock=VirtualClock(self.now_us + ahead_us), environment={})


def differing(report: SkewReport) -> list[str]:
    """What is wrong, in words."""
    return [example.line() for example in report.examples]
