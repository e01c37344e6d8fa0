"""Ten messy files, each made with a seed and with the truth about it."""

from __future__ import annotations

import csv
import datetime as dt
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

START = dt.datetime(2024, 1, 1)


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a file: what `init` must find, or ask about."""

    dtypes: dict[str, str]  # of all columns that are read
    time: str
    label: str
    key: tuple[str, ...]  # one column, or those that identify a row together
    rows: int
    duplicates: int = 0
    wait_days: int | None = None  # None: the file shows no wait
    known_at: str | None = None
    positives: int | None = None  # labels that count as 1
    sums: dict[str, float] = {}  # of columns of numbers, nulls left out
    nulls: dict[str, int] = {}  # by column
    asks: tuple[str, ...] = ()  # words of the question that must be asked without options
    options: dict[str, Any] = {}  # the answers to it
    odd: tuple[str, ...] = ()  # words that the profile must have
    start_us: int | None = None  # the time of the oldest row


class Messy:
    """A file in the making: rows as texts, with the values that they stand for."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rows: list[list[str]] = []

    def repeat(self, count: int) -> None:
        """Repeat some rows exactly, each at another place of the file."""
        for row in self.rng.sample(self.rows, count):
            self.rows.insert(self.rng.randrange(len(self.rows)), list(row))

    def write(self, path: Path, header: Sequence[str], delimiter: str = ",", end: str = "\n") -> Path:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows([header, *self.rows])
        return path


def us(at: dt.datetime) -> int:
    return int(at.replace(tzinfo=dt.UTC).timestamp()) * 1_000_000


def german(value: float, unit: str = "") -> str:
    return f"{value:,.2f}".replace(",", "X").replace(".", ",").replace("X", ".") + unit


