"""The baselines that need no features, against a plain reading of what was known when each row was predicted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.time import DAY_US
from trimtab.events import Time, source
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.aggregates import latest
from trimtab.features.definitions import label, request, view
from trimtab.stats.metrics.losses import row_losses
from trimtab.training import TrainingSet, build_training_set, model
from trimtab.training.judge.baselines import baseline_scores, constant_scores
from trimtab.training.judge.past_labels import PastLabels, groupings

START_US = 1_577_836_800_000_000  # 2020-01-01
Find = Callable[[int], float | None]


def panel(seed: int, kind: str) -> tuple[Any, TrainingSet]:
    """A panel of shops of different sizes, with missing days, some labels that come late, and a horizon.

    `kind` is "daily", "monthly" or "yearly" (daily, over two years), with "binary" or "pairs" (keys of two columns).
    """
    rng = np.random.default_rng(seed)
    monthly, binary, pairs = "monthly" in kind, "binary" in kind, "pairs" in kind
    days = 500 if "yearly" in kind else 120
    lead_us, wait_us = (int(rng.integers(0, 12)) * DAY_US for _ in range(2))
    times = [START_US + day * DAY_US for day in range(days)]
    if monthly:
        dates = [dt.date(2020 + month // 12, month % 12 + 1, 1) for month in range(40)]
        times = [(date - dt.date(1970, 1, 1)).days * DAY_US for date in dates]
    rows = [(at_us, shop) for at_us in times for shop in range(6) if rng.random() < 0.9]
    at_us = np.array([at for at, _ in rows])
    shops = np.array([shop for _, shop in rows])
    sales = 10.0 * 3**shops + 5 * (at_us // DAY_US % 7) + rng.normal(size=len(rows)) - 100
    if binary:
        sales = (rng.random(len(rows)) < 0.1 + 0.15 * shops).astype(float)
    known_us = at_us + wait_us + np.where(rng.random(len(rows)) < 0.1, 9, 0) * DAY_US
    ids, keys = [f"r{n}" for n in range(len(rows))], [f"s{shop % 3 if pairs else shop}" for shop in shops]
    parts = [f"p{shop // 3 if pairs else 0}" for shop in shops]
    columns = {"id": str, "shop": str, "part": str, "day": Time}
    asked = request("sale", key="id", time="day", columns=columns, lead=lead_us)
    told = source("told", key="id", time="day", columns=columns | {"sales": float})
    table: Any = {"id": ("str", ids), "shop": ("str", keys), "part": ("str", parts), "day": ("time", at_us.tolist())}
    by = ["shop", "part"] if pairs else "shop"
    wanted = model(
        "sales",
        request=asked,
        features=[view("past", source=told, by=by, features={"last": latest("sales")})],
        label=label(told, key="id", value=col("sales") > 0.5 if binary else "sales", wait=wait_us + 10 * DAY_US),
        estimator=LogisticRegression if binary else Ridge,
        metric="log_loss" if binary else "squared_error",
    )
    size = len(rows)
    frame = EventFrame(
        "told", Columns.of(table | {"sales": ("float", sales.tolist())}), at_us, known_us, np.full(size, NEVER_US),
        np.zeros(size, bool), np.zeros(size, np.int16), np.arange(1, size + 1), ("p0",),
    )  # fmt: skip
    cut_us = int(at_us.max()) + 60 * DAY_US
    return wanted, build_training_set(wanted, Columns.of(table), {"told": frame}, cut_us=cut_us, positions={})


class Oracle(msgspec.Struct):
    """The baselines of one row at a time, read from the rows in a loop. `by`: the columns of a key."""

    of: Any
    rows: TrainingSet
    by: tuple[str, ...]
    start: float

    def of_key(self, row: int) -> list[int]:
        """The labelled rows of the same key."""
        keys = [self.rows.requests[name].to_list() for name in self.by]
        labelled = np.flatnonzero(self.rows.usable).tolist()
        return [other for other in labelled if all(key[other] == key[row] for key in keys)]

    def known(self, row: int) -> list[int]:
        """The rows of the same key whose label was known when this row was predicted."""
        known_us, made_us = self.rows.label_known_at_us, self.rows.at_us[row]
        return [other for other in self.of_key(row) if known_us[other] <= made_us]

    def mean(self, rows: Sequence[int]) -> float:
        labels = [float(self.rows.target[row]) for row in rows]
        prior = 0 if self.of.task == "regression" else 1
        return (sum(labels) + prior * self.start) / (len(labels) + prior)

    def last_value(self, row: int) -> float:
        known = self.known(row)
        known.sort(key=lambda one: (self.rows.label_known_at_us[one], self.rows.at_us[one]))
        if not known:
            return self.start
        return float(self.rows.target[known[-1]]) if self.of.task == "regression" else self.mean(known[-100:])

    def season(self, row: int, dates: Sequence[dt.date]) -> float | None:
        """The mean label of the first of these dates on which there were rows and all their labels were known."""
        known, of_key = set(self.known(row)), self.of_key(row)
        for date in dates:
            there = [other for other in of_key if self.date(other) == date]
            if there and set(there) <= known:
                return self.mean(there)
        return None

    def date(self, row: int) -> dt.date:
        """The date of a row, which is later than its prediction by the horizon."""
        return dt.date(1970, 1, 1) + dt.timedelta(int(self.rows.at_us[row] + self.of.request.lead_us) // DAY_US)

    def last_week(self, row: int) -> float | None:
        delays = (self.rows.label_known_at_us - self.rows.at_us)[self.rows.usable] / (7 * DAY_US)
        first, last = (max(1, int(np.ceil(one))) for one in (delays.min(), np.median(delays)))
        return self.season(row, [self.date(row) - dt.timedelta(weeks=week) for week in range(first, last + 4)])

    def last_year(self, row: int) -> float | None:
        dates, own = [], self.date(row)
        for year in range(1, 5):
            dates.append(own - dt.timedelta(weeks=52 * year))
            dates.append(dt.date(own.year - year, own.month, 1) + dt.timedelta(own.day - 1))
        return self.season(row, dates)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["daily", "daily binary", "daily pairs", "monthly", "monthly binary", "yearly"])
def test_past_labels_of_a_key_are_those_that_were_known_at_the_prediction(kind: str, seed: int) -> None:
    wanted, rows = panel(seed, kind)
    constant = constant_scores(wanted, rows.target[rows.usable], 1)
    assert constant is not None
    past = PastLabels(wanted, rows, constant)
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(rows.usable))[:12]
    found = groupings(wanted, rows)
    assert [one.by for one in found] == [(), ("shop", "part") if "pairs" in kind else ("shop",)]
    seasons = 0
    for series in found:
        oracle = Oracle(wanted, rows, series.by, float(constant[0]))
        last = past.last_value(series, chosen)
        assert last == pytest.approx(np.array([oracle.last_value(int(row)) for row in chosen]))
        for predict, plain in ((past.last_week, oracle.last_week), (past.last_year, oracle.last_year)):
            values, expected = predict(series, chosen), [plain(int(row)) for row in chosen]
            if all(one is None for one in expected):
                assert values is None
                continue
            seasons += 1
            assert values == pytest.approx(np.array([constant[0] if one is None else one for one in expected]))
    assert seasons


@pytest.mark.parametrize("kind", ["daily", "daily binary", "monthly", "yearly"])
def test_of_several_series_the_one_that_is_best_on_the_training_rows_is_taken(kind: str) -> None:
    wanted, rows = panel(7, kind)
    middle_us = int(np.quantile(rows.at_us, 0.7))
    train = rows.label_known_at_us <= middle_us
    chosen = np.flatnonzero(rows.usable & (rows.at_us > middle_us))
    scores = baseline_scores(wanted, rows, chosen, train, seed=0)
    learnt = np.flatnonzero(rows.usable & train)
    constant = constant_scores(wanted, rows.target[learnt], 1)
    assert constant is not None
    past = PastLabels(wanted, rows, constant)
    for name, predict in (("last_value", past.last_value), ("seasonal_naive", past.last_week)):
        losses = {}
        for series in groupings(wanted, rows):
            of_training = predict(series, learnt)
            if of_training is not None:
                losses[series.by] = float(row_losses(wanted.metric, rows.target[learnt], of_training).mean())
        if not losses:
            assert (kind, name, scores[name]) == ("monthly", "seasonal_naive", None)
            continue
        best = min(losses, key=lambda by: losses[by])
        assert best == ("shop",)
        assert scores[name] is not None
        assert scores[name].by == best
        (series,) = [one for one in groupings(wanted, rows) if one.by == best]
        assert scores[name].scores == pytest.approx(predict(series, chosen))


def test_nothing_that_was_not_known_at_the_prediction_changes_a_baseline() -> None:
    wanted, rows = panel(3, "yearly")
    middle_us = int(np.quantile(rows.at_us, 0.8))
    chosen = np.flatnonzero(rows.usable & (rows.at_us > middle_us) & (rows.at_us <= middle_us + DAY_US))
    train = rows.label_known_at_us <= middle_us
    later = rows.label_known_at_us > middle_us + DAY_US
    assert later.any()
    labels = msgspec.structs.replace(rows.labels, values=np.where(later, 1e9, rows.labels.values))
    changed = msgspec.structs.replace(rows, labels=labels)
    before, after = (baseline_scores(wanted, one, chosen, train, seed=0) for one in (rows, changed))
    for name in ("constant", "last_value", "seasonal_naive", "last_year", "linear"):
        assert before[name] is not None
        assert before[name].scores == pytest.approx(after[name].scores)
