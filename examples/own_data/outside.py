"""What a monthly refit without trimtab gives: the same estimator, with features made by hand in pandas.

Every 30 days a model is fitted on all rows whose labels are final by then, and scores the next 30 days.
"""

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

TREES = {
    "n_estimators": 200,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 20,
    "verbose": -1,
    "n_jobs": 1,
}
MONTH = pd.Timedelta(days=30)


def births(file: Path, start: str, end: str | None) -> tuple[int, float]:
    """Return how many rows of the births are judged, and the mean squared error."""
    rows = pd.read_csv(file, parse_dates=["date"]).drop_duplicates(["state", "date"], keep="last")
    rows = rows.sort_values(["state", "date"], kind="stable").assign(date=lambda one: one["date"].dt.tz_localize(None))
    by_state = rows.groupby("state")["births"]
    inputs = pd.DataFrame({"state": rows["state"].astype("category")})
    for days in (1, 7, 14, 21, 364):
        inputs[f"lag_{days}"] = by_state.shift(days)
    for days in (7, 28):
        past = by_state.shift(1).groupby(rows["state"]).rolling(days, min_periods=1)
        inputs[f"mean_{days}"] = past.mean().droplevel(0)
        inputs[f"std_{days}"] = past.std().droplevel(0)
    inputs["weekday"], inputs["month"] = rows["date"].dt.weekday, rows["date"].dt.month
    scores = refitted(lightgbm.LGBMRegressor(**TREES), inputs, rows["births"], rows["date"], start, "1D")
    judged = scores.notna() & _before(rows["date"], end)
    return int(judged.sum()), float(((scores - rows["births"])[judged] ** 2).mean())


def pizza(file: Path, start: str, end: str | None) -> tuple[int, float]:
    """Return how many pizzas are judged, and the mean log loss of their size."""
    rows = pd.read_csv(file, parse_dates=["date"])
    inputs = rows[["name", "type"]].astype("category").assign(weekday=rows["date"].dt.weekday)
    sizes = rows["size"].astype("category")
    scores = refitted(lightgbm.LGBMClassifier(**TREES), inputs, sizes.cat.codes, rows["date"], start, "1D")
    judged = scores.notna().all(axis=1) & _before(rows["date"], end)
    given = scores[judged].to_numpy()[np.arange(int(judged.sum())), sizes.cat.codes[judged]]
    return int(judged.sum()), float(-np.log(np.clip(given.astype(float), 1e-15, 1)).mean())


def purchases(file: Path, start: str, end: str | None) -> tuple[int, float]:
    """Return how many purchases are judged, and the mean log loss of whether the customer bought again."""
    rows = pd.read_csv(file, parse_dates=["date"], dtype={"customer": str})
    again = rows["bought_again"].map({"yes": 1.0, "no": 0.0})
    by_customer = again.groupby(rows["customer"])  # rows are in the order of time; all earlier labels are known
    inputs = rows[["cds", "dollars"]].assign(
        weekday=rows["date"].dt.weekday,
        rows=by_customer.cumcount(),
        mean=(by_customer.cumsum() - again) / by_customer.cumcount(),
        last=by_customer.shift(),
    )
    scores = refitted(lightgbm.LGBMClassifier(**TREES), inputs, again, rows["date"], start, "90D")[1]
    judged = scores.notna() & again.notna() & _before(rows["date"], end)
    p, y = scores[judged].to_numpy(float), again[judged].to_numpy()
    return int(judged.sum()), float(-np.log(np.where(y == 1, p, 1 - p)).mean())


def refitted(
    model: lightgbm.LGBMModel, inputs: pd.DataFrame, labels: pd.Series, at: pd.Series, start: str, wait: str
) -> pd.Series | pd.DataFrame:
    """Return the scores of the rows since `start`, each by the newest monthly refit. Rows before it have none.

    A refit learns from rows whose wait is over: from their early labels alone it would learn that all is well.
    """
    now, parts = pd.Timestamp(start), []
    while now <= at.max():
        learnt = (at + pd.Timedelta(wait) <= now) & labels.notna()
        fitted = model.fit(inputs[learnt], labels[learnt])
        asked = inputs[(at >= now) & (at < now + MONTH)]
        made = fitted.predict_proba(asked) if hasattr(fitted, "predict_proba") else fitted.predict(asked)
        columns = list(fitted.classes_) if hasattr(fitted, "predict_proba") else None
        parts.append(pd.DataFrame(made, asked.index, columns=columns))
        now += MONTH
    found = pd.concat(parts).reindex(inputs.index)
    return found if found.shape[1] > 1 else found.iloc[:, 0]


def _before(at: pd.Series, end: str | None) -> pd.Series:
    return at < (pd.Timestamp.max if end is None else pd.Timestamp(end))