def orders_with_decimal_commas(path: Path) -> Truth:
    """Decimal commas, thousands, a currency sign, dates of day and month, synonyms of yes and no, words for null."""
    made = Messy(1)
    total, positives, gaps, days = 0.0, 0, 0, 400
    for i in range(3_000):
        at = START + dt.timedelta(minutes=i * days * 1440 // 3_000)
        value, late = round(made.rng.lognormvariate(5, 1.5), 2), (days - 30) * 86400 <= (at - START).total_seconds()
        gap = made.rng.random() < 0.1
        yes = made.rng.random() < 0.3
        label = made.rng.choice(["Y", "y", "Yes", "ja", "1", "true"] if yes else ["N", "no", "Nein", "0", "FALSE"])
        gaps, total = gaps + gap, total + (0.0 if gap else value)
        positives += yes and not late
        amount = made.rng.choice(["-", "n/a", "unknown", ""]) if gap else german(value, " €")
        city = made.rng.choice(["Berlin", "berlin", " Berlin", "Bonn", "unbekannt"])
        made.rows.append([f"B-{10_000 + i}", f"{at:%d.%m.%Y %H:%M}", city, amount, "" if late else label])
    made.repeat(7)
    made.write(path, ["Bestellnr", "Datum", "Stadt", "Betrag", "Retoure"], ";")
    return Truth(
        dtypes={"Bestellnr": "str", "Datum": "time", "Stadt": "str", "Betrag": "float", "Retoure": "bool"},
        time="Datum", label="Retoure", key=("Bestellnr",), rows=3_007, duplicates=7, wait_days=30,
        odd=("7 rows repeat", "'berlin'", "--merge Stadt", "unbekannt"), start_us=us(START), sums={"Betrag": total},
        positives=positives, nulls={"Betrag": gaps},
    )  # fmt: skip


def churn_known_early_where_yes(path: Path) -> Truth:
    """Month-first dates; churn is known when it happens, and its absence after 90 days."""
    made = Messy(2)
    days, positives = 500, 0
    for i in range(6_000):
        day = i * days // 6_000
        at = START + dt.timedelta(days=day)
        after = made.rng.randrange(90) if made.rng.random() < 0.25 else None
        known = after is not None and day + after < days
        label = "churned" if known else "stayed" if day < days - 90 else ""
        positives += known
        plan = made.rng.choice(["basic", "pro", "team"])
        made.rows.append([str(100_000 + i), f"{at:%m/%d/%Y}", plan, f"${made.rng.uniform(5, 4_000):,.2f}", label])
    made.rng.shuffle(made.rows)
    made.write(path, ["customer_id", "signup", "plan", "spend", "churned"])
    return Truth(
        dtypes={"customer_id": "int", "signup": "time", "plan": "str", "spend": "float", "churned": "str"},
        time="signup", label="churned", key=("customer_id",), rows=6_000, wait_days=90, positives=positives,
        start_us=us(START),
    )  # fmt: skip


def loans_with_a_time_of_the_label(path: Path) -> Truth:
    """A column says when the label became known; a wait of up to 45 days; tabs, percent signs, CRLF."""
    made = Messy(3)
    days, positives = 300, 0
    for i in range(4_000):
        at = START + dt.timedelta(minutes=i * days * 1440 // 4_000)
        known = at + dt.timedelta(days=made.rng.uniform(1, 45))
        there = known < START + dt.timedelta(days=days)
        bad = made.rng.random() < 0.2
        positives += bad and there
        rate = f"{made.rng.uniform(1, 19):.1f} %"
        label, when = ("bad" if bad else "good", f"{known:%Y-%m-%d %H:%M:%S}") if there else ("", "")
        age = str(made.rng.randrange(18, 90))
        made.rows.append([f"L{i:06}", f"{at:%Y-%m-%d %H:%M:%S}", rate, age, label, when])
    made.write(path, ["loan", "applied_at", "rate", "age", "outcome", "decided_at"], "\t", "\r\n")
    return Truth(
        dtypes={"loan": "str", "applied_at": "time", "rate": "float", "age": "int", "outcome": "str",
                "decided_at": "time"},
        time="applied_at", label="outcome", key=("loan",), rows=4_000, wait_days=45, known_at="decided_at",
        asks=("'applied_at', 'decided_at'", "--time"), options={"time": "applied_at", "positive": "bad"},
        positives=positives, start_us=us(START),
    )  # fmt: skip


def visits_of_recurring_patients(path: Path) -> Truth:
    """No key of a row: patients recur. Codes with leading zeros; spellings of a category; a stray time."""
    made = Messy(4)
    positives = 0
    for i in range(2_500):
        at = START + dt.timedelta(minutes=i * 200)
        yes = made.rng.random() < 0.4
        positives += yes and i != 77
        made.rows.append([
            "soon" if i == 77 else f"{at:%d/%m/%Y %H:%M}", f"P{made.rng.randrange(150):03}",
            f"{made.rng.randrange(100_000):05}", made.rng.choice(["Cash", "cash", "CASH ", "card"]),
            str(made.rng.randrange(10)), "TRUE" if yes else "FALSE",
        ])  # fmt: skip
    made.repeat(4)
    made.write(path, ["visited_at", "patient_id", "zip", "paid by", "tests", "no show"])
    return Truth(
        dtypes={"visited_at": "time", "patient_id": "str", "zip": "str", "paid by": "str", "tests": "int",
                "no show": "bool"},
        time="visited_at", label="no show", key=("patient_id", "visited_at"), rows=2_504, duplicates=4,
        positives=positives, odd=("soon", "--merge 'paid by'", "4 rows repeat"), start_us=us(START),
    )  # fmt: skip


def days_and_months_in_doubt(path: Path) -> Truth:
    """Each date may have the day or the month first."""
    made = Messy(5)
    positives = 0
    for i in range(600):
        month, day = 1 + i * 12 // 600, 1 + i % 12
        yes = made.rng.random() < 0.5
        positives += yes
        made.rows.append([str(i), f"{day:02}/{month:02}/2024", str(made.rng.randrange(9)), "yes" if yes else "no"])
    made.write(path, ["id", "day", "x", "won"])
    return Truth(
        dtypes={"id": "int", "day": "time", "x": "int", "won": "bool"}, time="day", label="won", key=("id",), rows=600,
        asks=("day or the month first", "--time-format"), options={"time_format": ("day=%d/%m/%Y",)},
        positives=positives, start_us=us(START),
    )  # fmt: skip


def times_in_two_formats(path: Path) -> Truth:
    """A few rows have times of another format."""
    made = Messy(6)
    for i in range(800):
        at = START + dt.timedelta(hours=9 * i)
        written = f"{at:%d.%m.%Y}" if i in (100, 300, 301) else f"{at:%Y-%m-%d}"
        made.rows.append([str(i), written, str(made.rng.randrange(9)), str(made.rng.randrange(2))])
    made.write(path, ["id", "day", "x", "y"])
    return Truth(
        dtypes={}, time="day", label="y", key=("id",), rows=800,
        asks=("several formats", "3 rows are written as %d.%m.%Y", "line 102, 302, 303"), options={"never": True},
    )  # fmt: skip


def thousands_in_doubt(path: Path) -> Truth:
    """Numbers such as 1.234 that may be a thousand or a fraction; units of weight; seconds since 1970."""
    made = Messy(7)
    total = weight = 0.0
    positives = 0
    for i in range(1_000):
        price, kilos = made.rng.randrange(100, 9_000), made.rng.randrange(1, 900)
        total, weight = total + price, weight + kilos / 10
        yes = made.rng.random() < 0.3
        positives += yes
        shown = f"{price:,}".replace(",", ".") if price >= 1000 else str(price)
        at = us(START + dt.timedelta(hours=5 * i)) // 1_000_000
        made.rows.append([f"k{i}", str(at), shown, f"{kilos / 10:.1f} kg", "ok" if yes else "broken"])
    made.write(path, ["key", "ts", "price", "weight", "result"])
    return Truth(
        dtypes={"key": "str", "ts": "time", "price": "int", "weight": "float", "result": "str"},
        time="ts", label="result", key=("key",), rows=1_000, sums={"price": total, "weight": weight},
        asks=("'price'", "may separate thousands or decimals", "--number"), start_us=us(START), positives=positives,
        options={"number": ("price=1.234,56",), "positive": "ok"},
    )  # fmt: skip


def a_number_known_at_once(path: Path) -> Truth:
    """A number to predict, Swiss thousands, 12-hour clocks; no wait is seen."""
    made = Messy(8)
    total = 0.0
    for i in range(2_000):
        at = START + dt.timedelta(minutes=97 * i)
        area, price = made.rng.randrange(20, 400), round(made.rng.uniform(90_000, 4_000_000), 2)
        total += price
        shown = f"{price:,.2f}".replace(",", "'")
        made.rows.append([f"F{i}", f"{at:%m/%d/%Y %I:%M %p}", f"{area} m²", shown, made.rng.choice("abc")])
    made.write(path, ["flat no", "listed", "area", "target", "class code"])
    return Truth(
        dtypes={"flat no": "str", "listed": "time", "area": "int", "target": "float", "class code": "str"},
        time="listed", label="target", key=("flat no",), rows=2_000, sums={"target": total}, start_us=us(START),
    )  # fmt: skip


def zeros_until_known(path: Path) -> Truth:
    """A label that is 0 until it becomes 1, up to 60 days later: the newest rows look too good."""
    made = Messy(9)
    days, positives = 400, 0
    for i in range(8_000):
        at = START + dt.timedelta(minutes=i * days * 1440 // 8_000)
        after = made.rng.uniform(0, 60) if made.rng.random() < 0.3 else None
        one = after is not None and at + dt.timedelta(days=after) < START + dt.timedelta(days=days)
        positives += one
        made.rows.append([str(i), f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{made.rng.gauss(0, 1):.3f}", str(int(one))])
    made.write(path, ["id", "at", "score", "fraud"])
    return Truth(
        dtypes={"id": "int", "at": "time", "score": "float", "fraud": "int"}, time="at", label="fraud", key=("id",),
        rows=8_000, positives=positives, asks=("not known yet", "--wait"), options={"wait": "60d"}, wait_days=60,
        start_us=us(START),
    )  # fmt: skip


def corrected_rows_and_a_messy_label(path: Path) -> Truth:
    """Some keys come again with other values; the label has spellings; a column without a name numbers the rows."""
    made = Messy(10)
    positives = 0
    spellings = {"good": ["good", "Good", " good"], "bad": ["bad", "BAD"]}
    for i in range(1_500):
        at = START + dt.timedelta(hours=4 * i)
        kind = "good" if made.rng.random() < 0.6 else "bad"
        positives += kind == "good"
        code = i - 1 if i % 300 == 299 else i  # the row before comes again
        made.rows.append([str(i), f"T{code}", f"{at:%Y/%m/%d}", f"{made.rng.uniform(1, 9):.2f}",
                          made.rng.choice(spellings[kind])])  # fmt: skip
    made.write(path, ["", "ticket_id", "opened", "hours", "rating"])
    return Truth(
        dtypes={"ticket_id": "str", "opened": "time", "hours": "float", "rating": "str"},
        time="opened", label="rating", key=("ticket_id",), rows=1_500, positives=positives, start_us=us(START),
        asks=("'good', 'Good', ' good'", "--merge rating"), odd=("--merge rating",),
        options={"label": "rating", "merge": ("rating",), "key": "ticket_id", "positive": "good"},
    )  # fmt: skip


FILES: dict[str, Callable[[Path], Truth]] = {
    make.__name__: make
    for make in (
        orders_with_decimal_commas, churn_known_early_where_yes, loans_with_a_time_of_the_label,
        visits_of_recurring_patients, days_and_months_in_doubt, times_in_two_formats, thousands_in_doubt,
        a_number_known_at_once, zeros_until_known, corrected_rows_and_a_messy_label,
    )
}  # fmt: skip
